//! `virt-maker.lock`: what each source whose content may change (a URL without a checksum) had, beside the template.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use virt_maker::error::{Context, Error, ErrorKind};
use virt_maker::host::durable;
use virt_maker::import::ImportContext;
use virt_maker::key::Digest;
use virt_maker::spec::Spec;

use crate::error::Failure;

/// Its name.
pub const NAME: &str = "virt-maker.lock";
const VERSION: u32 = 1;

/// The content of a lock file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// Sources and `sha256:` with the digest of what they had.
    pub sources: BTreeMap<String, String>,
}

impl Lock {
    /// Reads a lock file; one that is not there is empty.
    pub fn read(path: &Path) -> Result<Lock, Failure> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Lock { version: VERSION, ..Lock::default() });
            }
            read => read.context(ErrorKind::Template, || format!("cannot read {}", path.display()))?,
        };
        let lock: Lock = serde_json::from_slice(&text).map_err(|error| {
            Error::new(ErrorKind::Template, format!("{} is no lock file", path.display())).with_source(error)
        })?;
        if lock.version != VERSION {
            let message = format!("{} has version {}, and this program knows {VERSION}", path.display(), lock.version);
            return Err(Error::new(ErrorKind::Template, message).into());
        }
        Ok(lock)
    }

    /// Writes it.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(self).map_err(std::io::Error::from)?;
        text.push('\n');
        durable::write(path, text.as_bytes())
            .context(ErrorKind::Host, || format!("cannot write {}", path.display()))?;
        Ok(())
    }
}

/// A digest as it stands in a lock file, and as `checksum` takes it.
pub fn shown(digest: Digest) -> String {
    format!("sha256:{digest}")
}

/// The lock file beside a template.
pub fn beside(template: &Path) -> PathBuf {
    template.parent().unwrap_or(Path::new("")).join(NAME)
}

/// What the mutable sources of these specs have, by the lock files beside the templates that name them. May fetch.
fn found(specs: &[Spec], context: &ImportContext<'_>) -> Result<BTreeMap<PathBuf, BTreeMap<String, String>>, Failure> {
    let mut all: BTreeMap<PathBuf, BTreeMap<String, String>> = BTreeMap::new();
    for spec in specs {
        let Some(source) = spec.import.runner.mutable_source() else { continue };
        let sources = all.entry(beside(&spec.template)).or_default();
        if !sources.contains_key(source) {
            let key = spec.import.runner.key_inputs(context)?;
            sources.extend(key.inputs.first().map(|input| (source.to_owned(), shown(input.digest))));
        }
    }
    Ok(all)
}

/// Writes down what the sources have. What the files say of other sources stays.
pub fn write(specs: &[Spec], context: &ImportContext<'_>) -> Result<(), Failure> {
    for (path, sources) in found(specs, context)? {
        let mut lock = Lock::read(&path)?;
        lock.sources.extend(sources);
        lock.write(&path)?;
    }
    Ok(())
}

/// An error where a source has something else than its lock file says, or is not in it.
pub fn check(specs: &[Spec], context: &ImportContext<'_>) -> Result<(), Failure> {
    for (path, sources) in found(specs, context)? {
        let lock = Lock::read(&path)?;
        for (source, has) in sources {
            let message = match lock.sources.get(&source) {
                Some(locked) if *locked == has => continue,
                Some(locked) => format!("{source} has {has}, and {} says {locked}", path.display()),
                None => format!("{source} is not in {}", path.display()),
            };
            let hint = "`virt-maker update` looks at it again, `virt-maker build --lock` writes down what is there";
            return Err(Error::new(ErrorKind::Base, message).with_hint(hint).into());
        }
    }
    Ok(())
}
