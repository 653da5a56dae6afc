//! Disks of all kinds, made by the programs that people use; and broken ones.

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::*;

const MIB: u64 = 1 << 20;

/// The least that is a program for UEFI, signed or not.
fn loader(signed: bool) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[60] = 0x80;
    bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
    bytes[0x84..0x86].copy_from_slice(&[0x64, 0x86]);
    bytes[0x94] = 240;
    bytes[0x98..0x9a].copy_from_slice(&[0x0b, 0x02]);
    bytes[0x98 + 108] = 16;
    if signed {
        bytes[0x98 + 144..0x98 + 152].copy_from_slice(&[0, 8, 0, 0, 16, 0, 0, 0]);
        bytes[2048..2056].copy_from_slice(&[16, 0, 0, 0, 0, 2, 2, 0]);
    }
    bytes
}

/// A file system made by `mformat` in a partition of so many MiB, with these files.
fn esp(folder: &Path, mib: u64, options: &[&str], files: &[(&str, &[u8])]) -> Vec<u8> {
    let image = folder.join("esp.img");
    File::create(&image).unwrap().set_len(mib * MIB).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).arg("-i").arg(&image).args(arguments).status().unwrap();
        assert!(done.success(), "{program} {arguments:?}");
    };
    run("mformat", &[options, &["::"]].concat());
    let mut made = Vec::new();
    for (path, bytes) in files {
        let mut above = String::new();
        let parts: Vec<&str> = path.split('/').collect();
        for part in &parts[..parts.len() - 1] {
            above = format!("{above}/{part}");
            if !made.contains(&above) {
                run("mmd", &[&format!("::{above}")]);
                made.push(above.clone());
            }
        }
        let file = folder.join("file");
        fs::write(&file, bytes).unwrap();
        run("mcopy", &[file.to_str().unwrap(), &format!("::/{path}")]);
    }
    fs::read(image).unwrap()
}

/// A disk of 80 MiB with this table, code in the first sector, and what is in its partitions.
fn disk(folder: &Path, table: &str, code: &[u8], parts: &[(u64, &[u8])]) -> Vec<u8> {
    let path = folder.join("disk.img");
    let file = File::create(&path).unwrap();
    file.set_len(80 * MIB).unwrap();
    let script = folder.join("table");
    fs::write(&script, table).unwrap();
    let mut sfdisk = Command::new("sfdisk");
    let sfdisk = sfdisk.args(["-q", "--no-reread"]).arg(&path).stdin(File::open(script).unwrap());
    assert!(sfdisk.output().unwrap().status.success());
    file.write_all_at(code, 0).unwrap();
    for (mib, bytes) in parts {
        file.write_all_at(bytes, mib * MIB).unwrap();
    }
    fs::read(path).unwrap()
}

fn read(disk: &[u8]) -> Result<Boots, String> {
    Boots::read(&mut Cursor::new(disk), disk.len() as u64)
}

const GPT: &str = "label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\n\
                   start=4096, size=143360, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n";

