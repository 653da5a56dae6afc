//! Kills a helper when a build is cancelled, so that whoever waits for its answer gets an end instead.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Cancel;
use crate::error::{Context, Error, ErrorKind, Result};

/// Watches for a cancellation until it is dropped.
pub struct Guard {
    stop: Option<Sender<()>>,
    watcher: Option<JoinHandle<()>>,
}

impl Guard {
    /// Watches over the process `pid`, a child of this one that has not been waited for yet.
    pub fn kill_on_cancel(pid: u32, cancel: &Cancel) -> Result<Guard> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a process id that is none"))?;
        // A pidfd means this process for ever, whatever becomes of its number.
        let process: OwnedFd =
            pidfd_open(pid, PidfdFlags::empty()).context(ErrorKind::Host, || "cannot watch over a helper")?;
        let (stop, stopped) = channel::<()>();
        let cancel = cancel.clone();
        let watcher = std::thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout) {
                if cancel.is_cancelled() {
                    let _ = pidfd_send_signal(&process, Signal::KILL);
                    return;
                }
            }
        });
        Ok(Guard { stop: Some(stop), watcher: Some(watcher) })
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
