//! `remove`: packages taken away, by the guest's own package manager.

use super::support::packages::{PackageManager, PackagesStep};
use super::{Step, StepKind};
use crate::diagnostic::Diagnostic;
use crate::template::{Node, OneOrMany, arguments};

pub(super) static KIND: StepKind = StepKind {
    name: "remove",
    about: "Removes packages with the guest's own package manager.",
    arguments: arguments::<OneOrMany>,
    example: "remove: [procps]",
    needs: &[],
    version: 1,
    network: true,
    parse,
};

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    Ok(Box::new(PackagesStep::parse(node, PackageManager::remove)?))
}
