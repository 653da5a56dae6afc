//! How all verbs load templates: parameters, what the user allows, where files are looked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::json;
use virt_maker::diagnostic::Diagnostic;
use virt_maker::error::{Context, Error, ErrorKind};
use virt_maker::event::Events;
use virt_maker::host::permit::{Permission, Permissions};
use virt_maker::host::{Cancel, temporary};
use virt_maker::key::Digest;
use virt_maker::spec::{HostAccess, load_options};
use virt_maker::template::LoadOptions;

use crate::arguments::{Given, Templates};
use crate::error::Failure;
use crate::{config, environment, settings};

/// The options for these templates.
pub fn options(templates: &Templates, events: &Events, cancel: &Cancel) -> Result<LoadOptions, Failure> {
    options_with(templates.given(), events, cancel)
}

/// The options for templates to which so much is given.
pub fn options_with(given: &Given, events: &Events, cancel: &Cancel) -> Result<LoadOptions, Failure> {
    let mut permissions = Permissions::default();
    let working_dir = environment::working_dir();
    let configured = config::allowed()?;
    for permission in configured.iter().map(|allowed| &allowed.value).chain(given.allowed()) {
        permissions.add(permission, &working_dir.clone().unwrap_or_default());
    }
    let host = HostAccess {
        cache_dir: environment::cache_dir()?.join("downloads"),
        permissions,
        homes: environment::homes(),
        env: environment::proxies(),
        certificates: settings::certificates()?,
        events: events.clone(),
        cancel: cancel.clone(),
    };
    Ok(load_options(given.parameters(), working_dir, &host))
}

/// Whether steps and downloads may reach the host's own addresses: by these permissions, or by the settings.
pub fn host_network(given: &[Permission]) -> Result<bool, Failure> {
    let configured = config::allowed()?;
    let mut all = configured.iter().map(|allowed| &allowed.value).chain(given);
    Ok(all.any(|permission| *permission == Permission::HostNetwork))
}

/// The file with what changing functions (`now()`, ...) gave in the last build of these templates with these parameters.
fn record_path(templates: &Templates) -> Result<PathBuf, Failure> {
    let base = environment::working_dir().unwrap_or_default();
    let paths: Vec<_> = templates.paths().map(|path| base.join(path).display().to_string()).collect();
    let name = Digest::of(json!([paths, templates.parameters()]).to_string().as_bytes());
    Ok(environment::cache_dir()?.join("frozen").join(format!("{name}.json")))
}

/// With `--freeze`: the values of the last build.
pub fn freeze(templates: &Templates, options: &mut LoadOptions) -> Result<(), Failure> {
    let path = record_path(templates)?;
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let message =
                "--freeze needs a build of these templates with these parameters that succeeded, and there is none";
            return Err(Failure::Usage(message.into()));
        }
        read => read.context(ErrorKind::Store, || format!("cannot read {}", path.display()))?,
    };
    let record = serde_json::from_slice(&text)
        .map_err(|error| Error::new(ErrorKind::Store, format!("{} is damaged", path.display())).with_source(error))?;
    options.frozen = Some(record);
    Ok(())
}

/// Keeps the values of a build that succeeded.
pub fn record(templates: &Templates, values: &BTreeMap<String, String>) -> Result<(), Failure> {
    if values.is_empty() {
        return Ok(());
    }
    let path = record_path(templates)?;
    let failed = || format!("cannot write {}", path.display());
    let folder = path.parent().unwrap_or(&path);
    std::fs::create_dir_all(folder).context(ErrorKind::Store, failed)?;
    temporary::replace_durably(&path, json!(values).to_string().as_bytes()).context(ErrorKind::Store, failed)?;
    Ok(())
}

/// Tells what the loader noticed, each with what to do about it where that was not said yet.
pub fn warn(notes: &[Diagnostic], events: &Events) {
    for note in once(notes) {
        let place = note.position.as_ref().map(|position| format!("{position}: ")).unwrap_or_default();
        let hint = note.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        events.warn(format!("{place}{}{hint}", note.message));
    }
}

/// Notes, where each hint stands only with the first one that has it.
pub fn once(notes: &[Diagnostic]) -> impl Iterator<Item = Diagnostic> {
    let mut said = BTreeSet::new();
    notes.iter().map(move |note| Diagnostic {
        hint: note.hint.clone().filter(|hint| said.insert(hint.clone())),
        ..note.clone()
    })
}
