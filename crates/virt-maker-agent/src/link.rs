//! The agent's end of the stream to the host.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use virt_maker_agent::protocol::{Frame, Reply, Request, read_frame, write_data, write_message};

/// Why the conversation is over.
#[derive(Debug)]
pub enum Broken {
    /// The host closed the stream.
    Closed,
    /// The stream failed.
    Stream(io::Error),
    /// The host said what it may not say now.
    Protocol(&'static str),
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Closed => out.write_str("the host closed the stream"),
            Broken::Stream(error) => write!(out, "the stream to the host failed: {error}"),
            Broken::Protocol(what) => write!(out, "the host broke the protocol: {what}"),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Broken::Closed,
            _ => Broken::Stream(error),
        }
    }
}

/// The stream: one descriptor each way, which may be the same.
#[derive(Debug)]
pub struct Link {
    input: File,
    output: File,
}

impl Link {
    /// A link over two descriptors.
    pub fn new(input: OwnedFd, output: OwnedFd) -> Link {
        Link { input: File::from(input), output: File::from(output) }
    }

    /// What becomes readable when the host says something or goes.
    pub fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// Waits for a frame; `None` when the host is gone.
    pub fn receive(&mut self) -> Result<Option<Frame<Request>>, Broken> {
        Ok(read_frame(&mut self.input)?)
    }

    /// Answers.
    pub fn reply(&mut self, reply: &Reply) -> Result<(), Broken> {
        Ok(write_message(&mut self.output, reply)?)
    }

    /// Sends bytes of a transfer.
    pub fn send_data(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        Ok(write_data(&mut self.output, bytes)?)
    }
}
