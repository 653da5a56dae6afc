//! QMP, the control protocol of qemu and of `qemu-storage-daemon`: one JSON object a line.
//!
//! One command is under way at a time, and events that come between are dropped: what has to be known is asked for. The
//! peer is a program of the host, but it may die at any time, or be stopped: every call ends with an answer or an error, and
//! when the build is cancelled.

use std::io::{BufRead, BufReader, ErrorKind as IoKind, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::waiting::Waits;

/// How long a command may take. Opening and closing of deep chains takes milliseconds; a peer that says nothing for
/// this long hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it may take before it is told: a host may be busy.
const MOMENT: Duration = Duration::from_secs(15);
/// How often a request to stop is looked for.
const TICK: Duration = Duration::from_millis(50);

/// A connection whose greeting is done.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    serial: u64,
    waits: Waits,
}

impl Qmp {
    /// Reads the greeting from a stream that is connected, and leaves negotiation mode.
    pub fn greet(stream: UnixStream, waits: Waits) -> Result<Qmp> {
        let set = stream.set_read_timeout(Some(TICK)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        set.context(ErrorKind::Internal, || "cannot set up qemu's control socket")?;
        let mut qmp = Qmp { reader: BufReader::new(stream), serial: 0, waits };
        let greeting = qmp.receive("its greeting")?;
        if greeting.get("QMP").is_none() {
            return Err(Error::new(ErrorKind::Internal, "what answers on qemu's control socket is not qemu"));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes one command and returns its `return`. An `error` answer becomes an error with qemu's words.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.serial += 1;
        let mut message = json!({"execute": command, "id": self.serial});
        if arguments.as_object().is_some_and(|arguments| !arguments.is_empty()) {
            message["arguments"] = arguments;
        }
        let mut line = serde_json::to_vec(&message).expect("a JSON value is serialisable");
        line.push(b'\n');
        self.reader
            .get_mut()
            .write_all(&line)
            .context(ErrorKind::Internal, || format!("qemu went away before `{command}`"))?;
        loop {
            let mut answer = self.receive(command)?;
            if answer.get("id").and_then(Value::as_u64) != Some(self.serial) {
                continue;
            }
            if let Some(error) = answer.get("error") {
                let said = error.get("desc").and_then(Value::as_str).unwrap_or("an error without words");
                let said = without_echoes(said);
                return Err(Error::new(ErrorKind::Internal, format!("qemu refused `{command}`: {said}")));
            }
            return Ok(answer.get_mut("return").map(Value::take).unwrap_or_default());
        }
    }

    /// Hands a descriptor to qemu, which then knows it by this name.
    pub fn send_descriptor(&mut self, name: &str, descriptor: BorrowedFd<'_>) -> Result<()> {
        // The descriptor travels with the first byte of the command that takes it; a blank before a command is nothing.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(self.reader.get_ref(), &[IoSlice::new(b" ")], &mut control, SendFlags::empty())
            .context(ErrorKind::Internal, || "cannot hand a descriptor to qemu")?;
        self.execute("getfd", json!({"fdname": name})).map(drop)
    }

    /// The next line. `to` is what is to be answered.
    fn receive(&mut self, to: &str) -> Result<Value> {
        let mut line = Vec::new();
        let mut wait = self.waits.wait_for(|| format!("qemu's answer to `{to}`")).told_after(MOMENT);
        loop {
            // What has come of a line stays where the rest does not come in time.
            match self.reader.read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => break,
                Ok(_) => return Err(Error::new(ErrorKind::Internal, "qemu ended unexpectedly")),
                Err(error) if matches!(error.kind(), IoKind::WouldBlock | IoKind::TimedOut) => {
                    wait.look()?;
                    wait.bound(PATIENCE, ErrorKind::Internal)?;
                }
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(error) => {
                    return Err(error).context(ErrorKind::Internal, || "qemu does not answer on its control socket");
                }
            }
        }
        serde_json::from_slice(&line).map_err(|source| {
            Error::new(ErrorKind::Internal, "qemu sent something that is not JSON").with_source(source)
        })
    }
}

/// qemu says once for each layer of a chain that it could not open its backing file: once is enough.
pub fn without_echoes(said: &str) -> String {
    const ECHO: &str = "Could not open backing file: ";
    let last = said.rsplit(ECHO).next().unwrap_or(said);
    if last.len() == said.len() { said.to_owned() } else { format!("{ECHO}{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_deep_chain_is_said_once() {
        let said = format!("{}Could not open 'x': No such file", "Could not open backing file: ".repeat(3));
        assert_eq!(without_echoes(&said), "Could not open backing file: Could not open 'x': No such file");
        assert_eq!(without_echoes("Node not found"), "Node not found");
    }
}
