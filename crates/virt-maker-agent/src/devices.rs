//! The `/dev` of one command.
//!
//! It is made once and used by one command after the other as long as it is as it was made. Where a command has changed
//! something of it (a node, a file in `/dev/shm`), it is made anew for the next: to unmount is slow, as the kernel then waits for
//! all processors.
//!
//! What must hold:
//! - Its device nodes are its own: whatever a command does to one (`chmod`, `chown`, `touch`) ends with it, and
//!   neither the host nor the next command sees it. Bubblewrap's own `--dev` would show it the host's nodes.
//! - Only the harmless nodes can be opened. A command may make others (package scripts do, in a root of their own), so every
//!   place where it can make one is `nodev`: each harmless node is mounted by itself, from a folder that commands cannot reach.
//! - Its terminals are its own: a devpts that has no others.
//! - Of block devices it has those of the guest's disk that cannot be written ([`OwnDisk`]), and udev's links to them.
//!
//! Where nodes cannot be made (a container without that right) the host's are shown, read-only: they can be used, and
//! changing them is refused.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::pty::ptsname;
use virt_maker_agent::blocks::Number;
use virt_maker_agent::protocol::TerminalSize;

use crate::failure::{Result, system};
use crate::own_disk::OwnDisk;
use crate::tty;

/// The harmless nodes: name and numbers of character devices.
const NODES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: &[(&str, &str)] =
    &[("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr"), ("pts/ptmx", "ptmx")];

/// `disk` in the guests that there are; a number that no group has is nobody's.
const GROUP_OF_DISKS: u32 = 6;

/// Devices that are there until this is dropped.
#[derive(Debug)]
pub struct Devices {
    /// The folder that becomes `/dev`, with mounts in it.
    pub path: PathBuf,
    /// Whether the nodes are the command's own.
    pub own: bool,
    /// Where the nodes are that are mounted in it.
    nodes: PathBuf,
    /// Whether a guest's disk is among them.
    disk: bool,
    mounted: Vec<PathBuf>,
    /// Everything that a command can change, as it was made.
    made: Vec<(PathBuf, Fingerprint)>,
}

/// Mode, owner, links, size, and the times of changes. A folder of a tmpfs has a size that tells the number of its entries.
type Fingerprint = (u32, u32, u32, u64, u64, [i64; 4]);

fn fingerprint(path: &Path) -> std::io::Result<Fingerprint> {
    let found = fs::symlink_metadata(path)?;
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    Ok((found.mode(), found.uid(), found.gid(), found.nlink(), found.size(), times))
}

impl Devices {
    /// Makes them below a folder of the agent's, one at a time.
    pub fn prepare(folder: &Path) -> Result<Devices> {
        let path = folder.join("dev");
        let nodes = folder.join("nodes");
        let mut devices = Devices { path, own: true, nodes, disk: false, mounted: Vec::new(), made: Vec::new() };
        devices.set_up().map_err(|error| system("make the devices of a command", error))?;
        Ok(devices)
    }

    /// Whether everything is as it was made, so that the next command may have it.
    pub fn untouched(&self) -> bool {
        self.made.iter().all(|(path, made)| fingerprint(path).is_ok_and(|found| found == *made))
    }

    fn set_up(&mut self) -> std::io::Result<()> {
        let (dev, nodes) = (self.path.clone(), self.nodes.clone());
        fs::create_dir_all(&nodes)?;
        fs::create_dir_all(&dev)?;
        let closed = MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", &nodes, "tmpfs", closed, Some(c"mode=0700,size=64k"))?;
        self.mounted.push(nodes.clone());
        // Shared memory is a part of it, so that it has a bound of its own where nothing else bounds the memory of a command.
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("tmpfs", &dev, "tmpfs", flags, Some(c"mode=0755,size=25%"))?;
        self.mounted.push(dev.clone());

        for name in ["pts", "shm"] {
            fs::create_dir(dev.join(name))?;
        }
        fs::set_permissions(dev.join("shm"), fs::Permissions::from_mode(0o1777))?;
        for (target, name) in LINKS {
            symlink(target, dev.join(name))?;
        }
        let options = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
        rustix::mount::mount("devpts", dev.join("pts"), "devpts", closed, Some(options))?;
        for (name, major, minor) in NODES {
            self.own &= make_node(&nodes.join(name), FileType::CharacterDevice, 0o666, (*major, *minor))?;
            File::create_new(dev.join(name))?;
            match self.own {
                true => rustix::mount::mount_bind(nodes.join(name), dev.join(name))?,
                false => show_hosts(&Path::new("/dev").join(name), &dev.join(name))?,
            }
        }
        let nodes = NODES.iter().map(|(name, ..)| dev.join(name)).filter(|_| self.own);
        let places = [dev.clone(), dev.join("shm"), dev.join("pts"), dev.join("pts/ptmx")];
        let made = places.into_iter().chain(nodes).map(|path| Ok((path.clone(), fingerprint(&path)?)));
        self.made = made.collect::<std::io::Result<_>>()?;
        Ok(())
    }

