//! A Debian guest that gets a new kernel: the ways to one, and what has to be on its image then.
//!
//! The kernels are Debian's: an image of the release, and the newer one of its security updates. The guest has GRUB, keeps an entry for
//! each kernel besides (BLS, as Debian's package of systemd-boot has it), and makes initial RAM disks with no more modules than its machine
//! needs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::image::{Volumes, format_of};
use crate::machine::Machine;

/// Ways to a new kernel: a name, and the step.
pub const KERNEL_WAYS: [(&str, &str); 3] = [
    ("install", "install: linux-image-cloud-amd64"),
    ("update", "update:"),
    ("apt-get", "run: apt-get update && apt-get -y install linux-image-cloud-amd64"),
];

/// On [`crate::bootable_debian`]. All but the kernel is up to date, so that what a way changes is the kernel.
const GUEST: &str = "format: 2
spec:
  import:
    download: {url: 'file://BASE'}
  steps:
    - run: |
        sed -i s/^MODULES=.*/MODULES=dep/ /etc/initramfs-tools/initramfs.conf
        echo 'deb http://security.debian.org/debian-security bookworm-security main' > /etc/apt/sources.list.d/security.list
        echo entry > /etc/kernel/entry-token
        echo layout=bls > /etc/kernel/install.conf
        mkdir -p /boot/loader/entries /etc/initramfs/post-update.d
        printf '%s\\n' '#!/bin/sh' 'kernel-install add \"$1\" \"$2\" \"/boot/initrd.img-$1\"' > /etc/kernel/postinst.d/zz-entry
        printf '%s\\n' '#!/bin/sh' 'kernel-install add \"$1\" \"/boot/vmlinuz-$1\" \"$2\"' > /etc/initramfs/post-update.d/entry
        chmod 755 /etc/kernel/postinst.d/zz-entry /etc/initramfs/post-update.d/entry
    - run: |
        apt-mark hold linux-image-cloud-amd64
        apt-get update
        apt-get -y upgrade
        apt-get -y install grub2-common
        apt-mark unhold linux-image-cloud-amd64
";
const SAYS: &str = "    - run: |
        newest=$(linux-version list | linux-version sort | tail -n 1)
        [ $(linux-version list | wc -l) = 2 ]
        [ \"$GUEST_KERNEL\" = $newest ]
        lsinitramfs /boot/initrd.img-$newest | grep fsck.ext4
        echo \"@newest $newest@\"
";
const PATIENCE: Duration = Duration::from_secs(900);

/// The template of the guest before it gets a new kernel, with the program that it is for.
pub fn kernel_guest(program: &Path) -> String {
    let base = crate::bootable_debian(program);
    GUEST.replace("BASE", base.to_str().expect("the cache has a plain name"))
}

/// The same with these steps, which bring the new one; then it is said, and exported to `artifact` as a raw image.
pub fn kernel_template(program: &Path, steps: &[&str], artifact: &Path) -> String {
    let steps: String = steps.iter().map(|step| format!("    - {step}\n")).collect();
    let guest = kernel_guest(program);
    format!("{guest}{steps}{SAYS}  export:\n    - raw: {{path: '{}'}}\n", artifact.display())
}

/// The new kernel of an image, and what starts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKernel {
    /// As `uname -r` tells it once it runs.
    pub release: String,
    /// GRUB's menu.
    pub menu: String,
    /// The kernel's own entry of the Boot Loader Specification.
    pub entry: String,
}

impl NewKernel {
    /// Looks at an image of a template of [`kernel_template`]; `said` is the output of its steps. Panics where menu or entry do not start the
    /// guest's newest kernel with the guest's own root.
    #[track_caller]
    pub fn of(image: &Path, said: &str) -> NewKernel {
        let release = said.split("@newest ").nth(1).and_then(|rest| rest.split('@').next());
        let release = release.unwrap_or_else(|| panic!("no newest kernel in {said}")).to_owned();
        let volumes = Volumes::of(image, format_of(image));
        let bytes = |path: &str| volumes.find(path).unwrap_or_else(|| panic!("{}: no file {path}", image.display()));
        let text = |path: &str| String::from_utf8(bytes(path)).unwrap_or_else(|_| panic!("{path} is no text"));

        let fstab = text("/etc/fstab");
        let uuid = fstab.split_once("UUID=").and_then(|(_, rest)| rest.get(..36)).expect("fstab names the root");
        let menu = text("/boot/grub/grub.cfg");
        let first = menu.lines().find(|line| line.trim_start().starts_with("linux")).expect("the menu has a kernel");
        let first: Vec<&str> = first.split_whitespace().collect();
        assert_eq!(first[1..3], [format!("/boot/vmlinuz-{release}"), format!("root=UUID={uuid}")], "{menu}");
        assert!(menu.contains(&format!("search --no-floppy --fs-uuid --set=root {uuid}")), "{menu}");

        let entry = text(&format!("/boot/loader/entries/entry-{release}.conf"));
        assert_eq!(field(&entry, "options"), format!("root=UUID={uuid} ro"));
        // What the menu starts, so that who boots by one has tried the files of the other.
        for (name, of_menu) in [("linux", "vmlinuz"), ("initrd", "initrd.img")] {
            let path = field(&entry, name);
            assert!(bytes(path) == bytes(&format!("/boot/{of_menu}-{release}")), "{path} is another {of_menu}");
        }
        NewKernel { release, menu, entry }
    }

    /// Boots the image by its own boot loader and menu, into the new kernel. Hold [`crate::appliance_lock`].
    #[track_caller]
    pub fn boots_by_menu(&self, image: &Path) {
        self.is_up(&Machine::boot(image, format_of(image)));
    }

    /// Boots it by the entry, as a boot loader takes that. `scratch` is a folder for the files of the entry.
    #[track_caller]
    pub fn boots_by_entry(&self, image: &Path, scratch: &Path) {
        let (kernel, initrd) = (scratch.join("entry-kernel"), scratch.join("entry-initrd"));
        let volumes = Volumes::of(image, format_of(image));
        for (name, file) in [("linux", &kernel), ("initrd", &initrd)] {
            fs::write(file, volumes.find(field(&self.entry, name)).expect(name)).expect("room for a kernel");
        }
        let options = format!("{} console=ttyS0", field(&self.entry, "options"));
        self.is_up(&Machine::boot_entry(&kernel, &initrd, &options, image, format_of(image)));
    }

    #[track_caller]
    fn is_up(&self, machine: &Machine) {
        let console = machine.wait_for("login: ", PATIENCE);
        assert!(console.contains(&format!("Linux version {} ", self.release)), "{console}");
    }
}

#[track_caller]
fn field<'a>(entry: &'a str, name: &str) -> &'a str {
    let line = entry.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {entry}")).trim()
}
