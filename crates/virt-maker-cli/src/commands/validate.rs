//! `virt-maker validate`: everything about templates that can be checked without a guest, all errors at once.

use std::io::Write;

use serde_json::json;
use virt_maker::event::Events;
use virt_maker::export::Look;
use virt_maker::host::Cancel;
use virt_maker::spec;

use super::{loading, print_json, render};
use crate::arguments;
use crate::diagnostic::print_note;
use crate::error::Failure;
use crate::text::count;

/// Version of the JSON document.
const VERSION: u32 = 1;

/// Runs it. Fails where a template is wrong.
pub fn run(arguments: &arguments::Validate) -> Result<(), Failure> {
    let paths: Vec<_> = arguments.templates.paths().cloned().collect();
    let mut options =
        loading::options(&arguments.templates, &Events::new(crate::report::warnings_only), &Cancel::default())?;
    options.check_inputs = true;
    let loaded = match spec::load_all(&paths, &options) {
        Ok(loaded) => loaded,
        Err(error) if arguments.json => return render::report(&error),
        Err(error) => return Err(error.into()),
    };
    match spec::check_outputs(&loaded.specs, Look { records: None, force: false }) {
        Err(error) if arguments.json => return render::report(&error),
        checked => checked?,
    }
    if arguments.json {
        return print_json(&json!({"version": VERSION, "errors": [], "notes": loaded.notes}));
    }
    loading::once(&loaded.notes).for_each(|note| print_note(&note));
    let steps: usize = loaded.specs.iter().map(|spec| spec.steps.len()).sum();
    let (images, steps) = (count(loaded.specs.len(), "image"), count(steps, "step"));
    let mut out = std::io::stdout().lock();
    writeln!(out, "no errors: {images}, {steps}")?;
    Ok(())
}
