//! What a disk can boot: read from it, told, given to exports, and used to boot it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Bench, run};
use testkit::measured::{BOOT_SERVICES_APPLICATION, authenticode, event_log, hex, replay};
use testkit::{HostState, Volumes, appliance_lock};

const MIB: u64 = 1 << 20;

/// A disk with an EFI system partition of 32 MiB, on which is this loader, and behind it a guest that has nothing to boot.
fn disk_with_esp(bench: &Bench, name: &str, loader: &[u8]) -> PathBuf {
    let (esp, file, disk) = (bench.path("esp.img"), bench.path("loader.efi"), bench.path(name));
    fs::write(&file, loader).unwrap();
    File::create(&esp).unwrap().set_len(32 * MIB).unwrap();
    let on_esp = |program: &str, words: &[&str]| testkit::run(Command::new(program).arg("-i").arg(&esp).args(words));
    on_esp("mformat", &["::"]);
    on_esp("mmd", &["::/EFI", "::/EFI/BOOT"]);
    on_esp("mcopy", &[file.to_str().unwrap(), "::/EFI/BOOT/BOOTX64.EFI"]);
    let files = vec![("/etc/inittab".to_owned(), b"::sysinit:/bin/true\n".to_vec(), 0o644)];
    let guest = testkit::tiny_guest(&testkit::TinyOptions { files, ..testkit::TinyOptions::default() });
    let made = File::create(&disk).unwrap();
    made.set_len(98 * MIB).unwrap();
    let table =
        b"label: gpt\nstart=2048, size=65536, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\nstart=67584, size=131072\n";
    testkit::run_with_input(Command::new("sfdisk").arg("-q").arg(&disk), table);
    made.write_all_at(&fs::read(esp).unwrap(), MIB).unwrap();
    made.write_all_at(&fs::read(guest).unwrap(), 33 * MIB).unwrap();
    disk
}

/// A real program for UEFI, with no signature, that powers the machine off: GRUB, as it is made on this host.
fn unsigned_loader(bench: &Bench) -> Vec<u8> {
    let (settings, made) = (bench.path("early.cfg"), bench.path("made.efi"));
    fs::write(&settings, "halt\n").unwrap();
    let mut grub = Command::new("grub-mkimage");
    grub.args(["-O", "x86_64-efi", "-p", "/none", "-c"]).arg(settings).arg("-o").arg(&made).arg("halt");
    testkit::run(&mut grub);
    fs::read(made).unwrap()
}

#[test]
fn what_a_disk_boots_is_listed_and_an_ova_says_uefi() {
    let bench = Bench::new("none".into());
    let disk = disk_with_esp(&bench, "uefi.img", &unsigned_loader(&bench));
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

/// `auto` starts a disk with what it has; Secure Boot starts nothing that nobody signed; and a disk without a loader is told before a
/// machine starts.
#[test]
fn a_disk_is_booted_with_the_firmware_that_it_has_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new("none".into());
    disk_with_esp(&bench, "uefi.img", &unsigned_loader(&bench));
    let template = |boot: &str| {
        let path = bench.path("t.yml");
        let text = format!("format: 2\nspec:\n  import: {{disk: {{path: uefi.img}}}}\n  steps: [{{boot: {boot}}}]\n");
        fs::write(&path, text).unwrap();
        path
    };
    // What it writes to its TPM goes with the machine.
    for (boot, code, expected) in [
        ("{timeout: 2m, tpm: true}", 0, ""),
        ("{timeout: 2m, firmware: secure-boot}", 4, "Secure Boot refused the boot loader"),
    ] {
        let ran = bench.build("chroot", &template(boot), &[]).exits(code);
        assert!(ran.stderr.contains(expected), "{boot}: {}", ran.stderr);
        assert_eq!(bench.left_in_store(), Vec::<String>::new(), "{boot}");
    }

    let guest = testkit::tiny_guest(&testkit::TinyOptions::default());
    fs::copy(guest, bench.path("uefi.img")).unwrap();
    let ran = bench.build("chroot", &template("{firmware: uefi}"), &[]).exits(4);
    assert!(ran.stderr.contains("UEFI does not boot the disk: it has no loader for UEFI"), "{}", ran.stderr);
    before.assert_nothing_left();
}

/// Prints the registers of the machine's TPM, and what was measured into them, where the kernel has got the log: GRUB hands it over where
/// Secure Boot is on.
const MEASURED: &str = "log=/sys/kernel/security/tpm0/binary_bios_measurements; \
    for number in 0 1 2 3 4 5 6 7 8 9; do echo PCR $number $(cat /sys/class/tpm/tpm0/pcr-sha256/$number); done; \
    [ ! -e $log ] || echo LOG $(base64 -w 0 $log)";

