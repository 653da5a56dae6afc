//! Bubblewrap is held while it sets a sandbox up, and what a command sees of the machine is put in place meanwhile.
//!
//! For each bind that bubblewrap is told, it reads the list of all mounts, and a `/proc` that shows nothing of the host takes two
//! dozen. The kernel does one in a few microseconds. So the agent does them by itself, in bubblewrap's mount namespace.
//!
//! ```text
//! bubblewrap:  ... --proc /proc, --file PIPE /sys/hold: reads ─ ─ ─ ─ ─ ─ ─ ─ ─ ─▶ the end of the pipe: goes on
//! the agent:                      the pipe has room again: enters, mounts, leaves, closes it
//! ```
//! What must hold:
//! - Nothing of a guest runs before all is in place: bubblewrap works off its arguments in their order, and reads this
//!   one to its end. It is the last.
//! - Where it cannot be done so, nothing is left out: [`Placed::Impossible`], and bubblewrap is told to do it.
//! - The agent comes back into its own mount namespace and root, or ends.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::failure::{Result, system};

/// The file that bubblewrap fills from the pipe. It is below a folder that is covered then.
const PLACE: &str = "/sys/hold";

/// Something of the agent's, as it is, with all that is mounted in it, and where a command sees it.
pub type Cover = (String, String);

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Placed {
    /// All is in place, and bubblewrap goes on.
    Done,
    /// Bubblewrap has ended, and says why.
    Ended,
    /// This kernel or this bubblewrap does not allow it.
    Impossible,
}

/// Holds one bubblewrap until it is dropped.
#[derive(Debug)]
pub struct Hold {
    /// Has room when bubblewrap has begun to read.
    pipe: OwnedFd,
}

impl Hold {
    /// With the descriptor that bubblewrap inherits, which the agent closes after that.
    pub fn new() -> Result<(Hold, OwnedFd)> {
        let make = || {
            let (theirs, pipe) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            rustix::io::ioctl_fionbio(&theirs, false)?;
            rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
            // Room for one write, so that the first read makes room for another.
            fcntl_setpipe_size(&pipe, 1)?;
            let content = [0; 4096];
            while rustix::io::write(&pipe, &content) != Err(Errno::AGAIN) {}
            Ok((Hold { pipe }, theirs))
        };
        make().map_err(|error: Errno| system("make a pipe", error))
    }

    /// Bubblewrap's last arguments, for that descriptor.
    pub fn arguments(descriptor: &str) -> [&str; 5] {
        ["--tmpfs", "/sys", "--file", descriptor, PLACE]
    }

    /// Waits until bubblewrap is held, and puts the covers in place. `told` gets what bubblewrap has said on `status`.
    pub fn place(self, status: &OwnedFd, told: &mut Vec<u8>, covers: &[Cover]) -> Result<Placed> {
        let failed = |error: Errno| system("wait for bubblewrap", error);
        let mut ends = [PollFd::from_borrowed_fd(self.pipe.as_fd(), PollFlags::OUT)];
        rustix::io::retry_on_intr(|| poll(&mut ends, None)).map_err(failed)?;
        if ends[0].revents().contains(PollFlags::ERR) {
            return Ok(Placed::Ended);
        }
        // It told its first process's number before that process began.
        told.resize(4096, 0);
        let count = rustix::io::retry_on_intr(|| rustix::io::read(status, &mut *told)).map_err(failed)?;
        told.truncate(count);
        let Some((process, root)) = first_process(told).and_then(|process| Some((process, root_of(process)?))) else {
            return Ok(Placed::Impossible);
        };
        // Not before, as the kernel lists mounts by their age, and the command's root is to be the first.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let trees = covers.iter().map(|(source, _)| open_tree(CWD, source, flags));
        let trees = match trees.collect::<std::result::Result<Vec<_>, _>>() {
            Ok(trees) => trees,
            // A kernel before 5.2, or a container that forbids it.
            Err(Errno::NOSYS | Errno::PERM) => return Ok(Placed::Impossible),
            Err(error) => return Err(system("copy what commands see of the machine", error)),
        };
        within(process, || {
            let root = openat(CWD, root.as_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            for (tree, (_, target)) in trees.iter().zip(covers) {
                move_mount(tree, "", &root, target.trim_start_matches('/'), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            }
            Ok(())
        })
        .map_err(|error| system("put in place what a command sees of the machine", error))?;
        Ok(Placed::Done)
    }
}

/// The first process of a sandbox, from what bubblewrap says of it.
fn first_process(told: &[u8]) -> Option<u64> {
    let said = serde_json::Deserializer::from_slice(told).into_iter::<serde_json::Value>().next()?.ok()?;
    said.get("child-pid")?.as_u64()
}

/// Where the command's root is among the mounts of the process that makes it, by the file that it is writing.
fn root_of(process: u64) -> Option<String> {
    let open = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
    open.flatten().find_map(|entry| {
        let file = fs::read_link(entry.path()).ok()?;
        file.to_str()?.strip_suffix(PLACE).filter(|root| root.starts_with('/')).map(str::to_string)
    })
}

/// Does something in the mount namespace of another process.
fn within<T>(process: u64, work: impl FnOnce() -> rustix::io::Result<T>) -> std::io::Result<T> {
    let own = File::open("/proc/self/ns/mnt")?;
    let other = File::open(format!("/proc/{process}/ns/mnt"))?;
    let folder = |path| openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let (root, current) = (folder("/")?, folder(".")?);
    let enter = |namespace: &File| move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount));
    enter(&other)?;
    let done = work();
    // To enter takes the namespace's root as root; this process may have had another one.
    let back = enter(&own).and_then(|()| {
        rustix::process::fchdir(&root)?;
        rustix::process::chroot(".")?;
        rustix::process::fchdir(&current)
    });
    if let Err(error) = back {
        // Whatever it did from here on, it would do elsewhere.
        eprintln!("virt-maker-agent: cannot come back from a sandbox: {error}");
        std::process::exit(1);
    }
    Ok(done?)
}
