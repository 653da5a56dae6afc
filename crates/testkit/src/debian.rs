//! A real Debian 12 of packages, for what a tiny guest cannot show: a package manager, services, a real `/etc`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::cache::fixture;
use crate::command::{run, run_with_input};

/// Raise it when the guest changes.
const RECIPE: u32 = 1;
const PACKAGES: &str = "systemd-sysv,udev,dbus,iproute2,ca-certificates,adduser,kmod,libpam-systemd,procps";
const MIB: u64 = 1 << 20;
const ROOT_MIB: u64 = 1500;

/// A Debian 12 as a cached, read-only raw image: GPT, one ext4 with apt, systemd and about 250 MB of files; no kernel
/// and no boot loader (import `bootstrap` makes those, and its tests boot them). Takes about a minute and the network
/// when it is made.
pub fn debian_guest() -> PathBuf {
    let recipe = format!("debian {RECIPE} {PACKAGES} {ROOT_MIB}");
    fixture("debian-12", "raw", recipe.as_bytes(), |target, scratch| {
        let root = scratch.join("root.img");
        let hook = scratch.join("finish");
        // The arguments of a hook go through a shell; a script keeps paths out of it. It runs where owners are right.
        let script = format!(
            "#!/bin/sh\nset -e\n\
             printf 'UUID=%s / ext4 defaults 0 1\\n' \"$GUEST_UUID\" >\"$1/etc/fstab\"\n\
             echo debian >\"$1/etc/hostname\"\n\
             mke2fs -q -F -t ext4 -O ^orphan_file,^metadata_csum_seed -U \"$GUEST_UUID\" -d \"$1\" \
             \"$GUEST_IMAGE\" {ROOT_MIB}M\n"
        );
        fs::write(&hook, script).expect("a new file");
        run(Command::new("chmod").arg("755").arg(&hook));
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("procfs is mounted");
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--variant=minbase", "--format=null", "--aptopt=Acquire::Retries \"3\""]);
        mmdebstrap.arg(format!("--include={PACKAGES}"));
        mmdebstrap.arg(format!("--customize-hook={}", hook.display()));
        mmdebstrap.env("TMPDIR", scratch).env("GUEST_UUID", uuid.trim()).env("GUEST_IMAGE", &root);
        run(mmdebstrap.args(["bookworm", "-"]).arg("http://deb.debian.org/debian"));

        let disk = fs::File::create(target).expect("a new file");
        disk.set_len((ROOT_MIB + 2) * MIB).expect("room for the disk");
        let sectors = ROOT_MIB * MIB / 512;
        let table =
            format!("label: gpt\nstart=2048, size={sectors}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root\n");
        let mut sfdisk = Command::new("sfdisk");
        run_with_input(sfdisk.args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(target), table.as_bytes());
        let mut dd = Command::new("dd");
        dd.args(["bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]);
        run(dd.arg(format!("if={}", root.display())).arg(format!("of={}", target.display())));
    })
}
