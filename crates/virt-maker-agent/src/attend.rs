//! A program that has started: its output to the host, and what a person types to it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use virt_maker_agent::protocol::Frame;

use crate::failure::{Result, system};
use crate::link::{Broken, Link};

/// How much of the output is read at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// A started program.
pub struct Started {
    /// The child of the agent.
    pub pid: Pid,
    /// Becomes readable when that ends.
    ended: OwnedFd,
    /// Its output: a pipe, or our end of its terminal.
    pub output: OwnedFd,
    terminal: bool,
}

impl Started {
    /// A child that was just made, with our end of its output. From here on it is known by its descriptor.
    pub fn new(pid: Pid, output: OwnedFd, terminal: bool) -> Result<Started> {
        let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        let ended = ended.map_err(|error| system("watch a process", error))?;
        rustix::io::ioctl_fionbio(&output, true).map_err(|error| system("set up a pipe", error))?;
        Ok(Started { pid, ended, output, terminal })
    }
}

/// Why a program is attended no longer.
pub enum Attended {
    /// It has ended.
    Ended,
    /// Its time was up; it was not stopped yet.
    TimedOut,
}

/// Passes data both ways until the program has ended or time is up.
pub fn attend(
    link: &mut Link,
    started: &Started,
    tail: &mut Vec<u8>,
    deadline: Option<Instant>,
) -> std::result::Result<Attended, Broken> {
    let mut input: Vec<u8> = Vec::new();
    let mut output_open = true;
    loop {
        let (output, ended, host) = (started.output.as_fd(), started.ended.as_fd(), link.input());
        let mut wanted = if output_open { PollFlags::IN } else { PollFlags::empty() };
        if !input.is_empty() {
            wanted |= PollFlags::OUT;
        }
        // While typed input waits, no more is taken.
        let host_wanted = if input.is_empty() { PollFlags::IN } else { PollFlags::empty() };
        let mut fds =
            [PollFd::new(&ended, PollFlags::IN), PollFd::new(&host, host_wanted), PollFd::new(&output, wanted)];
        let count = if wanted.is_empty() { 2 } else { 3 };
        let left = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            // A program that writes without a pause keeps the descriptors readable, so time is looked at first.
            Some(Duration::ZERO) => return Ok(Attended::TimedOut),
            left => left
                .map(|left| rustix::time::Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ }),
        };
        match poll(&mut fds[..count], left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Broken::Stream(error.into())),
        }
        let [over, host, output] = fds.map(|fd| fd.revents());
        if count == 3 && !(output - PollFlags::OUT).is_empty() {
            output_open = forward(link, &started.output, tail)?;
        }
        if output.contains(PollFlags::OUT) {
            match rustix::io::write(&started.output, &input) {
                Ok(written) => drop(input.drain(..written)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The program has closed its terminal; what was typed is lost, as on any terminal.
                Err(_) => input.clear(),
            }
        }
        if !host.is_empty() {
            match link.receive()? {
                Some(Frame::Data(bytes)) if started.terminal && bytes.is_empty() => hang_up(started),
                Some(Frame::Data(bytes)) if started.terminal => input = bytes,
                Some(_) => return Err(Broken::Protocol("a frame while a program without a terminal runs")),
                None => return Err(Broken::Closed),
            }
        }
        if !over.is_empty() {
            return Ok(Attended::Ended);
        }
    }
}

/// The person's terminal is gone: so is the program's, and whoever does not mind is killed.
fn hang_up(started: &Started) {
    let _ = rustix::process::kill_process(started.pid, Signal::HUP);
    let _ = rustix::process::kill_process(started.pid, Signal::KILL);
}

/// Passes on what is there; whether there may be more later.
fn forward(link: &mut Link, output: &OwnedFd, tail: &mut Vec<u8>) -> std::result::Result<bool, Broken> {
    let mut buffer = [0; CHUNK];
    match rustix::io::read(output, &mut buffer) {
        Ok(0) => Ok(false),
        Ok(count) => {
            link.send_data(&buffer[..count])?;
            keep_tail(tail, &buffer[..count]);
            Ok(true)
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(true),
        // What a terminal says when its other end is closed.
        Err(Errno::IO) => Ok(false),
        Err(error) => Err(Broken::Stream(error.into())),
    }
}

/// Passes on what is left when all processes are gone. The pipe may still be open somewhere (a descriptor can be sent
/// through a socket), so this ends when it is empty, not when it is closed.
pub fn drain(link: &mut Link, output: &OwnedFd, tail: &mut Vec<u8>) -> std::result::Result<Result<()>, Broken> {
    let mut buffer = [0; CHUNK];
    loop {
        match rustix::io::read(output, &mut buffer) {
            Ok(0) | Err(Errno::AGAIN | Errno::IO) => return Ok(Ok(())),
            Ok(count) => {
                link.send_data(&buffer[..count])?;
                keep_tail(tail, &buffer[..count]);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Ok(Err(system("read the output of a program", error))),
        }
    }
}

fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(&bytes[bytes.len().saturating_sub(1024)..]);
    if tail.len() > 2048 {
        tail.drain(..tail.len() - 1024);
    }
}
