//! What cannot be asked of a disk without a guest (`blank`): steps, tests, and exports that open the guest. The build would find out
//! when the disk is made and a session is to be opened on it.

use super::Spec;
use crate::diagnostic::{Diagnostic, Note};
use crate::export::Common;
use crate::template::{Node, ResolvedSpec};

/// What is wrong with the first step, the first test, and with each export, of a spec whose import makes no guest.
pub(super) fn check(resolved: &ResolvedSpec, spec: &Spec) -> Vec<Diagnostic> {
    let import = &spec.import;
    if import.runner.has_guest() {
        return Vec::new();
    }
    let name = import.kind.name;
    let told = |mut problem: Diagnostic, hint: &str| {
        let message = format!("`{name}` is here");
        problem.notes.push(Note { message, position: Some(import.position.clone()) });
        problem.hint = Some(hint.to_owned());
        problem
    };
    let mut problems = Vec::new();
    if let Some(step) = resolved.steps.first() {
        let message = format!("steps work in a guest, and `{name}` makes a disk without one, for data");
        let mut problem = step.runner.diagnostic(message);
        step.calls.iter().rev().for_each(|call| call.blame(&mut problem));
        let hint =
            "leave the steps out, or begin with a base that has a guest: `bootstrap`, `download`, `disk`, `rootfs`";
        problems.push(told(problem, hint));
    }
    if let Some(test) = resolved.tests.first() {
        let message = format!("tests boot a guest, and `{name}` makes a disk without one");
        problems.push(told(test.step.runner.diagnostic(message), "leave the tests out"));
    }
    for (item, export) in resolved.exports.iter().zip(&spec.exports) {
        let Some((key, arguments)) = item.members().first() else { continue };
        let common = export.runner.common();
        if !common.needs_guest() {
            continue;
        }
        let asked =
            asking(common).and_then(|asked| arguments.members().iter().find(|(key, _)| key.text() == Some(asked)));
        let (at, what): (&Node, _) =
            asked.map_or((key, export.kind.name), |(at, _)| (at, at.text().unwrap_or_default()));
        let message = format!("`{what}` looks into the guest, and `{name}` makes a disk without one");
        problems.push(told(at.diagnostic(message), "leave it out, or export the disk with `raw` or `qcow2`"));
    }
    problems
}

/// The argument that needs the guest, where it is not the export itself.
fn asking(common: &Common) -> Option<&'static str> {
    [(common.disk.sparsify, "sparsify"), (common.every.clean, "clean"), (common.every.manifest, "manifest")]
        .into_iter()
        .find(|(wanted, _)| *wanted)
        .map(|(_, name)| name)
}
