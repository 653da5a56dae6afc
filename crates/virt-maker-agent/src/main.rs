//! The agent; see the library for what it is.
//!
//! `virt-maker-agent [--fd N] [--root-dir DIR]` speaks the protocol on descriptor `N` (one end of a socket pair that it
//! inherited), or on standard input and output. `DIR` is a folder that it may mount on, `/run/virt-maker` by default.
//! `virt-maker-agent --appliance` is the first process of an appliance, `virt-maker-agent --booted` a service of a machine that has
//! booted, and `virt-maker-agent --booted-over-stdio` the same where somebody else brings its host.
//!
//! # Rooms
//! - [`serve`]: the conversation; [`link`]: the stream; [`failure`]: how work fails; [`folders`]: what lasts from one command to the
//!   next.
//! - [`mounts`]: the guest's tree, over [`roots`] and [`btrfs`] (which file system is its root), [`linux`] (what a root looks like),
//!   [`volume`] (the disk and one mount), [`loopdev`], [`naming`] and [`lvm`]; [`os_release`].
//! - [`command`]: a program in the guest, over [`sandbox`] (the walls), `seccomp` of the library (the calls that it does not get),
//!   [`limits`] and [`spawn`] (the group that it is in), [`devices`] and [`tty`] (its `/dev`), [`facade`] (what it sees of
//!   the machine), [`own_disk`] (the disk that it sees) and [`hold`] (how that gets there), [`surroundings`] and [`standin`]
//!   (what is there only meanwhile).
//!   [`attend`] passes its output on.
//! - [`init`]: what an appliance needs besides; [`running`]: the guest is a machine that has booted.
//! - [`keeper`]: the process namespace that ends with the agent.
//! - [`files`]: file operations, over [`guest`] (names that cannot lead out); [`walker`] lists, [`archive`] packs, [`labels`]
//!   reads and sets SELinux labels.
//!
//! # What must hold
//! - Everything is mounted in a mount namespace of the agent's own, which it makes before anything else. So nothing
//!   outlives it, however it ends: the kernel unmounts, and auto-clear loop devices go with their mounts.
//! - Its network namespace is its own, too: on the host nothing that a command does is in the host's network.
//! - There is one thread, so that descriptors can be inheritable while a child is started and only then.

mod archive;
mod attend;
mod btrfs;
mod caches;
mod command;
mod denied;
mod devices;
mod erase;
mod ext_features;
mod facade;
mod failure;
mod files;
mod folders;
mod guest;
mod hold;
mod init;
mod keeper;
mod labels;
mod limits;
mod link;
mod linux;
mod loopdev;
mod lvm;
mod marks;
mod mounts;
mod naming;
mod node;
mod os_release;
mod own_disk;
mod random;
mod roots;
mod running;
mod sandbox;
mod serve;
mod spawn;
mod standin;
mod surroundings;
mod tty;
mod volume;
mod walker;

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::mount::MountPropagationFlags;
use rustix::process::{Resource, Rlimit};
use rustix::thread::UnshareFlags;

use virt_maker_agent::{appliance, booted, descriptors, interface};

use crate::failure::{Result, refused, system};
use crate::folders::Folders;
use crate::link::Link;

const DEFAULT_FOLDER: &str = "/run/virt-maker";

struct Arguments {
    appliance: bool,
    booted: Option<Booted>,
    fd: Option<RawFd>,
    folder: PathBuf,
}

/// Where the host of an agent is that is in a machine that has booted.
enum Booted {
    Port,
    Stdio,
}

fn main() -> ExitCode {
    // Before anything is started: what the host's programs left open is nothing for a guest.
    let outcome = descriptors::close_on_exec().map_err(|error| system("close what was inherited", error));
    let outcome = outcome.and_then(|()| arguments(std::env::args_os().skip(1))).and_then(|arguments| {
        if let Some(host) = &arguments.booted {
            rustix::process::umask(Mode::from_raw_mode(0o022));
            let mut link = match host {
                Booted::Port => running::link()?,
                Booted::Stdio => link(None)?,
            };
            return running::serve(&mut link).map_err(|broken| refused(broken.to_string()));
        }
        let mut link = if arguments.appliance {
            let link = init::start()?;
            own_mounts()?;
            link
        } else {
            // The mounts first: the keeper's namespace is the one that a storage daemon of the host joins by its number.
            own_mounts()?;
            own_network()?;
            keeper::enter()?;
            link(arguments.fd)?
        };
        let folders = settle(&arguments.folder, arguments.appliance)?;
        serve::serve(&mut link, &folders).map_err(|broken| refused(broken.to_string()))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("virt-maker-agent: {}", problem.message);
            ExitCode::FAILURE
        }
    }
}

