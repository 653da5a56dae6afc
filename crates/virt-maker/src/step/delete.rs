//! `delete`: files, links, and folders with all in them.

use serde::Serialize;

use super::support::{paths, words};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::Guest;
use crate::template::{Node, OneOrMany, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "delete",
    about: "Deletes files, links and whole folders in the guest; what is not there is no error.",
    arguments: arguments::<OneOrMany>,
    example: "delete: [/etc/motd, /var/tmp/build]",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Serialize)]
struct DeleteStep {
    paths: Vec<String>,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for item in words::items(node) {
        let text: String = match from_node(item) {
            Ok(text) => text,
            Err(more) => {
                problems.extend(more);
                continue;
            }
        };
        if text.contains(['*', '?', '[']) {
            let mut problem = item.diagnostic("a name with `*`, `?` or `[`: `delete` takes names as they are");
            problem.hint = Some("for a pattern, use a `run` step with `rm -rf --`".into());
            problems.push(problem);
            continue;
        }
        match paths::guest_path(&text, item) {
            Ok(path) => found.push(path),
            Err(problem) => problems.push(problem),
        }
    }
    if found.is_empty() && problems.is_empty() {
        problems.push(node.diagnostic("the list of paths is empty"));
    }
    if problems.is_empty() { Ok(Box::new(DeleteStep { paths: found })) } else { Err(problems) }
}

impl Step for DeleteStep {
    fn summary(&self) -> String {
        self.paths.join(" ")
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for DeleteStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        self.paths.iter().try_for_each(|path| guest.remove(path))
    }
}
