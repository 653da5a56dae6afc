//! What the connection plugin asks for, done to the guest. One question a connection: the length of a JSON text (32 bits,
//! little endian), the text, then as many bytes as it says; the answer has the same form.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Context, Error, ErrorKind, Result, chain};
use crate::guest::{Attributes, Exit, Guest, Run};

/// Where the guest has what a command reads and writes; gone at the end.
pub(super) const FOLDER: &str = "/var/tmp/.virt-maker-ansible";
/// Questions and files are not longer, in bytes.
const MAX: u64 = 256 << 20;
/// How long a plugin may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Question {
    op: String,
    #[serde(default)]
    command: String,
    #[serde(default)]
    path: String,
    bytes: u64,
}

/// Answers questions until `done` says that nobody asks any more. An error of the guest is the answer to its question; one
/// that ends the session ends this too.
pub(super) fn serve(listener: &UnixListener, guest: &mut dyn Guest, done: &dyn Fn() -> bool) -> Result<()> {
    let failed = || "cannot listen to ansible-playbook";
    listener.set_nonblocking(true).context(ErrorKind::Host, failed)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).context(ErrorKind::Host, failed)?;
                stream.set_read_timeout(Some(PATIENCE)).context(ErrorKind::Host, failed)?;
                one(stream, guest)?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if done() {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error).context(ErrorKind::Host, failed),
        }
    }
}

fn one(mut stream: UnixStream, guest: &mut dyn Guest) -> Result<()> {
    // A plugin that was killed in the middle of a question is no failure of the guest.
    let Ok((question, data)) = read(&mut stream) else { return Ok(()) };
    let (answer, data) = match answer(&question, &data, guest) {
        Ok(answer) => answer,
        Err(error) if matches!(error.kind(), ErrorKind::Step | ErrorKind::Guest) => {
            (json!({ "error": chain(&error) }), Vec::new())
        }
        Err(error) => return Err(error),
    };
    let _ = write(&mut stream, answer, &data);
    Ok(())
}

fn read(stream: &mut UnixStream) -> io::Result<(Question, Vec<u8>)> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut text = vec![0; u64::from(u32::from_le_bytes(length)).min(MAX) as usize];
    stream.read_exact(&mut text)?;
    let question: Question = serde_json::from_slice(&text)?;
    let mut data = Vec::new();
    if question.bytes > MAX || stream.take(question.bytes).read_to_end(&mut data)? as u64 != question.bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((question, data))
}

fn write(stream: &mut UnixStream, mut answer: Value, data: &[u8]) -> io::Result<()> {
    answer["bytes"] = data.len().into();
    let text = serde_json::to_vec(&answer)?;
    stream.write_all(&(text.len() as u32).to_le_bytes())?;
    stream.write_all(&text)?;
    stream.write_all(data)
}

fn answer(question: &Question, data: &[u8], guest: &mut dyn Guest) -> Result<(Value, Vec<u8>)> {
    let own = Attributes { mode: Some(0o600), uid: Some(0), gid: Some(0) };
    match question.op.as_str() {
        "run" => {
            let path = |name: &str| format!("{FOLDER}/{name}");
            guest.write(&path("in"), &mut &*data, own)?;
            let script =
                format!("#!/bin/sh\nexec /bin/sh -c \"$1\" <{} >{} 2>{}\n", path("in"), path("out"), path("err"));
            let run = Run {
                script: Some(script),
                argv: vec![question.command.clone()],
                network: true,
                ..Run::default()
            };
            let status = match guest.run(&run)? {
                Exit::Status(status) => status,
                Exit::Signal(signal) => 128 + signal,
            };
            let (out, err) = (guest.read(&path("out"), MAX)?, guest.read(&path("err"), MAX)?);
            Ok((json!({ "status": status, "out": out.len() }), [out, err].concat()))
        }
        "put" => {
            guest.write(&question.path, &mut &*data, own)?;
            Ok((json!({}), Vec::new()))
        }
        "get" => Ok((json!({}), guest.read(&question.path, MAX)?)),
        other => Err(Error::new(ErrorKind::Step, format!("`{}` is not known", other.escape_debug()))),
    }
}
