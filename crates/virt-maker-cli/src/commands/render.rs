//! `virt-maker render`: what templates ask for when everything in them is resolved. Kinds of runners are not looked at,
//! so a template with one that this version does not have can be shown all the same.

use std::io::Write;

use serde_json::{Value, json};
use virt_maker::error::Error;
use virt_maker::event::Events;
use virt_maker::host::{Cancel, url};
use virt_maker::template::resolve;

use super::{loading, print_json};
use crate::arguments;
use crate::diagnostic::print_note;
use crate::error::Failure;
use crate::yaml;

/// Version of the JSON document.
const VERSION: u32 = 1;

pub fn run(arguments: &arguments::Render) -> Result<(), Failure> {
    let paths: Vec<_> = arguments.templates.paths().cloned().collect();
    let options =
        loading::options(&arguments.templates, &Events::new(crate::report::warnings_only), &Cancel::default())?;
    let loaded = match resolve(&paths, &options) {
        Ok(loaded) => loaded,
        Err(error) if arguments.json => return report(&error),
        Err(error) => return Err(error.into()),
    };
    let specs: Vec<Value> = loaded.specs.iter().map(|spec| spec.to_json()).collect();
    if arguments.json {
        return print_json(&json!({"version": VERSION, "specs": specs, "notes": loaded.notes}));
    }
    loaded.notes.iter().for_each(print_note);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for spec in &specs {
        write!(out, "---\n{}", yaml::document(spec))?;
    }
    Ok(out.flush()?)
}

/// Prints the errors of templates as data, and ends with their exit code.
pub fn report(error: &Error) -> Result<(), Failure> {
    let errors = match error.diagnostics() {
        [] => json!([{ "message": virt_maker::error::chain(error), "position": null, "hint": error.hint() }]),
        diagnostics => json!(diagnostics),
    };
    let mut document = json!({"version": VERSION, "errors": errors});
    url::hide_in(&mut document);
    print_json(&document)?;
    Err(Failure::Code(1))
}
