//! Programs of the host that run to their end: an argument vector, never a shell; no input; dead when we die.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Cancel, Guard};
use crate::error::{Context, Error, ErrorKind, Result};

/// Most of a program's output that is kept, in bytes.
const OUTPUT_MAX: u64 = 16 << 20;
/// Lines of its errors that are quoted.
const QUOTED_LINES: usize = 6;

/// A program to run.
#[derive(Debug)]
pub struct Tool {
    program: OsString,
    package: &'static str,
    arguments: Vec<OsString>,
    env: BTreeMap<String, String>,
    folder: Option<PathBuf>,
    log: Option<PathBuf>,
}

impl Tool {
    /// A program by its name, and the Debian package that brings it.
    pub fn new(program: impl AsRef<OsStr>, package: &'static str) -> Tool {
        let program = program.as_ref().to_owned();
        Tool { program, package, arguments: Vec::new(), env: BTreeMap::new(), folder: None, log: None }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Tool {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Tool {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment; the rest of it is this process's.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Tool {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// The folder that it runs in.
    pub fn folder(mut self, folder: &Path) -> Tool {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Appends what it writes to standard error (and to standard output, unless that is read) to a file.
    pub fn log_to(mut self, log: &Path) -> Tool {
        self.log = Some(log.to_owned());
        self
    }

    /// Runs it and returns what it wrote to standard output, at most 16 MiB. Anything but success is an error that
    /// quotes its last words. A cancellation kills it.
    pub fn run(self, cancel: &Cancel) -> Result<Vec<u8>> {
        let mut output = Vec::new();
        self.run_reading(cancel, &mut |stdout| stdout.take(OUTPUT_MAX).read_to_end(&mut output).map(|_| ()))?;
        Ok(output)
    }

    /// Runs it and hands each piece of its standard output that ends with `end` to `each` as it comes.
    pub fn run_pieces(self, end: u8, cancel: &Cancel, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.run_reading(cancel, &mut |stdout| {
            let mut stdout = BufReader::new(stdout);
            let mut piece = Vec::new();
            while stdout.read_until(end, &mut piece)? > 0 {
                each(&piece);
                piece.clear();
            }
            Ok(())
        })
    }

    /// Runs it while `read` consumes its standard output.
    pub fn run_reading(
        self,
        cancel: &Cancel,
        read: &mut dyn FnMut(&mut dyn Read) -> std::io::Result<()>,
    ) -> Result<()> {
        cancel.check()?;
        let name = self.name();
        let failed = || format!("cannot run {name}");
        let mut child = self.spawn()?;
        let guard = Guard::kill_on_cancel(child.id(), cancel)?;
        let mut stderr = child.stderr.take().expect("standard error is a pipe");
        let log = self.log.clone();
        let words = std::thread::spawn(move || collect(&mut stderr, log.as_deref()));
        let mut stdout = child.stdout.take().expect("standard output is a pipe");
        let consumed = read(&mut stdout);
        drop(stdout);
        let status = child.wait().context(ErrorKind::Host, failed)?;
        drop(guard);
        let words = words.join().unwrap_or_default();
        cancel.check()?;
        if !status.success() {
            let text = String::from_utf8_lossy(&words);
            let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
            let last: Vec<_> = lines.iter().skip(lines.len().saturating_sub(QUOTED_LINES)).collect();
            let quoted: Vec<_> = last.iter().map(|line| line.escape_debug().to_string()).collect();
            let full = text.contains("No space left on device");
            let kind = if full { ErrorKind::HostFull } else { ErrorKind::Host };
            return Err(Error::new(kind, format!("{name} failed ({status}): {}", quoted.join("; "))));
        }
        consumed.context(ErrorKind::Host, || format!("cannot use what {name} writes"))
    }

    fn name(&self) -> String {
        Path::new(&self.program).file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn spawn(&self) -> Result<Child> {
        let parent = rustix::process::getpid();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(&self.env).env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        // SAFETY: only async-signal-safe calls are made between fork and exec, and nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
                if rustix::process::getppid() == Some(parent) {
                    Ok(())
                } else {
                    Err(std::io::ErrorKind::BrokenPipe.into())
                }
            });
        }
        command.spawn().map_err(|source| {
            let missing = source.kind() == std::io::ErrorKind::NotFound;
            let error = Error::new(ErrorKind::Host, format!("cannot run {}", self.name())).with_source(source);
            if missing { error.with_hint(format!("it comes with the package `{}`", self.package)) } else { error }
        })
    }
}

/// Reads all, keeps the end, and writes it to the log.
fn collect(stderr: &mut dyn Read, log: Option<&Path>) -> Vec<u8> {
    const KEPT: usize = 64 << 10;
    let mut log: Option<File> = log.and_then(|path| OpenOptions::new().create(true).append(true).open(path).ok());
    let mut kept = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        if let Some(file) = &mut log {
            // The tool's own success decides; a log that is short on a full disk does not.
            let _ = std::io::Write::write_all(file, &buffer[..count]);
        }
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
    kept
}
