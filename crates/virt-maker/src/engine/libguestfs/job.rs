//! Jobs: the text that the appliance's shell gets for a command, and what its answer means.
//!
//! A job is shell text that this room makes; whatever comes from a template is in it only as a quoted word.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use tar::EntryType;
use virt_maker_agent::machine::{DRACUT, EMPTY, FILES, SHOWN, SKELETON, command_line};
use virt_maker_agent::protocol::{CacheFolder, Exit, Failure, Run, TerminalSize};

use super::packed::Packed;
use super::shell::{HERE, quote};
use crate::engine::user_network::resolv_conf;
use crate::error::{Context, Error, ErrorKind, Result};

/// Capabilities of a command: those that the agent gives (`sandbox.rs`), so that all engines allow the same.
const BOUNDING_SET: &str = "-all,+audit_write,+chown,+dac_override,+fowner,+fsetid,+kill,+linux_immutable,+mknod,\
    +net_bind_service,+setfcap,+setgid,+setpcap,+setuid,+sys_chroot";

/// What stands for `/proc/cmdline`.
pub(super) const COMMAND_LINE: &str = "machine/proc/cmdline";
/// Where the archive of [`setup`] lies in the appliance, before there is a folder for it.
pub(super) const SETUP: &str = "/run/virt-maker.tar";

/// What makes the appliance ready, once in a session: an archive to put at [`SETUP`], and commands that unpack it and go on.
pub(super) fn setup() -> Result<(Vec<u8>, String)> {
    let packed = pack().context(ErrorKind::Internal, || "cannot pack the files of the appliance".to_owned())?;
    let (archive, unpack) = packed.finish(SETUP)?;
    // All that is shown is mounted by one program.
    let mut text = format!("mkdir -p {HERE}\n{unpack}{{\n");
    for folder in SHOWN {
        let line = format!("/sys/{folder} {HERE}/machine/sys/{folder} none bind,ro 0 0");
        let _ = writeln!(text, "[ ! -d /sys/{folder} ] || echo '{line}'");
    }
    let _ = write!(text, "}} >{HERE}/shown\nmount -a -T {HERE}/shown\nexec /bin/sh {HERE}/setup.sh");
    Ok((archive, text))
}

fn pack() -> io::Result<Packed> {
    let mut packed = Packed::new();
    for (name, content) in [
        ("run.sh", include_str!("appliance/run.sh")),
        ("step.sh", include_str!("appliance/step.sh")),
        ("network.sh", include_str!("appliance/network.sh")),
        ("setup.sh", include_str!("appliance/setup.sh")),
        ("dracut.conf", DRACUT),
    ] {
        packed.file(name, 0o644, content.as_bytes())?;
    }
    packed.file("policy-rc.d", 0o755, b"#!/bin/sh\nexit 101\n")?;
    // What commands see of the machine, as the agent has it (`facade.rs`).
    packed.folder("machine/proc", 0o755)?;
    for folder in EMPTY {
        packed.folder(&format!("machine/proc/{folder}"), 0o755)?;
    }
    // Until the root is known.
    packed.file(COMMAND_LINE, 0o644, command_line(None).as_bytes())?;
    for (file, content) in FILES {
        packed.file(&format!("machine/proc/{file}"), 0o644, content)?;
    }
    for folder in SKELETON.iter().chain(SHOWN) {
        packed.folder(&format!("machine/sys/{folder}"), 0o755)?;
    }
    // What is copied over the temporary /dev and /run of each command.
    packed.folder("skeleton/run/lock", 0o1777)?;
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        packed.node(&format!("skeleton/dev/{name}"), EntryType::Char, 0o666, 0, (1, minor))?;
    }
    packed.node("skeleton/dev/tty", EntryType::Char, 0o666, 0, (5, 0))?;
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")]
    {
        packed.link(&format!("skeleton/dev/{name}"), target)?;
    }
    Ok(packed)
}

/// The job of a command.
pub(super) fn job(run: &Run, token: &str) -> Result<String> {
    let mut text = String::new();
    let (input, port, marker) = match run.terminal {
        None => ("/dev/null", "/dev/virtio-ports/org.virt-maker.output", token),
        Some(_) => ("/dev/hvc0", "/dev/hvc0", ""),
    };
    let timeout = run.timeout.map(|seconds| seconds.to_string()).unwrap_or_default();
    let _ = writeln!(text, "VM_TOKEN={marker} VM_INPUT={input} VM_PORT={port} VM_TIMEOUT={timeout}");
    let _ = writeln!(text, "export VM_NETWORK={}", u8::from(run.network));
    if let Some(script) = &run.script {
        document(&mut text, "script", script);
    }
    if run.network {
        document(&mut text, "resolv.conf", &resolv_conf(run.resolv_conf.as_deref()));
    }
    if !run.secrets.0.is_empty() {
        let _ = writeln!(text, "(umask 077; mkdir {HERE}/secrets)");
    }
    for (name, secret) in &run.secrets.0 {
        document(&mut text, &format!("secrets/{name}"), secret);
    }
    if !run.caches.is_empty() {
        let lines =
            run.caches.iter().map(|CacheFolder { cache, folder, target }| format!("{cache}/{folder} {target}\n"));
        document(&mut text, "binds", &lines.collect::<String>());
    }
    document(&mut text, "command", &command(run)?);
    let _ = writeln!(text, ". {HERE}/run.sh");
    if text.contains('\0') {
        return Err(Error::new(ErrorKind::Step, "a command, its script or its environment contains a NUL byte"));
    }
    Ok(text)
}

