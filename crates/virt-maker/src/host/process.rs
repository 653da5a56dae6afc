//! Programs of the host that run to their end: an argument vector, never a shell; no input; dead when we die.
//!
//! A program runs in a process group of its own, so Ctrl-C on the terminal reaches only us, and we decide. When it
//! ends, or the build is cancelled, or the time of the step is over, all that it started is killed, also what has left its
//! group and its session ([`super::supervisor`]); and its output ends with it, whoever else has the pipe
//! ([`super::pipe`]). It sees only a few variables of our environment (`KEPT`), because the others must not shape an image.
//!
//! The kernel's parent-death signal is sent when the *thread* that started a program ends. [`Tool`]'s calls return
//! only after the program's end, so a thread cannot end before its program does.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use virt_maker_agent::seccomp;

use super::escape::{escape, last_lines};
use super::guard::process_of;
use super::pipe::Pipe;
use super::{Cancel, close_on_exec, supervisor};
use crate::error::{Context, Error, ErrorKind, Result};

/// Most of a program's output that is kept, in bytes.
const OUTPUT_MAX: u64 = 16 << 20;
/// Longest piece that [`Tool::run_pieces`] hands on, in bytes; a longer one is cut into several.
const PIECE_MAX: u64 = 64 << 10;
/// Lines of its errors that are quoted.
const QUOTED_LINES: usize = 6;
/// Variables that a program inherits: where programs, libraries and temporary files are.
const KEPT: [&str; 5] = ["PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "USER"];

/// The environment of every program of the host: a few variables of our own, and no others. So a secret that somebody
/// gave us in a variable is in no environment but ours.
pub(super) fn inherited() -> impl Iterator<Item = (&'static str, OsString)> {
    #[expect(clippy::disallowed_methods, reason = "these say where the host keeps its programs, not what to do")]
    let kept = KEPT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    kept.chain([("LC_ALL", "C.UTF-8".into())])
}

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
    given: Option<(RawFd, Vec<u8>)>,
    confined: bool,
    each_line: Option<EachLine>,
    channel: Option<OwnedFd>,
}

