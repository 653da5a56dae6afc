//! Steps that a tiny guest is enough for.

use std::fs;

use testkit::{HostState, TinyOptions, appliance_lock, tiny_guest};

use super::{Case, check, fixtures, host_files};
use crate::common::{Bench, Ran};

on_chroot_and_vm!(firstboot_with_scripts_of_init_d);

fn guest() -> TinyOptions {
    let file = |path: &str, text: &str, mode| (path.to_owned(), text.as_bytes().to_vec(), mode);
    TinyOptions {
        files: vec![
            file("/etc/default/grub", "GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX=\"quiet\"\n", 0o644),
            file("/boot/grub/grub.cfg", "menuentry 'x' {\n\tlinux /vmlinuz root=/dev/sda ro quiet\n}\n", 0o600),
            file("/boot/vmlinuz-6.1.0-9-tiny", "", 0o644),
            file("/boot/vmlinuz-6.1.0-10-tiny", "", 0o644),
            file("/boot/loader/entries/a.conf", "title a\noptions root=/dev/sda\n", 0o644),
            file("/etc/selinux/config", "# mode\nSELINUX=enforcing\nSELINUXTYPE=targeted\n", 0o640),
            file("/usr/lib/systemd/systemd", "", 0o755),
            file("/etc/systemd/system/README", "", 0o644),
            file("/etc/ssh/ssh_host_rsa_key", "secret", 0o600),
            file("/etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444),
            file("/etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nHWADDR=52:54:00:12:34:56\n", 0o644),
            file("/root/.bash_history", "ls\n", 0o600),
            file("/var/log/messages", "booted\n", 0o640),
            file("/var/log/apt/history.log.1.gz", "old", 0o640),
            file("/var/lib/systemd/random-seed", "seed", 0o600),
            file("/etc/dracut.conf.d/host.conf", "hostonly=yes\n", 0o644),
            file("/efi/loader/random-seed", "seed", 0o600),
            file("/root/.ssh/authorized_keys", "ssh-ed25519 AAAA me\n", 0o600),
            file("/usr/sbin/sshd", "", 0o755),
            file(
                "/usr/bin/ssh-keygen",
                "#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done; echo k > $1; echo p > $1.pub\n",
                0o755,
            ),
        ],
        links: vec![("/etc/linked".to_owned(), "issue".to_owned())],
        ..TinyOptions::default()
    }
}

/// The guest, whose files have what a step that changes them must not take away: an ACL, attributes, a label, capabilities; and
/// whose `resolv.conf` cannot be changed.
fn bench() -> Bench {
    let mut bench = Bench::new(tiny_guest(&guest()));
    let image = bench.path("base.raw");
    fs::copy(&bench.base, &image).unwrap();
    // u::rw-, u:1000:rw-, g::r--, m::rw-, o::r--, in the form of the kernel's attribute.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, rights, id) in
        [(1u16, 6u16, u32::MAX), (2, 6, 1000), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)]
    {
        acl.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let capability: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let label = b"system_u:object_r:etc_t:s0\0";
    let mut commands = String::new();
    let files = [
        ("/etc/hostname", "user.note", &b"x"[..]),
        ("/etc/hosts", "system.posix_acl_access", &acl),
        ("/etc/default/grub", "user.note", b"x"),
        ("/boot/grub/grub.cfg", "security.selinux", label),
        ("/boot/loader/entries/a.conf", "user.note", b"x"),
        ("/etc/selinux/config", "security.selinux", label),
        ("/etc/shadow", "system.posix_acl_access", &acl),
        ("/var/log/messages", "system.posix_acl_access", &acl),
        ("/usr/bin/ssh-keygen", "security.capability", &capability),
    ];
    for (number, (path, name, value)) in files.into_iter().enumerate() {
        let file = bench.path(&format!("value-{number}"));
        fs::write(&file, value).unwrap();
        commands.push_str(&format!("ea_set -f {} {path} {name}\n", file.display()));
    }
    // Its extents, and that it is immutable.
    commands.push_str("set_inode_field /etc/resolv.conf flags 0x80010\n");
    let script = bench.path("debugfs");
    fs::write(&script, commands).unwrap();
    testkit::run(std::process::Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(&image));
    testkit::fsck_clean(&image, "raw");
    bench.base = image;
    bench
}

/// What was said on the screen of the step that changed `resolv.conf` in vain.
fn told(ran: &Ran) {
    let told = |event: &serde_json::Value| {
        event["message"].as_str().is_some_and(|text| text.contains("/etc/resolv.conf is not kept"))
    };
    assert_eq!(ran.of("warning").into_iter().filter(|event| told(event)).count(), 1, "{:?}", ran.of("warning"));
}

fn cases(bench: &Bench) -> Vec<Case> {
    fixtures::load("steps/tiny", &host_files::make(bench))
}

#[test]
fn tiny_steps_change_what_they_say_with_chroot() {
    let before = HostState::capture();
    let bench = bench();
    let ran = check(&bench, "chroot", &cases(&bench), &[]);
    told(&ran);
    // What `sysprep` found and left is said as well.
    let left = |event: &&serde_json::Value| {
        let text = event["message"].as_str().unwrap();
        text.contains("cases.yml:")
            && text.contains("found, and not removed; is it there on purpose? keys that may log in: ")
    };
    assert_eq!(ran.of("warning").into_iter().filter(left).count(), 1, "{:?}", ran.of("warning"));
    let said = ran.said();
    assert!(said.contains("The password of root is "), "{said}");
    // Neither the events nor the records of layers have a password.
    assert!(!ran.stdout.contains("secret'") && !ran.stdout.contains("$(a) secret"));
    for (_, image) in
        std::fs::read_dir(bench.path("store-chroot/layers")).unwrap().map(|entry| ((), entry.unwrap().path()))
    {
        for file in fs::read_dir(image).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "json") {
                let text = fs::read_to_string(&file).unwrap();
                assert!(!text.contains("$(a) secret") && !text.contains("another one 4711"), "{}", file.display());
            }
        }
    }
    before.assert_nothing_left();
}

#[test]
fn tiny_steps_change_what_they_say_with_libguestfs() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = bench();
    told(&check(&bench, "libguestfs", &cases(&bench), &[]));
    before.assert_nothing_left();
}

#[test]
fn tiny_steps_change_what_they_say_with_vm_appliance() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = bench();
    told(&check(&bench, "vm", &cases(&bench), &[]));
    before.assert_nothing_left();
}

/// A guest whose init reads `/etc/init.d`.
fn firstboot_with_scripts_of_init_d(engine: &str) {
    let file = |path: &str| (path.to_owned(), Vec::new(), 0o644);
    let files = vec![file("/etc/init.d/README"), file("/etc/rc2.d/README"), file("/etc/rc5.d/README")];
    let bench = Bench::new(tiny_guest(&TinyOptions { files, ..TinyOptions::default() }));
    let cases = fixtures::load("steps/init-d", &[]);
    check(&bench, engine, &cases, &[]);
}
