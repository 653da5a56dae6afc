//! Which name the kernel remembers for a device that is mounted: that of the guest's own disk.
//!
//! `/proc/mounts` tells the path that a file system was mounted by. It is looked up from the root folder of whoever mounts, so the agent
//! has another one meanwhile, in which nothing but nodes of the right names are. So a command reads `/dev/sda1`, not the number of a
//! loop device of the host or of a disk that the appliance got as its third.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::failure::{Result, system};

/// A folder of nodes, attached nowhere.
#[derive(Debug)]
pub struct Names {
    top: OwnedFd,
}

impl Names {
    /// `None` where a tmpfs or a node cannot be made: mounts then have the names that this kernel's devices have.
    pub fn make() -> Option<Names> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
        fsconfig_create(&context).ok()?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let top = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).ok()?;
        rustix::fs::mkdirat(&top, "dev", Mode::from_raw_mode(0o700)).ok()?;
        rustix::fs::mkdirat(&top, "dev/mapper", Mode::from_raw_mode(0o700)).ok()?;
        Some(Names { top })
    }

    /// Makes the device at `path` one that is called `name`; gives the path to mount it by. Errors mean that it cannot be called so.
    fn call(&self, path: &str, name: &str) -> std::io::Result<String> {
        let number = std::fs::metadata(path)?.rdev();
        let place = format!("dev/{name}");
        match rustix::fs::mknodat(&self.top, &place, FileType::BlockDevice, Mode::from_raw_mode(0o600), number) {
            Ok(()) => {}
            // The number of a device may have changed since.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&self.top, &place, AtFlags::empty())?;
                rustix::fs::mknodat(&self.top, &place, FileType::BlockDevice, Mode::from_raw_mode(0o600), number)?;
            }
            Err(error) => return Err(error.into()),
        }
        // Where nodes can be made but not opened, the kernel would not mount it either.
        let opened = rustix::fs::openat(&self.top, &place, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        drop(opened);
        Ok(format!("/{place}"))
    }
}

/// The path to mount the device at `path` by, under its `name` if that is possible, and from where that path is to be looked up.
pub fn source<'a>(names: Option<&'a Names>, path: &str, name: &str) -> (String, Option<&'a Names>) {
    match names.map(|names| (names.call(path, name), names)) {
        Some((Ok(called), names)) => (called, Some(names)),
        _ => (path.to_string(), None),
    }
}

/// `fsconfig_create`, with paths looked up among `names`.
pub fn create(context: &OwnedFd, names: Option<&Names>) -> Result<rustix::io::Result<()>> {
    let Some(names) = names else { return Ok(fsconfig_create(context)) };
    let wrong = |error: Errno| system("look up a device by its name in the guest", error);
    let own = File::open("/").map_err(|error| system("open the agent's root", error))?;
    let here = File::open(".").map_err(|error| system("open the agent's folder", error))?;
    enter(names.top.as_fd()).map_err(wrong)?;
    let created = fsconfig_create(context);
    // Without its root the agent could do nothing more that is right.
    enter(own.as_fd()).and_then(|()| rustix::process::fchdir(&here)).map_err(wrong)?;
    Ok(created)
}

fn enter(root: impl AsFd) -> rustix::io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(Path::new("."))
}
