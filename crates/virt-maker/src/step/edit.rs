//! `edit`: replaces what a regular expression finds in a text file of the guest.
//!
//! `^` and `$` are the ends of a line. A pattern that finds nothing is an error, because an image without the change
//! that was meant is found out late; `optional: true` allows it. A replacement that names a group which the pattern does
//! not have would erase text in silence, so it is an error of the template.

use regex_lite::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::support::owner::keep;
use super::support::{paths, texts};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind, first_line};
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
    // 2: what else the file has (ACL, extended attributes, other names) stays; the end of a line is before its `\r\n`, too.
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
    /// What takes the place of each match; `$1` or `${name}` is a group of it, `${1}2` one before more digits or letters, `$$` a dollar.
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
    let pattern = RegexBuilder::new(&arguments.r#match).multi_line(true).crlf(true).build();
    let pattern = pattern.map_err(|error| at("match").diagnostic(format!("not a regular expression: {error}")));
    let pattern = keep(Some(pattern), &mut problems);
    if let Some(pattern) = &pattern {
        problems.extend(unknown_groups(pattern, &arguments.replace, at("replace")));
    }
    match pattern {
        Some(pattern) if problems.is_empty() => {
            let Arguments { replace, optional, .. } = arguments;
            Ok(Box::new(EditStep { path, pattern, replace, optional }))
        }
        _ => Err(problems),
    }
}

/// What is wrong with the groups that a replacement names, as `regex` reads it: `$name` takes all letters, digits and `_`.
fn unknown_groups(pattern: &Regex, replace: &str, node: &Node) -> Vec<Diagnostic> {
    let has = |name: &str| match name.parse::<usize>() {
        Ok(number) => number < pattern.captures_len(),
        Err(_) => pattern.capture_names().flatten().any(|known| known == name),
    };
    let mut problems = Vec::new();
    let mut rest = replace;
    while let Some(at) = rest.find(['$', '\\']) {
        let (mark, behind) = (&rest[at..at + 1], &rest[at + 1..]);
        rest = behind;
        if mark == "\\" {
            let digit = &behind[..behind.len().min(1)];
            if digit.parse::<usize>().is_ok_and(|number| number > 0 && number < pattern.captures_len()) {
                let mut note = node.diagnostic(format!("`\\{digit}` is text in a replacement, and no group"));
                note.hint = Some(format!("a group is `${{{digit}}}`"));
                node.note(note);
            }
            continue;
        }
        if let Some(behind) = behind.strip_prefix('$') {
            rest = behind;
            continue;
        }
        let plain = behind.len() - behind.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
        let name = match behind.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            Some((name, _)) => name,
            None => &behind[..plain],
        };
        // A `$` with nothing behind it is a dollar.
        if name.is_empty() || has(name) {
            continue;
        }
        let shown = if behind.starts_with('{') { format!("${{{name}}}") } else { format!("${name}") };
        let shown = shown.escape_debug();
        let mut problem = node.diagnostic(format!("the pattern has no group `{name}`", name = name.escape_debug()));
        let digits = name.len() - name.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let group = (1..=digits).rev().map(|end| &name[..end]).find(|group| has(group));
        problem.hint = Some(match group.filter(|_| !behind.starts_with('{')) {
            Some(group) => {
                format!("`{shown}` is one name: `${{{group}}}{}` is a group with text behind it", &name[group.len()..])
            }
            None => format!("a dollar that is text is `$$`: `${shown}`"),
        });
        problems.push(problem);
    }
    problems
}

impl Step for EditStep {
    fn summary(&self) -> String {
        format!("{} {}", self.path, first_line(self.pattern.as_str()))
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let EditStep { path, pattern, replace, optional } = self;
        StepKey::of(&json!({ "path": path, "match": pattern.as_str(), "replace": replace, "optional": optional }))
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for EditStep {
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
