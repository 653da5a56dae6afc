//! Steps that a tiny guest is enough for.

use std::fs;

use testkit::{HostState, TinyOptions, appliance_lock, tiny_guest};

use super::{Case, check, fixtures, host_files};
use crate::common::Bench;

on_chroot_and_vm!(firstboot_with_scripts_of_init_d);

fn guest() -> TinyOptions {
    let file = |path: &str, text: &str, mode| (path.to_owned(), text.as_bytes().to_vec(), mode);
    TinyOptions {
        files: vec![
            file("/etc/default/grub", "GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX=\"quiet\"\n", 0o644),
            file("/boot/grub/grub.cfg", "menuentry 'x' {\n\tlinux /vmlinuz root=/dev/sda ro quiet\n}\n", 0o600),
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

fn cases(bench: &Bench) -> Vec<Case> {
    fixtures::load("steps/tiny", &host_files::make(bench))
}

#[test]
fn tiny_steps_change_what_they_say_with_chroot() {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&guest()));
    let ran = check(&bench, "chroot", &cases(&bench), &[]);
    let said: String = ran.of("output").iter().map(|event| event["text"].as_str().unwrap()).collect();
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
    let bench = Bench::new(tiny_guest(&guest()));
    check(&bench, "libguestfs", &cases(&bench), &[]);
    before.assert_nothing_left();
}

#[test]
fn tiny_steps_change_what_they_say_with_vm_appliance() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&guest()));
    check(&bench, "vm", &cases(&bench), &[]);
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
