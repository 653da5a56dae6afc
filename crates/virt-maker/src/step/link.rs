//! `link`: a symbolic link in the guest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::support::owner::keep;
use super::support::paths;
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::Guest;
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "link",
    about: "Makes a symbolic link in the guest.",
    arguments: arguments::<Arguments>,
    example: "link: {path: /etc/localtime, target: /usr/share/zoneinfo/Europe/Berlin}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The link's own absolute path in the guest; folders above it are made. A file or link that is there is replaced.
    path: String,
    /// What it leads to, as it is to stand in the link: absolute, or relative to the link's folder.
    target: String,
}

#[derive(Serialize)]
struct LinkStep {
    path: String,
    target: String,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let path = keep(Some(paths::guest_path(&arguments.path, at("path"))), &mut problems).unwrap_or_default();
    let target = arguments.target;
    if target.is_empty() || target.contains('\0') || target.len() > 4095 {
        problems.push(at("target").diagnostic("expected a path of 1 to 4095 bytes"));
    }
    if problems.is_empty() { Ok(Box::new(LinkStep { path, target })) } else { Err(problems) }
}

impl Step for LinkStep {
    fn summary(&self) -> String {
        format!("{} -> {}", self.path, self.target)
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for LinkStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        paths::tell_if_hidden(guest, &self.path, context)?;
        paths::make_way(guest, &self.path, ", so no link takes its place", "delete it first")?;
        guest.symlink(&self.target, &self.path)
    }
}
