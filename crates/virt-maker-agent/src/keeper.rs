//! The agent's process namespace, and the process that keeps watch before it.
//!
//! The agent is the first process of a process namespace, as it is in an appliance. When it ends, however it ends, the
//! kernel kills every process in there, whatever state it is in: a sandbox that was just being set up has not yet
//! asked to die with its parent. The process that the host started stays outside and passes on how the agent ended.

use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, getpid, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

use crate::failure::{Result, system};

/// Returns in the first process of a new process namespace; the process that called it waits for that one's end and
/// ends likewise. In a process that is the first of its namespace already, it does nothing.
pub fn enter() -> Result<()> {
    if getpid().is_init() {
        return Ok(());
    }
    let failed = |error: Errno| system("make a process namespace", error);
    let (alive, keep) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    // SAFETY: only children that are made from here on are in another namespace; this process has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }.map_err(failed)?;
    // SAFETY: the process has one thread, so the child has all of it and no lock is held by another one.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(system("make a process namespace", std::io::Error::last_os_error())),
        0 => {
            set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed)?;
            drop(keep);
            // The keeper may have died before that took effect. Its number cannot be asked for from in here, but its
            // end of the pipe is closed then.
            let mut ends = [PollFd::from_borrowed_fd(alive.as_fd(), PollFlags::IN)];
            let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut ends, Some(&now)).map_err(failed)?;
            if ends[0].revents().contains(PollFlags::HUP) {
                std::process::exit(1);
            }
            Ok(())
        }
        child => {
            drop(alive);
            let mut status = 0;
            // SAFETY: `status` is valid for the call, and `child` is a child of this process.
            while unsafe { libc::waitpid(child, &mut status, 0) } < 0 {
                if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                    break;
                }
            }
            let ended = libc::WIFEXITED(status);
            std::process::exit(if ended { libc::WEXITSTATUS(status) } else { 1 })
        }
    }
}
