//! How a step runs, beyond its runner: environment, network, time limit, secrets.
//!
//! A runner knows nothing of this: it gets a guest that does it to every command.

use std::io::{self, Read, Write};
use std::path::Path;

use crate::error::Result;
use crate::guest::{
    Attributes, CacheFolder, Entry, Exit, Guest, Labelled, Marks, OsRelease, Run, Secrets, Space, Stat,
};
use crate::host::Limit;
use crate::spec::StepEntry;
use crate::template::StepOptions;

/// Those of a spec's secrets that a step may read.
pub(super) fn named(all: &Secrets, step: &StepEntry) -> Secrets {
    let named = all.0.iter().filter(|(name, _)| step.options.shaping.secrets.contains(name));
    Secrets(named.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// The time that one attempt of a step may take; it begins now.
pub(super) fn limit(options: &StepOptions) -> Option<Limit> {
    options.running.timeout.and_then(Limit::seconds)
}

/// A guest for one attempt of one step.
pub(super) struct Optioned<'a> {
    guest: &'a mut dyn Guest,
    options: &'a StepOptions,
    secrets: &'a Secrets,
    limit: Option<Limit>,
}

impl<'a> Optioned<'a> {
    /// The time limit is that of this attempt; see [`limit`].
    pub(super) fn new(
        guest: &'a mut dyn Guest,
        options: &'a StepOptions,
        secrets: &'a Secrets,
        limit: Option<Limit>,
    ) -> Optioned<'a> {
        Optioned { guest, options, secrets, limit }
    }

    /// Seconds that are left, rounded up; an error where none is.
    fn left(&self) -> Result<Option<u64>> {
        let Some(limit) = self.limit else { return Ok(None) };
        limit.check()?;
        let left = limit.left();
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
        run.env.extend(self.options.shaping.env.clone());
        run.network = self.options.shaping.network.unwrap_or(run.network);
        run.privileged = self.options.has_all_rights();
        run.secrets.0.extend(self.secrets.0.clone());
        for mount in &self.options.shaping.mounts {
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
        let limit = self.limit;
        self.guest()?.write(path, &mut Limited { inner: content, limit }, attributes)
    }

    fn rewrite(&mut self, path: &str, content: &mut dyn Read) -> Result<()> {
        self.guest.rewrite(path, content)
    }

    fn mkdir(&mut self, path: &str, attributes: Attributes, parents: bool) -> Result<()> {
        self.guest()?.mkdir(path, attributes, parents)
    }

    fn symlink(&mut self, target: &str, path: &str) -> Result<()> {
        self.guest()?.symlink(target, path)
    }

    fn hard_link(&mut self, target: &str, path: &str) -> Result<()> {
        self.guest.hard_link(target, path)
    }

    fn set_marks(&mut self, marks: &[Marks]) -> Result<()> {
        self.guest.set_marks(marks)
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
        let limit = self.limit;
        self.guest()?.read_to(path, &mut Limited { inner: out, limit })
    }

    fn fstab_news(&mut self) -> Result<Vec<String>> {
        self.guest()?.fstab_news()
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

    fn erase(&mut self) -> Result<Vec<String>> {
        self.guest()?.erase()
    }
}

/// A transfer of any length that ends where the time of its step does.
struct Limited<'a, T: ?Sized> {
    inner: &'a mut T,
    limit: Option<Limit>,
}

impl<T: ?Sized> Limited<'_, T> {
    fn check(&self) -> io::Result<()> {
        self.limit.map_or(Ok(()), |limit| limit.check().map_err(io::Error::other))
    }
}

impl<T: Read + ?Sized> Read for Limited<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.read(buffer)
    }
}

impl<T: Write + ?Sized> Write for Limited<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
