//! `move`: gives a file or a folder of the guest another name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::support::owner::keep;
use super::support::paths;
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind, run_checked};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Guest, Run};
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "move",
    about: "Moves a file, a link or a folder within the guest.",
    arguments: arguments::<Arguments>,
    example: "move: {from: /etc/motd, to: /etc/motd.old}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// An absolute path in the guest, of what is there.
    from: String,
    /// Its new absolute path; folders above it are made. A file that is there is replaced.
    to: String,
}

#[derive(Serialize)]
struct MoveStep {
    from: String,
    to: String,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let from = keep(Some(paths::guest_path(&arguments.from, at("from"))), &mut problems).unwrap_or_default();
    let to = keep(Some(paths::guest_path(&arguments.to, at("to"))), &mut problems).unwrap_or_default();
    if problems.is_empty() && (from == to || to.starts_with(&format!("{from}/"))) {
        problems.push(at("to").diagnostic("the new path is the old one, or below it"));
    }
    if problems.is_empty() { Ok(Box::new(MoveStep { from, to })) } else { Err(problems) }
}

impl Step for MoveStep {
    fn summary(&self) -> String {
        format!("{} -> {}", self.from, self.to)
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for MoveStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        paths::tell_if_hidden(guest, &self.to, context)?;
        let (from, to) = (&self.from, &self.to);
        if guest.stat(from)?.is_none() {
            return Err(Error::new(ErrorKind::Step, format!("{} is not there in the guest", from.escape_debug())));
        }
        paths::make_way(guest, to, " already", "name the new path in full, or delete it first")?;
        if guest.rename(from, to).is_ok() {
            return Ok(());
        }
        // Perhaps another file system of the guest: its own program copies with all attributes, then deletes.
        let argv = ["mv", "--", from, to].map(str::to_owned).to_vec();
        run_checked(guest, &Run { argv, ..Run::default() }, "`mv`")
    }
}
