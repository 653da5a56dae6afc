//! Caches: file systems beside the guest, whose folders stand in for the guest's while a program runs.
//!
//! What must hold: none of it is below the guest's root, so nothing of it gets into a layer; a folder of the guest is
//! found within the guest's root, whatever links are on the way.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount};
use virt_maker_agent::protocol::{Attributes, CacheFolder};

use crate::failure::{Result, refused, system};
use crate::files;
use crate::guest::{GuestPath, open_in};
use crate::mounts::Guest;
use crate::volume::{Disk, Mount};

/// A cache that is mounted.
#[derive(Debug)]
pub struct Cache {
    name: String,
    path: PathBuf,
    // Dropped before the disk.
    mount: Option<Mount>,
    _disk: Disk,
}

impl Cache {
    /// Mounts what is on `disk` beside the folder of the guest's root.
    pub fn mount(name: &str, disk: &str, root: &Path) -> Result<Cache> {
        check(name)?;
        let mut disk = Disk::open(disk, false)?;
        let path = root.with_file_name(format!("cache-{name}"));
        fs::create_dir_all(&path).map_err(|error| system("make a folder for a cache", error))?;
        let mount = disk.mount(0, &[], true)?;
        move_mount(&mount.top, "", rustix::fs::CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|error| system("mount a cache", error))?;
        let mut cache = Cache { name: name.to_owned(), path, mount: Some(mount), _disk: disk };
        if let Some(mount) = &mut cache.mount {
            mount.thaw()?;
        }
        Ok(cache)
    }

    /// Writes all of it and unmounts.
    pub fn unmount(mut self) -> Result<()> {
        if let Some(mut mount) = self.mount.take() {
            mount.freeze()?;
        }
        rustix::mount::unmount(&self.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|error| system("unmount a cache", error))
    }
}

/// For each folder that a program asks for: where it is, and the path in the guest without a link in it.
pub fn folders(caches: &[Cache], guest: &Guest, wanted: &[CacheFolder]) -> Result<Vec<(String, String)>> {
    wanted.iter().map(|wanted| one(caches, guest, wanted)).collect()
}

fn one(caches: &[Cache], guest: &Guest, wanted: &CacheFolder) -> Result<(String, String)> {
    check(&wanted.folder)?;
    let Some(cache) = caches.iter().find(|cache| cache.name == wanted.cache) else {
        return Err(refused(format!("there is no cache {:?}", wanted.cache)));
    };
    let source = cache.path.join(&wanted.folder);
    match fs::create_dir(&source) {
        Ok(()) => {}
        // A link in there was not made by this, and would lead out of the cache.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && is_folder(&source) => {}
        Err(error) => return Err(system("make a folder in a cache", error)),
    }
    let target = GuestPath::parse(&wanted.target)?;
    let found = match open_in(guest.root(), &target.relative(), OFlags::PATH | OFlags::DIRECTORY) {
        Ok(found) => found,
        Err(_) => {
            files::mkdir(guest.root(), &wanted.target, Attributes::default(), true)?;
            open_in(guest.root(), &target.relative(), OFlags::PATH | OFlags::DIRECTORY)
                .map_err(|error| system(format_args!("open {target} of the guest"), error))?
        }
    };
    let real = fs::read_link(format!("/proc/self/fd/{}", found.as_fd().as_raw_fd()))
        .map_err(|error| system(format_args!("find {target} of the guest"), error))?;
    let within = real.strip_prefix(guest.path()).ok().filter(|path| !path.as_os_str().is_empty());
    let within = within
        .and_then(Path::to_str)
        .ok_or_else(|| refused(format!("{target} of the guest is no place for a cache")))?;
    let source = source.to_str().ok_or_else(|| refused("the agent's folder has a name that is not UTF-8"))?;
    Ok((source.to_owned(), format!("/{within}")))
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// A plain name.
fn check(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(refused(format!("{name:?} cannot name a cache or a folder of it")));
    }
    Ok(())
}
