//! The walls around a command: what bubblewrap is told.
//!
//! What must hold: the guest's root is the command's root, writable; all else that it sees is temporary, read-only, or
//! the handful of harmless devices; nothing of the host is within reach. Each line of the table below says why it is
//! there, since the defaults of bubblewrap are made for unprivileged callers and leave root too much.

use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SeekFrom, StatVfsMountFlags};
use rustix::mount::MountFlags;
use virt_maker_agent::machine::{KERNEL, newest_kernel};
use virt_maker_agent::protocol::{FailureKind, Run};

use crate::facade::UDEV;
use crate::failure::{Result, failure, refused, system};
use crate::files;
use crate::folders::Folders;
use crate::guest::read_small;
use crate::hold::Cover;
use crate::limits::total_memory;
use crate::mounts::Guest;

/// Where the guest sees the script that it runs.
pub const SCRIPT: &str = "/run/virt-maker/script";

/// Where it finds its secrets.
pub const SECRETS: &str = "/run/secrets";

/// Begins the command of a run on a terminal, whose name follows: the first terminal that the leader of a session opens becomes
/// its own.
pub const TAKE_TERMINAL: [&str; 3] = ["/bin/sh", "-c", "terminal=$0; exec \"$@\" 0<>\"$terminal\" 1>&0 2>&0"];

/// Capabilities that a command keeps: what package scripts and ordinary administration of a file tree need.
///
/// Not among them, on purpose: `SYS_ADMIN`, `SYS_MODULE`, `SYS_RAWIO`, `SYS_BOOT`, `SYS_TIME`, `SYS_PTRACE`, `NET_ADMIN`,
/// `NET_RAW`, `BPF` and the like, which reach the host; and `DAC_READ_SEARCH`, which lets `open_by_handle_at` open files
/// outside of the root (`DAC_OVERRIDE` is enough within it). `MKNOD` is harmless, as every mount is `nodev`.
const CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The environment of every command, before what the run adds.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    // systemctl then edits files and talks to nobody.
    ("SYSTEMD_OFFLINE", "1"),
    // `udevadm` and systemd's programs take a `/sys` that is not the kernel's.
    ("SYSTEMD_DEVICE_VERIFY_SYSFS", "0"),
];

/// What stays the same for all commands of a conversation.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Path of `bwrap`.
    pub program: &'a str,
    /// The agent's own folders, and whether this is an appliance, so that running out of memory is this agent's concern.
    pub folders: &'a Folders,
}

/// Refuses what cannot be put into an argument vector or an environment.
pub fn check(run: &Run) -> Result<()> {
    let wrong = |what: String| Err(failure(FailureKind::Protocol, what));
    if run.argv.is_empty() && run.script.is_none() {
        return wrong("a run has neither a program nor a script".to_string());
    }
    if run.argv.iter().chain(&run.shell).any(|argument| argument.contains('\0')) {
        return wrong("an argument of a run contains a NUL".to_string());
    }
    for name in run.secrets.0.keys() {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            return wrong(format!("{name:?} cannot name a secret"));
        }
    }
    for (name, value) in &run.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return wrong(format!("{name:?} cannot be an environment variable: bad name, or a NUL in its value"));
        }
    }
    Ok(())
}

/// Makes the file of bubblewrap one that cannot be written by the name that commands have for it.
///
/// It is the first process that a command sees, so `/proc/1/exe` is that file, and a command is root. While bubblewrap runs the
/// kernel lets nobody write its file; but it ends before the last of the command's processes do, and one of those could then
/// write what the next command, or the host, starts as root. What a process was started from keeps its mount, and that one is
/// read-only. The mount is in the agent's own namespace; a command cannot change it.
pub fn protect(program: &str) -> Result<()> {
    let wrong = |error: rustix::io::Errno| system(format_args!("protect {program}"), error);
    // One that is not there is told when it is to be started.
    let Some(path) = find(program) else { return Ok(()) };
    let kept = rustix::fs::statvfs(&path).map_err(wrong)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (is, flag) in [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
    ] {
        if kept.contains(is) {
            flags |= flag;
        }
    }
    rustix::mount::mount_bind(&path, &path).map_err(wrong)?;
    rustix::mount::mount_remount(&path, flags, c"").map_err(wrong)
}

