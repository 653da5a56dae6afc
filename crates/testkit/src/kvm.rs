//! What is known of this host's KVM, found out once for all tests.
//!
//! There are hosts where a virtual CPU runs with KVM and no kernel does. virt-maker finds that out by booting one, for half a
//! minute, and keeps the answer in its cache folder; tests have a new one each.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cache::{cache_dir, fixture};

/// Puts what this program knows of KVM on this boot of the host into a cache folder (`$XDG_CACHE_HOME`).
pub fn know_kvm(program: &Path, cache: &Path) {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the kernel says its boot");
    let known = fixture("kvm", "json", boot.as_bytes(), |target, folder| {
        fs::create_dir_all(folder.join("virt-maker")).expect("the folder is ours");
        // The machine that is saved on the way serves all tests.
        let shared = cache_dir().join("vm");
        fs::create_dir_all(&shared).expect("the cache can be written");
        std::os::unix::fs::symlink(shared, folder.join("virt-maker/vm")).expect("the folder is ours");
        let mut command = Command::new(program);
        command.args(["appliance", "build"]).env("XDG_CACHE_HOME", folder).stdin(Stdio::null());
        // A host where no machine can be made says so in the tests that want one.
        let _ = command.output();
        let known = fs::read(folder.join("virt-maker/kvm.json")).unwrap_or_default();
        fs::write(target, known).expect("the cache can be written");
    });
    let text = fs::read(known).expect("it was made");
    if !text.is_empty() {
        fs::create_dir_all(cache.join("virt-maker")).expect("the folder is ours");
        fs::write(cache.join("virt-maker/kvm.json"), text).expect("the folder is ours");
    }
}
