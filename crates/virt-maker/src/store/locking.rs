//! Locks of the store, and whether they work where it lies.
//!
//! All are `flock` on regular files that are open for reading and writing. That is what network file systems can do:
//! the NFS client of Linux makes a lock of a range of bytes on the server of it, which other hosts see, but not of a
//! folder, and not exclusively of a file that is open for reading. Locks end with their process, also when its host dies
//! (on NFS when the server notices that).
//!
//! Nothing holds without locks: layers would be made twice, and collected under who uses them. So whoever opens a store
//! first sees whether one lock keeps another out; where it does not, the store is refused.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::OFlags;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::lock::{Lock, try_lock};
use crate::host::own;

/// The file whose lock is the gate; see [`super::lease`].
pub(super) const GATE: &str = "gate";
/// The file whose lock keeps those who make folders in `tmp/` from those who sweep it; see [`super::workspace`].
pub(super) const SWEEPING: &str = "sweeping";
/// The file that is only for [`check`].
const PROBE: &str = "probe";
/// All of them.
pub(super) const FILES: [&str; 3] = [GATE, SWEEPING, PROBE];
/// What `statfs` says of NFS.
const NFS: i64 = 0x6969;

/// Opens a file to lock it, making it where it is missing.
pub(super) fn open(path: &Path) -> io::Result<File> {
    own::open(path, OFlags::RDWR | OFlags::CREATE)
}

/// Whether locks work in the store at `root`. The error says what is wrong with its file system.
pub(super) fn check(root: &Path) -> Result<()> {
    let path = root.join(PROBE);
    let (first, second) = match (open(&path), open(&path)) {
        (Ok(first), Ok(second)) => (first, second),
        // Nothing can be changed there, and so nothing has to be kept from others.
        (Err(error), _) | (_, Err(error)) if is_read_only(&error) => return Ok(()),
        (Err(error), _) | (_, Err(error)) => {
            return Err(error).context(ErrorKind::Store, || format!("cannot write {}", path.display()));
        }
    };
    let refuse = |problem: String| {
        let message = format!("the file system of the store {} has no working locks: {problem}", root.display());
        Err(Error::new(ErrorKind::Store, message)
            .with_hint("use a store on another file system with --store, or mount this one with locks"))
    };
    // Where the first is not given somebody else looks at this moment, and is seen.
    match try_lock(&first, Lock::Exclusive).and_then(|first| Ok(first && try_lock(&second, Lock::Exclusive)?)) {
        Ok(true) => return refuse("a second lock was given beside the first".into()),
        Ok(false) => {}
        Err(error) => return refuse(error.to_string()),
    }
    if rustix::fs::fstatfs(&first).is_ok_and(|found| found.f_type == NFS)
        && let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo")
        && let Ok(place) = root.canonicalize()
        && let Some(option) = local_locks(&mounts, &place)
    {
        return refuse(format!("it is NFS, mounted with `{option}`, so other hosts do not see a lock of this one"));
    }
    Ok(())
}

pub(super) fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// The option by which the mount that holds `path` keeps its locks to this host. `mounts` is as proc(5) has it: place of the
/// mount in the fifth field, and after a `-` the kind, the source and the options of the file system.
fn local_locks(mounts: &str, path: &Path) -> Option<String> {
    let mut found: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let Some((mount, system)) = line.split_once(" - ") else { continue };
        let Some(place) = mount.split(' ').nth(4) else { continue };
        // Blanks in names are written as octal digits.
        let place = place.replace("\\040", " ");
        // Of several at one place the last one is seen.
        if path.starts_with(&place) && found.is_none_or(|(length, _)| place.len() >= length) {
            found = Some((place.len(), system));
        }
    }
    let options = found?.1.split(' ').nth(2)?;
    let local = |option: &&str| matches!(*option, "nolock" | "local_lock=all" | "local_lock=flock");
    options.split(',').find(local).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_nearest_mount_count() {
        let mounts = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            40 22 0:35 / /srv/build\\040er rw - nfs4 server:/x rw,vers=4.2,local_lock=none,addr=1.2.3.4\n\
            41 40 0:36 / /srv/build\\040er/old rw - nfs server:/y rw,vers=3,nolock,local_lock=all\n\
            42 22 0:37 / /srv/b rw - nfs server:/z rw,local_lock=posix\n";
        let of = |path: &str| local_locks(mounts, Path::new(path));
        assert_eq!(of("/srv/build er/store"), None);
        assert_eq!(of("/srv/build er/old/store").as_deref(), Some("nolock"));
        assert_eq!(of("/srv/b/store"), None, "flock is not POSIX's");
        assert_eq!(of("/home"), None);
    }

    #[test]
    fn locks_of_a_local_file_system_work_also_while_others_look() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|_| check(folder.path()).unwrap()));
            }
        });
    }
}
