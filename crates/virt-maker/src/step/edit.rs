//! `edit`: replaces what a regular expression finds in a text file of the guest.
//!
//! `^` and `$` are the ends of a line. A pattern that finds nothing is an error, because an image without the change
//! that was meant is found out late; `optional: true` allows it.

use regex_lite::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::support::owner::keep;
use super::support::{paths, texts};
use super::{Step, StepContext, StepKey, StepKind, first_line};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::Guest;
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "edit",
    about: "Replaces what a regular expression finds in a text file of the guest.",
    arguments: arguments::<Arguments>,
    example: "edit: {path: /etc/ssh/sshd_config, match: '^#?PermitRootLogin .*$', replace: 'PermitRootLogin no', optional: true}",
    needs: &[],
    // 2: what else the file has (ACL, extended attributes, other names) stays.
    version: 2,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// An absolute path in the guest; links are followed within the guest.
    path: String,
    /// A regular expression; `^` and `$` are the ends of a line.
    r#match: String,
    /// What takes the place of each match; `$1` or `${name}` is a group of it, `$$` a dollar.
    replace: String,
    /// No match, or no file, is no error.
    #[serde(default)]
    optional: bool,
}

struct EditStep {
    path: String,
    pattern: Regex,
    replace: String,
    optional: bool,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let path = keep(Some(paths::guest_path(&arguments.path, at("path"))), &mut problems).unwrap_or_default();
    let pattern = RegexBuilder::new(&arguments.r#match).multi_line(true).build();
    let pattern = pattern.map_err(|error| at("match").diagnostic(format!("not a regular expression: {error}")));
    let pattern = keep(Some(pattern), &mut problems);
    match pattern {
        Some(pattern) if problems.is_empty() => {
            let Arguments { replace, optional, .. } = arguments;
            Ok(Box::new(EditStep { path, pattern, replace, optional }))
        }
        _ => Err(problems),
    }
}

impl Step for EditStep {
    fn summary(&self) -> String {
        format!("{} {}", self.path, first_line(self.pattern.as_str()))
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let arguments = json!({
            "path": self.path, "match": self.pattern.as_str(), "replace": self.replace, "optional": self.optional,
        });
        Ok(StepKey { arguments, inputs: Vec::new() })
    }

    fn run(&self, _: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        let nothing = |message: String| match self.optional {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Step, message).with_hint("if that is fine, say `optional: true`")),
        };
        let Some(old) = texts::read(guest, &self.path)? else {
            return nothing(format!("the guest has no {}", self.path.escape_debug()));
        };
        if !self.pattern.is_match(&old) {
            let pattern = self.pattern.as_str().escape_debug();
            return nothing(format!("`{pattern}` is nowhere in {}", self.path.escape_debug()));
        }
        let new = self.pattern.replace_all(&old, &*self.replace);
        texts::write(guest, &self.path, Some(&old), &new)
    }
}
