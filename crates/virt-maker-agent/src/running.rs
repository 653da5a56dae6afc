//! The guest as the system that the agent runs in: a machine that has booted.
//!
//! Files are those of the running system. A program is a process of it, as if an administrator had started it: it reaches services
//! and devices, and what it leaves behind (a daemon, say) lives on. What is there only while it runs (its script, its secrets) lies
//! in `/run` and is gone when it ends.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::mount::MountFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use virt_maker_agent::protocol::{
    Exit, Failure, FailureKind, Frame, Mounted, Reply, Request, Run, Sandbox, Secrets, VERSION,
};

use crate::attend::{Attended, Started, attend, drain};
use crate::command::Outcome;
use crate::failure::{Result, failure, refused, system};
use crate::link::{Broken, Link};
use crate::os_release;
use crate::sandbox::{self, SCRIPT, SECRETS, TAKE_TERMINAL};
use crate::serve::{files_of, out_of_turn};
use crate::spawn::{self, Program, Surroundings};
use crate::tty;

/// How long the port may take to appear: devices are found while the machine boots, which may be an emulated one.
const PATIENCE: Duration = Duration::from_secs(600);
/// What looks for it meanwhile must not keep others from booting.
const PAUSE: Duration = Duration::from_millis(20);

/// How much a service of the machine may say, in bytes.
const ANSWER_MAX: usize = 1 << 20;
/// Bytes in a data frame of its answer.
const PART: usize = 256 << 10;

/// The environment of every program, before what the run adds.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LOGNAME", "root"),
    ("LANG", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
];

/// Serves until the host goes.
pub fn serve(link: &mut Link) -> std::result::Result<(), Broken> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|error| Broken::Stream(error.into()))?;
    let mut greeted = false;
    loop {
        let request = match link.receive()? {
            None => return Ok(()),
            // Typed into a terminal whose program has just ended.
            Some(Frame::Data(_)) => continue,
            Some(Frame::Message(request)) => request,
        };
        let reply = match request {
            Request::Hello { version, sandbox } => {
                if sandbox != Sandbox::Machine {
                    return Err(Broken::Protocol("this agent is in a machine that has booted"));
                }
                link.reply(&Reply::Welcome { version: VERSION })?;
                if version != VERSION {
                    return Err(Broken::Protocol("it speaks another version"));
                }
                greeted = true;
                continue;
            }
            _ if !greeted => return Err(Broken::Protocol("the first request is not `hello`")),
            Request::Running => {
                let os = os_release::read(&root);
                Ok(Reply::Mounted(Mounted { file_systems: Vec::new(), os, warnings: Vec::new() }))
            }
            // systemd and the like read it at the next boot, and say themselves what they miss.
            Request::FstabNews => Ok(Reply::Names { names: Vec::new() }),
            Request::Run(wanted) => run(link, &wanted)?.map(Reply::Exited),
            Request::Talk { port, text, seconds } => {
                match talk(port, &text, Duration::from_secs(seconds.clamp(1, 3600))) {
                    Ok(said) => {
                        for part in said.chunks(PART) {
                            link.send_data(part)?;
                        }
                        link.send_data(&[])?;
                        Ok(Reply::Done)
                    }
                    Err(error) => {
                        let what = format!("nobody answers on port {port}: {error}");
                        Err(failure(FailureKind::NotFound, what))
                    }
                }
            }
            Request::Cancel => Err(out_of_turn("nothing is being written")),
            about_files => files_of(link, Ok(&root), about_files, is_of_the_guest)?,
        };
        link.reply(&reply.unwrap_or_else(Reply::Failed))?;
    }
}

/// Says something to a service of this machine; gives what it answers within a time.
fn talk(port: u16, text: &str, limit: Duration) -> std::io::Result<Vec<u8>> {
    use std::io::{ErrorKind, Read as _, Write as _};
    let begin = Instant::now();
    let address = (std::net::Ipv4Addr::LOCALHOST, port).into();
    let mut stream = std::net::TcpStream::connect_timeout(&address, limit)?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(text.as_bytes())?;
    let (mut said, mut part) = (Vec::new(), vec![0; PART]);
    while said.len() < ANSWER_MAX {
        let left = limit.saturating_sub(begin.elapsed());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => return Ok(said),
            Ok(count) => said.extend_from_slice(&part[..count.min(ANSWER_MAX - said.len())]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            // One that does not close as it should has answered all the same.
            Err(error) if said.is_empty() => return Err(error),
            Err(_) => return Ok(said),
        }
    }
    match said.is_empty() {
        true => Err(std::io::Error::new(ErrorKind::TimedOut, format!("it says nothing within {} s", limit.as_secs()))),
        false => Ok(said),
    }
}

