//! The machine that a command sees, in tables: the same on each engine.
//!
//! It has processors and memory, and no devices but the guest's disk ([`crate::blocks`]); its kernel was started for the guest's own root.

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

/// Settings of dracut that a command finds in `/etc/dracut.conf.d`: the options of `/` are those of the fstab. The mount that a command sees has the
/// sandbox's (`nosuid`, `nodev`), which must not get into an initial RAM disk.
pub const DRACUT: &str = "use_fstab=yes\n";

/// The kernel's command line, for a root file system of this identity.
pub fn command_line(root: Option<&str>) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match root.filter(|uuid| !uuid.is_empty() && uuid.bytes().all(plain)) {
        Some(uuid) => format!("root=UUID={uuid} ro\n"),
        None => "ro\n".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_has_one_root_or_none() {
        assert_eq!(command_line(Some("01ab-CD")), "root=UUID=01ab-CD ro\n");
        for odd in [None, Some(""), Some("x init=/bin/sh"), Some("a\nb")] {
            assert_eq!(command_line(odd), "ro\n");
        }
    }
}
