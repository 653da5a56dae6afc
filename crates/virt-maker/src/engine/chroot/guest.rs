//! What a step does to a guest, handed to the agent.

use std::io::Read;

use virt_maker_agent::client::ClientError;
use virt_maker_agent::protocol::{FailureKind, Request};

use super::ChrootSession;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Attributes, Exit, Guest, OsRelease, Run, Stat};
use crate::host::Cancel;

impl Guest for ChrootSession {
    fn os(&self) -> &OsRelease {
        &self.mounted.os
    }

    fn run(&mut self, run: &Run) -> Result<Exit> {
        self.cancel.check()?;
        let mut run = run.clone();
        if run.network {
            let mut env = self.network_env.clone();
            env.append(&mut run.env);
            run.env = env;
            run.resolv_conf = self.resolv_conf.clone();
        }
        let output = self.output.clone();
        self.client.run(&run, &mut |bytes| output(bytes)).map_err(|error| failure(error, &self.cancel))
    }

    fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>> {
        self.client.read(path, limit).map_err(|error| failure(error, &self.cancel))
    }

    fn write(&mut self, path: &str, content: &mut dyn Read, attributes: Attributes) -> Result<()> {
        self.cancel.check()?;
        self.client.write(path, content, attributes).map_err(|error| failure(error, &self.cancel))
    }

    fn mkdir(&mut self, path: &str, attributes: Attributes, parents: bool) -> Result<()> {
        self.done(&Request::Mkdir { path: path.into(), attributes, parents })
    }

    fn symlink(&mut self, target: &str, path: &str) -> Result<()> {
        self.done(&Request::Symlink { target: target.into(), path: path.into() })
    }

    fn set_attributes(&mut self, path: &str, attributes: Attributes) -> Result<()> {
        self.done(&Request::SetAttributes { path: path.into(), attributes })
    }

    fn stat(&mut self, path: &str) -> Result<Option<Stat>> {
        self.client.stat(path).map_err(|error| failure(error, &self.cancel))
    }

    fn read_dir(&mut self, path: &str) -> Result<Vec<String>> {
        self.client.read_dir(path).map_err(|error| failure(error, &self.cancel))
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        self.done(&Request::Remove { path: path.into() })
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.done(&Request::Rename { from: from.into(), to: to.into() })
    }
}

/// The agent's failure as an error of this library. After a cancellation the agent was killed, and what its client
/// says of that is not the reason.
pub(super) fn failure(error: ClientError, cancel: &Cancel) -> Error {
    if let Err(cancelled) = cancel.check() {
        return cancelled;
    }
    match error {
        ClientError::Failed(failure) => {
            let kind = match failure.kind {
                FailureKind::Unsupported => ErrorKind::Unsupported,
                FailureKind::NoRoot | FailureKind::SeveralRoots | FailureKind::Fstab => ErrorKind::Guest,
                FailureKind::GuestFull | FailureKind::NotFound => ErrorKind::Guest,
                FailureKind::TimedOut => ErrorKind::Step,
                FailureKind::Protocol | FailureKind::System => ErrorKind::Internal,
            };
            Error::new(kind, failure.message.escape_debug().to_string())
        }
        other => Error::new(ErrorKind::Internal, "the agent broke off").with_source(other),
    }
}
