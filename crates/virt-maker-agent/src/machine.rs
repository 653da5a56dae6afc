//! The machine that a command sees, in tables: the same on each engine.
//!
//! It has processors and memory, and no devices but the guest's disk ([`crate::blocks`]); its kernel was started for the guest's own root.

use std::cmp::Ordering;

/// Files of `/proc` that tell of the host, and what they say instead.
pub const FILES: &[(&str, &[u8])] = &[
    ("config.gz", NOTHING_COMPRESSED),
    ("diskstats", b""),
    // All keys of the user, whom no namespace keeps apart.
    ("key-users", b""),
    ("keys", b""),
    // The state of each page of the host's memory, and who holds locks.
    ("kpagecgroup", b""),
    ("kpagecount", b""),
    ("kpageflags", b""),
    ("locks", b""),
    ("mdstat", b"Personalities : \nunused devices: <none>\n"),
    // Modules that a small initramfs would be made of.
    ("modules", b""),
    ("partitions", b"major minor  #blocks  name\n\n"),
    ("slabinfo", b""),
    ("swaps", b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"),
    ("timer_list", b""),
    ("vmallocinfo", b""),
];

/// No bytes, as `gzip` has them.
const NOTHING_COMPRESSED: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Folders of `/proc` that hold only what is of the host: its devices, drivers, file systems.
pub const EMPTY: &[&str] = &["acpi", "asound", "bus", "driver", "fs", "irq", "scsi"];

/// Folders of `/sys`, as they are where there is nothing in them.
pub const SKELETON: &[&str] = &[
    "block",
    "bus",
    "class/block",
    "class/net",
    "dev/block",
    "dev/char",
    "devices/system",
    "devices/virtual",
    "firmware",
    "fs/cgroup",
    "kernel/mm",
    "module",
    "power",
];

/// What is shown of the real one: programs ask how many processors there are, and allocators for sizes of pages.
pub const SHOWN: &[&str] =
    &["devices/system/cpu", "devices/system/node", "kernel/mm/hugepages", "kernel/mm/transparent_hugepage"];

/// Settings of dracut that a command finds in `/etc/dracut.conf.d`, behind those of the guest. The options of `/` are those of the fstab: the mount
/// that a command sees has the sandbox's (`nosuid`, `nodev`), which must not get into an initial RAM disk. And it is for any machine: for `hostonly`,
/// dracut asks which drivers are at work and which modules are loaded, and that says nothing of the machine that the guest will boot on.
pub const DRACUT: &str = "use_fstab=yes\nhostonly=no\n";

/// The kernel's command line, for a root file system of this identity.
pub fn command_line(root: Option<&str>) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match root.filter(|uuid| !uuid.is_empty() && uuid.bytes().all(plain)) {
        Some(uuid) => format!("root=UUID={uuid} ro\n"),
        None => "ro\n".to_string(),
    }
}

/// The variable in which a command finds the release of the guest's newest kernel: `uname` tells of the kernel that builds.
pub const KERNEL: &str = "GUEST_KERNEL";

/// The release of the newest kernel, by the names in the guest's `/boot` and, where no kernel is there, in its `/lib/modules`.
pub fn newest_kernel<'a>(boot: &'a [String], modules: impl FnOnce() -> &'a [String]) -> Option<&'a str> {
    let plain = |name: &&str| {
        let sign = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte);
        name.starts_with(|first: char| first.is_ascii_digit()) && name.len() <= 128 && name.bytes().all(sign)
    };
    let newest =
        |names: &mut dyn Iterator<Item = &'a str>| names.filter(plain).max_by(|one, other| compare(one, other));
    newest(&mut boot.iter().filter_map(|name| name.strip_prefix("vmlinuz-")))
        .or_else(|| newest(&mut modules().iter().map(String::as_str)))
}

/// Numbers by their value, all else by its text.
fn compare(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    while !one.is_empty() && !other.is_empty() {
        let ((first, one_rest), (second, other_rest)) = (part(one), part(other));
        let order = match (first.parse::<u64>(), second.parse::<u64>()) {
            (Ok(first), Ok(second)) => first.cmp(&second),
            _ => first.cmp(second),
        };
        if order != Ordering::Equal {
            return order;
        }
        (one, other) = (one_rest, other_rest);
    }
    one.len().cmp(&other.len())
}

/// The digits, or what is none, that a text begins with.
fn part(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|first: char| first.is_ascii_digit());
    let end = text.find(|letter: char| letter.is_ascii_digit() != digits).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_found_by_its_numbers() {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let boot = names(&[
            "vmlinuz-6.1.0-9-amd64",
            "vmlinuz-6.1.0-10-amd64",
            "initrd.img-7",
            "vmlinuz-0-rescue-x y",
            "vmlinuz",
        ]);
        assert_eq!(newest_kernel(&boot, || &[]), Some("6.1.0-10-amd64"));
        let modules = names(&["5.14.0-70.el9.x86_64", "5.14.0-427.el9.x86_64", "extra"]);
        assert_eq!(newest_kernel(&[], || &modules), Some("5.14.0-427.el9.x86_64"));
        assert_eq!(newest_kernel(&[], || &[]), None);
    }

    #[test]
    fn the_command_line_has_one_root_or_none() {
        assert_eq!(command_line(Some("01ab-CD")), "root=UUID=01ab-CD ro\n");
        for odd in [None, Some(""), Some("x init=/bin/sh"), Some("a\nb")] {
            assert_eq!(command_line(odd), "ro\n");
        }
    }
}
