//! A guest that boots in a few seconds: busybox, a kernel of the host, and what the agent of virt-maker needs.
//!
//! It is made in two steps, by who tries virt-maker: the guest is exported as `tar` after [`SMALL_GUEST_STEP`], and a template that imports
//! that tree by [`small_import`] makes a disk of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;
use crate::tiny::{TinyOptions, tiny_guest};

/// What is done to the guest before it is exported: busybox is its init, and there is a page to serve.
pub const SMALL_GUEST_STEP: &str =
    "rm -f /sbin/init; ln -s /bin/busybox /sbin/init; mkdir -p /srv; echo served > /srv/index.html";

/// The guest. `agent` is the program that virt-maker puts into it.
pub fn small_guest(agent: &Path) -> PathBuf {
    small_guest_with(agent, &[])
}

/// The same with these programs of the host, at their places there.
pub fn small_guest_with(agent: &Path, programs: &[&str]) -> PathBuf {
    let init = b"::sysinit:/bin/busybox ip link set lo up\n";
    // The agent of a build for tests is linked with the libraries of its host, too.
    let mut libraries = BTreeSet::new();
    for program in programs.iter().map(Path::new).chain([agent]) {
        let said = String::from_utf8(run(Command::new("ldd").arg(program)).stdout).expect("ldd prints text");
        libraries.extend(said.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
    }
    let paths = libraries.into_iter().chain(programs.iter().map(|program| (*program).to_owned()));
    let read = |path: String| (fs::read(&path).expect("a program of this host is readable"), path);
    let mut files: Vec<_> = paths.map(read).map(|(content, path)| (path, content, 0o755)).collect();
    files.push(("/etc/inittab".to_owned(), init.to_vec(), 0o644));
    tiny_guest(&TinyOptions { files, ..TinyOptions::default() })
}

/// An import, as YAML in one line, that makes a disk of the tree `source`. It reads `/boot` and the [`cache_dir`](crate::cache_dir).
pub fn small_import(source: &str) -> String {
    let kernel = crate::host_kernel();
    let initrd = crate::small_initrd(&kernel);
    format!(
        "{{rootfs: {{source: \"{source}\", size: 256M, kernel: {{image: /boot/vmlinuz-{kernel}, initrd: \"{}\"}}}}}}",
        initrd.display()
    )
}