/// The number under which a program finds the descriptor that it was given.
const CHANNEL: RawFd = super::enclosed::CHANNEL;

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
            given: None,
            confined: false,
            each_line: None,
            channel: None,
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

    /// Sets a variable of its environment. Of this process's own it gets only a few, and `LC_ALL=C.UTF-8`. With `PATH`,
    /// the program itself is found there too.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Tool {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// The folder that it runs in.
    pub fn folder(mut self, folder: &Path) -> Tool {
        self.folder = Some(folder.to_owned());
        self
    }

    /// A descriptor that it gets as number 3.
    pub(super) fn channel(mut self, channel: OwnedFd) -> Tool {
        self.channel = Some(channel);
        self
    }

    /// Appends what it writes to standard error to a file.
    pub fn log_to(mut self, log: &Path) -> Tool {
        self.log = Some(log.to_owned());
        self
    }

    /// What it reads from standard input; nothing by default.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Tool {
        self.input = Some(input.into());
        self
    }

    /// Gives it a file in memory as a descriptor of this number.
    pub fn give(mut self, number: RawFd, content: Vec<u8>) -> Tool {
        self.given = Some((number, content));
        self
    }

    /// Takes the system calls from it that nothing gets that works on what a guest made. For programs that need no walls
    /// to be built around them first.
    pub fn confined(mut self) -> Tool {
        self.confined = true;
        self
    }

    /// Hands each line that it writes to standard error to `each` as it comes, besides the log.
    pub fn each_error_line(mut self, each: impl FnMut(&str) + Send + 'static) -> Tool {
        self.each_line = Some(EachLine(Box::new(each)));
        self
    }

    /// Runs it and returns what it wrote to standard output; more than 16 MiB is an error. Anything but success is an
    /// error that quotes its last words. A cancellation kills it.
    pub fn run(self, cancel: &Cancel) -> Result<Vec<u8>> {
        let mut output = Vec::new();
        let name = self.name();
        self.run_reading(cancel, &mut |stdout| {
            stdout.take(OUTPUT_MAX + 1).read_to_end(&mut output)?;
            // The rest is read so that the program can end by itself.
            std::io::copy(stdout, &mut std::io::sink()).map(|_| ())
        })?;
        if output.len() as u64 > OUTPUT_MAX {
            return Err(Error::new(ErrorKind::Host, format!("{name} wrote more than {OUTPUT_MAX} bytes")));
        }
        Ok(output)
    }

    /// Runs it and hands each piece of its standard output that ends with `end` to `each` as it comes.
    pub fn run_pieces(self, end: u8, cancel: &Cancel, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.run_reading(cancel, &mut |stdout| {
            let mut stdout = BufReader::new(stdout);
            let mut piece = Vec::new();
            while (&mut stdout).take(PIECE_MAX).read_until(end, &mut piece)? > 0 {
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
        let spawned = self.spawn();
        // Who has the other end sees by this when the program has ended.
        self.channel = None;
        let mut child = spawned?;
        let program = match process_of(child.id(), "a program") {
            Ok(program) => Arc::new(program),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let watcher = watch(&program, cancel);
        let mut stderr = Pipe::new(child.stderr.take().expect("standard error is a pipe"), &program);
        let log = self.log.clone();
        let each_line = self.each_line.take();
        let words = std::thread::spawn(move || collect(&mut stderr, log.as_deref(), each_line));
        // In a thread of its own, so that a program may write before it has read all. One that does not read its input
        // says by its status whether that was right; the end of all that it started closes the pipe, and with it the thread.
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), self.input.take()) {
            std::thread::spawn(move || stdin.write_all(&input));
        }
        let mut stdout = Pipe::new(child.stdout.take().expect("standard output is a pipe"), &program);
        let consumed = read(&mut stdout);
        drop(stdout);
        // The watcher ends when the program has; only then is its process id given back.
        let _ = watcher.join();
        let status = child.wait().context(ErrorKind::Host, failed)?;
        let words = words.join().unwrap_or_default();
        cancel.check()?;
        if !status.success() {
            let full = words.windows(FULL.len()).any(|window| window == FULL);
            let kind = if full { ErrorKind::HostFull } else { ErrorKind::Host };
            let said = last_lines(&words, QUOTED_LINES);
            let said = if said.is_empty() { "it said nothing".into() } else { said };
            return Err(Error::new(kind, format!("{name} failed ({status}): {said}")));
        }
        consumed.context(ErrorKind::Host, || format!("cannot use what {name} writes"))
    }

    fn name(&self) -> String {
        escape(&Path::new(&self.program).file_name().unwrap_or_default().to_string_lossy())
    }

    fn spawn(&self) -> Result<Child> {
        let parent = rustix::process::getpid();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear();
        command.envs(inherited()).envs(&self.env);
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        // Above the number that it gets, so that the copy is one that does not close.
        let lift = |channel: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(channel, CHANNEL + 1);
        let channel = self.channel.as_ref().map(lift).transpose();
        let channel = channel.context(ErrorKind::Host, || format!("cannot run {}", self.name()))?;
        let given = match &self.given {
            Some((number, content)) => Some((
                *number,
                in_memory(content, *number).context(ErrorKind::Host, || "cannot make a file in memory")?,
            )),
            None => None,
        };
        let filter = self.confined.then(seccomp::program);
        // SAFETY: only async-signal-safe calls are made between fork and exec, and nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                close_on_exec()?;
                // Duplicates do not close on exec.
                if let Some(channel) = &channel
                    && libc::dup2(channel.as_raw_fd(), CHANNEL) < 0
                {
                    return Err(std::io::Error::last_os_error());
                }
                if let Some((number, file)) = &given
                    && libc::dup2(file.as_raw_fd(), *number) < 0
                {
                    return Err(std::io::Error::last_os_error());
                }
                supervisor::step_below(parent)?;
                filter.as_deref().map_or(Ok(()), seccomp::confine)
            });
        }
        command.spawn().map_err(|source| {
            // A folder that is not there gives the same error as a program that is not.
            let missing = source.kind() == std::io::ErrorKind::NotFound
                && self.folder.as_ref().is_none_or(|folder| folder.is_dir());
            let error = Error::new(ErrorKind::Host, format!("cannot run {}", self.name())).with_source(source);
            if missing { error.with_hint(format!("it comes with the package `{}`", self.package)) } else { error }
        })
    }
}