/// Whether a listing goes into a folder: the kernel's own file systems, and what is there until the machine is off, are no files of
/// the guest.
fn is_of_the_guest(path: &[u8]) -> bool {
    !matches!(path, b"/proc" | b"/sys" | b"/dev" | b"/run")
}

/// Runs a program, and passes its output on until it has ended. What it has started may go on.
fn run(link: &mut Link, run: &Run) -> Outcome {
    let placed = sandbox::check(run).and_then(|()| match run.caches.is_empty() {
        true => Placed::put(run.script.as_deref(), &run.secrets),
        false => Err(failure(FailureKind::Unsupported, "a machine that has booted has no caches (`mounts`)")),
    });
    let started = placed.and_then(|placed| Ok((start(run)?, placed)));
    let (started, _placed) = match started {
        Ok(started) => started,
        Err(problem) => return Ok(Err(problem)),
    };
    let mut tail = Vec::new();
    // A limit beyond what the clock can say is none.
    let deadline = run.timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let attended = attend(link, &started, &mut tail, deadline);
    if !matches!(attended, Ok(Attended::Ended)) {
        // Nobody is there to see its end, or time is up: with all that is in its group of processes.
        let _ = rustix::process::kill_process_group(started.pid, Signal::KILL);
    }
    let ended = wait(started.pid);
    let attended = attended?;
    // What it left behind may hold the output open for ever.
    if let Err(problem) = drain(link, &started.output, &mut tail)? {
        return Ok(Err(problem));
    }
    Ok(match (attended, run.timeout) {
        (Attended::TimedOut, Some(seconds)) => Err(Failure::timed_out(seconds)),
        _ => ended.map(exit_of),
    })
}

fn start(run: &Run) -> Result<Started> {
    let wrong = |error: rustix::io::Errno| system("set up the input and output of a program", error);
    let mut words: Vec<String> = Vec::new();
    let (output, input, theirs) = match run.terminal {
        Some(size) => {
            let (ours, theirs) = tty::open(Path::new("/dev/ptmx"), size)?;
            let name = rustix::pty::ptsname(&ours, Vec::new()).map_err(wrong)?;
            words.extend(TAKE_TERMINAL.map(str::to_string));
            words.push(name.to_string_lossy().into_owned());
            let input = rustix::io::fcntl_dupfd_cloexec(&theirs, 3).map_err(wrong)?;
            (ours, input, theirs)
        }
        None => {
            let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(wrong)?;
            let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(wrong)?;
            (ours, null, theirs)
        }
    };
    if run.script.is_some() {
        words.extend(run.shell.iter().cloned());
        words.push(SCRIPT.to_string());
    }
    words.extend(run.argv.iter().cloned());
    let what = words.first().cloned().unwrap_or_default();
    let mut environment: Vec<String> = ENVIRONMENT.iter().map(|(name, value)| format!("{name}={value}")).collect();
    environment.push(format!("TERM={}", if run.terminal.is_some() { "linux" } else { "dumb" }));
    // A name that comes twice counts as it comes first.
    environment.retain(|entry| entry.split_once('=').is_none_or(|(name, _)| !run.env.contains_key(name)));
    environment.extend(run.env.iter().map(|(name, value)| format!("{name}={value}")));
    let texts = |texts: Vec<String>| texts.into_iter().map(CString::new).collect::<std::result::Result<Vec<_>, _>>();
    let nul = |_| failure(FailureKind::Protocol, "an argument of a run contains a NUL");
    let program = Program {
        words: texts(words).map_err(nul)?,
        standard: [&input, &theirs, &theirs],
        environment: texts(environment).map_err(nul)?,
        surroundings: Surroundings { session: true, no_network: !run.network },
        first_to_go: true,
        group: None,
    };
    let pid = spawn::spawn(&program).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failure(FailureKind::NotFound, missing(run, &what)),
        _ => system(format_args!("start {what}"), error),
    })?;
    Started::new(pid, output, run.terminal.is_some()).inspect_err(|_| {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = wait(pid);
    })
}

fn missing(run: &Run, what: &str) -> String {
    match (&run.script, run.shell.first()) {
        (Some(_), Some(shell)) => format!("cannot run the script in the guest: the guest has no {shell}"),
        (Some(_), None) => {
            "cannot run the script in the guest: the interpreter that its first line names is not in it".to_string()
        }
        (None, _) => format!("cannot run {what} in the guest: it is not in it"),
    }
}

