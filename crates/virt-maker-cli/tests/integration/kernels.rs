//! A guest gets a new kernel: its menu, its boot entry and its initial RAM disk are of its own disk, and it boots.
//!
//! The kernels are Debian's: an image of the release, and the newer one of its security updates. What the engines show of the disk is
//! compared by the step `tiny/30-run`, so here one engine is enough.

use std::fs;
use std::path::Path;
use std::time::Duration;

use testkit::{HostState, Machine, appliance_lock, find_file_in_image};

use crate::common::Bench;

const PATIENCE: Duration = Duration::from_secs(600);

/// Before the new kernel: the guest has GRUB, keeps an entry for each kernel besides (BLS), and makes initial RAM disks with no
/// more modules than its machine needs.
const BEFORE: &str = "spec:
  import:
    bootstrap: {suite: bookworm, size: 3G, mirror: ['deb http://deb.debian.org/debian bookworm main']}
  steps:
    - run: |
        set -e
        sed -i s/^MODULES=.*/MODULES=dep/ /etc/initramfs-tools/initramfs.conf
        echo 'deb http://security.debian.org/debian-security bookworm-security main' > /etc/apt/sources.list.d/security.list
        echo entry > /etc/kernel/entry-token
        echo layout=bls > /etc/kernel/install.conf
        mkdir -p /boot/loader/entries
        printf '%s\\n' '#!/bin/sh' 'kernel-install add \"$1\" \"$2\" \"/boot/initrd.img-$1\"' > /etc/kernel/postinst.d/zz-entry
        chmod 755 /etc/kernel/postinst.d/zz-entry
    - install: grub2-common
    - WAY
    - run: |
        set -e
        newest=$(linux-version list | linux-version sort | tail -n 1)
        [ $(linux-version list | wc -l) = 2 ] && [ \"$GUEST_KERNEL\" = $newest ]
        lsinitramfs /boot/initrd.img-$newest | grep fsck.ext4
        echo \"@newest $newest@\"
  export:
    - raw: {path: PATH}
";

const WAYS: [&str; 3] = [
    "install: linux-image-cloud-amd64",
    "update:",
    "run: apt-get update && apt-get -y install linux-image-cloud-amd64",
];

fn text(image: &Path, path: &str) -> String {
    let content = find_file_in_image(image, path).unwrap_or_else(|| panic!("{}: no file {path}", image.display()));
    String::from_utf8(content).unwrap()
}

#[test]
fn a_guest_with_a_new_kernel_boots_it() {
    let before = HostState::capture();
    let bench = Bench::new("/nonexistent".into());
    let mut made = Vec::new();
    for (index, way) in WAYS.iter().enumerate() {
        let template = bench.path("t.yml");
        let path = format!("{index}.img");
        fs::write(&template, BEFORE.replace("WAY", way).replace("PATH", &path)).unwrap();
        let ran = bench.build("chroot", &template, &[]).exits(0);
        let said: String = ran.of("output").iter().map(|event| event["text"].as_str().unwrap()).collect();
        let newest =
            said.split("@newest ").nth(1).and_then(|rest| rest.split('@').next()).expect("it is said").to_owned();
        let image = bench.path(&path);
        let menu = text(&image, "/boot/grub/grub.cfg");
        let entry = text(&image, &format!("/boot/loader/entries/entry-{newest}.conf"));
        made.push((newest, menu, entry));
    }
    let (newest, menu, entry) = &made[0];
    assert!(made.iter().all(|other| *other == made[0]), "each way makes the same: {made:#?}");
    let uuid =
        text(&bench.path("0.img"), "/etc/fstab").split_once("UUID=").map(|(_, rest)| rest[..36].to_owned()).unwrap();
    let first = menu.lines().find(|line| line.trim_start().starts_with("linux")).unwrap();
    let first: Vec<&str> = first.split_whitespace().collect();
    assert_eq!(first[1..3], [format!("/boot/vmlinuz-{newest}"), format!("root=UUID={uuid}")], "{menu}");
    assert!(menu.contains(&format!("search --no-floppy --fs-uuid --set=root {uuid}")), "{menu}");

    let field = |name: &str| {
        let line = entry.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {entry}"));
        line.trim().to_owned()
    };
    assert_eq!(field("options"), format!("root=UUID={uuid} ro"));

    // By its own boot loader and menu.
    let _lock = appliance_lock();
    let image = bench.path("1.img");
    let console = Machine::boot(&image, "raw").wait_for("login: ", PATIENCE);
    assert!(console.contains(&format!("Linux version {newest} ")), "{console}");
    // By the entry, as a boot loader takes it.
    for (name, file) in [("linux", "kernel"), ("initrd", "ramdisk")] {
        fs::write(bench.path(file), find_file_in_image(&image, &field(name)).expect(name)).unwrap();
    }
    let options = format!("{} console=ttyS0", field("options"));
    let machine = Machine::boot_entry(&bench.path("kernel"), &bench.path("ramdisk"), &options, &image, "raw");
    let console = machine.wait_for("login: ", PATIENCE);
    assert!(console.contains(&format!("Linux version {newest} ")), "{console}");
    drop(machine);
    before.assert_nothing_left();
}
