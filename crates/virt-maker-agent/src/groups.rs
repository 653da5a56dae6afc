//! Where a group of processes with limits (cgroup v2) can be made.
//!
//! A new group lies beside the one that we are in, or higher up: the nearest place whose children have limits of memory and of
//! processes. So what bounds us (a service's own limit) bounds it too, and no setting of the host is changed for it. Hosts with
//! cgroup v1, and containers that show their groups read-only, have no such place.

use std::fs;
use std::path::{Path, PathBuf};

/// The controllers that a place must have for its children.
const WANTED: [&str; 2] = ["memory", "pids"];

/// The folder in which a group can be made; none where this system has no such place for this process.
pub fn place() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    find(&mounts, &own, |folder| {
        let enabled = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |name: &&str| enabled.split_whitespace().any(|word| word == *name);
        WANTED.iter().all(has) && rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
    })
}

/// Whether the kernel has a bound of the numbers of processes for each process namespace, and not only one for all.
pub fn process_numbers_have_bounds() -> bool {
    let name = rustix::system::uname();
    let mut numbers = name.release().to_str().unwrap_or_default().split(['.', '-']).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 14))
}

fn find(mounts: &str, own: &str, fits: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, mount_point) = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        (after.split(' ').next() == Some("cgroup2")).then_some((fields.next()?, fields.next()?))
    })?;
    // A part of the tree may be mounted, and we may be outside of it.
    let within = Path::new(own).strip_prefix(root).ok()?;
    let top = Path::new(mount_point);
    // Without a stroke at the end, where both are the same.
    let start: PathBuf = top.join(within).components().collect();
    start.ancestors().take_while(|folder| folder.starts_with(top)).find(|folder| fits(folder)).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "24 1 0:22 / /sys rw - sysfs sysfs rw\n\
                          31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn found(mounts: &str, own: &str, with_limits: &[&str]) -> Option<String> {
        let fits = |folder: &Path| with_limits.iter().any(|other| Path::new(other) == folder);
        find(mounts, own, fits).map(|path| path.to_str().unwrap().to_string())
    }

    #[test]
    fn the_nearest_place_with_limits_is_taken() {
        let own = "0::/user.slice/user-0.slice/session-1.scope\n";
        let user = "/sys/fs/cgroup/user.slice";
        assert_eq!(found(MOUNTS, own, &["/sys/fs/cgroup", user]).as_deref(), Some(user));
        assert_eq!(found(MOUNTS, own, &["/sys/fs/cgroup", "/"]).as_deref(), Some("/sys/fs/cgroup"));
        assert_eq!(found(MOUNTS, own, &["/sys", "/"]), None);
        assert_eq!(found(MOUNTS, "0::/\n", &["/sys/fs/cgroup"]).as_deref(), Some("/sys/fs/cgroup"));
        // Version 1 beside it, and version 1 alone.
        let both = "4:memory:/x\n0::/\n";
        assert_eq!(found(MOUNTS, both, &["/sys/fs/cgroup"]).as_deref(), Some("/sys/fs/cgroup"));
        assert_eq!(found(MOUNTS, "4:memory:/x\n", &["/sys/fs/cgroup"]), None);
        assert_eq!(found("24 1 0:22 / /sys rw - sysfs sysfs rw\n", own, &["/sys/fs/cgroup"]), None);
        // A part of the tree that we are not in.
        let part = "31 24 0:27 /box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found(part, "0::/other\n", &["/sys/fs/cgroup"]), None);
        assert_eq!(found(part, "0::/box/in\n", &["/sys/fs/cgroup"]).as_deref(), Some("/sys/fs/cgroup"));
    }
}