/// The registers that a guest has printed.
fn registers(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix("PCR ")).collect()
}

/// The registers that a guest has printed are what its own log of them gives, and this loader is what was started first, by the digest
/// that the test makes of it.
fn measured(said: &str, loader: &[u8]) {
    let log = said.lines().find_map(|line| line.strip_prefix("LOG ")).expect("the guest has a log");
    let log = testkit::run_with_input(Command::new("base64").arg("-d"), log.as_bytes()).stdout;
    let log = event_log(&log);
    let replayed: Vec<String> =
        (0..10).map(|register| format!("{register} {}", hex(&replay(&log, register)))).collect();
    assert_eq!(registers(said), replayed, "{log:#?}");
    let mut started = log.iter().filter(|entry| entry.register == 4 && entry.kind == BOOT_SERVICES_APPLICATION);
    assert_eq!(started.next().map(|entry| hex(&entry.digest)), Some(hex(&authenticode(loader))));
}

/// One image from packages, made larger, boots under UEFI, goes on to do so after the guest has put its loaders and its menu in place anew, and then
/// with Secure Boot; the TPM there has measured what was started. (Under a BIOS it is booted by the tests of `bootstrap`.) A loader that was
/// changed is refused.
#[test]
fn an_image_from_packages_boots_under_uefi_and_secure_boot_boots() {
    let _lock = appliance_lock();
    let bench = Bench::new("none".into());
    let image = testkit::debian_for_uefi(Path::new(env!("CARGO_BIN_EXE_virt-maker")));
    let before = HostState::capture();
    // grub-cloud-amd64 does what it does when a new version of GRUB or shim has come.
    let anew = run("set -eu; [ -d /sys/firmware/efi ]; mountpoint /boot/efi; rm /boot/efi/EFI/BOOT/grubx64.efi; \
        dpkg-trigger --no-await /usr/lib/shim; dpkg --configure --pending; [ -e /boot/grub/i386-pc/core.img ]; \
        cmp /boot/efi/EFI/BOOT/grubx64.efi /usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed; update-grub");
    let secure = run(
        "set -eu; od -An -tx1 /sys/firmware/efi/efivars/SecureBoot-* | grep -q '01$'; dmesg | grep -q 'Secure boot enabled'",
    );
    let print = run(MEASURED);
    let text = format!(
        "format: 2\nspec:\n  import: {{disk: {{path: '{}', resize: {{size: 1200M, expand: root}}}}}}\n  steps:\n    \
         - boot: {{cpus: 1, firmware: uefi, tpm: true, steps: [{{{print}}}, {{{anew}}}]}}\n    \
         - boot: {{cpus: 1, firmware: secure-boot, tpm: true, steps: [{{{secure}}}, {{{print}}}, {{expect: {{console: 'login:'}}}}]}}\n",
        image.display()
    );
    let template = bench.path("t.yml");
    fs::write(&template, &text).unwrap();
    // Where the host's kernel has no vfat, the guest is opened in an appliance.
    let ran = bench.build("auto", &template, &[]).exits(0);
    let keys = ran.sealed();
    let said = |depth: usize| {
        let of_layer = ran.of("output").into_iter().filter(|event| event["key"] == keys[depth].as_str());
        of_layer.map(|event| event["text"].as_str().unwrap()).collect::<String>()
    };
    // What the second boot started is what the guest had put in its place in the first.
    measured(&said(2), &Volumes::of(&bench.image(&keys[1]), "qcow2").on_esp("/EFI/BOOT/BOOTX64.EFI"));
    // The firmware's code is in the first, and the state of Secure Boot with its keys in the eighth.
    let (plain, secure) = (said(1), said(2));
    let (plain, secure) = (registers(&plain), registers(&secure));
    assert_eq!((plain.len(), secure.len()), (10, 10));
    assert!(plain[0] != secure[0] && plain[7] != secure[7], "{plain:?} {secure:?}");

    // GRUB as somebody changed it: its signature is there, and wrong.
    let change = run("printf changed | dd of=/boot/efi/EFI/BOOT/grubx64.efi bs=1 seek=200000 conv=notrunc");
    let refused = format!("    - {change}\n    - boot: {{cpus: 1, firmware: secure-boot, steps: [{{run: 'true'}}]}}\n");
    fs::write(&template, text + &refused).unwrap();
    let ran = bench.build("auto", &template, &[]).exits(4);
    assert!(ran.stderr.contains("Secure Boot refused what shim was to start"), "{}", ran.stderr);
    before.assert_nothing_left();
}