/// A file in memory, to be read from its start, with a number above `number`.
fn in_memory(content: &[u8], number: RawFd) -> std::io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("given", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.seek(std::io::SeekFrom::Start(0))?;
    Ok(rustix::io::fcntl_dupfd_cloexec(&file, number + 1)?)
}

/// How programs say that a disk is full, in the C locale.
const FULL: &[u8] = b"No space left on device";

/// How long the end of a program may take to be brought about.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has a program ended, with all that it started, when the build is cancelled or the time of its step is over. The thread
/// ends with the program, and does not wait for it.
fn watch(program: &Arc<OwnedFd>, cancel: &Cancel) -> JoinHandle<()> {
    let (program, cancel) = (Arc::clone(program), cancel.clone());
    std::thread::spawn(move || {
        let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let mut asked: Option<Instant> = None;
        loop {
            if matches!(poll(&mut [PollFd::new(&*program, PollFlags::IN)], Some(&pause)), Ok(1..)) {
                return;
            }
            match asked {
                None if cancel.is_cancelled() => {
                    let _ = pidfd_send_signal(&program, Signal::TERM);
                    asked = Some(Instant::now());
                }
                // It was stopped, for instance. The program itself gets a signal by its end.
                Some(since) if since.elapsed() > PATIENCE => {
                    let _ = pidfd_send_signal(&program, Signal::KILL);
                }
                _ => {}
            }
        }
    })
}

