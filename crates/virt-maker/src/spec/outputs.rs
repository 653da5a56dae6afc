//! Whether the artifacts of a build have somewhere to go, looked at before anything is made.

use std::path::Path;

use super::{ExportEntry, Spec};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, Result, chain};
use crate::export::{Look, ready};

/// An error with all artifacts of these specs that cannot be put in their places as things are: no folder, none that can be
/// written to, somebody's file in the way.
///
/// A folder that something of the same build may make is no error yet: one of another export with `create_dir`, or any where a
/// step of the spec runs programs on the host.
pub fn check_outputs(specs: &[Spec], look: Look<'_>) -> Result<()> {
    let made: Vec<&Path> = specs.iter().flat_map(|spec| &spec.exports).filter_map(makes).collect();
    let mut problems = Vec::new();
    for spec in specs {
        let on_host = spec.every_step().any(|step| step.runner.runs_on_host());
        let promised = |folder: &Path| on_host || made.iter().any(|path| path.starts_with(folder));
        for export in &spec.exports {
            if let Err(error) = ready(&*export.runner, export.kind, look, &promised) {
                let problem = Diagnostic {
                    message: chain(&error),
                    position: Some(export.position.clone()),
                    source_line: None,
                    hint: error.hint().map(str::to_owned),
                    notes: Vec::new(),
                };
                // Images of a matrix go to one folder.
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::template(problems)) }
}

/// The folder that an export makes where it is missing.
fn makes(export: &ExportEntry) -> Option<&Path> {
    let common = export.runner.common();
    common.target.path().parent().filter(|_| common.file.create_dir)
}

impl Spec {
    /// Whether the export with this index lies in a folder that is not there, and that an export before it makes.
    pub fn export_waits_for_folder(&self, index: usize) -> bool {
        let (before, export) = (&self.exports[..index], &self.exports[index]);
        let folder = export.runner.common().target.path().parent().filter(|folder| !folder.exists());
        makes(export).is_none()
            && folder.is_some_and(|folder| before.iter().filter_map(makes).any(|made| made.starts_with(folder)))
    }
}
