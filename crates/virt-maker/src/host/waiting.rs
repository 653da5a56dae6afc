//! Waits for others: each ends when the build is cancelled, and says what it is for when it takes more than a moment.
//!
//! A lock is not waited for in the kernel's queue, as a wait there could not be cancelled: its holder may be stopped, or at
//! the other end of a network. It is tried again and again, at first in quick succession.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{major, minor};

use super::Cancel;
use super::lock::{Lock, try_lock};
use crate::error::{Context, Error, ErrorKind, Result};

/// How long a wait may take before it is told.
const MOMENT: Duration = Duration::from_secs(3);
/// The pauses between two tries: they double.
const SHORTEST: Duration = Duration::from_micros(500);
const LONGEST: Duration = Duration::from_millis(20);

/// What ends waits, and who hears of them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Waits {
    cancel: Cancel,
    tell: Option<Arc<dyn Fn(String) + Send + Sync>>,
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waits").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

impl Waits {
    /// Waits that end when this is cancelled. `tell` gets a sentence for people.
    pub fn new(cancel: &Cancel, tell: impl Fn(String) + Send + Sync + 'static) -> Waits {
        Waits { cancel: cancel.clone(), tell: Some(Arc::new(tell)) }
    }

    /// What ends them.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Begins a wait for `what`: words to follow "waiting for".
    pub fn wait_for<W: Fn() -> String>(&self, what: W) -> Wait<'_, W> {
        Wait { waits: self, what, begin: Instant::now(), moment: MOMENT, told: false, pause: SHORTEST }
    }

    /// Locks a file that others may have locked. `place` is its path, for messages.
    pub fn lock(&self, file: &File, how: Lock, place: &Path, kind: ErrorKind) -> Result<()> {
        let mut wait = self.wait_for(|| match holder(file) {
            Some(pid) => format!("the lock on {}, which process {pid} has", place.display()),
            None => format!("the lock on {}, which another process has", place.display()),
        });
        loop {
            match try_lock(file, how).context(kind, || format!("cannot lock {}", place.display()))? {
                true => return Ok(()),
                false => wait.pause()?,
            }
        }
    }
}

/// A wait that is under way.
pub struct Wait<'a, W> {
    waits: &'a Waits,
    what: W,
    begin: Instant,
    moment: Duration,
    told: bool,
    pause: Duration,
}

impl<W: Fn() -> String> Wait<'_, W> {
    /// For what takes longer where a host is busy: it is told after this time.
    pub fn told_after(self, moment: Duration) -> Self {
        Wait { moment, ..self }
    }

    /// Lets a little time pass before the next try. An error if the build was cancelled.
    pub fn pause(&mut self) -> Result<()> {
        self.look()?;
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(LONGEST);
        Ok(())
    }

    /// The same for who lets time pass by other means.
    pub fn look(&mut self) -> Result<()> {
        self.waits.cancel.check()?;
        if !self.told && self.begin.elapsed() > self.moment {
            self.told = true;
            if let Some(tell) = &self.waits.tell {
                tell(format!("waiting for {}", (self.what)()));
            }
        }
        Ok(())
    }

    /// An error if it has taken longer than `limit`.
    pub fn bound(&self, limit: Duration, kind: ErrorKind) -> Result<()> {
        if self.begin.elapsed() <= limit {
            return Ok(());
        }
        Err(Error::new(kind, format!("waited {} s for {}", limit.as_secs(), (self.what)())))
    }
}

/// The process that has a file locked, as far as this host knows (proc_locks(5)).
fn holder(file: &File) -> Option<u32> {
    let found = file.metadata().ok()?;
    let named = format!("{:02x}:{:02x}:{}", major(found.dev()), minor(found.dev()), found.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().filter(|field| *field != "->");
        let (kind, pid, file) = (fields.nth(1)?, fields.nth(2)?, fields.next()?);
        (kind == "FLOCK" && file == named).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_wait_for_a_lock_says_who_has_it_and_ends_when_it_is_cancelled() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let (held, ours) = (File::open(place.path()).unwrap(), File::open(place.path()).unwrap());
        assert!(try_lock(&held, Lock::Exclusive).unwrap());
        let (cancel, told) = (Cancel::default(), Arc::<Mutex<Vec<String>>>::default());
        let (stop, list) = (cancel.clone(), told.clone());
        // Whoever hears of it has had enough.
        let waits = Waits::new(&cancel, move |text| {
            list.lock().unwrap().push(text);
            stop.cancel();
        });
        for how in [Lock::Shared, Lock::Exclusive] {
            let error = waits.lock(&ours, how, place.path(), ErrorKind::Store).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled);
        }
        let path = place.path().display();
        let pid = std::process::id();
        assert_eq!(*told.lock().unwrap(), [format!("waiting for the lock on {path}, which process {pid} has")]);
        drop(held);
        waits.lock(&ours, Lock::Exclusive, place.path(), ErrorKind::Store).unwrap();
    }
}
