//! The guest's tree: mounting after its fstab, freezing and letting go.
//!
//! What must hold: mount points are resolved within the guest's root; a guest whose root is not certain (none, or
//! several) is refused with a list of what is there; whatever fails half-way is undone by dropping what was built.

use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount};
use virt_maker_agent::fstab::{Device, Entry, Told};
use virt_maker_agent::protocol::{FailureKind, FileSystem, Mounted, Root};

use crate::failure::{Result, failure, system};
use crate::guest::{GuestPath, open_in};
use crate::linux;
use crate::os_release;
use crate::own_disk::OwnDisk;
use crate::roots;
use crate::volume::{Disk, Mount};

/// A guest whose file systems are mounted below a folder of the agent's own mount namespace.
#[derive(Debug)]
pub struct Guest {
    /// The first is the root. One file system may be here several times (subvolumes).
    mounts: Vec<Mount>,
    /// What commands see of the disk, from the first one on. It goes before the disk.
    shown: OnceCell<OwnDisk>,
    /// Places that fstab swaps to.
    swaps: Vec<usize>,
    /// What was seen of fstab last.
    fstab: SeenFstab,
    disk: Disk,
    path: PathBuf,
    attached: bool,
    frozen: bool,
}

/// An fstab as it was looked at, so that nothing of it is said twice and one that did not change is not read again.
#[derive(Debug, Default)]
struct SeenFstab {
    mark: Option<Mark>,
    told: Told,
}

/// Device, inode, size, and both times of a file with their nanoseconds: what changes when it is written to or replaced.
type Mark = (u64, u64, i64, (i64, u64), (i64, u64));

impl Guest {
    /// Mounts the guest on `disk` at the folder `path`. Its logical volumes are opened in an appliance only.
    ///
    /// An entry whose disk or folder is not there is left out with a warning, for the guest may have that disk where it will
    /// run; not so one without which the tree is not the guest's own, unless the guest is opened `to_mend`.
    pub fn mount(
        disk: &str,
        path: &Path,
        appliance: bool,
        to_mend: bool,
        root: Option<&Root>,
    ) -> Result<(Guest, Mounted)> {
        let mut disk = Disk::open(disk, appliance)?;
        disk.name_after_guest();
        let root = match root {
            Some(root) => roots::said(&mut disk, root)?,
            None => roots::find(&mut disk)?,
        };
        let mut guest = Guest {
            mounts: Vec::new(),
            shown: OnceCell::new(),
            swaps: Vec::new(),
            fstab: SeenFstab::default(),
            disk,
            path: path.to_path_buf(),
            attached: false,
            frozen: false,
        };
        move_mount(&root.top, "", rustix::fs::CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|error| system("attach the guest's root", error))?;
        guest.attached = true;
        let mut file_systems = vec![guest.describe(&root, "/")];
        guest.mounts.push(root);
        let volume = guest.mounts[0].volume;
        guest.mounts[0].thaw().map_err(|problem| guest.disk.why_read_only(volume, problem))?;

        let mut warnings = Vec::new();
        guest.fstab.mark = guest.mark_of_fstab();
        let mut entries = guest.read_fstab()?;
        let swaps = entries.iter().filter(|entry| entry.kind == "swap" && !entry.has("noauto"));
        guest.swaps = swaps.filter_map(|entry| guest.disk.find(&entry.named_device())).collect();
        entries.retain(Entry::is_wanted);
        entries.sort_by_key(|entry| GuestPath::parse(&entry.mount_point).map_or(0, |point| point.depth()));
        for entry in &entries {
            if entry.mount_point == "/" {
                warnings.extend(guest.compare_root(entry));
                continue;
            }
            match guest.mount_entry(entry) {
                Ok(file_system) => file_systems.push(file_system),
                Err(problem) => {
                    let absent = problem.kind == FailureKind::NotFound && !entry.is_essential();
                    if !(entry.is_optional() || absent || to_mend) {
                        let kind = match problem.kind {
                            FailureKind::Unsupported => FailureKind::Unsupported,
                            _ => FailureKind::Fstab,
                        };
                        let Entry { line, device, mount_point, .. } = entry;
                        let why = problem.message;
                        return Err(failure(kind, format!("fstab line {line}, {device} on {mount_point}: {why}")));
                    }
                    warnings.push(entry.left_out(&problem.message));
                    guest.fstab.told.note(entry);
                }
            }
        }
        let os = os_release::read(guest.root());
        Ok((guest, Mounted { file_systems, os, warnings }))
    }

    fn read_fstab(&self) -> Result<Vec<Entry>> {
        linux::fstab(self.root()).map_err(|error| system("read the guest's /etc/fstab", error))
    }

    /// Without reading it; `None` where there is none.
    fn mark_of_fstab(&self) -> Option<Mark> {
        let file = open_in(self.root(), "etc/fstab", OFlags::PATH).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let modified = (stat.st_mtime, stat.st_mtime_nsec);
        Some((stat.st_dev, stat.st_ino, stat.st_size, modified, (stat.st_ctime, stat.st_ctime_nsec)))
    }

    /// What is wrong with entries of an fstab that was written since it was looked at last: a disk or a folder that is not
    /// there, one sentence for each that was not told of. Costs two calls of the system where fstab did not change.
    pub fn fstab_news(&mut self) -> Result<Vec<String>> {
        let mark = self.mark_of_fstab();
        if mark == self.fstab.mark {
            return Ok(Vec::new());
        }
        let mut entries = self.read_fstab()?;
        entries.retain(|entry| entry.is_wanted() && entry.mount_point != "/");
        let missing = |entry| self.place_of(&entry).err().map(|problem| (entry, problem.message));
        let missing: Vec<_> = entries.into_iter().filter_map(missing).collect();
        self.fstab.mark = mark;
        Ok(self.fstab.told.news(&missing))
    }

