//! `sysprep`: takes out of a guest what makes it this one machine: see [`crate::hygiene`].

use serde::Serialize;

use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::Guest;
use crate::hygiene;
use crate::template::{Kind, Node, arguments};

pub(super) static KIND: StepKind = StepKind {
    name: "sysprep",
    about: "Generalises the guest: removes its identity, logs, histories, leases and caches.",
    arguments: arguments::<()>,
    example: "sysprep:",
    needs: &[],
    // 2: more is removed; of files that are emptied, all else stays.
    version: 2,
    network: false,
    parse,
};

#[derive(Serialize)]
struct SysprepStep {}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    match &node.kind {
        Kind::Null => Ok(Box::new(SysprepStep {})),
        Kind::Map(members) if members.is_empty() => Ok(Box::new(SysprepStep {})),
        Kind::String(text) if text.is_empty() => Ok(Box::new(SysprepStep {})),
        _ => Err(vec![node.diagnostic(format!("expected nothing, found {}", node.describe()))]),
    }
}

impl Step for SysprepStep {
    fn summary(&self) -> String {
        "generalise".to_owned()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for SysprepStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        let findings = hygiene::clean(guest)?;
        for finding in findings.iter().filter(|finding| finding.cleaned) {
            (context.output)(format!("{finding}\n").as_bytes());
        }
        if let Some(left) = hygiene::left(&findings) {
            (context.warn)(&left);
        }
        Ok(())
    }
}
