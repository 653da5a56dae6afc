//! Installers under UEFI. GRUB takes the part of the installer: it boots in seconds, has a menu, and needs no Linux.

use std::fs;
use std::path::PathBuf;

use crate::common::Bench;
use testkit::{HostState, appliance_lock};

const MENU: &str = "set timeout=-1\n\
                    menuentry 'First' { halt }\n\
                    menuentry 'Second' {\n  echo It was chosen.\n  sleep 2\n  halt\n}\n";

#[test]
fn an_installer_is_driven_under_uefi_and_secure_boot_refuses_it_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(PathBuf::from("none"));
    let template = |firmware: &str, steps: &str| {
        let cd = testkit::grub_cd_for_uefi(MENU).display().to_string();
        let text = format!(
            "format: 2\nspec:\n  import:\n    isoboot:\n      url: {cd}\n      disk: 16M\n      memory: 256M\n      network: false\n      \
             timeout: 3m\n      firmware: {firmware}\n      tpm: true\n      floppy: {{a.txt: x}}\n      files: {{b.txt: x}}\n      \
             cds: [{{url: '{cd}'}}, {{url: '{cd}'}}]\n      steps: [{steps}]\n"
        );
        let path = bench.path("t.yml");
        fs::write(&path, text).unwrap();
        path
    };
    let steps = "{wait_for: {console: 'Second', timeout: 2m}}, {keys: <down><enter>}, {wait_for: {console: 'It was chosen', timeout: 1m}}";
    let ran = bench.build("chroot", &template("uefi", steps), &[]).exits(4);
    // It has done all of it, and installed nothing.
    assert!(ran.stderr.contains("the installer has ended and written nothing to its disk"), "{}", ran.stderr);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());

    let ran = bench.build("chroot", &template("secure-boot", ""), &[]).exits(4);
    assert!(ran.stderr.contains("Secure Boot refused the boot loader"), "{}", ran.stderr);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}