/// Appends a command that writes a file, without starting a program.
fn document(text: &mut String, name: &str, content: &str) {
    let _ = writeln!(text, "printf %s {} >{HERE}/{name}", quote(content));
}

/// The shell text that becomes the command by `exec`.
fn command(run: &Run) -> Result<String> {
    let mut words: Vec<&str> = Vec::new();
    if run.script.is_some() {
        words.extend(run.shell.iter().map(String::as_str));
        words.push("/run/virt-maker/script");
    }
    words.extend(run.argv.iter().map(String::as_str));
    if words.is_empty() {
        return Err(Error::new(ErrorKind::Step, "there is no program to run"));
    }
    let mut text = String::from("umask 022\n");
    if let Some(TerminalSize { rows, columns }) = run.terminal {
        let _ = writeln!(text, "stty sane rows {rows} columns {columns}");
        text.push_str("exec setsid --ctty --wait ");
    } else {
        text.push_str("exec ");
    }
    let _ = write!(text, "setpriv --no-new-privs --bounding-set={BOUNDING_SET} -- env -i --");
    for (name, value) in environment(run) {
        if name.is_empty() || name.contains('=') {
            return Err(Error::new(ErrorKind::Step, format!("{name:?} is no name of an environment variable")));
        }
        let _ = write!(text, " {}", quote(&format!("{name}={value}")));
    }
    let _ = write!(text, " {HERE}/chroot /sysroot");
    for word in words {
        let _ = write!(text, " {}", quote(word));
    }
    text.push('\n');
    Ok(text)
}

/// The fixed base with what the step adds.
fn environment(run: &Run) -> BTreeMap<&str, &str> {
    let base = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
        ("TERM", if run.terminal.is_some() { "linux" } else { "dumb" }),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("SYSTEMD_OFFLINE", "1"),
        ("SYSTEMD_DEVICE_VERIFY_SYSFS", "0"),
    ];
    base.into_iter().chain(run.env.iter().map(|(name, value)| (name.as_str(), value.as_str()))).collect()
}

/// The notes of an answer, and what is behind them.
pub(super) fn split_notes(mut answer: &str) -> (Vec<&str>, &str) {
    let mut notes = Vec::new();
    while let Some((note, rest)) = answer.strip_prefix("note=").and_then(|rest| rest.split_once('\n')) {
        notes.push(note);
        answer = rest;
    }
    (notes, answer)
}

/// `status=N`, `guest=...`, `timeout=N` or `error=...`, as `appliance/run.sh` prints it.
pub(super) fn parse_answer(answer: &str) -> Result<Exit> {
    match answer.trim_end().split_once('=') {
        Some(("status", number)) => match number.parse::<i32>() {
            // 512 is set where a core was dumped.
            Ok(status) if status >= 512 => Ok(Exit::Signal(status - 512)),
            Ok(status) if status >= 256 => Ok(Exit::Signal(status - 256)),
            Ok(status) if status >= 0 => Ok(Exit::Status(status)),
            _ => Err(Error::new(ErrorKind::Internal, "the appliance could not start the command's shell")),
        },
        Some(("guest", sentence)) => Err(Error::new(ErrorKind::Guest, sentence)),
        Some(("timeout", seconds)) => {
            Err(Error::new(ErrorKind::Step, Failure::timed_out(seconds.parse().unwrap_or_default()).message))
        }
        Some(("error", sentence)) => Err(Error::new(ErrorKind::Internal, sentence)),
        _ => Err(Error::new(ErrorKind::Internal, "the appliance did not say how the command ended")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_tell_status_signal_and_failure() {
        assert_eq!(parse_answer("status=137\n").unwrap(), Exit::Status(137));
        assert_eq!(parse_answer("status=265\n").unwrap(), Exit::Signal(9));
        assert_eq!(parse_answer("status=523\n").unwrap(), Exit::Signal(11));
        assert_eq!(parse_answer("guest=full\n").unwrap_err().kind(), ErrorKind::Guest);
        assert!(parse_answer("timeout=7").unwrap_err().to_string().contains("after 7 s"));
        assert_eq!(parse_answer("").unwrap_err().kind(), ErrorKind::Internal);
        assert_eq!(split_notes("note=a b\nnote=c\nstatus=0\n"), (vec!["a b", "c"], "status=0\n"));
    }

    #[test]
    fn a_command_that_cannot_be_is_refused() {
        assert_eq!(job(&Run::default(), "t").unwrap_err().kind(), ErrorKind::Step);
        let mut run = Run { argv: vec!["x".into()], ..Run::default() };
        run.env.insert("A=B".into(), "c".into());
        assert!(job(&run, "t").unwrap_err().to_string().contains("A=B"));
        let run = Run { argv: vec!["x\0y".into()], ..Run::default() };
        assert_eq!(job(&run, "t").unwrap_err().kind(), ErrorKind::Step);
    }
}
