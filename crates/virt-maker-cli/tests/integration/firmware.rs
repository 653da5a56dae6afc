//! What a disk can boot: read from it, told, given to exports, and used to boot it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::common::Bench;

const MIB: u64 = 1 << 20;

/// A disk of 64 MiB with an EFI system partition, on which is this loader.
fn disk_with_esp(bench: &Bench, name: &str, loader: &[u8]) -> std::path::PathBuf {
    let (esp, file, disk) = (bench.path("esp.img"), bench.path("loader.efi"), bench.path(name));
    fs::write(&file, loader).unwrap();
    File::create(&esp).unwrap().set_len(32 * MIB).unwrap();
    let on_esp =
        |program: &str, arguments: &[&str]| testkit::run(Command::new(program).arg("-i").arg(&esp).args(arguments));
    on_esp("mformat", &["::"]);
    on_esp("mmd", &["::/EFI", "::/EFI/BOOT"]);
    on_esp("mcopy", &[file.to_str().unwrap(), "::/EFI/BOOT/BOOTX64.EFI"]);
    let made = File::create(&disk).unwrap();
    made.set_len(64 * MIB).unwrap();
    let table = b"label: gpt\nstart=2048, size=65536, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n";
    testkit::run_with_input(Command::new("sfdisk").arg("-q").arg(&disk), table);
    made.write_all_at(&fs::read(esp).unwrap(), MIB).unwrap();
    disk
}

/// A real program for UEFI, with no signature: GRUB, as it is made on this host.
fn unsigned_loader() -> Vec<u8> {
    let path = Path::new("/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi");
    fs::read(path).expect("grub-efi-amd64-bin is installed")
}

#[test]
fn what_a_disk_boots_is_listed_and_an_ova_says_uefi() {
    let bench = Bench::new("none".into());
    let disk = disk_with_esp(&bench, "uefi.img", &unsigned_loader());
    // The last of several images: it is the chain that is read.
    let qcow2 = bench.path("uefi.qcow2");
    testkit::run(Command::new("qemu-img").args(["convert", "-c", "-O", "qcow2"]).arg(&disk).arg(&qcow2));
    let template = bench.path("t.yml");
    fs::write(&template, "format: 2\nspec:\n  import: {disk: {path: uefi.qcow2}}\n  export: {ova: {path: u.ova}}\n")
        .unwrap();
    bench.build("chroot", &template, &[]).exits(0);

    let listed: serde_json::Value =
        serde_json::from_str(&bench.run(&["cache", "ls", "--json"]).exits(0).stdout).unwrap();
    let expected = serde_json::json!({"bios": false, "uefi": {"path": "EFI/BOOT/BOOTX64.EFI", "signed": false}});
    assert_eq!(listed["layers"][0]["boots"], expected, "{listed}");
    let told = bench.run(&["cache", "ls"]).exits(0).stdout;
    assert!(told.contains("[boots under UEFI]"), "{told}");

    let descriptor = testkit::run(Command::new("tar").arg("-xOf").arg(bench.path("u.ova")).arg("u.ovf")).stdout;
    let descriptor = String::from_utf8(descriptor).unwrap();
    assert!(descriptor.contains("vmw:key=\"firmware\" vmw:value=\"efi\""), "{descriptor}");
    let script = "import sys, xml.etree.ElementTree as e; e.fromstring(sys.stdin.read())";
    testkit::run_with_input(Command::new("python3").args(["-c", script]), descriptor.as_bytes());
}
