//! `wait_for`: waits until a machine that runs is as it should be. As `expect`, with more patience: what is waited for takes its time.

use std::time::Duration;

use super::expect::ExpectStep;
use super::support::checks::Arguments;
use super::{Step, StepKind};
use crate::diagnostic::Diagnostic;
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

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    ExpectStep::read(node, PATIENCE)
}
