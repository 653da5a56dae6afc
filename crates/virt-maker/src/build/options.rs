//! How a step runs, beyond its runner: environment, network, time limit, secrets, further attempts.
//!
//! A runner knows nothing of this: it gets a guest that does it to every command.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::{Attributes, CacheFolder, Entry, Exit, Guest, Labelled, OsRelease, Run, Secrets, Space, Stat};
use crate::spec::{SecretSource, Spec, StepEntry};
use crate::template::StepOptions;

/// Largest secret, in bytes.
const SECRET_MAX: u64 = 64 << 10;

/// The values of the secrets that a step may read. Each is read now and not before.
pub(super) fn secrets(spec: &Spec, step: &StepEntry, env: &BTreeMap<String, String>) -> Result<Secrets> {
    let mut values = BTreeMap::new();
    for secret in spec.secrets.iter().filter(|secret| step.options.secrets.contains(&secret.name)) {
        let name = &secret.name;
        let value = match &secret.source {
            SecretSource::Env(variable) => env.get(variable).cloned().ok_or_else(|| {
                let message = format!("the secret `{name}` is not there: the variable {variable} is not set");
                Error::new(ErrorKind::Template, message)
            })?,
            SecretSource::File(path) => {
                let failed = || format!("cannot read the secret `{name}` from {}", path.display());
                let file = path.open().context(ErrorKind::Template, failed)?;
                let mut bytes = Vec::new();
                file.take(SECRET_MAX + 1).read_to_end(&mut bytes).context(ErrorKind::Template, failed)?;
                let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
                text.ok_or_else(|| Error::new(ErrorKind::Template, format!("{}: it is no text", failed())))?
            }
        };
        if value.len() as u64 > SECRET_MAX {
            let message = format!("the secret `{name}` has more than {SECRET_MAX} bytes");
            return Err(Error::new(ErrorKind::Template, message));
        }
        values.insert(name.clone(), value);
    }
    Ok(Secrets(values))
}

/// A guest for one attempt of one step.
pub(super) struct Optioned<'a> {
    guest: &'a mut dyn Guest,
    options: &'a StepOptions,
    secrets: &'a Secrets,
    deadline: Option<Instant>,
}

impl<'a> Optioned<'a> {
    /// The time limit begins now.
    pub(super) fn new(guest: &'a mut dyn Guest, options: &'a StepOptions, secrets: &'a Secrets) -> Optioned<'a> {
        let deadline = options.timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
        Optioned { guest, options, secrets, deadline }
    }

    /// Seconds that are left, rounded up; an error where none is.
    fn left(&self) -> Result<Option<u64>> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = self.options.timeout.unwrap_or_default();
            return Err(Error::new(ErrorKind::Step, format!("the step took longer than its timeout of {seconds} s")));
        }
        Ok(Some(left.as_secs() + u64::from(left.subsec_nanos() > 0)))
    }

    fn guest(&mut self) -> Result<&mut dyn Guest> {
        self.left()?;
        Ok(self.guest)
    }
}

impl Guest for Optioned<'_> {
    fn os(&self) -> &OsRelease {
        self.guest.os()
    }

    fn run(&mut self, run: &Run) -> Result<Exit> {
        let mut run = run.clone();
        run.env.extend(self.options.env.clone());
        run.network = self.options.network.unwrap_or(run.network);
        run.secrets.0.extend(self.secrets.0.clone());
        for mount in &self.options.mounts {
            run.caches.extend(mount.folders().into_iter().map(|(folder, target)| CacheFolder {
                cache: mount.cache.clone(),
                folder,
                target,
            }));
        }
        run.timeout = match (run.timeout, self.left()?) {
            (Some(own), Some(left)) => Some(own.min(left)),
            (own, left) => own.or(left),
        };
        self.guest.run(&run)
    }

    fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>> {
        self.guest()?.read(path, limit)
    }

    fn write(&mut self, path: &str, content: &mut dyn Read, attributes: Attributes) -> Result<()> {
        self.guest()?.write(path, content, attributes)
    }

    fn mkdir(&mut self, path: &str, attributes: Attributes, parents: bool) -> Result<()> {
        self.guest()?.mkdir(path, attributes, parents)
    }

    fn symlink(&mut self, target: &str, path: &str) -> Result<()> {
        self.guest()?.symlink(target, path)
    }

    fn set_attributes(&mut self, path: &str, attributes: Attributes) -> Result<()> {
        self.guest()?.set_attributes(path, attributes)
    }

    fn stat(&mut self, path: &str) -> Result<Option<Stat>> {
        self.guest()?.stat(path)
    }

    fn space(&mut self, path: &str) -> Result<Space> {
        self.guest()?.space(path)
    }

    fn read_dir(&mut self, path: &str) -> Result<Vec<String>> {
        self.guest()?.read_dir(path)
    }

    fn walk(&mut self, path: &str, depth: Option<u32>) -> Result<Vec<Entry>> {
        self.guest()?.walk(path, depth)
    }

    fn read_to(&mut self, path: &str, out: &mut dyn Write) -> Result<u64> {
        self.guest()?.read_to(path, out)
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        self.guest()?.remove(path)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.guest()?.rename(from, to)
    }

    fn archive(&mut self, target: &Path) -> Result<()> {
        self.guest()?.archive(target)
    }

    fn labels(&mut self) -> Result<Vec<Labelled>> {
        self.guest()?.labels()
    }

    fn set_labels(&mut self, labels: &[Labelled]) -> Result<()> {
        self.guest()?.set_labels(labels)
    }

    fn trim(&mut self) -> Result<()> {
        self.guest()?.trim()
    }
}
