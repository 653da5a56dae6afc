//! Images that qemu makes are taken; hostile, damaged and truncated ones are refused, each with its own words.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

fn run(arguments: &[&str], path: &Path) {
    let out = Command::new(arguments[0]).args(&arguments[1..]).arg(path).output().unwrap();
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A 16 MiB disk with some data in it, as `qemu-img convert` writes it.
fn image(folder: &Path, options: &str, compressed: bool) -> PathBuf {
    let raw = folder.join("disk.raw");
    let mut bytes = vec![0u8; 16 << 20];
    for (index, byte) in bytes[5 << 20..8 << 20].iter_mut().enumerate() {
        *byte = ((index * 2_654_435_761) >> 13) as u8;
    }
    bytes[15 << 20..].fill(3);
    fs::write(&raw, &bytes).unwrap();
    let path = folder.join("image.qcow2");
    let mut arguments = vec!["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", options];
    arguments.extend(compressed.then_some("-c"));
    arguments.push(raw.to_str().unwrap());
    run(&arguments, &path);
    path
}

fn checked(path: &Path) -> Result<u64, String> {
    let file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    check(&file, length)
}

#[test]
fn what_qemu_makes_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    for options in [
        "compat=0.10",
        "compat=1.1",
        "cluster_size=512",
        "cluster_size=4k",
        "cluster_size=2M",
        "extended_l2=on,cluster_size=16k",
        "compression_type=zstd",
        "lazy_refcounts=on",
        "refcount_bits=1",
        "refcount_bits=64",
        "preallocation=metadata",
    ] {
        for compressed in [false, true] {
            if compressed && options == "preallocation=metadata" {
                continue;
            }
            let path = image(folder.path(), options, compressed);
            assert_eq!(checked(&path), Ok(16 << 20), "{options}, compressed: {compressed}");
        }
    }
}

/// Changes of the header of a good image, and what is said about each.
#[test]
fn hostile_headers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "compat=1.1", false);
    let good = fs::read(&path).unwrap();
    let header_length = u32::from_be_bytes(good[100..104].try_into().unwrap()) as usize;
    let cases: [(&str, usize, &[u8]); 29] = [
        ("qcow2 version 9", 4, &9u32.to_be_bytes()),
        ("names a backing file", 8, &512u64.to_be_bytes()),
        ("names a backing file", 16, &10u32.to_be_bytes()),
        ("clusters of 2^8", 20, &8u32.to_be_bytes()),
        ("clusters of 2^63", 20, &63u32.to_be_bytes()),
        ("virtual size of 1152921504606846976", 24, &(1u64 << 60).to_be_bytes()),
        ("virtual size of 0", 24, &0u64.to_be_bytes()),
        ("no multiple of a sector", 24, &1001u64.to_be_bytes()),
        ("L1 table is too small", 24, &(1u64 << 42).to_be_bytes()),
        ("encrypted", 32, &1u32.to_be_bytes()),
        ("encrypted", 32, &2u32.to_be_bytes()),
        ("L1 table is too small", 36, &0u32.to_be_bytes()),
        ("larger than qcow2 allows", 36, &u32::MAX.to_be_bytes()),
        ("L1 table lies outside", 40, &(1u64 << 50).to_be_bytes()),
        ("L1 table lies outside", 40, &0u64.to_be_bytes()),
        ("L1 table lies outside", 40, &(u64::MAX - 0xffff).to_be_bytes()),
        ("refcount table lies outside", 48, &u64::MAX.to_be_bytes()),
        ("refcount table of 0 bytes", 56, &0u32.to_be_bytes()),
        ("outside of what qcow2 allows", 56, &u32::MAX.to_be_bytes()),
        ("internal snapshots", 60, &1u32.to_be_bytes()),
        ("marked as corrupt", 72, &2u64.to_be_bytes()),
        ("external data file", 72, &4u64.to_be_bytes()),
        ("features that are not known (bits 0x200000000)", 72, &(1u64 << 33).to_be_bytes()),
        ("compression type 0", 72, &8u64.to_be_bytes()),
        ("refcounts are wider", 96, &7u32.to_be_bytes()),
        ("a header of 72 bytes", 100, &72u32.to_be_bytes()),
        ("a header of 4294967288 bytes", 100, &(u32::MAX - 7).to_be_bytes()),
        ("names an external data file", header_length, &EXTENSION_DATA_FILE.to_be_bytes()),
        ("does not end within", header_length + 4, &u32::MAX.to_be_bytes()),
    ];
    for (words, at, bytes) in cases {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&path, &bad).unwrap();
        let problem = checked(&path).expect_err(words);
        assert!(problem.contains(words), "{words}: {problem}");
    }
}