    /// The root, to resolve paths in.
    pub fn root(&self) -> &OwnedFd {
        &self.mounts[0].top
    }

    /// The identity of the root's file system, where it has one.
    pub fn root_uuid(&self) -> Option<&str> {
        let found = self.disk.volumes()[self.mounts[0].volume].found.as_ref()?;
        (!found.uuid.is_empty()).then_some(found.uuid.as_str())
    }

    /// What a command sees of the disk; `folder` is where it finds the texts.
    pub fn shown(&self, folder: &Path) -> Result<&OwnDisk> {
        if self.shown.get().is_none() {
            let made = OwnDisk::make(&self.disk, &self.swaps, folder);
            let made = made.map_err(|error| system("prepare what commands see of the guest's disk", error))?;
            let _ = self.shown.set(made);
        }
        Ok(self.shown.get_or_init(OwnDisk::default))
    }

    /// The folder that the root is mounted at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether [`freeze`](Guest::freeze) was called last.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Brings every file system to a clean state on its disk and blocks writes. All or nothing.
    pub fn freeze(&mut self) -> Result<()> {
        for index in 0..self.mounts.len() {
            if let Err(problem) = self.mounts[index].freeze() {
                for mount in &mut self.mounts[..index] {
                    mount.thaw()?;
                }
                return Err(problem);
            }
        }
        self.frozen = true;
        Ok(())
    }

    /// Ends what a command with all rights may have done with `fsfreeze`. It is no fault where nothing was frozen.
    pub fn unfreeze(&self) {
        self.mounts.iter().for_each(Mount::unfreeze);
    }

    /// Discards the blocks that no file system uses. File systems that cannot are left alone.
    pub fn trim(&self) -> Result<()> {
        self.mounts.iter().try_for_each(|mount| mount.trim().map(drop))
    }

    /// Makes what no file system uses read as zeroes; gives those of which something may be left, in words.
    pub fn erase(&mut self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for mount in &mut self.mounts {
            let (device, aligned) = self.disk.mounted_from(mount.volume).unwrap_or_default();
            if !mount.erase(device, aligned)? {
                left.push(mount.kind.to_string());
            }
        }
        left.dedup();
        Ok(left)
    }

    /// Ends a freeze.
    pub fn thaw(&mut self) -> Result<()> {
        for mount in &mut self.mounts {
            mount.thaw()?;
        }
        self.frozen = false;
        Ok(())
    }

    /// Writes all to the disk, with errors seen, and unmounts.
    pub fn unmount(mut self) -> Result<()> {
        self.freeze()?;
        self.detach().map_err(|error| system("unmount the guest", error))?;
        self.disk.close()
    }

    fn detach(&mut self) -> rustix::io::Result<()> {
        self.shown.take();
        // The descriptors go first, so that the unmount is the last user and is over when the call returns.
        self.mounts.clear();
        if std::mem::take(&mut self.attached) {
            rustix::mount::unmount(&self.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        }
        Ok(())
    }

    fn describe(&self, mount: &Mount, mount_point: &str) -> FileSystem {
        FileSystem {
            mount_point: mount_point.to_string(),
            kind: mount.kind.to_string(),
            partition: self.disk.volumes()[mount.volume].number,
        }
    }

    /// A warning where fstab has another root than the one that was found.
    fn compare_root(&self, entry: &Entry) -> Option<String> {
        let volume = self.mounts[0].volume;
        (self.disk.find(&entry.named_device()) != Some(volume)).then(|| {
            format!(
                "fstab line {} has {} as the root, but the root was found on {}",
                entry.line,
                entry.device,
                self.disk.volumes()[volume].name()
            )
        })
    }

    /// The volume that an entry names, and the folder that it goes to, with its path.
    fn place_of(&self, entry: &Entry) -> Result<(usize, GuestPath, OwnedFd)> {
        let point = GuestPath::parse(&entry.mount_point)?;
        let device = entry.named_device();
        let Some(volume) = self.disk.find(&device) else {
            let other_disk = |name: &str| name.starts_with("/dev/sd") || name.starts_with("/dev/vd");
            return Err(match device {
                // It may be within what is not opened here: LVM, LUKS, RAID.
                Device::Other(name) if other_disk(&name) => {
                    failure(FailureKind::NotFound, format!("no such device; the disk has {}", self.disk.listing()))
                }
                _ if self.disk.has_closed() => failure(
                    FailureKind::Unsupported,
                    format!(
                        "the agent cannot find this device; the engine libguestfs may; the disk has {}",
                        self.disk.listing()
                    ),
                ),
                _ => failure(FailureKind::NotFound, format!("no such device; the disk has {}", self.disk.listing())),
            });
        };
        let folder = open_in(self.root(), &point.relative(), OFlags::PATH | OFlags::DIRECTORY).map_err(|error| {
            let kind = if error == Errno::NOENT { FailureKind::NotFound } else { FailureKind::Fstab };
            failure(kind, format!("the mount point cannot be opened: {error}"))
        })?;
        Ok((volume, point, folder))
    }

    fn mount_entry(&mut self, entry: &Entry) -> Result<FileSystem> {
        let (volume, point, folder) = self.place_of(entry)?;
        let options = entry.mount_options(self.disk.volumes()[volume].content());
        let mount = self.disk.mount(volume, &options, true)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mount.top, "", &folder, "", flags).map_err(|error| system("attach it", error))?;
        let described = self.describe(&mount, &point.to_string());
        self.mounts.push(mount);
        Ok(described)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // On the way out of a failure nothing more can be done; the namespace goes with the agent in any case.
        let _ = self.detach();
    }
}
