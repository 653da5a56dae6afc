//! How all verbs load templates: parameters, what the user allows, where files are looked for.

use virt_maker::diagnostic::Diagnostic;
use virt_maker::error::Error;
use virt_maker::event::Events;
use virt_maker::host::Cancel;
use virt_maker::spec::{HostAccess, load_options};
use virt_maker::template::{Kind, LoadOptions, Node, Rights, parse};

use crate::arguments::{Permission, Templates, permission};
use crate::error::Failure;
use crate::settings;

/// The options for these templates.
pub fn options(templates: &Templates, events: &Events, cancel: &Cancel) -> Result<LoadOptions, Failure> {
    let mut rights = Rights::default();
    let working_dir = settings::working_dir();
    for permission in configured()?.iter().chain(templates.allowed()) {
        match permission {
            Permission::HostExec => rights.host_exec = true,
            Permission::Net => rights.net = true,
            Permission::Read(folder) => {
                let base = working_dir.clone().unwrap_or_default();
                rights.read.push(base.join(folder));
            }
        }
    }
    let host = HostAccess {
        cache_dir: settings::cache_dir()?,
        rights,
        env: settings::proxies(),
        events: events.clone(),
        cancel: cancel.clone(),
    };
    Ok(load_options(templates.parameters(), working_dir, &host))
}

/// What the user's own settings allow: `allow: [host-exec, net, read=DIR]` in `config.yml`.
fn configured() -> Result<Vec<Permission>, Failure> {
    let Some(path) = settings::config_file().filter(|path| path.exists()) else { return Ok(Vec::new()) };
    let config = parse(&path)?;
    let wrong = |node: &Node, message: String| Failure::Library(Error::template(vec![node.diagnostic(message)]));
    let mut allowed = Vec::new();
    if !matches!(config.kind, Kind::Map(_)) {
        return Err(wrong(&config, format!("expected a mapping of settings, found {}", config.describe())));
    }
    for (key, value) in config.members() {
        let items = match (key.text(), &value.kind) {
            (Some("allow"), Kind::List(items)) => items,
            (Some("allow"), _) => return Err(wrong(value, format!("expected a list, found {}", value.describe()))),
            _ => {
                return Err(wrong(
                    key,
                    format!("unknown setting `{}`; known is: allow", key.text().unwrap_or_default()),
                ));
            }
        };
        for item in items {
            allowed.push(permission(item.text().unwrap_or_default()).map_err(|message| wrong(item, message))?);
        }
    }
    Ok(allowed)
}

/// Tells what the loader noticed.
pub fn warn(notes: &[Diagnostic], events: &Events) {
    for note in notes {
        let place = note.position.as_ref().map(|position| format!("{position}: ")).unwrap_or_default();
        events.warn(format!("{place}{}", note.message));
    }
}
