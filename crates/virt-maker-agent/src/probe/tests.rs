use std::process::Command;

use super::*;

/// Makes a file system on a file with the system's tool and compares what is found with `blkid`.
fn compare(make: &[&str], size: u64, expected: &str) -> Found {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    let path = file.path().to_str().unwrap();
    let made = Command::new(make[0]).args(&make[1..]).arg(path).output().unwrap();
    assert!(made.status.success(), "{make:?}: {}", String::from_utf8_lossy(&made.stderr));
    let found = probe(&mut file.reopen().unwrap(), 0, size).unwrap().unwrap();
    let tag = |name: &str| {
        let output = Command::new("blkid").args(["-p", "-o", "value", "-s", name, path]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    assert_eq!(found.kind, expected);
    assert_eq!(
        (found.kind, found.uuid.as_str(), found.label.as_str()),
        (tag("TYPE").as_str(), tag("UUID").as_str(), tag("LABEL").as_str())
    );
    found
}

#[test]
fn what_is_found_is_what_blkid_finds() {
    const MIB: u64 = 1 << 20;
    for (kind, journal) in [("ext2", false), ("ext3", true), ("ext4", true)] {
        let found = compare(&["mke2fs", "-q", "-F", "-t", kind, "-L", "a label"], 8 * MIB, kind);
        assert_eq!(found.content, Content::FileSystem { journal });
    }
    let found = compare(&["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal"], 8 * MIB, "ext4");
    assert_eq!(found.content, Content::FileSystem { journal: false });
    compare(&["mkfs.xfs", "-q", "-f", "-L", "twelve-chars"], 320 * MIB, "xfs");
    compare(&["mkfs.btrfs", "-q", "-f", "-L", "some label"], 128 * MIB, "btrfs");
    compare(&["mkfs.vfat", "-F", "32", "-n", "EFI"], 64 * MIB, "vfat");
    compare(&["mkfs.vfat", "-F", "16", "-i", "0012abcd"], 16 * MIB, "vfat");
    let found = compare(&["mkswap", "-L", "swap"], MIB, "swap");
    assert_eq!(found.content, Content::Swap);
}

fn at(places: &[(usize, &[u8])]) -> Option<Found> {
    let mut bytes = vec![0u8; WINDOW];
    for (place, text) in places {
        bytes[*place..place + text.len()].copy_from_slice(text);
    }
    probe(&mut io::Cursor::new(&bytes), 0, WINDOW as u64).unwrap()
}

/// Formats whose tools are not at hand everywhere, by the offsets of their specifications.
#[test]
fn signatures_of_containers() {
    let luks = at(&[(0, b"LUKS\xba\xbe\0\x02"), (168, b"6d5a1b1e-0000-4000-8000-000000000001\0")]).unwrap();
    assert_eq!((luks.kind, luks.content), ("crypto_LUKS", Content::Container));
    assert_eq!(luks.uuid, "6d5a1b1e-0000-4000-8000-000000000001");
    let lvm = at(&[(512, b"LABELONE"), (536, b"LVM2 001")]).unwrap();
    assert_eq!((lvm.kind, lvm.content), ("LVM2_member", Content::Container));
    assert_eq!(at(&[(4096, b"\xfc\x4e\x2b\xa9")]).unwrap().kind, "linux_raid_member");
    // A file system inside of a container does not hide it.
    assert_eq!(at(&[(512, b"LABELONE"), (536, b"LVM2 001"), (1080, b"\x53\xef")]).unwrap().kind, "LVM2_member");
    // Of two disks.
    let btrfs = at(&[(0x10040, b"_BHRfS_M"), (0x10088, &[2])]).unwrap();
    assert_eq!((btrfs.kind, btrfs.content), ("btrfs", Content::Container));
    assert_eq!(at(&[(0, b"hsqs")]).unwrap().content, Content::ReadOnly);
    assert_eq!(at(&[(1024, b"\xe2\xe1\xf5\xe0")]).unwrap().kind, "erofs");
    let iso = at(&[(32769, b"CD001"), (32808, b"CDROM      "), (32768 + 813, b"2024010203040506")]).unwrap();
    assert_eq!((iso.kind, iso.label.as_str(), iso.uuid.as_str()), ("iso9660", "CDROM", "2024-01-02-03-04-05-06"));
}

#[test]
fn nothing_and_noise_are_nothing() {
    assert_eq!(at(&[]), None);
    assert_eq!(probe(&mut io::Cursor::new(&[][..]), 0, 0).unwrap(), None);
    assert_eq!(probe(&mut io::Cursor::new(&[1, 2, 3][..]), 100, 5000).unwrap(), None);
    // All bytes alike: nothing panics.
    for byte in 0..=255u8 {
        let bytes = vec![byte; WINDOW];
        let _ = probe(&mut io::Cursor::new(&bytes), 0, WINDOW as u64).unwrap();
    }
    // A label that is no text is replaced, not trusted.
    let noise = at(&[(0, b"XFSB"), (108, b"\xff\xfe\x1b[2J")]).unwrap();
    assert!(noise.label.contains('\u{fffd}'));
}
