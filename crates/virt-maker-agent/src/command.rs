//! Running a program in the guest, under bubblewrap.
//!
//! What must hold when [`run`] returns, whatever the program did: no process of it is alive, its output has been
//! passed on, and the guest's tree has no trace of the surroundings that it ran in (`resolv.conf`, `policy-rc.d`,
//! mount points).
//!
//! Processes: bubblewrap gives the program a pid namespace; when the program ends, bubblewrap ends, its inner half (the
//! namespace's pid 1) gets SIGKILL, and the kernel kills all the rest. The agent is the subreaper and waits until it
//! has no child left, so a daemon that keeps the output open delays nothing and survives nothing.

use std::ffi::CString;
use std::io::Read as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};
use virt_maker_agent::protocol::{Exit, Failure, FailureKind, Reply, Run};
use virt_maker_agent::seccomp;

use crate::attend::{Attended, Started, attend, drain};
use crate::caches::{self, Cache};
use crate::devices::Devices;
use crate::facade::UDEV;
use crate::failure::{Result, failure, refused, system};
use crate::hold::{Cover, Hold, Placed};
use crate::init;
use crate::link::{Broken, Link};
use crate::mounts::Guest;
use crate::sandbox::{self, Plan};
use crate::spawn::{self, Program};
use crate::surroundings::Surroundings;

/// What came of a command: an error of the outer kind ends the whole conversation.
pub type Outcome = std::result::Result<Result<Exit>, Broken>;

/// Runs a program and passes its output on.
pub fn run(link: &mut Link, guest: &Guest, caches: &[Cache], plan: &Plan<'_>, run: &Run) -> Outcome {
    let binds = match sandbox::check(run).and_then(|()| caches::folders(caches, guest, &run.caches)) {
        Ok(binds) => binds,
        Err(problem) => return Ok(Err(problem)),
    };
    let surroundings = match Surroundings::prepare(guest, run) {
        Ok(surroundings) => surroundings,
        Err(problem) => return Ok(Err(problem)),
    };
    let killed = plan.folders.appliance.then(init::killed_for_memory);
    let refusals = plan.folders.limits().refusals();
    let outcome = execute(link, guest, &binds, plan, run);
    if run.privileged {
        // Whoever writes to a file system that a command has frozen waits for ever, and that would be us.
        guest.unfreeze();
    }
    let restored = surroundings.restore();
    let exit = match outcome? {
        Ok(exit) => exit,
        Err(problem) => return Ok(Err(problem)),
    };
    match restored {
        Ok(mut notes) => {
            if killed.is_some_and(|before| init::killed_for_memory() > before) {
                notes.push("the appliance's memory ran out, and its kernel killed a program for that".to_string());
            }
            notes.extend(plan.folders.limits().notes(refusals));
            for text in notes {
                // For the log, and for whoever waits for the build.
                link.send_data(format!("virt-maker: {text}\n").as_bytes())?;
                link.reply(&Reply::Note { text })?;
            }
            Ok(Ok(exit))
        }
        Err(problem) => Ok(Err(problem)),
    }
}

/// A program that was started under bubblewrap.
struct Wrapped {
    /// Bubblewrap, with the output of the program.
    started: Started,
    /// Where bubblewrap tells the exit status, and what it has told already.
    status: OwnedFd,
    told: Vec<u8>,
    /// What bubblewrap is held by.
    hold: Option<Hold>,
}

fn execute(link: &mut Link, guest: &Guest, binds: &[(String, String)], plan: &Plan<'_>, run: &Run) -> Outcome {
    let devices = match plan.folders.devices_of(guest) {
        Ok(devices) => devices,
        Err(problem) => return Ok(Err(problem)),
    };
    let outcome = attended(link, guest, binds, &devices, plan, run);
    plan.folders.devices.replace(Some(devices));
    outcome
}

/// Runs the program to its end, and that of all that it started.
fn attended(
    link: &mut Link,
    guest: &Guest,
    binds: &[(String, String)],
    devices: &Devices,
    plan: &Plan<'_>,
    run: &Run,
) -> Outcome {
    let wrapped = match start(guest, binds, devices, plan, run) {
        Ok(wrapped) => wrapped,
        Err(problem) => return Ok(Err(problem)),
    };
    let mut tail = Vec::new();
    // A limit beyond what the clock can say is none.
    let deadline = run.timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    let started = &wrapped.started;
    let attended = attend(link, started, &mut tail, deadline);
    if !matches!(attended, Ok(Attended::Ended)) {
        // The host is gone, or its stream is broken, so that nobody is there to see this end by itself; or time is up.
        let _ = rustix::process::kill_process(started.pid, Signal::KILL);
    }
    let ended = reap(started.pid);
    let attended = attended?;
    if let Err(error) = drain(link, &started.output, &mut tail)? {
        return Ok(Err(error));
    }
    if let (Attended::TimedOut, Some(seconds)) = (attended, run.timeout) {
        return Ok(Err(Failure::timed_out(seconds)));
    }
    Ok(ended.and_then(|ended| judge(run, ended, &wrapped, &tail)))
}