/// Reads all, keeps the end, and writes it to the log.
fn collect(stderr: &mut dyn Read, log: Option<&Path>, mut each_line: Option<EachLine>) -> Vec<u8> {
    const KEPT: usize = 64 << 10;
    let mut log: Option<File> = log.and_then(|path| OpenOptions::new().create(true).append(true).open(path).ok());
    let mut kept = Vec::new();
    let mut line = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let count = match stderr.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn shell(script: &str) -> Tool {
        Tool::new("sh", "dash").args(["-c", script])
    }

    fn is_running(pid: &str) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        state.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn output_arguments_and_environment_are_what_was_said() {
        let cancel = Cancel::default();
        let output = Tool::new("printf", "coreutils").args(["%s|", "a b", "$HOME;", "'\""]).run(&cancel).unwrap();
        assert_eq!(output, b"a b|$HOME;|'\"|");
        let output = Tool::new("env", "coreutils").env("http_proxy", "http://proxy").run(&cancel).unwrap();
        let output = String::from_utf8(output).unwrap();
        let names: Vec<_> = output.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert!(names.contains(&"http_proxy") && names.contains(&"LC_ALL") && names.contains(&"PATH"), "{names:?}");
        // Cargo sets this for tests; a program must not see it.
        assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{names:?}");
    }

    /// Neither one that our own caller left open, nor the input of whoever started us.
    #[test]
    fn it_has_no_descriptor_that_it_was_not_given() {
        let folder = File::open("/").unwrap();
        let _inheritable = rustix::io::dup(&folder).unwrap();
        let output = shell("ls /proc/$$/fd; readlink /proc/$$/fd/0").run(&Cancel::default()).unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), "0\n1\n2\n/dev/null\n");
    }

    #[test]
    fn a_failure_quotes_the_last_words_and_the_log_has_them_all() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let script = "printf 'first\\n\\033[31mred\\n' >&2; exit 3";
        let error = shell(script).log_to(&log).run(&Cancel::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Host);
        assert_eq!(error.to_string(), "sh failed (exit status: 3): first; \\u{1b}[31mred");
        assert_eq!(std::fs::read(&log).unwrap(), b"first\n\x1b[31mred\n");
    }

    #[test]
    fn a_full_disk_keeps_its_kind() {
        let error = Tool::new("dd", "coreutils")
            .args(["if=/dev/zero", "of=/dev/full", "count=1"])
            .run(&Cancel::default())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostFull, "{error}");
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = Tool::new("virt-maker-no-such-tool", "some-package").run(&Cancel::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Host);
        assert!(error.to_string().contains("virt-maker-no-such-tool"));
        assert!(error.hint().unwrap().contains("`some-package`"));
        let error = shell("true").folder(Path::new("/no/such/folder")).run(&Cancel::default()).unwrap_err();
        assert_eq!(error.hint(), None);
    }

    /// What a program leaves running would hold its output open for ever; it goes with the program.
    #[test]
    fn nothing_that_it_started_goes_on() {
        let begin = Instant::now();
        let output = shell("sleep 1000 & echo $!").run(&Cancel::default()).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(500));
        let pid = String::from_utf8(output).unwrap();
        // The signal is sent; the kernel needs an instant to deliver it.
        while is_running(&pid) {
            assert!(begin.elapsed() < Duration::from_secs(500));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_cancellation_kills_the_whole_group() {
        let cancel = Cancel::default();
        let mut pids = Vec::new();
        let stop = cancel.clone();
        let error = shell("sleep 1000 & echo $!; wait")
            .run_pieces(b'\n', &cancel, &mut |piece| {
                pids.push(String::from_utf8(piece.to_vec()).unwrap());
                stop.cancel();
            })
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(pids.len(), 1);
        let begin = Instant::now();
        while is_running(&pids[0]) {
            assert!(begin.elapsed() < Duration::from_secs(500));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(shell("true").run(&cancel).unwrap_err().kind(), ErrorKind::Cancelled);
    }

    /// Runs what starts a process in a session of its own that has the program's output open, and says its number.
    fn leave(how: &str, cancel: &Cancel) -> Result<Vec<String>> {
        let mut said = Vec::new();
        let ran = shell(how).run_pieces(b'\n', cancel, &mut |piece| {
            said.push(String::from_utf8(piece.to_vec()).unwrap().trim().to_owned());
        });
        ran.map(|()| said)
    }

    #[test]
    fn what_left_its_session_goes_too_and_output_ends_with_the_program() {
        for how in [
            // As `ssh -fN` does it.
            "setsid sh -c 'echo $$; exec sleep 1000' & sleep 0.3",
            // Without a parent, in a group of its own, and one below it.
            "(setsid sh -c 'sleep 1000 & echo $!; wait' &) ; sleep 0.3",
            // It goes on writing.
            "setsid sh -c 'echo $$; while :; do echo; sleep 0.01; done' & sleep 0.3",
        ] {
            let said = leave(how, &Cancel::default()).unwrap();
            // All are gone when the call returns.
            assert!(!said[0].is_empty() && !is_running(&said[0]), "{how}");
        }
    }

    #[test]
    fn a_cancellation_and_a_limit_reach_what_left_its_session() {
        let how = "setsid sh -c 'echo $$; exec sleep 1000' & wait";
        let cancel = Cancel::default();
        let stop = cancel.clone();
        let mut pid = String::new();
        let error = shell(how)
            .run_pieces(b'\n', &cancel, &mut |piece| {
                pid = String::from_utf8(piece.to_vec()).unwrap();
                stop.cancel();
            })
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(!pid.is_empty() && !is_running(&pid));

        let limited = Cancel::default().limited(super::super::Limit::seconds(1));
        let error = leave(how, &limited).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Step);
        assert_eq!(error.to_string(), "the step took longer than its timeout of 1 s");
    }

    #[test]
    fn a_program_ends_as_it_ended() {
        for (script, status) in
            [("exit 0", None), ("exit 7", Some("exit status: 7")), ("kill -9 $$", Some("signal: 9"))]
        {
            let ended = shell(script).run(&Cancel::default());
            match status {
                None => drop(ended.unwrap()),
                Some(status) => assert!(ended.unwrap_err().to_string().contains(status)),
            }
        }
    }

    #[test]
    fn too_much_output_is_an_error_and_not_cut() {
        let error =
            Tool::new("head", "coreutils").args(["-c", "17M", "/dev/zero"]).run(&Cancel::default()).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }

    #[test]
    fn a_program_gets_what_it_is_given_and_no_calls_that_it_must_not_have() {
        let script = "cat /proc/self/fd/97; ls /proc/self/fd | grep -v '^[0-3]$'; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status";
        let said = |tool: Tool| String::from_utf8(tool.run(&Cancel::default()).unwrap()).unwrap();
        let given = || shell(script).give(97, b"a content\n".to_vec());
        assert_eq!(said(given().confined()), "a content\n97\nNoNewPrivs:\t1\nSeccomp:\t2\n");
        assert_eq!(said(shell("unshare --user true 2>/dev/null || echo refused").confined()), "refused\n");
        // What is pushed to a pipe of the program's, and its end, are seen as ever.
        assert!(shell("exit 3").confined().run(&Cancel::default()).unwrap_err().to_string().contains("exit status: 3"));
    }
}