fn arguments(mut given: impl Iterator<Item = std::ffi::OsString>) -> Result<Arguments> {
    let mut arguments = Arguments { appliance: false, booted: None, fd: None, folder: PathBuf::from(DEFAULT_FOLDER) };
    while let Some(name) = given.next() {
        if name.to_str() == Some(appliance::ARGUMENT) {
            arguments.appliance = true;
            continue;
        }
        if name.to_str() == Some(booted::ARGUMENT) {
            arguments.booted = Some(Booted::Port);
            continue;
        }
        if name.to_str() == Some(booted::OVER_STDIO) {
            arguments.booted = Some(Booted::Stdio);
            continue;
        }
        let value = given.next();
        match (name.to_str(), value) {
            (Some("--fd"), Some(number)) => match number.to_str().and_then(|number| number.parse().ok()) {
                Some(number @ 3..) => arguments.fd = Some(number),
                _ => return Err(refused(format!("--fd {number:?} is no descriptor from 3 on"))),
            },
            (Some("--root-dir"), Some(folder)) => arguments.folder = PathBuf::from(folder),
            _ => return Err(refused(format!("unknown argument, or one without its value: {name:?}"))),
        }
    }
    Ok(arguments)
}

/// Takes the stream over, so that no child inherits it.
fn link(fd: Option<RawFd>) -> Result<Link> {
    let take = |fd: RawFd| {
        // SAFETY: the caller says that this descriptor is the agent's; nothing else in the agent uses it.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&owned, FdFlags::CLOEXEC).map(|()| owned)
    };
    let wrong = |error| system("use the stream to the host", error);
    if let Some(fd) = fd {
        // SAFETY: asking for the flags of a descriptor touches no memory; a bad number gives an error.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(system(format_args!("use descriptor {fd}"), std::io::Error::last_os_error()));
        }
        let input = take(fd).map_err(wrong)?;
        let output = input.try_clone().map_err(|error| system("use the stream to the host", error))?;
        return Ok(Link::new(input, output));
    }
    let copy = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(wrong);
    let link = Link::new(copy(rustix::stdio::stdin())?, copy(rustix::stdio::stdout())?);
    // Whatever else writes to standard output by mistake must not get into the stream.
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(wrong)?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(rustix::stdio::stderr()))
        .map_err(wrong)?;
    Ok(link)
}

/// Gives this process, and all that come of it, mounts of their own.
fn own_mounts() -> Result<()> {
    // SAFETY: the agent has one thread, so nothing else can rely on the namespace that is left here.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .map_err(|error| system("make a mount namespace (the agent must run as root)", error))?;
    // Nothing that is mounted here is seen outside; what the host unmounts goes from here too, so that no session keeps
    // a disk of the host busy.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|error| system("make the mounts private", error))?;
    Ok(())
}

/// Gives this process, and all that come of it, a network of their own: nothing but a loopback device, until the host puts
/// an interface there. So no command is ever in the host's.
fn own_network() -> Result<()> {
    // SAFETY: the agent has one thread, so nothing else can rely on the namespace that is left here.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(|error| system("make a network namespace", error))?;
    interface::set_up_loopback().map_err(|error| system("set up the loopback device", error))
}

/// Makes the process a place of its own: private folders, limits.
fn settle(folder: &Path, appliance: bool) -> Result<Folders> {
    // Processes that a command leaves behind become children of the agent, which waits for their end.
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
        .map_err(|error| system("become a subreaper", error))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // A program that crashes in the guest must not leave its memory there.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(|error| system("forbid core dumps", error))?;

    Folders::make(folder, appliance)
}
