//! `mkdir`: a folder in the guest, with the folders above it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::support::owner::{Looks, keep};
use super::support::paths;
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::Guest;
use crate::template::{Kind, Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "mkdir",
    about: "Makes a folder in the guest, and those above it.",
    arguments: arguments::<Schema>,
    example: "mkdir: {path: /srv/www, chmod: 0750, chown: root}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "for the schema: a path alone, or with mode and owner")]
enum Schema {
    /// An absolute path in the guest.
    Path(String),
    /// With mode and owner.
    Full(Arguments),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// An absolute path in the guest.
    path: String,
    /// Octal digits; 0755 for a new folder.
    chmod: Option<String>,
    /// `user` or `user:group`, by name or number; root for a new folder.
    chown: Option<String>,
}

#[derive(Serialize)]
struct MkdirStep {
    path: String,
    looks: Looks,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments = match node.kind {
        Kind::Map(_) => from_node(node)?,
        _ => Arguments { path: from_node(node)?, chmod: None, chown: None },
    };
    let mut problems = Vec::new();
    let at = node.get("path").unwrap_or(node);
    let path = keep(Some(paths::guest_path(&arguments.path, at)), &mut problems).unwrap_or_default();
    let looks = Looks::read(node, arguments.chmod.as_deref(), arguments.chown.as_deref(), &mut problems);
    if problems.is_empty() { Ok(Box::new(MkdirStep { path, looks })) } else { Err(problems) }
}

impl Step for MkdirStep {
    fn summary(&self) -> String {
        self.path.clone()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for MkdirStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        paths::tell_if_hidden(guest, &self.path, context)?;
        let attributes = self.looks.attributes(guest)?;
        guest.mkdir(&self.path, attributes, true)
    }
}
