//! Tiny guests whose file systems are logical volumes.
//!
//! Made by guestfish, in whose appliance there is a device mapper whatever the host has. What must hold: fstab names the
//! volumes in the two ways that installers do; one volume spans two partitions.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{appliance_lock, fixture};
use crate::command::run_with_input;
use crate::tiny::{TinyOptions, tiny_guest};

/// Raise it when the way they are made changes.
const RECIPE: u32 = 2;

/// A tiny guest as a cached, read-only raw image: a GPT with two partitions of the volume group `tiny-vg`; `/` is
/// the volume `root`, `/srv` is `data`, ext4 both. With `snapshot`, `data` has one. Must not be called under the lock of
/// appliances.
pub fn lvm_guest(snapshot: bool) -> PathBuf {
    let options = TinyOptions {
        fstab_extra: vec![
            "/dev/tiny-vg/data /srv ext4 defaults 0 2".into(),
            "/dev/mapper/tiny--vg-more /srv/more ext4 defaults 0 2".into(),
        ],
        files: vec![("/srv/.keep".into(), Vec::new(), 0o644)],
        ..TinyOptions::default()
    };
    let source = tiny_guest(&options);
    let recipe = format!("lvm {RECIPE} {snapshot} {source:?}");
    fixture("tiny-lvm", "raw", recipe.as_bytes(), |target, _| {
        let _lock = appliance_lock();
        make(&source, target, snapshot);
    })
}

fn make(source: &Path, target: &Path, snapshot: bool) {
    std::fs::File::create(target).and_then(|file| file.set_len(192 << 20)).expect("room for an image");
    let size = source.metadata().expect("the guest was made").len();
    let mut script = format!(
        "add-drive {} readonly:true format:raw\n\
         run\n\
         part-init /dev/sda gpt\n\
         part-add /dev/sda p 2048 184319\n\
         part-add /dev/sda p 184320 391167\n\
         pvcreate /dev/sda1\n\
         pvcreate /dev/sda2\n\
         vgcreate tiny-vg '/dev/sda1 /dev/sda2'\n\
         lvcreate root tiny-vg 64\n\
         lvcreate data tiny-vg 64\n\
         lvcreate more tiny-vg 16\n\
         copy-device-to-device /dev/sdb /dev/tiny-vg/root size:{size}\n\
         mkfs ext4 /dev/tiny-vg/data\n\
         mkfs ext4 /dev/tiny-vg/more\n\
         mount /dev/tiny-vg/data /\n\
         mkdir /more\n\
         umount /\n",
        source.display()
    );
    if snapshot {
        script.push_str("debug sh 'lvm lvcreate --snapshot --name before --size 8M tiny-vg/data'\n");
    }
    run_with_input(guestfish().args(["--format=raw", "-a"]).arg(target), script.as_bytes());
}

/// The content of files of such a guest, without blanks around it. Panics unless `e2fsck` finds nothing to repair in its
/// volumes and no journal wants replay.
pub fn files_of_clean_lvm(image: &Path, paths: &[&str]) -> Vec<String> {
    const END: &str = "--end--";
    let mut script = String::from("run\n");
    for name in ["root", "data", "more"] {
        script.push_str(&format!("debug sh 'e2fsck -f -n /dev/tiny-vg/{name}'\n"));
        script.push_str(&format!("debug sh 'dumpe2fs -h /dev/tiny-vg/{name}'\n"));
    }
    script.push_str(&format!("echo {END}\n"));
    for (name, point) in [("root", "/"), ("data", "/srv"), ("more", "/srv/more")] {
        script.push_str(&format!("mount-ro /dev/tiny-vg/{name} {point}\n"));
    }
    for path in paths {
        script.push_str(&format!("cat {path}\necho {END}\n"));
    }
    let mut command = guestfish();
    command.arg("--ro").arg(format!("--format={}", crate::format_of(image))).arg("-a").arg(image);
    let output = run_with_input(&mut command, script.as_bytes());
    let text = String::from_utf8(output.stdout).expect("text");
    let mut parts = text.split(END).map(|part| part.trim().to_owned());
    let checked = parts.next().unwrap_or_default();
    let states = checked.lines().filter_map(|line| line.strip_prefix("Filesystem state:")).map(str::trim);
    assert_eq!(states.collect::<Vec<_>>(), ["clean"; 3], "{checked}");
    assert!(!checked.contains("needs_recovery"), "a journal wants replay: {checked}");
    parts.take(paths.len()).collect()
}

fn guestfish() -> Command {
    let mut command = Command::new("guestfish");
    command.env("LIBGUESTFS_BACKEND", "direct").env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
    command
}