fn start(guest: &Guest, binds: &[(String, String)], devices: &Devices, plan: &Plan<'_>, run: &Run) -> Result<Wrapped> {
    let dev = devices.path.to_str().ok_or_else(|| refused("the agent's folder has a name that is not UTF-8"))?;
    let mut covers = plan.folders.facade.covers().to_vec();
    covers.push((dev.to_string(), "/dev".to_string()));
    if !guest.shown(plan.folders.facade.folder())?.is_empty() {
        covers.push(plan.folders.facade.udev());
    }
    if run.privileged {
        // What makes containers sets these for a network of its own.
        covers.retain(|(_, target)| target != "/proc/sys");
        covers.extend(plan.folders.facade.groups());
    }
    if plan.folders.holds.get() {
        let mut wrapped = launch(guest, binds, &covers, true, devices, plan, run)?;
        let placed = match wrapped.hold.take() {
            Some(hold) => hold.place(&wrapped.status, &mut wrapped.told, &covers),
            None => Ok(Placed::Impossible),
        };
        if let Ok(Placed::Done | Placed::Ended) = placed {
            return Ok(wrapped);
        }
        let _ = rustix::process::kill_process(wrapped.started.pid, Signal::KILL);
        reap(wrapped.started.pid)?;
        placed?;
        plan.folders.holds.set(false);
    }
    launch(guest, binds, &covers, false, devices, plan, run)
}

/// Starts bubblewrap, which is held so that the agent can put the covers in place, or puts them there by itself.
fn launch(
    guest: &Guest,
    binds: &[(String, String)],
    covers: &[Cover],
    held: bool,
    devices: &Devices,
    plan: &Plan<'_>,
    run: &Run,
) -> Result<Wrapped> {
    // The agent has one thread, so descriptors that are meant for the child can be inheritable from the start.
    let udev = covers.iter().any(|(_, target)| target == UDEV);
    let told = if held { &[] } else { covers };
    let arguments = sandbox::memory_file("arguments", &sandbox::arguments(guest, binds, told, udev, run)?)?;
    if run.privileged && !plan.folders.appliance {
        return Err(failure(FailureKind::Protocol, "only in a machine of its own a command has all rights"));
    }
    let filter = (!run.privileged).then(|| sandbox::memory_file("seccomp", &seccomp::program())).transpose()?;
    let script = match &run.script {
        Some(text) => Some(sandbox::memory_file("script", text.as_bytes())?),
        None => None,
    };
    let secrets: Vec<_> = run
        .secrets
        .0
        .iter()
        .map(|(name, text)| {
            Ok((format!("{}/{name}", sandbox::SECRETS), sandbox::memory_file("secret", text.as_bytes())?))
        })
        .collect::<Result<_>>()?;
    let (status, status_child) =
        rustix::pipe::pipe_with(PipeFlags::empty()).map_err(|error| system("make a pipe", error))?;
    rustix::io::fcntl_setfd(&status, rustix::io::FdFlags::CLOEXEC).map_err(|error| system("make a pipe", error))?;
    let mut words: Vec<String> = vec![plan.program.to_string()];
    let mut say = |these: &[&str]| words.extend(these.iter().map(ToString::to_string));
    let number = |descriptor: &OwnedFd| descriptor.as_raw_fd().to_string();
    say(&["--json-status-fd", &number(&status_child)]);
    // Given this way, the environment (which may hold secrets) does not show in the host's process list.
    say(&["--args", &number(&arguments)]);
    if let Some(filter) = &filter {
        say(&["--seccomp", &number(filter)]);
    }
    if let Some(script) = &script {
        say(&["--perms", "0700", "--file", &number(script), sandbox::SCRIPT]);
    }
    if !secrets.is_empty() {
        say(&["--perms", "0700", "--dir", sandbox::SECRETS]);
    }
    for (path, text) in &secrets {
        say(&["--perms", "0400", "--file", &number(text), path]);
    }
    let (hold, pipe) = if held { Some(Hold::new()?) } else { None }.unzip();
    if let Some(descriptor) = &pipe {
        say(&Hold::arguments(&number(descriptor)));
    }
    say(&["--"]);
    let wrong = |error: Errno| system("set up the input and output of a program", error);
    let (output, input, theirs) = match run.terminal {
        Some(size) => {
            let (ours, theirs, name) = devices.terminal(size)?;
            words.extend(sandbox::TAKE_TERMINAL.map(str::to_string));
            words.push(name);
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
        words.push(sandbox::SCRIPT.to_string());
    }
    words.extend(run.argv.iter().cloned());
    let words = words.into_iter().map(CString::new).collect::<std::result::Result<_, _>>();
    let program = Program {
        words: words.map_err(|_| failure(FailureKind::Protocol, "an argument of a run contains a NUL"))?,
        standard: [&input, &theirs, &theirs],
        // Bubblewrap keeps its own environment where the command can read it: none of the user's is in it.
        environment: vec![c"LC_ALL=C.UTF-8".into()],
        surroundings: spawn::Surroundings::default(),
        first_to_go: !plan.folders.appliance,
        group: plan.folders.limits().group(),
    };
    own_keyring();
    let prepared = if plan.folders.appliance { init::protect(false) } else { Ok(()) };
    let spawned = spawn::spawn(&program).map_err(|error| system(format_args!("start {}", plan.program), error));
    if plan.folders.appliance {
        init::protect(true)?;
    }
    prepared?;
    // `reap` collects it with all its descendants.
    let pid = spawned?;
    let started = Started::new(pid, output, run.terminal.is_some()).inspect_err(|_| {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let _ = reap(pid);
    })?;
    Ok(Wrapped { started, status, told: Vec::new(), hold })
}

/// Gives the agent, and so what it starts next, a session keyring that is new and empty. Without one they would have that of
/// whoever started the build. Where the kernel has no keys, or a container forbids them, there is nothing to leave.
fn own_keyring() {
    const JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    // SAFETY: a keyring without a name; the call reads no memory.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
}

/// Waits until no child is left, and gives how `pid` ended.
fn reap(pid: Pid) -> Result<Option<rustix::process::WaitStatus>> {
    let mut ended = None;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((who, status))) if who == pid => {
                ended = Some(status);
                // A sandbox that died while it was being set up leaves its first process waiting for it for ever. The
                // agent is the first process of its namespace, so this reaches all that came of it and nobody else.
                if rustix::process::getpid().is_init() {
                    // SAFETY: sending a signal touches no memory.
                    unsafe { libc::kill(-1, libc::SIGKILL) };
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(ended),
            Err(error) => return Err(system("wait for a program", error)),
        }
    }
}