#[test]
fn what_boots_is_read_from_disks_of_all_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (signed, plain) = (loader(true), loader(false));
    let found = |path: &str, signed| Some(Loader { path: path.into(), signed });
    // FAT32 with folders of more than one cluster, and a long name before the one that counts.
    let mut files: Vec<(String, &[u8])> =
        (0..40).map(|number| (format!("EFI/debian/a long name {number}.txt"), &b"x"[..])).collect();
    files.push(("EFI/debian/grubx64.efi".into(), &plain));
    files.push(("EFI/BOOT/BOOTX64.EFI".into(), &signed));
    let named: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&**name, *bytes)).collect();
    let both = esp(folder, 70, &["-F", "-c", "1"], &named);
    let made = disk(folder, GPT, &[0xeb, 0x63], &[(1, b"GRUB's core"), (2, &both)]);
    let expected = Boots { bios: true, uefi: found("EFI/BOOT/BOOTX64.EFI", true) };
    assert_eq!(read(&made).unwrap(), expected);
    assert_eq!(expected.words(), "BIOS, UEFI (signed)");
    // Code that finds nothing to go on with; and none.
    for (code, core) in [(&[0xeb, 0x63][..], &b""[..]), (b"", b"GRUB's core")] {
        let made = disk(folder, GPT, code, &[(1, core), (2, &both)]);
        assert_eq!(read(&made).unwrap(), Boots { bios: false, ..expected.clone() });
    }

    // Only by a variable, by its long name; FAT16.
    let long = esp(folder, 20, &[], &[("EFI/systemd/systemd-bootx64.efi", &plain), ("EFI/systemd/notes", b"x")]);
    let made = disk(folder, GPT, b"", &[(2, &long)]);
    let boots = read(&made).unwrap();
    assert_eq!(boots, Boots { bios: false, uefi: found("EFI/systemd/systemd-bootx64.efi", false) });
    assert!(!boots.uefi_alone() && boots.words() == "UEFI (by a variable)");

    // MBR, and FAT12.
    let mbr = "label: dos\nstart=2048, size=8192, type=ef\nstart=10240, size=2048, type=83";
    let small = esp(folder, 2, &["-c", "4"], &[("EFI/BOOT/BOOTX64.EFI", &plain)]);
    let uefi = found("EFI/BOOT/BOOTX64.EFI", false);
    for (code, end, bios) in
        [("", "", false), ("no boot", "", false), ("no boot", ", bootable", true), ("GRUB", "", true)]
    {
        let made = disk(folder, &format!("{mbr}{end}\n"), code.as_bytes(), &[(1, &small)]);
        assert_eq!(read(&made).unwrap(), Boots { bios, uefi: uefi.clone() }, "{code}{end}");
    }
    // An ESP with nothing on it, a disk without a table, one without anything.
    let made = disk(folder, GPT, b"", &[(2, &esp(folder, 40, &["-F", "-c", "1"], &[]))]);
    assert_eq!(read(&made).unwrap(), Boots::default());
    let mut program = vec![0; MIB as usize];
    program[..3].copy_from_slice(&[0xeb, 0xfe, 0x90]);
    program[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert!(read(&program).unwrap().bios);
    assert_eq!(read(&vec![0; MIB as usize]).unwrap(), Boots::default());
    assert_eq!(read(b"").unwrap(), Boots::default());
}

#[test]
fn a_real_loader_is_known_as_signed() {
    // shim's form: PE32+, with its table of certificates at the end.
    let mut bytes = loader(true);
    let ask = |bytes: &[u8]| {
        pe::signed(|at, into| {
            let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..at.checked_add(into.len())?));
            Ok(from.map(|from| into.copy_from_slice(from)).is_some())
        })
        .unwrap()
    };
    assert_eq!(ask(&bytes), Some(true));
    // Cut off before its certificates.
    assert_eq!(ask(&bytes[..2050]), Some(false));
    bytes[0x84] = 0x4c;
    assert_eq!(ask(&bytes), None, "for another machine");
    assert_eq!(ask(b"#!/bin/sh"), None);
}

#[test]
fn a_broken_disk_is_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let (signed, folder) = (loader(true), folder.path());
    let small = esp(folder, 2, &["-c", "4"], &[("EFI/BOOT/BOOTX64.EFI", &signed)]);
    let large = esp(folder, 40, &["-F", "-c", "1"], &[("EFI/BOOT/BOOTX64.EFI", &signed)]);
    for part in [&small, &large] {
        let sound = disk(folder, GPT, b"", &[(2, part)]);
        assert!(read(&sound).unwrap().uefi_alone());
        // All that is not zero may be anything.
        let places: Vec<usize> = (2 << 20..sound.len()).filter(|at| sound[*at] != 0).collect();
        let mut broken = sound.clone();
        let mut random = 7u32;
        let mut errors = 0;
        for _ in 0..3000 {
            let mut changed = Vec::new();
            for _ in 0..4 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let mut at = places[random as usize / 5 % places.len()];
                // The boot sector, the first of all to be believed.
                if random & 0x100 == 0 {
                    at = (2 << 20) + at % 90;
                }
                changed.push(at);
                broken[at] = (random >> 23) as u8;
            }
            errors += usize::from(read(&broken).is_err());
            changed.iter().for_each(|at| broken[*at] = sound[*at]);
        }
        assert!(errors > 100, "{errors}");
    }

    // A folder that is its own next cluster, and a loader as long as the format allows.
    let mut turning = large.clone();
    let table = 32 * 512;
    turning[table + 8..table + 12].copy_from_slice(&[2, 0, 0, 0]);
    let error = read(&disk(folder, GPT, b"", &[(2, &turning)])).unwrap_err();
    assert!(error.contains("partition 2") && error.contains("no end"), "{error}");
    let error = read(&disk(folder, GPT, b"", &[(2, b"nothing of a kind that is known")])).unwrap_err();
    assert!(error.contains("no FAT file system"), "{error}");
}