/// A program as the system finds it, without links.
#[expect(clippy::disallowed_methods, reason = "what starts it looks there, too")]
fn find(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let name = Path::new(program);
    let found = match name.components().count() {
        1 => std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file()),
        _ => Some(name.to_owned()),
    };
    found?.canonicalize().ok()
}

/// Bubblewrap's arguments, each ended by a NUL, without the program to run.
/// `binds` are folders that stand in for folders of the guest: where each is, and its place without a link in it. `covers` are
/// what bubblewrap puts in place of the machine that a command sees; the agent does that where it can. `udev` says whether
/// [`UDEV`] is among them.
pub fn arguments(
    guest: &Guest,
    binds: &[(String, String)],
    covers: &[Cover],
    udev: bool,
    run: &Run,
) -> Result<Vec<u8>> {
    let Some(root) = guest.path().to_str() else {
        return Err(refused("the agent's folder has a name that is not UTF-8"));
    };
    let hostname = hostname(guest);
    let quarter = (total_memory() / 4).to_string();
    let mut list: Vec<&str> = Vec::new();
    // Binds are `nosuid,nodev`: device nodes in the guest cannot be opened.
    list.extend(["--bind", root, "/"]);
    for (source, target) in binds {
        list.extend(["--bind", source, target]);
    }
    list.extend(["--proc", "/proc"]);
    // As in a guest that has booted: what is written there is gone afterwards. It is memory, so it has a bound.
    list.extend(["--size", quarter.as_str(), "--tmpfs", "/run", "--perms", "1777", "--dir", "/run/lock"]);
    if udev {
        list.extend(["--perms", "0755", "--dir", UDEV]);
    }
    for (source, target) in covers {
        // All but devices are read-only where they are.
        list.extend(["--dev-bind", source, target]);
    }
    list.extend(["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", hostname.as_str()]);
    // The names of the host's groups of processes are in `/proc/self/cgroup` otherwise.
    list.push("--unshare-cgroup-try");
    if !run.network {
        list.push("--unshare-net");
    }
    // When the program ends, or the agent, everything that it started is killed.
    list.push("--die-with-parent");
    list.push("--new-session");
    if run.terminal.is_some() {
        // The leader of that session is the command itself then, and may take the terminal. A leader outside of its process
        // namespace has no number that a shell could give the terminal back to.
        list.push("--as-pid-1");
    }
    list.extend(["--chdir", "/"]);
    if run.privileged {
        list.extend(["--cap-add", "ALL"]);
    } else {
        list.extend(["--cap-drop", "ALL"]);
        CAPABILITIES.iter().for_each(|capability| list.extend(["--cap-add", capability]));
    }
    list.push("--clearenv");
    for (name, value) in ENVIRONMENT {
        list.extend(["--setenv", name, value]);
    }
    list.extend(["--setenv", "TERM", if run.terminal.is_some() { "linux" } else { "dumb" }]);
    let kernel = kernel(guest);
    if let Some(release) = &kernel {
        list.extend(["--setenv", KERNEL, release]);
    }
    for (name, value) in &run.env {
        list.extend(["--setenv", name, value]);
    }
    let mut bytes = Vec::new();
    for argument in list {
        bytes.extend_from_slice(argument.as_bytes());
        bytes.push(0);
    }
    Ok(bytes)
}

/// The release of the guest's newest kernel, which an earlier step may have brought.
fn kernel(guest: &Guest) -> Option<String> {
    let names = |path| files::read_dir(guest.root(), path).unwrap_or_default();
    let (boot, modules) = (names("/boot"), OnceCell::new());
    newest_kernel(&boot, || modules.get_or_init(|| names("/lib/modules"))).map(str::to_string)
}

/// The guest's own name for itself: the host's must not get into what package scripts write.
fn hostname(guest: &Guest) -> String {
    let content = read_small(guest.root(), "etc/hostname", 4096).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or("");
    let sound = (1..=64).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if sound { name.to_string() } else { "localhost".to_string() }
}

/// A file in memory that a child inherits, positioned at its start.
pub fn memory_file(name: &str, content: &[u8]) -> Result<OwnedFd> {
    let make = || {
        let file = rustix::fs::memfd_create(name, MemfdFlags::empty())?;
        let mut rest = content;
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&file, rest)?..];
        }
        rustix::fs::seek(&file, SeekFrom::Start(0))?;
        Ok::<_, rustix::io::Errno>(file)
    };
    make().map_err(|error| system("make a file in memory", error))
}
