//! The first exchange of a conversation.

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::{Client, ClientError, Result};
use crate::protocol::{Frame, Reply, Request, Sandbox, VERSION, read_frame};

/// The longest answer, in bytes: a version, or a sentence.
const WELCOME_MAX: usize = 4096;

impl Client {
    /// The first exchange: both ends must speak the same version.
    pub fn hello(&mut self, sandbox: Sandbox) -> Result<()> {
        self.say_hello(sandbox)?;
        self.hear_welcome()
    }

    /// The first half of [`hello`](Client::hello): an agent that is not there yet will answer when it is.
    pub fn say_hello(&mut self, sandbox: Sandbox) -> Result<()> {
        self.send(&Request::Hello { version: VERSION, sandbox })
    }

    /// The second half of [`hello`](Client::hello): waits for the answer.
    fn hear_welcome(&mut self) -> Result<()> {
        let reply = self.finish()?;
        self.welcomed(reply)
    }

    /// The same without waiting: `None` where the answer has not come, or not whole.
    pub fn heard_welcome(&mut self) -> Result<Option<()>> {
        loop {
            // No byte more than the frame has: what follows belongs to the next answer.
            let wanted = match self.begun.first_chunk::<5>() {
                None => 5,
                Some([_, length @ ..]) => 5 + u32::from_le_bytes(*length) as usize,
            };
            if wanted > WELCOME_MAX {
                return self.violation(format!("{wanted} bytes as answer to hello"));
            }
            if self.begun.len() == wanted {
                break;
            }
            let mut more = [0; WELCOME_MAX];
            let missing = wanted - self.begun.len();
            match recv(&self.stream, &mut more[..missing], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => {
                    self.ended = true;
                    return Err(ClientError::Closed);
                }
                Ok((_, count)) => self.begun.extend_from_slice(&more[..count]),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return self.broke(error.into()),
            }
        }
        let frame = std::mem::take(&mut self.begun);
        match read_frame(&mut frame.as_slice()) {
            Ok(Some(Frame::Message(reply))) => self.welcomed(reply).map(Some),
            Ok(_) => self.violation("data where a reply was due".to_string()),
            Err(error) => self.violation(error.to_string()),
        }
    }

    fn welcomed(&mut self, reply: Reply) -> Result<()> {
        match reply {
            Reply::Welcome { version: VERSION } => Ok(()),
            Reply::Welcome { version } => self.violation(format!("it speaks version {version}, not {VERSION}")),
            Reply::Failed(failure) => Err(ClientError::Failed(failure)),
            other => self.unexpected("hello", &other),
        }
    }
}
