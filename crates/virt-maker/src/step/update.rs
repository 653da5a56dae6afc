//! `update`: all packages, to what their sources have now.
//!
//! A layer that was updated stays as it is until it is made again: what the sources have is no part of a key.

use serde::Serialize;

use super::support::packages::{self, PackageManager};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::Guest;
use crate::template::{Kind, Node, arguments};

pub(super) static KIND: StepKind = StepKind {
    name: "update",
    about: "Updates all packages with the guest's own package manager.",
    arguments: arguments::<()>,
    example: "update:",
    needs: &[],
    version: 1,
    network: true,
    parse,
};

#[derive(Serialize)]
struct UpdateStep {}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    match &node.kind {
        Kind::Null => Ok(Box::new(UpdateStep {})),
        Kind::Map(members) if members.is_empty() => Ok(Box::new(UpdateStep {})),
        _ => {
            let mut problem = node.diagnostic(format!("expected nothing, found {}", node.describe()));
            problem.hint = Some("`update` updates all packages; to have the newest of some, `install` them".into());
            Err(vec![problem])
        }
    }
}

impl Step for UpdateStep {
    fn summary(&self) -> String {
        "all packages".to_owned()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for UpdateStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        let manager = PackageManager::of(guest)?;
        packages::run(guest, manager, manager.update(), &[], context.caches)
    }
}
