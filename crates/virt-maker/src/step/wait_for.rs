//! `wait_for`: waits until a machine that runs is as it should be. As `expect`, with more patience: what is waited for takes its time.

use std::time::Duration;

use super::support::checks::{Arguments, Checks};
use super::{Action, OnMachine, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::running::Running;
use crate::template::{Node, arguments};

pub(super) static KIND: StepKind = StepKind {
    name: "wait_for",
    about: "Waits until a machine that runs is as it should be, for 5 minutes, or 20 where it is emulated.",
    arguments: arguments::<Arguments>,
    example: "boot: {steps: [{wait_for: {screen: 'login:', timeout: 10m}}]}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

/// How long it is tried where a template does not say.
const PATIENCE: Duration = Duration::from_secs(300);

struct WaitForStep {
    checks: Checks,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    Ok(Box::new(WaitForStep { checks: Checks::read(node)? }))
}

impl Step for WaitForStep {
    fn summary(&self) -> String {
        self.checks.summary()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(&self.checks)
    }

    fn action(&self) -> Action<'_> {
        Action::OnMachine(self)
    }
}

impl OnMachine for WaitForStep {
    fn asks_the_guest(&self) -> bool {
        !self.checks.are_outside()
    }

    fn run(&self, machine: &mut dyn Running, context: &StepContext<'_>) -> Result<()> {
        self.checks.hold_within(PATIENCE, machine, context.cancel)
    }
}
