//! What a file has besides content, mode and owner: a second name, times, extended attributes.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;
use virt_maker_agent::protocol::{FailureKind, Marks};

use crate::denied::denied;
use crate::failure::{Result, failure};
use crate::guest::{GuestPath, folder_of};

/// Gives the file at `target` a second name, in the place of a file or a link.
pub fn hard_link(root: impl AsFd, target: &str, path: &str) -> Result<()> {
    let (target, path) = (GuestPath::parse(target)?, GuestPath::parse(path)?);
    let (from, old) = folder_of(&root, &target)?;
    let (to, new) = folder_of(&root, &path)?;
    match rustix::fs::unlinkat(&to, new, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(denied(format_args!("replace {path}"), error, &[(&to, new)])),
    }
    rustix::fs::linkat(&from, old, &to, new, AtFlags::empty()).map_err(|error| match error {
        Errno::XDEV => failure(FailureKind::Unsupported, format!("{target} and {path} lie on different file systems")),
        error => denied(format_args!("make {path} a second name of {target}"), error, &[(&from, old)]),
    })
}

/// Sets times and extended attributes.
pub fn set(root: impl AsFd, marks: &Marks) -> Result<()> {
    let path = GuestPath::parse(&marks.path)?;
    let (folder, name) = folder_of(root, &path)?;
    for (attribute, value) in &marks.attributes {
        match rustix::fs::lsetxattr(&*by_descriptor(&folder, name), attribute.as_str(), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => {
                let what = format!("give {path} the attribute {}", attribute.escape_debug());
                return Err(denied(what, error, &[(&folder, name)]));
            }
        }
    }
    let Some((seconds, nanoseconds)) = marks.modified else { return Ok(()) };
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.min(999_999_999) as _ },
    };
    rustix::fs::utimensat(&folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| denied(format_args!("set the time of {path}"), error, &[(&folder, name)]))
}

/// A name in an open folder as a path whose last part these calls do not follow.
fn by_descriptor(folder: &OwnedFd, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())
}
