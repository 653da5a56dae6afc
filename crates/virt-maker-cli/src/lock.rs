//! `virt-maker.lock`: what each source whose content may change (a URL without a checksum, a suite) had, beside the
//! template.
//!
//! A lock file lies beside the template for all to read, so a source is called there by [`url::name`]: without passwords, and
//! with a few digits of a digest in the place of its parameters. Lock files of before have whole URLs; they are understood,
//! and the next write changes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use virt_maker::error::{Context, Error, ErrorKind};
use virt_maker::host::permit;
use virt_maker::host::{temporary, url};
use virt_maker::import::{ImportContext, look_again};
use virt_maker::key::Digest;
use virt_maker::spec::{Release, Spec};

use crate::error::Failure;

/// Its name.
pub const NAME: &str = "virt-maker.lock";
const VERSION: u32 = 1;
/// Largest lock file, in bytes.
const LOCK_MAX: u64 = 16 << 20;

/// The content of a lock file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// Names of sources, or whole sources, and `sha256:` with the digest of what they had.
    sources: BTreeMap<String, String>,
}

impl Lock {
    /// Reads a lock file; one that is not there is empty.
    pub fn read(path: &Path) -> Result<Lock, Failure> {
        let text = match permit::read_unlinked_name(path, LOCK_MAX) {
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

    /// The sources as the file has them.
    pub fn sources(&self) -> impl Iterator<Item = &String> {
        self.sources.keys()
    }

    /// What a source had.
    pub fn get(&self, source: &str) -> Option<&String> {
        self.sources.get(&url::name(source)).or_else(|| self.sources.get(source))
    }

    /// Says what a source has now, and returns what it had.
    pub fn put(&mut self, source: &str, has: String) -> Option<String> {
        let whole = self.sources.remove(source);
        self.sources.insert(url::name(source), has).or(whole)
    }

    /// Writes the lock file.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut sources = BTreeMap::new();
        // Where a source is there by its name too, that is what was written last.
        let (whole, names): (Vec<_>, Vec<_>) =
            self.sources.iter().partition(|(source, _)| url::name(source) != **source);
        sources.extend(whole.into_iter().map(|(source, has)| (url::name(source), has.clone())));
        sources.extend(names.into_iter().map(|(name, has)| (name.clone(), has.clone())));
        let written = Lock { version: self.version, sources };
        let mut text = serde_json::to_string_pretty(&written).map_err(std::io::Error::from)?;
        text.push('\n');
        temporary::replace_durably(path, text.as_bytes())
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
            let key = spec.import.runner.key_inputs(context).map_err(|error| error.at(|| spec.import.place()))?;
            sources.extend(key.inputs.first().map(|input| (source.to_owned(), shown(input.digest))));
        }
    }
    Ok(all)
}

/// Writes down what the sources have. What the files say of other sources stays.
pub fn write(specs: &[Spec], context: &ImportContext<'_>) -> Result<(), Failure> {
    for (path, sources) in found(specs, context)? {
        let mut lock = Lock::read(&path)?;
        sources.into_iter().for_each(|(source, has)| drop(lock.put(&source, has)));
        lock.write(&path)?;
    }
    Ok(())
}

/// An error where a source has something else than its lock file says, or is not in it.
pub fn check(specs: &[Spec], context: &ImportContext<'_>) -> Result<(), Failure> {
    for (path, sources) in found(specs, context)? {
        let lock = Lock::read(&path)?;
        for (source, has) in sources {
            demand(&lock, &path, &source, &has)?;
        }
    }
    Ok(())
}

/// An error where a source has something else than a lock file says, or is not in it.
fn demand(lock: &Lock, path: &Path, source: &str, has: &str) -> Result<(), Failure> {
    let message = match lock.get(source) {
        Some(locked) if locked == has => return Ok(()),
        Some(locked) => format!("{} has {has}, and {} says {locked}", url::name(source), path.display()),
        None => return Err(not_locked(source, path)),
    };
    Err(Error::new(ErrorKind::Base, message).with_hint(HINT).into())
}

const HINT: &str = "`virt-maker update` looks at it again, `virt-maker build --lock` writes down what is there";

fn not_locked(source: &str, path: &Path) -> Failure {
    Error::new(ErrorKind::Base, format!("{} is not in {}", url::name(source), path.display())).with_hint(HINT).into()
}

/// What is wanted of sources whose content may change.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Look again.
    pub pull: bool,
    /// Write down what they have.
    pub lock: bool,
    /// Refuse a difference.
    pub locked: bool,
}

/// Says for each import from a suite which release of it is meant: by the lock file beside its template, and by what is
/// wanted. A mirror is asked only for what has to be known now.
pub fn releases(specs: &mut [Spec], wanted: Wanted, context: &ImportContext<'_>) -> Result<(), Failure> {
    let mut files: BTreeMap<PathBuf, Lock> = BTreeMap::new();
    let mut seen: BTreeMap<String, Digest> = BTreeMap::new();
    for spec in specs {
        let Some(source) = spec.import.runner.release() else { continue };
        let path = beside(&spec.template);
        if !files.contains_key(&path) {
            files.insert(path.clone(), Lock::read(&path)?);
        }
        let Some(lock) = files.get_mut(&path) else { continue };
        let locked = match lock.get(&source) {
            Some(text) => Some(text.strip_prefix("sha256:").and_then(Digest::parse).ok_or_else(|| {
                Error::new(ErrorKind::Template, format!("{}: `{text}` is no digest", path.display()))
            })?),
            None => None,
        };
        if wanted.locked && locked.is_none() {
            return Err(not_locked(&source, &path));
        }
        let now = match seen.get(&source) {
            Some(now) => Some(*now),
            None if wanted.pull || wanted.lock && locked.is_none() => {
                let now = look_again(&source, context).map_err(|error| error.at(|| spec.import.place()))?;
                seen.insert(source.clone(), now);
                Some(now)
            }
            None => None,
        };
        spec.import.release = match (now.filter(|_| wanted.pull || locked.is_none()), locked) {
            (Some(now), _) if wanted.lock => {
                lock.put(&source, shown(now));
                lock.write(&path)?;
                Release::Locked { digest: now, refuse: false }
            }
            (Some(now), Some(_)) => {
                if wanted.locked {
                    demand(lock, &path, &source, &shown(now))?;
                }
                Release::Locked { digest: now, refuse: wanted.locked }
            }
            (Some(now), None) => Release::Pulled(now),
            (None, Some(digest)) => Release::Locked { digest, refuse: wanted.locked },
            (None, None) => Release::Any,
        };
    }
    Ok(())
}