fn wait(pid: Pid) -> Result<WaitStatus> {
    let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
    match ended.map_err(|error| system("wait for a program", error))? {
        Some((_, status)) => Ok(status),
        None => Err(refused("a program neither ended nor runs")),
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    match (status.terminating_signal(), status.exit_status()) {
        (Some(signal), _) => Exit::Signal(signal),
        // As a shell says that a program was killed, and bubblewrap on the other engines.
        (None, Some(code @ 129..=159)) => Exit::Signal(code - 128),
        (None, code) => Exit::Status(code.unwrap_or_default()),
    }
}

/// What lies in `/run` while a program runs. It is gone when this is dropped.
struct Placed {
    script: bool,
    secrets: Vec<String>,
}

impl Placed {
    fn put(script: Option<&str>, secrets: &Secrets) -> Result<Placed> {
        let mut placed = Placed { script: false, secrets: Vec::new() };
        if let Some(script) = script {
            let folder = Path::new(SCRIPT).parent().unwrap_or(Path::new("/run"));
            for_programs(folder)
                .and_then(|()| write(Path::new(SCRIPT), script, 0o700))
                .map_err(|error| system("put the script down", error))?;
            placed.script = true;
        }
        for (name, text) in &secrets.0 {
            let path = format!("{SECRETS}/{name}");
            private_folder(Path::new(SECRETS))
                .and_then(|()| write(Path::new(&path), text, 0o400))
                .map_err(|error| system("put a secret down", error))?;
            placed.secrets.push(path);
        }
        Ok(placed)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if self.script {
            let _ = fs::remove_file(SCRIPT);
            // Where it has a file system of its own, it stays.
            let _ = Path::new(SCRIPT).parent().map(fs::remove_dir);
        }
        for path in &self.secrets {
            let _ = fs::remove_file(path);
        }
        if !self.secrets.is_empty() {
            // Where the guest has secrets of its own there, it stays.
            let _ = fs::remove_dir(SECRETS);
        }
    }
}

/// Makes a folder from which programs can be started. `/run` is often mounted so that none can; the folder has a file system of its
/// own then, which stays until the machine is off.
fn for_programs(path: &Path) -> std::io::Result<()> {
    private_folder(path)?;
    if rustix::fs::statvfs(path)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        let closed = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("tmpfs", path, "tmpfs", closed, Some(c"mode=0700"))?;
    }
    Ok(())
}

/// Makes a folder that only root may enter; one that is there stays as it is.
fn private_folder(path: &Path) -> std::io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Makes a file that is not there yet.
fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    use std::io::Write as _;
    // Of a program that was cut off with its agent.
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())
}

/// The stream to the host, when the machine has got that far.
pub fn link() -> Result<Link> {
    if !Path::new("/sys/class/virtio-ports").exists() {
        // What finds devices may come to it later, or there is nothing like that. One that is built in is there already.
        let _ = std::process::Command::new("modprobe").arg("virtio_console").stdin(Stdio::null()).status();
    }
    let port: OwnedFd = crate::init::open_port(PATIENCE, PAUSE)?;
    let copy = port.try_clone().map_err(|error| system("use the port to the host", error))?;
    Ok(Link::new(port, copy))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service, which does this with whoever comes first.
    fn service(serve: impl FnOnce(std::net::TcpStream) + Send + 'static) -> u16 {
        let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || serve(listener.accept().unwrap().0));
        port
    }

    #[test]
    fn a_service_that_says_nothing_or_never_ends_is_left_in_time() {
        use std::io::{Read as _, Write as _};
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let silent = service(move |stream| {
            let _ = ended.recv();
            drop(stream);
        });
        let error = talk(silent, "anybody?", Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.to_string(), "it says nothing within 1 s");
        drop(end);
        let endless = service(|mut stream| {
            let mut asked = [0; 8];
            stream.read_exact(&mut asked).unwrap();
            while stream.write_all(b"tick ").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let said = talk(endless, "anybody?", Duration::from_secs(1)).unwrap();
        assert!(said.starts_with(b"tick tick "), "{said:?}");
        let large = service(|mut stream| while stream.write_all(&[b'x'; 9999]).is_ok() {});
        assert_eq!(talk(large, "", Duration::from_secs(60)).unwrap().len(), ANSWER_MAX);
        let closes = service(|mut stream| stream.write_all(b"bye").unwrap());
        assert_eq!(talk(closes, "", Duration::from_secs(60)).unwrap(), b"bye");
    }
}
