//! What a command sees of the machine that it runs on: `/sys`, and what is covered in `/proc`.
//!
//! Package scripts look at the machine and write down what they find: the kernel's command line into boot entries, its
//! firmware into the choice of a boot loader, disks into configurations. What they find here is that of a machine with the guest's
//! own disk and nothing else, whose kernel was started for the guest's own root: the same on each host and in an appliance, and
//! nothing of the host. The disk is added by [`crate::own_disk`], below the same folder.
//!
//! What must hold:
//! - `/sys` has what says how many processors there are and how memory is managed, and else only the folders that programs expect.
//! - In `/proc`, folders that are of no process are read-only, and so is every file that somebody may write: root
//!   changes the host through them without any capability. Those that tell of the host alone are empty.
//! - All is read-only, so that it can be the same for all commands.
//!
//! What cannot be hidden: the kernel's release (`uname`), its processors and memory, the numbers of block devices.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use virt_maker_agent::machine::{EMPTY, FILES, SHOWN, SKELETON, command_line};
use virt_maker_agent::protocol::Failure;

use crate::failure::{Result, system};
use crate::hold::Cover;

/// Where a command finds udev's database, if its disk is shown.
pub const UDEV: &str = "/run/udev";

/// What may be left as it is, since every mount costs something: nothing can be written there, or only with a capability that
/// commands do not have.
const HARMLESS: &[&str] = &["mtrr", "pressure", "sysvipc", "tty"];

/// What is put over the machine's own.
#[derive(Debug)]
pub struct Facade {
    /// What is where, and what it covers. All of it is mounted read-only where it is.
    covers: Vec<Cover>,
    udev: Cover,
    /// The folder that they are made in: `sys`, `proc`, `udev`. Commands see it read-only in another place.
    folder: PathBuf,
    /// Where the kernel's own `/proc` is, read-only, from the first guest on.
    kernel: PathBuf,
    command_line: PathBuf,
    boot_id: PathBuf,
}

impl Facade {
    /// Makes it below a folder of the agent's, which no command can reach.
    pub fn prepare(folder: &Path) -> Result<Facade> {
        prepare(folder).map_err(wrong)
    }

    /// Has it speak of a guest, whose root file system has this identity. `/proc` is that of the agent's processes by now.
    pub fn speak_of(&self, root: Option<&str>) -> Result<()> {
        self.write_for(root).map_err(wrong)
    }

    fn write_for(&self, root: Option<&str>) -> std::io::Result<()> {
        write(&self.command_line, command_line(root).as_bytes())?;
        // The kernel makes a new one at each reading.
        write(&self.boot_id, &fs::read("/proc/sys/kernel/random/uuid")?)?;
        if !self.kernel.exists() {
            fs::create_dir(&self.kernel)?;
            show_read_only(Path::new("/proc"), &self.kernel)?;
        }
        Ok(())
    }

    /// Where more can be added: `sys`, `proc`, `udev`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The groups of processes (cgroup v2) of this machine, and where a command sees them that may do all in it. None where the
    /// kernel has no such groups.
    pub fn groups(&self) -> Option<Cover> {
        let place = self.folder.with_file_name("groups");
        if fs::create_dir(&place).is_ok()
            && rustix::mount::mount("none", &place, "cgroup2", MountFlags::empty(), None).is_err()
        {
            let _ = fs::remove_dir(&place);
        }
        let found = place.to_str().filter(|_| place.is_dir())?;
        Some((found.to_owned(), "/sys/fs/cgroup".to_owned()))
    }

    /// udev's database, and where a command sees it.
    pub fn udev(&self) -> Cover {
        self.udev.clone()
    }

    /// What is where, and where a command sees it; its `/proc` is mounted before.
    pub fn covers(&self) -> &[Cover] {
        &self.covers
    }
}

fn wrong(error: std::io::Error) -> Failure {
    system("prepare what commands see of the machine", error)
}

fn prepare(folder: &Path) -> std::io::Result<Facade> {
    let (made, shown, kernel) = (folder.join("machine"), folder.join("shown"), folder.join("kernel"));
    let proc = made.join("proc");
    for folder in [&proc, &made.join("empty"), &made.join("udev"), &shown] {
        fs::create_dir_all(folder)?;
    }
    show_sys(&made.join("sys"), &folder.join("sysfs"))?;
    let mut covers = vec![(text(&shown.join("sys"))?, "/sys".to_string())];
    let mut entries: Vec<_> = fs::read_dir("/proc")?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let Ok(name) = entry.file_name().into_string() else { continue };
        // What is of a process is the command's own; `self`, `net` and the like are links into it.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() || name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let source = if EMPTY.contains(&name.as_str()) {
            shown.join("empty")
        } else if let Some((_, content)) = FILES.iter().find(|(file, _)| *file == name) {
            write(&proc.join(&name), content)?;
            shown.join("proc").join(&name)
        } else if name == "cmdline" {
            write(&proc.join(&name), b"")?;
            shown.join("proc").join(&name)
        } else if HARMLESS.contains(&name.as_str()) {
            continue;
        } else if kind.is_dir() || entry.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o222 != 0) {
            kernel.join(&name)
        } else {
            continue;
        };
        covers.push((text(&source)?, format!("/proc/{name}")));
    }
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    if Path::new(BOOT_ID).exists() {
        write(&proc.join("boot_id"), b"")?;
        covers.push((text(&shown.join("proc/boot_id"))?, BOOT_ID.to_string()));
    }
    show_read_only(&made, &shown)?;
    let udev = (text(&shown.join("udev"))?, UDEV.to_string());
    Ok(Facade { covers, udev, folder: made, kernel, command_line: proc.join("cmdline"), boot_id: proc.join("boot_id") })
}

/// Shows a folder in another place, with all that is mounted in it, and read-only.
fn show_read_only(folder: &Path, place: &Path) -> std::io::Result<()> {
    rustix::mount::mount_bind_recursive(folder, place)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    Ok(rustix::mount::mount_remount(place, MountFlags::BIND | flags, c"")?)
}

/// Makes the folder `sys`, for which the kernel's own is mounted at `sysfs`, where no command can see it. A kernel without it shows less.
fn show_sys(sys: &Path, sysfs: &Path) -> std::io::Result<()> {
    for folder in SKELETON {
        fs::create_dir_all(sys.join(folder))?;
    }
    fs::create_dir_all(sysfs)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RDONLY;
    if rustix::mount::mount("sysfs", sysfs, "sysfs", flags, None).is_ok() {
        for folder in SHOWN {
            let real = sysfs.join(folder);
            if real.is_dir() {
                fs::create_dir_all(sys.join(folder))?;
                rustix::mount::mount_bind(&real, sys.join(folder))?;
            }
        }
    }
    Ok(())
}

/// Writes a file that everybody may read.
fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))
}

fn text(path: &Path) -> std::io::Result<String> {
    let odd = || std::io::Error::other("the agent's folder has a name that is not UTF-8");
    path.to_str().map(str::to_string).ok_or_else(odd)
}
