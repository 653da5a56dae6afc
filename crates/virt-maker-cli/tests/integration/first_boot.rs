//! An image that was cleaned and shrunk boots as a new machine: with an identity of its own, SSH host keys of its own, and what the
//! template wanted of its first boot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::Bench;
use testkit::tree::{difference, tree_of_image};
use testkit::{HostState, Machine, Volumes, appliance_lock};

const PATIENCE: Duration = Duration::from_secs(600);

/// What these tests begin with, and those of new kernels.
#[test]
fn the_bootable_guest_is_whole() {
    testkit::fsck_clean(&guest(), "qcow2");
}

fn guest() -> PathBuf {
    testkit::bootable_debian(Path::new(env!("CARGO_BIN_EXE_virt-maker")))
}

#[test]
fn a_cleaned_and_shrunk_image_boots_as_a_new_machine() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(guest());
    // Both begin on the same base in the same store, and make the same of it; so one of them is booted.
    let [(one, _), (other, old)] =
        [("chroot", "qcow2"), ("vm", "raw")].map(|(engine, format)| image(&bench, engine, format));
    let changed = difference(&tree_of_image(&one, "qcow2"), &tree_of_image(&other, "raw"));
    assert!(changed.is_empty(), "what the engines made differs: {changed:?}");
    assert!(boot_loader(&bench, &one, "qcow2") == boot_loader(&bench, &other, "raw"), "their boot loaders differ");
    boots_as_a_new_machine(&other, "raw", &old);
    before.assert_nothing_left();
}

/// What the firmware and its first program read: the first sector up to the table, and the BIOS boot partition.
fn boot_loader(bench: &Bench, image: &Path, format: &str) -> (Vec<u8>, Vec<u8>) {
    let sector = bench.path("sector");
    let mut dd = Command::new("qemu-img");
    dd.args(["dd", "-f", format, "-O", "raw", "bs=440", "count=1"]);
    testkit::run(dd.arg(format!("if={}", image.display())).arg(format!("of={}", sector.display())));
    let boot = &Volumes::of(image, format).volumes[0];
    assert_eq!(boot.fs, "", "it has no file system");
    (fs::read(sector).unwrap()[..440].to_owned(), fs::read(&boot.path).unwrap())
}

/// A guest that speaks on its display only is waited for no longer than one that speaks on its serial console, and the
/// silence of the latter is told.
#[test]
fn boot_check_sees_what_boots_with_a_display_alone() {
    let folder = tempfile::tempdir().unwrap();
    // A first sector that has the BIOS write a text, letter by letter, and then stands still.
    let mut disk = vec![0; 1 << 20];
    let code = [
        0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x40, 0x7c, 0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xac, 0x08, 0xc0, 0x74, 0x04, 0xcd,
        0x10, 0xeb, 0xf7, 0xf4, 0xeb, 0xfd,
    ];
    disk[..code.len()].copy_from_slice(&code);
    disk[0x40..0x54].copy_from_slice(b"\r\nthis-guest login: ");
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let image = folder.path().join("display.img");
    fs::write(&image, disk).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/boot-check");
    let said = Command::new(script).arg(&image).arg("200").output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success() && text.contains("this-guest login:"), "{text}");
    assert!(text.contains("that was on its display"), "{text}");
}

/// A cleaned and shrunk image, and the digests of what must not be shared that its guest had before.
fn image(bench: &Bench, engine: &str, format: &str) -> (PathBuf, Vec<String>) {
    let template = bench.path("t.yml");
    let text = "spec:
  import:
    download: {url: 'file://BASE'}
  steps:
    - run: echo made with ENGINE
    - run: systemd-machine-id-setup; sha256sum < /etc/machine-id; sha256sum < /etc/ssh/ssh_host_ed25519_key
    - hostname: fresh.example.org
    - grub_append: [virt_maker.test=yes]
    - firstboot: echo first > /order
    - firstboot: |
        exec > /run/said 2>&1
        echo second >> /order
        echo \"@online $(systemctl is-active network-online.target)\"
        echo \"@order $(cat /order | tr '\\n' ' ')\"
        echo \"@name $(hostname --fqdn)\"
        grep -o virt_maker.test=yes /proc/cmdline | sed 's/^/@kernel /'
        echo \"@id $(wc -c < /etc/machine-id) $(sha256sum < /etc/machine-id)\"
        for second in $(seq 120); do systemctl --quiet is-active ssh && break; sleep 1; done
        systemctl is-active ssh | sed 's/^/@ssh /'
        echo \"@key $(sha256sum < /etc/ssh/ssh_host_ed25519_key)\"
        # The login on the console takes it away from whoever has it open when it starts.
        for second in $(seq 120); do systemctl --quiet is-active serial-getty@ttyS0 && break; sleep 1; done
        sleep 1
        cat /run/said > /dev/ttyS0
        echo @done > /dev/ttyS0
  export:
    - FORMAT: {path: FORMAT.img, clean: true, sparsify: true, shrink: true}
";
    let base = bench.base.to_str().unwrap();
    fs::write(&template, text.replace("ENGINE", engine).replace("FORMAT", format).replace("BASE", base)).unwrap();
    let ran = bench.build(engine, &template, &[]).exits(0);
    let said = ran.said();
    let old: Vec<String> = said.lines().filter(|line| line.ends_with("  -")).map(str::to_owned).collect();
    assert_eq!(old.len(), 2, "{engine}: {said}");
    let image = bench.path(&format!("{format}.img"));
    testkit::fsck_clean(&image, format);
    let info = testkit::run(Command::new("qemu-img").args(["info", "-f", format, "--output=json"]).arg(&image)).stdout;
    let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
    assert!(info["backing-filename"].is_null(), "{info}");
    let bytes = info["virtual-size"].as_u64().unwrap();
    assert!(bytes < 800 << 20, "shrunk from 2 GiB to {bytes}");
    (image, old)
}

fn boots_as_a_new_machine(image: &Path, format: &str, old: &[String]) {
    let machine = Machine::boot(image, format);
    let console = machine.wait_for("@done", PATIENCE);
    for expected in [
        "@order first second",
        "@name fresh.example.org",
        "@kernel virt_maker.test=yes",
        "@id 33 ",
        "@ssh active",
        "@online active",
    ] {
        assert!(console.contains(expected), "{expected}: {console}");
    }
    for digest in old {
        assert!(!console.contains(digest.as_str()), "what is not to be shared came along: {console}");
    }
    assert!(console.contains("@key ") && !console.contains("@key e3b0c442"), "{console}");
    drop(machine);
}
