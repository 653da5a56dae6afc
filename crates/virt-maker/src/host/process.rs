//! Programs of the host that run to their end: an argument vector, never a shell; no input; dead when we die.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
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
    env: BTreeMap<String, OsString>,
    folder: Option<PathBuf>,
    log: Option<PathBuf>,
    input: Option<Vec<u8>>,
    each_line: Option<EachLine>,
}

/// Gets each line of a program's errors as it comes.
struct EachLine(Box<dyn FnMut(&str) + Send>);

impl fmt::Debug for EachLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EachLine")
    }
}

impl Tool {
    /// A program by its name, and the Debian package that brings it.
    pub fn new(program: impl AsRef<OsStr>, package: &'static str) -> Tool {
        let program = program.as_ref().to_owned();
        Tool {
            program,
            package,
            arguments: Vec::new(),
            env: BTreeMap::new(),
            folder: None,
            log: None,
            input: None,
            each_line: None,
        }
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

    /// Sets a variable of its environment; the rest of it is this process's. With `PATH`, the program itself is found
    /// there too.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Tool {
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

    /// What it reads from standard input, at most what a pipe holds at once (4 KiB); nothing by default.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Tool {
        self.input = Some(input.into());
        self
    }

    /// Hands each line that it writes to standard error to `each` as it comes, besides the log.
    pub fn each_error_line(mut self, each: impl FnMut(&str) + Send + 'static) -> Tool {
        self.each_line = Some(EachLine(Box::new(each)));
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
        mut self,
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
        let each_line = self.each_line.take();
        let words = std::thread::spawn(move || collect(&mut stderr, log.as_deref(), each_line));
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), &self.input) {
            // One that does not read it says by its status whether that was right.
            let _ = stdin.write_all(input);
        }
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
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
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
fn collect(stderr: &mut dyn Read, log: Option<&Path>, mut each_line: Option<EachLine>) -> Vec<u8> {
    const KEPT: usize = 64 << 10;
    let mut log: Option<File> = log.and_then(|path| OpenOptions::new().create(true).append(true).open(path).ok());
    let mut kept = Vec::new();
    let mut line = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        if let Some(file) = &mut log {
            // The tool's own success decides; a log that is short on a full disk does not.
            let _ = file.write_all(&buffer[..count]);
        }
        if let Some(EachLine(each)) = &mut each_line {
            for byte in &buffer[..count] {
                // A line without an end is cut into pieces.
                if *byte == b'\n' || line.len() >= KEPT {
                    each(&String::from_utf8_lossy(&line));
                    line.clear();
                } else {
                    line.push(*byte);
                }
            }
        }
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
    if let Some(EachLine(each)) = &mut each_line
        && !line.is_empty()
    {
        each(&String::from_utf8_lossy(&line));
    }
    kept
}
