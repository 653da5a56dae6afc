//! Working as the root of a user namespace: what ordinary users have in place of root.
//!
//! Files that a program made there belong to subordinate ids of the user (subuid(5)). Nobody but the root of such a
//! namespace (and the host's) can remove what is below a folder of theirs.

use std::fs;
use std::path::Path;

use super::user::is_root;
use super::{Cancel, Tool};

/// Where system programs are; ordinary users do not have all of it in their own `PATH`.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The start of a command that runs as root: in a user namespace with the user's subordinate ids, or as it is for root.
/// The command follows as arguments.
pub fn as_root() -> Tool {
    with_options(&[])
}

/// Like [`as_root`], in a mount and a pid namespace of its own besides: it ends with everything that it started, mounts
/// included, when this process does.
pub fn as_root_alone() -> Tool {
    with_options(&["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL"])
}

/// Like [`as_root`], in a mount namespace of its own besides: what it mounts is seen by nobody else and ends with it.
pub fn as_root_mounting() -> Tool {
    with_options(&["--mount", "--propagation", "private"])
}

/// Like [`as_root_mounting`], in a network namespace of its own besides, in which nothing is but a loopback device.
pub fn as_root_mounting_without_network() -> Tool {
    with_options(&["--mount", "--propagation", "private", "--net"])
}

fn with_options(options: &[&str]) -> Tool {
    let mut tool = Tool::new("unshare", "util-linux").env("PATH", SYSTEM_PATH);
    if !is_root() {
        tool = tool.args(["--user", "--map-root-user", "--map-auto"]);
    }
    tool.args(options).arg("--")
}

/// Removes a folder of this user with all that is in it, also where that belongs to subordinate ids. Nothing depends on
/// its success.
pub fn remove_tree(folder: &Path) {
    let Err(error) = fs::remove_dir_all(folder) else { return };
    if error.kind() == std::io::ErrorKind::PermissionDenied && !is_root() {
        let rm = as_root().args(["rm", "-rf", "--one-file-system", "--"]).arg(folder);
        let _ = rm.run(&Cancel::default());
    }
}
