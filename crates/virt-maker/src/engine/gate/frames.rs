//! Frames of Ethernet, as they come from a socket of qemu's, a socket of packets, or an interface of the kernel.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use virt_maker_agent::interface;

/// The longest frame that anybody here passes on.
const LONGEST: usize = 64 << 10;
/// What qemu puts before a frame: its length.
const HEAD: usize = 4;

/// One side of a gate.
pub enum End {
    /// Frames follow each other, each after its length in four bytes, as qemu's `-netdev socket` has it.
    Stream(UnixStream),
    /// A socket that keeps messages apart (`SOCK_SEQPACKET`); each is a frame.
    Packets(OwnedFd),
    /// An interface of the kernel; each read and each write is a frame.
    Interface(OwnedFd),
}

impl End {
    pub(super) fn try_clone(&self) -> io::Result<End> {
        Ok(match self {
            End::Stream(stream) => End::Stream(stream.try_clone()?),
            End::Packets(socket) => End::Packets(socket.try_clone()?),
            End::Interface(device) => End::Interface(device.try_clone()?),
        })
    }

    /// Where its frames come from. `stopped` becomes readable when reading has to end.
    pub(super) fn source(&self, stopped: &UnixStream) -> io::Result<Source> {
        let end = self.try_clone()?;
        if let End::Interface(device) = &end {
            rustix::io::ioctl_fionbio(device, true)?;
        }
        Ok(Source { end, stopped: stopped.try_clone()? })
    }

    pub(super) fn target(self) -> Target {
        Target(self)
    }

    /// Ends reading and writing, where it can be ended like this.
    pub(super) fn shut_down(&self) {
        // It may be closed on the other side already.
        let _ = match self {
            End::Stream(stream) => stream.shutdown(Shutdown::Both),
            End::Packets(socket) => rustix::net::shutdown(socket, rustix::net::Shutdown::Both).map_err(io::Error::from),
            End::Interface(_) => Ok(()),
        };
    }
}

/// A frame, after room for its length.
pub(super) struct Frame {
    bytes: Vec<u8>,
    length: usize,
}

impl Frame {
    pub(super) fn new() -> Frame {
        Frame { bytes: vec![0; HEAD + LONGEST], length: 0 }
    }

    pub(super) fn of(content: &[u8]) -> Frame {
        let mut frame = Frame { bytes: [&[0; HEAD], content].concat(), length: content.len() };
        frame.note_length();
        frame
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.bytes[HEAD..HEAD + self.length]
    }

    fn note_length(&mut self) {
        self.bytes[..HEAD].copy_from_slice(&(self.length as u32).to_be_bytes());
    }
}

/// Where frames come from.
pub(super) struct Source {
    end: End,
    stopped: UnixStream,
}

impl Source {
    /// Waits for the next frame; `false` when there will be none.
    pub(super) fn read(&mut self, frame: &mut Frame) -> bool {
        let (head, room) = frame.bytes.split_at_mut(HEAD);
        let length = match &mut self.end {
            End::Stream(stream) => {
                let mut read = || {
                    stream.read_exact(head).ok()?;
                    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
                    // qemu sends no longer ones; after one the ends would not agree any more on where frames begin.
                    stream.read_exact(room.get_mut(..length)?).ok()?;
                    Some(length)
                };
                read()
            }
            // A message of no length is how the end of such a socket reads.
            End::Packets(socket) => retry(|| rustix::io::read(&*socket, &mut *room)).ok().filter(|length| *length > 0),
            End::Interface(device) => loop {
                match rustix::io::read(&*device, &mut *room) {
                    Ok(length) => break Some(length),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        let mut ends =
                            [PollFd::new(&*device, PollFlags::IN), PollFd::new(&self.stopped, PollFlags::IN)];
                        let waited = retry(|| poll(&mut ends, None));
                        if waited.is_err() || !ends[1].revents().is_empty() {
                            break None;
                        }
                    }
                    Err(_) => break None,
                }
            },
        };
        frame.length = length.unwrap_or(0);
        frame.note_length();
        length.is_some()
    }
}

/// Where frames go.
pub(super) struct Target(End);

impl Target {
    /// Leaves an interface to its network namespace.
    pub(super) fn leave(&self) {
        if let Target(End::Interface(device)) = self {
            let _ = interface::leave(device);
        }
    }

    /// Sends a frame; `false` when none can be sent any more. A frame that there is no room for may be lost.
    pub(super) fn write(&self, frame: &Frame) -> bool {
        match &self.0 {
            End::Stream(stream) => (&*stream).write_all(&frame.bytes[..HEAD + frame.length]).is_ok(),
            End::Packets(socket) => retry(|| rustix::io::write(socket, frame.content())).is_ok(),
            End::Interface(device) => match retry(|| rustix::io::write(device, frame.content())) {
                // The queue is full, or the interface is down, or this was no frame.
                Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::IO | Errno::INVAL) => true,
                Err(_) => false,
            },
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
