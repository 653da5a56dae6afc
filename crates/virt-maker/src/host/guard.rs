//! Kills a helper when a build is cancelled or a deadline has passed, so that whoever waits for its answer gets an end
//! instead. Where that helper itself waits for another one in the kernel, which is stopped or hangs, it cannot die: then
//! that one is killed too, after a moment.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Cancel;
use crate::error::{Context, Error, ErrorKind, Result};

/// How often the watcher looks.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the helper may take to die before those that it may wait for are killed: it has to unmount, and write.
const MOMENT: Duration = Duration::from_secs(3);

/// Watches for a cancellation until it is dropped.
pub struct Guard {
    cancel: Cancel,
    time: Arc<Mutex<Time>>,
    below: Arc<Mutex<Vec<OwnedFd>>>,
    stop: Option<Sender<()>>,
    watcher: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Time {
    deadline: Option<Instant>,
    /// The helper was killed because a deadline had passed.
    up: bool,
}

impl Guard {
    /// Watches over the process `pid`, a child of this one that has not been waited for yet.
    pub fn kill_on_cancel(pid: u32, cancel: &Cancel) -> Result<Guard> {
        let process = process_of(pid, "a helper")?;
        let below: Arc<Mutex<Vec<OwnedFd>>> = Arc::default();
        let waited_for = Arc::clone(&below);
        let (stop, stopped) = channel::<()>();
        let time: Arc<Mutex<Time>> = Arc::default();
        let (watched, cancelled) = (Arc::clone(&time), cancel.clone());
        let watcher = std::thread::spawn(move || {
            while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                let mut time = watched.lock().unwrap_or_else(PoisonError::into_inner);
                let late = time.deadline.is_some_and(|deadline| Instant::now() >= deadline);
                if late || cancelled.is_cancelled() {
                    time.up = late;
                    drop(time);
                    let _ = pidfd_send_signal(&process, Signal::KILL);
                    if stopped.recv_timeout(MOMENT) == Err(RecvTimeoutError::Timeout) {
                        for process in waited_for.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                            let _ = pidfd_send_signal(process, Signal::KILL);
                        }
                    }
                    return;
                }
            }
        });
        Ok(Guard { cancel: cancel.clone(), time, below, stop: Some(stop), watcher: Some(watcher) })
    }

    /// The helper may wait for this process, a child of ours too.
    pub fn waits_for(&self, pid: u32) -> Result<()> {
        let process = process_of(pid, "a helper")?;
        self.below.lock().unwrap_or_else(PoisonError::into_inner).push(process);
        Ok(())
    }

    /// What it watches for.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Kills the helper when `limit` has passed, unless the deadline is ended before.
    pub fn deadline(&self, limit: Option<Duration>) -> Deadline {
        let deadline = Deadline(Arc::clone(&self.time));
        deadline.again(limit);
        deadline
    }
}

/// What means a process for ever, whatever becomes of its number. `what` it is comes into the error.
pub(super) fn process_of(pid: u32, what: &str) -> Result<OwnedFd> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::new(ErrorKind::Internal, "a process id that is none"))?;
    pidfd_open(pid, PidfdFlags::empty()).context(ErrorKind::Host, || format!("cannot watch over {what}"))
}

/// A deadline that counts until it is ended.
#[must_use]
pub struct Deadline(Arc<Mutex<Time>>);

impl Deadline {
    /// Has it count anew, from now on; with nothing, not until it counts anew.
    pub fn again(&self, limit: Option<Duration>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).deadline =
            limit.and_then(|limit| Instant::now().checked_add(limit));
    }

    /// Ends it, and says whether it had passed.
    pub fn end(self) -> bool {
        let mut time = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        time.deadline = None;
        time.up
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_deadline_kills_and_one_that_was_ended_does_not() {
        let sleep = || Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let mut child = sleep();
        let guard = Guard::kill_on_cancel(child.id(), &Cancel::default()).unwrap();
        let ended = guard.deadline(Some(Duration::from_secs(1000))).end();
        assert!(!ended && child.try_wait().unwrap().is_none());
        let deadline = guard.deadline(Some(Duration::from_millis(10)));
        assert!(!child.wait().unwrap().success());
        assert!(deadline.end());
    }
}