    /// Adds the disk of a guest, once.
    pub fn show(&mut self, disk: &OwnDisk) -> Result<()> {
        if self.disk || disk.is_empty() {
            return Ok(());
        }
        self.disk = true;
        self.add(disk).map_err(|error| system("show the guest's disk to a command", error))
    }

    fn add(&mut self, disk: &OwnDisk) -> std::io::Result<()> {
        for (name, path, number) in &disk.nodes {
            let (node, place) = (self.nodes.join(name.replace('/', "-")), self.path.join(name));
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent)?;
            }
            File::create_new(&place)?;
            if self.own && make_node(&node, FileType::BlockDevice, 0o660, *number)? {
                std::os::unix::fs::chown(&node, None, Some(GROUP_OF_DISKS))?;
                rustix::mount::mount_bind(&node, &place)?;
                self.made.push((place.clone(), fingerprint(&place)?));
            } else {
                show_hosts(Path::new(path), &place)?;
            }
        }
        for (name, target) in &disk.links {
            let place = self.path.join(name);
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent)?;
            }
            match symlink(target, &place) {
                // Two file systems of one identity: the first has the name.
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        // What is new changed the folder; folders below it are looked at, too.
        let mut folders = vec![self.path.clone()];
        for (name, _) in &disk.links {
            folders.extend(
                Path::new(name)
                    .ancestors()
                    .skip(1)
                    .filter(|path| *path != Path::new(""))
                    .map(|path| self.path.join(path)),
            );
        }
        folders.sort();
        folders.dedup();
        self.made.retain(|(path, _)| *path != self.path);
        for folder in folders {
            let found = fingerprint(&folder)?;
            self.made.push((folder, found));
        }
        Ok(())
    }

    /// Both ends of a new terminal, ours and the command's, which is its console too; and its name there.
    pub fn terminal(&self, size: TerminalSize) -> Result<(OwnedFd, OwnedFd, String)> {
        let (ours, theirs) = tty::open(&self.path.join("pts/ptmx"), size)?;
        let wrong = |error| system("open a pseudo-terminal", error);
        let name = ptsname(&ours, Vec::new()).map_err(|error| wrong(error.into()))?;
        let number = name.to_string_lossy().rsplit('/').next().unwrap_or_default().to_string();
        let console = self.path.join("console");
        // One is there already where the command is started a second time.
        if rustix::mount::unmount(&console, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {
            std::fs::remove_file(&console).map_err(wrong)?;
        }
        File::create_new(&console)
            .and_then(|_| Ok(rustix::mount::mount_bind(self.path.join("pts").join(&number), &console)?))
            .map_err(wrong)?;
        Ok((ours, theirs, format!("/dev/pts/{number}")))
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        // What is mounted within goes along. Nothing but an end of the agent can be done about a refusal.
        for place in self.mounted.iter().rev() {
            let _ = rustix::mount::unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}

/// Whether a node could be made that can be opened.
fn make_node(path: &Path, kind: FileType, mode: u32, (major, minor): Number) -> std::io::Result<bool> {
    match mknodat(CWD, path, kind, Mode::from_raw_mode(mode), makedev(major, minor)) {
        Ok(()) => {}
        Err(Errno::PERM | Errno::ACCESS) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    // The mask for new files is not asked for here.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(false),
        // Without a terminal of its own the agent cannot open `tty`.
        _ => Ok(true),
    }
}

fn show_hosts(node: &Path, place: &Path) -> std::io::Result<()> {
    rustix::mount::mount_bind(node, place)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC;
    Ok(rustix::mount::mount_remount(place, MountFlags::BIND | flags, c"")?)
}
