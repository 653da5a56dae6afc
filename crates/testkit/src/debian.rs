//! A real Debian 12 of packages, for what a tiny guest cannot show: a package manager, services, a real `/etc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cache::fixture;
use crate::command::{run, run_with_input};

/// Raise it when the guest changes.
const RECIPE: u32 = 2;
const PACKAGES: &str = "systemd-sysv,udev,dbus,iproute2,ca-certificates,adduser,kmod,libpam-systemd,procps";
const MIB: u64 = 1 << 20;
const ROOT_MIB: u64 = 1500;

/// A Debian 12 as a cached, read-only raw image: GPT, one ext4 with apt, systemd and about 300 MB of files; no kernel
/// and no boot loader (import `bootstrap` makes those, and its tests boot them). It has the mirror's lists of packages, so that
/// an `apt-get update` in it fetches none. Takes about a minute, the network and root when it is made.
pub fn debian_guest() -> PathBuf {
    let recipe = format!("debian {RECIPE} {PACKAGES} {ROOT_MIB}");
    fixture("debian-12", "raw", recipe.as_bytes(), |target, scratch| {
        // As root, owners in a folder are right; and unlike in a hook of mmdebstrap nothing is mounted in it any more.
        let tree = scratch.join("tree");
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--mode=root", "--variant=minbase", "--format=directory", "--skip=cleanup/apt/lists"]);
        // Nobody reads translations here; they are as large as the lists.
        mmdebstrap.arg("--aptopt=Acquire::Languages \"none\"");
        mmdebstrap.arg(format!("--include={PACKAGES}")).env("TMPDIR", scratch).arg("bookworm");
        run(mmdebstrap.arg(&tree).arg("http://deb.debian.org/debian"));
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("procfs is mounted");
        let uuid = uuid.trim();
        fs::write(tree.join("etc/fstab"), format!("UUID={uuid} / ext4 defaults 0 1\n")).expect("an own file");
        fs::write(tree.join("etc/hostname"), "debian\n").expect("an own file");
        let root = scratch.join("root.img");
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^orphan_file,^metadata_csum_seed", "-U", uuid, "-d"]);
        run(mke2fs.arg(&tree).arg(&root).arg(format!("{ROOT_MIB}M")));

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

/// How the program makes [`bootable_debian`]: of one mirror, so that its kernel is the release's and not that of the security updates.
const BOOTABLE: &str = "format: 2
spec:
  import:
    bootstrap: {suite: bookworm, size: 2G, packages: [openssh-server, python3], mirror: ['deb http://deb.debian.org/debian bookworm main']}
  export:
    qcow2: {path: made.qcow2}
";

/// A Debian 12 that boots, with an SSH server and a Python, as a cached, read-only qcow2 image: what `bootstrap` of this program makes, for tests
/// whose subject is what comes after. The tests of `bootstrap` make their own.
pub fn bootable_debian(program: &Path) -> PathBuf {
    made("debian-12-boots", BOOTABLE, program)
}

/// The same without these, as a disk that boots under a BIOS and UEFI.
pub fn debian_for_uefi(program: &Path) -> PathBuf {
    let template = BOOTABLE.replace("size: 2G, packages: [openssh-server, python3]", "size: 1G, firmware: both");
    made("debian-12-uefi", &template, program)
}

fn made(name: &str, template: &str, program: &Path) -> PathBuf {
    fixture(name, "qcow2", template.as_bytes(), |target, scratch| {
        fs::write(scratch.join("t.yml"), template).expect("the folder is ours");
        // The folder is another one then.
        let mut build = Command::new(program.canonicalize().expect("it was built"));
        build.args(["build", "--engine", "chroot", "t.yml"]).current_dir(scratch).stdin(Stdio::null());
        for (variable, folder) in [
            ("VIRT_MAKER_STORE", "store"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_STATE_HOME", "state"),
        ] {
            build.env(variable, scratch.join(folder));
        }
        run(&mut build);
        fs::rename(scratch.join("made.qcow2"), target).expect("it was made in this folder");
    })
}
