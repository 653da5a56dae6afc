//! QMP, the control protocol of qemu and of `qemu-storage-daemon`: one JSON object a line.
//!
//! One command is under way at a time. Events are dropped, but for the one that [`Qmp::execute_until`] waits for. The peer is a program of the host, but it may die at any time: every call ends with an answer or an error.

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::error::{Context, Error, ErrorKind, Result};

/// How long a command may take. Opening and closing of deep chains takes milliseconds; a peer that says nothing for
/// this long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection whose greeting is done.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    serial: u64,
}

impl Qmp {
    /// Connects to a socket that may appear only within `deadline`.
    pub fn connect(path: &Path, deadline: Duration) -> Result<Qmp> {
        let begin = Instant::now();
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return Qmp::greet(stream),
                Err(error) if begin.elapsed() > deadline => {
                    return Err(error).context(ErrorKind::Internal, || "qemu's control socket did not appear");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Reads the greeting from a stream that is connected, and leaves negotiation mode.
    pub fn greet(stream: UnixStream) -> Result<Qmp> {
        let mut qmp = Qmp { reader: BufReader::new(stream), serial: 0 };
        qmp.be_patient(PATIENCE)?;
        let greeting = qmp.receive()?;
        if greeting.get("QMP").is_none() {
            return Err(Error::new(ErrorKind::Internal, "what answers on qemu's control socket is not qemu"));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes one command and returns its `return`. An `error` answer becomes an error with qemu's words.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.send(command, arguments)?;
        loop {
            let message = self.receive()?;
            if let Some(answer) = self.answer(command, message) {
                return answer;
            }
        }
    }

    /// Executes one command that is done only when an event says so: one of this name, about this device. The event may
    /// come before the command's own answer. `limit` is how long each message may take.
    pub fn execute_until(
        &mut self,
        command: &str,
        arguments: Value,
        (event, device): (&str, &str),
        limit: Duration,
    ) -> Result<()> {
        self.be_patient(limit)?;
        self.send(command, arguments)?;
        let (mut answered, mut happened) = (false, false);
        while !(answered && happened) {
            let message = self.receive()?;
            if message.get("event").and_then(Value::as_str) == Some(event) {
                happened |= message.pointer("/data/device").and_then(Value::as_str) == Some(device);
            } else if let Some(answer) = self.answer(command, message) {
                answer?;
                answered = true;
            }
        }
        self.be_patient(PATIENCE)
    }

    fn be_patient(&self, limit: Duration) -> Result<()> {
        let stream = self.reader.get_ref();
        stream.set_read_timeout(Some(limit)).context(ErrorKind::Internal, || "cannot set up qemu's control socket")
    }

    fn send(&mut self, command: &str, arguments: Value) -> Result<()> {
        self.serial += 1;
        let mut line = serde_json::to_vec(&json!({"execute": command, "arguments": arguments, "id": self.serial}))
            .expect("a JSON value is serialisable");
        line.push(b'\n');
        self.reader
            .get_mut()
            .write_all(&line)
            .context(ErrorKind::Internal, || format!("qemu went away before `{command}`"))
    }

    /// What a message says of the command that is under way; nothing, if it speaks of something else.
    fn answer(&self, command: &str, mut message: Value) -> Option<Result<Value>> {
        if message.get("id").and_then(Value::as_u64) != Some(self.serial) {
            return None;
        }
        if let Some(error) = message.get("error") {
            let said = error.get("desc").and_then(Value::as_str).unwrap_or("an error without words");
            let said = without_echoes(said);
            return Some(Err(Error::new(ErrorKind::Internal, format!("qemu refused `{command}`: {said}"))));
        }
        Some(Ok(message.get_mut("return").map(Value::take).unwrap_or_default()))
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

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self
            .reader
            .read_line(&mut line)
            .context(ErrorKind::Internal, || "qemu does not answer on its control socket")?;
        if count == 0 {
            return Err(Error::new(ErrorKind::Internal, "qemu ended unexpectedly"));
        }
        serde_json::from_str(&line).map_err(|source| {
            Error::new(ErrorKind::Internal, "qemu sent something that is not JSON").with_source(source)
        })
    }
}

/// qemu says once for each layer of a chain that it could not open its backing file: once is enough.
fn without_echoes(said: &str) -> String {
    const ECHO: &str = "Could not open backing file: ";
    let last = said.rsplit(ECHO).next().unwrap_or(said);
    if last.len() == said.len() { said.to_owned() } else { format!("{ECHO}{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that says all of this at once, whatever it is asked.
    fn says(lines: &[&str]) -> (Qmp, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(lines.join("\n").as_bytes()).unwrap();
        theirs.write_all(b"\n").unwrap();
        (Qmp::greet(ours).unwrap(), theirs)
    }

    const READY: [&str; 2] = [r#"{"QMP": {}}"#, r#"{"return": {}, "id": 1}"#];
    const GONE: &str = r#"{"event": "DEVICE_DELETED", "data": {"device": "disk"}}"#;

    #[test]
    fn what_an_event_ends_is_over_with_the_answer_and_the_event_in_any_order() {
        let answer = r#"{"return": {}, "id": 2}"#;
        let other = r#"{"event": "DEVICE_DELETED", "data": {"path": "/x"}}"#;
        for order in [[other, GONE, answer], [answer, other, GONE]] {
            let (mut qmp, _peer) = says(&[&READY[..], &order, &[r#"{"return": 7, "id": 3}"#]].concat());
            let wait = |qmp: &mut Qmp| {
                qmp.execute_until("device_del", json!({}), ("DEVICE_DELETED", "disk"), Duration::from_secs(60))
            };
            wait(&mut qmp).unwrap();
            assert_eq!(qmp.execute("next", json!({})).unwrap(), json!(7));
        }
        let (mut qmp, _peer) =
            says(&[&READY[..], &[GONE, r#"{"error": {"desc": "no such device"}, "id": 2}"#]].concat());
        let refused = qmp
            .execute_until("device_del", json!({}), ("DEVICE_DELETED", "disk"), Duration::from_secs(60))
            .unwrap_err();
        assert!(refused.to_string().contains("no such device"), "{refused}");
    }

    #[test]
    fn an_event_that_does_not_come_is_an_error() {
        let (mut qmp, _peer) = says(&[&READY[..], &[r#"{"return": {}, "id": 2}"#]].concat());
        let limit = Duration::from_millis(20);
        let late = qmp.execute_until("device_del", json!({}), ("DEVICE_DELETED", "disk"), limit).unwrap_err();
        assert!(late.to_string().contains("does not answer"), "{late}");
    }

    #[test]
    fn an_error_of_a_deep_chain_is_said_once() {
        let said = format!("{}Could not open 'x': No such file", "Could not open backing file: ".repeat(3));
        assert_eq!(without_echoes(&said), "Could not open backing file: Could not open 'x': No such file");
        assert_eq!(without_echoes("Node not found"), "Node not found");
    }
}
