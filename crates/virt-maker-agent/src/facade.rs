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

use crate::failure::{Result, refused, system};

/// What may be left as it is, since every bind costs bubblewrap a tenth of a millisecond: nothing can be written there, or only
/// with a capability that commands do not have.
const HARMLESS: &[&str] = &["mtrr", "pressure", "sysvipc", "tty"];

/// What is put over the machine's own.
#[derive(Debug)]
pub struct Facade {
    /// What is where, and what it covers.
    binds: Vec<(String, String)>,
    /// Folders that are covered by an empty one.
    empty: Vec<String>,
    command_line: PathBuf,
    boot_id: PathBuf,
}

impl Facade {
    /// Makes it below a folder of the agent's, which no command can reach.
    pub fn prepare(folder: &Path) -> Result<Facade> {
        let wrong = |error: std::io::Error| system("prepare what commands see of the machine", error);
        let (sys, proc) = (folder.join("sys"), folder.join("proc"));
        fs::create_dir_all(&proc).map_err(wrong)?;
        show_sys(&sys, &folder.join("sysfs")).map_err(wrong)?;
        let (command_line, boot_id) = (proc.join("cmdline"), proc.join("boot_id"));
        let mut empty = Vec::new();
        let mut binds = vec![(text(&sys)?, "/sys".to_string())];
        let mut entries: Vec<_> = fs::read_dir("/proc").map_err(wrong)?.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let Ok(name) = entry.file_name().into_string() else { continue };
            // What is of a process is the command's own; `self`, `net` and the like are links into it.
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_symlink() || name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let target = format!("/proc/{name}");
            if EMPTY.contains(&name.as_str()) {
                empty.push(target);
            } else if let Some((_, content)) = FILES.iter().find(|(file, _)| *file == name) {
                let place = proc.join(&name);
                write(&place, content).map_err(wrong)?;
                binds.push((text(&place)?, target));
            } else if name == "cmdline" {
                binds.push((text(&command_line)?, target));
            } else if HARMLESS.contains(&name.as_str()) {
                continue;
            } else if kind.is_dir() || entry.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o222 != 0)
            {
                binds.push((target.clone(), target));
            }
        }
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        if Path::new(BOOT_ID).exists() {
            binds.push((text(&boot_id)?, BOOT_ID.to_string()));
        }
        Ok(Facade { binds, empty, command_line, boot_id })
    }

    /// Has it speak of a guest, whose root file system has this identity.
    pub fn speak_of(&self, root: Option<&str>) -> Result<()> {
        let wrong = |error: std::io::Error| system("prepare what commands see of the machine", error);
        write(&self.command_line, command_line(root).as_bytes()).map_err(wrong)?;
        // The kernel makes a new one at each reading.
        let boot_id = fs::read("/proc/sys/kernel/random/uuid").map_err(wrong)?;
        write(&self.boot_id, &boot_id).map_err(wrong)
    }

    /// Bubblewrap's arguments; `/proc` must be mounted before.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        // The smallest that there is; unlike a bind, it costs no look at all mounts.
        let empty = self.empty.iter().flat_map(|target| ["--size", "4096", "--perms", "0555", "--tmpfs", target]);
        let binds = self.binds.iter().flat_map(|(source, target)| ["--ro-bind", source, target]);
        empty.chain(binds)
    }
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

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_string).ok_or_else(|| refused("the agent's folder has a name that is not UTF-8"))
}
