//! What a program of the host writes, up to its end.
//!
//! The end of a pipe comes when the last process that has it is gone, and that may be another one than the program: one
//! that it handed the pipe to. So the end here is that of the program: what lies in the pipe at that moment is still
//! given, and nothing after it.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

/// The reading end of a pipe.
pub(super) struct Pipe<R> {
    from: R,
    program: Arc<OwnedFd>,
    /// Bytes that are still to come, once the program has ended.
    left: Option<u64>,
}

impl<R: Read + AsFd> Pipe<R> {
    /// Of the program with this pidfd.
    pub(super) fn new(from: R, program: &Arc<OwnedFd>) -> Pipe<R> {
        Pipe { from, program: Arc::clone(program), left: None }
    }
}

impl<R: Read + AsFd> Read for Pipe<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_none() {
            let mut waited = [PollFd::new(&self.from, PollFlags::IN), PollFd::new(&*self.program, PollFlags::IN)];
            poll(&mut waited, None)?;
            let [_, program] = waited;
            if !program.revents().is_empty() {
                self.left = Some(rustix::io::ioctl_fionread(&self.from)?);
            }
        }
        let Some(left) = &mut self.left else { return self.from.read(buffer) };
        let room = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let count = self.from.read(&mut buffer[..room])?;
        *left -= count as u64;
        Ok(count)
    }
}
