//! `expect`: what a machine that runs has to be like. It changes nothing. `wait_for` is the same with more patience.

use std::time::Duration;

use super::support::checks::{Arguments, Checks, PATIENCE};
use super::{Action, OnMachine, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::running::Running;
use crate::template::{Node, arguments};

pub(super) static KIND: StepKind = StepKind {
    name: "expect",
    about: "Checks that a guest that has booted is as it should be: again and again, until all of it holds or time is up.",
    arguments: arguments::<Arguments>,
    example: "boot: {steps: [{expect: {unit: ssh.service, port: 22}}]}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

/// Checks, and how long they are tried where a template does not say.
pub(super) struct ExpectStep {
    checks: Checks,
    patience: Duration,
}

impl ExpectStep {
    pub(super) fn read(node: &Node, patience: Duration) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
        Ok(Box::new(ExpectStep { checks: Checks::read(node)?, patience }))
    }
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    ExpectStep::read(node, PATIENCE)
}

impl Step for ExpectStep {
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

impl OnMachine for ExpectStep {
    fn asks_the_guest(&self) -> bool {
        !self.checks.are_outside()
    }

    fn run(&self, machine: &mut dyn Running, context: &StepContext<'_>) -> Result<()> {
        self.checks.hold_within(self.patience, machine, context.cancel)
    }
}