/// Finds out how the program ended. Bubblewrap tells the program's exit status on a pipe of its own; where it does not,
/// the program was never started, and its own exit status means nothing.
///
/// Like a shell, bubblewrap gives 128 and the signal's number for a program that was killed. A program that exits with
/// such a status by itself (as a shell does whose child was killed) is reported as killed, too.
fn judge(run: &Run, ended: Option<rustix::process::WaitStatus>, wrapped: &Wrapped, tail: &[u8]) -> Result<Exit> {
    let mut told = wrapped.told.clone();
    let copy = wrapped.status.try_clone().map_err(|error| system("copy a descriptor", error))?;
    std::fs::File::from(copy)
        .take(64 * 1024)
        .read_to_end(&mut told)
        .map_err(|error| system("read the state of bubblewrap", error))?;
    let code = serde_json::Deserializer::from_slice(&told)
        .into_iter::<serde_json::Value>()
        .map_while(std::result::Result::ok)
        .find_map(|value| value.get("exit-code").and_then(serde_json::Value::as_i64));
    if let Some(code) = code {
        return Ok(match code {
            129..=159 => Exit::Signal((code - 128) as i32),
            code => Exit::Status(code as i32),
        });
    }
    if let Some(signal) = ended.and_then(|ended| ended.terminating_signal()) {
        // Hung up by the host, or killed by the kernel for want of memory, for instance.
        return Ok(Exit::Signal(signal));
    }
    let tail = String::from_utf8_lossy(tail);
    let said =
        tail.lines().rev().find_map(|line| line.trim_end().strip_prefix("bwrap: ")).unwrap_or("it gave no reason");
    let what = if run.script.is_some() { "the script" } else { run.argv.first().map_or("", String::as_str) };
    if said.starts_with("execvp ") && said.ends_with("No such file or directory") {
        let hint = match run.shell.first() {
            Some(shell) => format!("the guest has no {shell}"),
            None => "it is not in the guest, or the interpreter that its first line names is not".to_string(),
        };
        return Err(failure(FailureKind::NotFound, format!("cannot run {what} in the guest: {hint}")));
    }
    Err(refused(format!("cannot run {what} in the guest: {said}")))
}
