//! `remove`: packages taken away, by the guest's own package manager.

use serde_json::json;

use super::support::packages::{self, PackageManager};
use super::{Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::Guest;
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

struct RemoveStep {
    packages: Vec<String>,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    Ok(Box::new(RemoveStep { packages: packages::names(node)? }))
}

impl Step for RemoveStep {
    fn summary(&self) -> String {
        self.packages.join(" ")
    }

    fn key_inputs(&self) -> Result<StepKey> {
        Ok(StepKey { arguments: json!({ "packages": self.packages }), inputs: Vec::new() })
    }

    fn run(&self, _: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        let manager = PackageManager::of(guest)?;
        packages::run(guest, manager, manager.remove(), &self.packages, context.caches)
    }
}