/// An extension that names a data file is found wherever it stands, also far into a large cluster.
#[test]
fn extensions_are_read_to_their_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "compat=1.1", false);
    let mut bytes = fs::read(&path).unwrap();
    let at = u32::from_be_bytes(bytes[100..104].try_into().unwrap()) as usize;
    let put = |bytes: &mut Vec<u8>, at: usize, kind: u32, length: u32| {
        bytes[at..at + 4].copy_from_slice(&kind.to_be_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&length.to_be_bytes());
    };
    put(&mut bytes, at, 0x1234_5678, 30_001);
    put(&mut bytes, at + 8 + 30_008, EXTENSION_DATA_FILE, 8);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(checked(&path), Err("it names an external data file".into()));
    // Extensions of no length do not keep it busy for ever.
    for index in 0..100 {
        put(&mut bytes, at + 8 * index, 0x1234_5678, 0);
    }
    fs::write(&path, &bytes).unwrap();
    assert!(checked(&path).unwrap_err().contains("more extensions"));
}

#[test]
fn files_that_other_programs_refer_to_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let base = image(folder.path(), "compat=1.1", false);
    let overlay = folder.path().join("overlay.qcow2");
    run(&["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base.to_str().unwrap()], &overlay);
    assert!(checked(&overlay).unwrap_err().contains("backing file"));
    let external = folder.path().join("external.qcow2");
    let data = format!("data_file={},data_file_raw=on", folder.path().join("data").display());
    let out = Command::new("qemu-img").args(["create", "-f", "qcow2", "-o", &data]).arg(&external).arg("64M").output();
    assert!(out.unwrap().status.success());
    assert!(checked(&external).unwrap_err().contains("external data file"));
    run(&["qemu-img", "snapshot", "-c", "one"], &base);
    assert!(checked(&base).unwrap_err().contains("internal snapshots"));
}

/// Wherever a file is cut, it shows, save within its last cluster: plain, compressed and with small clusters.
#[test]
fn truncated_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (options, compressed) in [("cluster_size=64k", false), ("cluster_size=4k", false), ("cluster_size=64k", true)] {
        let path = image(folder.path(), options, compressed);
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        // A file may end within its last cluster, so the first cut takes a little more than that.
        let cuts = [20, 10, 5, 2].map(|part| length - (length / part).max(65 << 10));
        for cut in cuts.into_iter().chain([70_000, 4096, 200, 80, 30, 5]) {
            file.set_len(cut).unwrap();
            let problem = checked(&path).expect_err("a cut file is taken");
            assert!(problem.contains("truncated") || problem.contains("lies outside"), "{cut} of {length}: {problem}");
        }
    }
}

/// Many L1 entries that point at one table do not make the check read it again and again.
#[test]
fn the_work_is_bounded_by_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    let out = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("60T").output().unwrap();
    assert!(out.status.success());
    assert_eq!(checked(&path), Ok(60 << 40));
    let mut bytes = fs::read(&path).unwrap();
    let l1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap()) as usize;
    let entries = u32::from_be_bytes(bytes[36..40].try_into().unwrap()) as usize;
    bytes.resize(l1 + entries * 8, 0);
    for entry in bytes[l1..].chunks_exact_mut(8) {
        entry.copy_from_slice(&0x10000u64.to_be_bytes());
    }
    fs::write(&path, &bytes).unwrap();
    assert!(checked(&path).unwrap_err().contains("more L2 tables than clusters"));
}

/// No bytes make it panic or take more memory than the file: random changes of header and tables, and every cut.
#[test]
fn no_file_makes_it_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    let out = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k"])
        .arg(&path)
        .arg("1G")
        .output()
        .unwrap();
    assert!(out.status.success());
    run(&["qemu-io", "-f", "qcow2", "-c", "write -P 9 1M 1M"], &path);
    let good = fs::read(&path).unwrap();
    assert_eq!(checked(&path), Ok(1 << 30));
    for length in 0..200 {
        fs::write(&path, &good[..length]).unwrap();
        assert!(checked(&path).is_err(), "{length} bytes");
    }
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.write_all_at(&good, 0).unwrap();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let changes = 1 + random() % 3;
        let mut places = Vec::new();
        for _ in 0..changes {
            let area = if random() % 3 == 0 { good.len() } else { 112 };
            let at = 4 + random() as usize % (area - 4);
            let value = [0, 1, 0x7f, 0x80, 0xff, random() as u8][random() as usize % 6];
            file.write_all_at(&[value], at as u64).unwrap();
            places.push(at);
        }
        let _ = check(&file, good.len() as u64);
        for at in places {
            file.write_all_at(&good[at..=at], at as u64).unwrap();
        }
    }
    assert_eq!(check(&file, good.len() as u64), Ok(1 << 30));
}
