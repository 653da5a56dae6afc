//! `reboot`: restarts a machine that runs, and waits until it has booted again.

use serde::Serialize;

use super::{Action, OnMachine, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::running::Running;
use crate::template::{Kind, Node, arguments};

pub(super) static KIND: StepKind = StepKind {
    name: "reboot",
    about: "Restarts a guest that has booted, and waits until it has booted again.",
    arguments: arguments::<()>,
    example: "boot: {steps: [{reboot: {}}]}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Serialize)]
struct RebootStep {}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    match &node.kind {
        Kind::Null => Ok(Box::new(RebootStep {})),
        Kind::Map(members) if members.is_empty() => Ok(Box::new(RebootStep {})),
        Kind::String(text) if text.is_empty() => Ok(Box::new(RebootStep {})),
        _ => Err(vec![node.diagnostic(format!("expected nothing, found {}", node.describe()))]),
    }
}

impl Step for RebootStep {
    fn summary(&self) -> String {
        "restart the machine".to_owned()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::OnMachine(self)
    }
}

impl OnMachine for RebootStep {
    fn run(&self, machine: &mut dyn Running, _: &StepContext<'_>) -> Result<()> {
        machine.restart()
    }
}
