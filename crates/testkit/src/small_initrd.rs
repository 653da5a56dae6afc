//! An initial RAM disk of busybox and a handful of drivers: where the processor is emulated, one of a distribution takes longest of
//! all that a small guest does to boot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::fixture;
use crate::command::{run, run_with_input};

/// Raise it when `/init` or the way it is made changes.
const RECIPE: u32 = 1;
/// What it loads, with all that these need: a disk of a PC of qemu, its file system, the port of an agent, and a network card.
const DRIVERS: [&str; 6] = ["virtio_pci", "virtio_scsi", "sd_mod", "ext4", "virtio_console", "virtio_net"];

const INIT: &str = r#"#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
while read -r module; do $bb insmod "/modules/$module"; done </modules/list
root=
for word in $($bb cat /proc/cmdline); do
    case $word in root=*) root=${word#root=} ;; esac
done
while :; do
    device=$($bb findfs "$root" 2>/dev/null) || device=$root
    $bb mount -o rw "$device" /root 2>/dev/null && break
    $bb usleep 50000
done
$bb mount --move /dev /root/dev
$bb mount --move /proc /root/proc
$bb mount -t sysfs sys /root/sys
$bb mount -t tmpfs run /root/run
exec $bb switch_root /root /sbin/init
"#;

/// One for a kernel of this host, by its version.
pub fn small_initrd(kernel: &str) -> PathBuf {
    let recipe = format!("{RECIPE} {kernel} {DRIVERS:?} {INIT}");
    fixture("initrd-small", "img", recipe.as_bytes(), |target, scratch| {
        let tree = scratch.join("tree");
        for folder in ["bin", "dev", "proc", "root", "modules"] {
            fs::create_dir_all(tree.join(folder)).expect("an own folder");
        }
        fs::copy(crate::tiny::busybox(), tree.join("bin/busybox")).expect("busybox is readable");
        fs::write(tree.join("init"), INIT).expect("an own file");
        for program in ["bin/busybox", "init"] {
            fs::set_permissions(tree.join(program), fs::Permissions::from_mode(0o755)).expect("an own file");
        }
        let mut names: Vec<String> = Vec::new();
        for driver in DRIVERS {
            let said = run(Command::new("modprobe").args(["--show-depends", "--set-version", kernel, driver])).stdout;
            for line in String::from_utf8(said).expect("names of files").lines() {
                // A driver that is part of the kernel is `builtin NAME`.
                let Some(path) = line.strip_prefix("insmod ").map(|path| Path::new(path.trim())) else { continue };
                let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
                if !names.contains(&name) {
                    fs::copy(path, tree.join("modules").join(&name)).expect("a module is readable");
                    names.push(name);
                }
            }
        }
        fs::write(tree.join("modules/list"), names.join("\n") + "\n").expect("an own file");
        let find = run(Command::new("find").arg(".").current_dir(&tree)).stdout;
        let mut cpio = Command::new(crate::tiny::busybox());
        let archive = run_with_input(cpio.args(["cpio", "-o", "-H", "newc"]).current_dir(&tree), &find);
        fs::write(target, archive.stdout).expect("an own file");
    })
}
