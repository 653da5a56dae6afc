//! `fsck_clean` refuses what was copied from under a mount: each kind leaves another trace.

use std::panic::catch_unwind;
use std::path::Path;
use std::process::Command;

use testkit::{Fs, TinyOptions, cache_dir, copy_image, fsck_clean, run, tiny_guest};

/// Mounts a copy of the guest at `image`, runs `work` there with the mount point as `$2` and the disk as `$1`, and
/// returns what the disk was then, by `cp "$1" "$3"`.
fn copied_while_mounted(image: &Path, work: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(cache_dir()).unwrap();
    let (disk, point, copy) = (dir.path().join("disk.raw"), dir.path().join("point"), dir.path().join("copy.raw"));
    copy_image(image, &disk);
    std::fs::create_dir(&point).unwrap();
    // In a mount namespace of its own, so that a failure leaves no mount.
    let script = format!("set -e; mount -o loop \"$1\" \"$2\"; {work}; umount \"$2\"");
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
    run(unshare.arg(&disk).arg(&point).arg(&copy));
    fsck_clean(&disk, "raw");
    dir
}

#[track_caller]
fn refused(dir: &tempfile::TempDir, words: &str) {
    let copy = dir.path().join("copy.raw");
    let error = catch_unwind(|| fsck_clean(&copy, "raw")).expect_err("it was to be refused");
    let message = error.downcast::<String>().expect("a panic with a message");
    assert!(message.contains(words), "{message}");
}

#[test]
fn ext4_with_a_journal_to_replay() {
    let guest = tiny_guest(&TinyOptions::default());
    let dir = copied_while_mounted(&guest, "echo new >\"$2/new\"; sync -f \"$2\"; cp \"$1\" \"$3\"");
    refused(&dir, "the journal wants replay");
}

#[test]
fn ext2_in_use() {
    let dir = tempfile::tempdir_in(cache_dir()).unwrap();
    let image = dir.path().join("ext2.raw");
    run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext2"]).arg(&image).arg("16M"));
    let copied = copied_while_mounted(&image, "sync -f \"$2\"; cp \"$1\" \"$3\"");
    refused(&copied, "state of the file system");
}

/// What a frozen XFS has on the disk is whole, but its log is kept dirty on purpose, for the inodes without a name.
#[test]
fn xfs_with_a_log_to_replay() {
    let guest = tiny_guest(&TinyOptions::with_fs(Fs::Xfs));
    let work =
        "echo new >\"$2/new\"; fsfreeze -f \"$2\"; cp \"$1\" \"$3\" || bad=1; fsfreeze -u \"$2\"; test -z \"$bad\"";
    refused(&copied_while_mounted(&guest, work), "ALERT");
}

/// An fsync on btrfs writes to a tree of its own, which the next mount replays.
#[test]
fn btrfs_with_a_log_to_replay() {
    let guest = tiny_guest(&TinyOptions::with_fs(Fs::Btrfs));
    let work = "sync -f \"$2\"; echo new >\"$2/new\"; sync \"$2/new\"; cp \"$1\" \"$3\"";
    refused(&copied_while_mounted(&guest, work), "the log wants replay");
}
