//! Images that were made as small as they can be: the files are there, nothing before them moved, the table is right.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Bench, run};
use serde_json::Value;
use testkit::tree::{difference, tree_of_image};
use testkit::{Fs, HostState, TinyOptions, tiny_guest};

fn table(disk: &Path) -> Value {
    let said = testkit::run(Command::new("sfdisk").arg("--json").arg(disk)).stdout;
    serde_json::from_slice::<Value>(&said).unwrap()["partitiontable"].clone()
}

/// Exports a guest as it is and shrunk, in two formats, and returns both sizes.
fn shrunk(options: &TinyOptions) -> (Bench, u64, u64) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(options));
    let steps =
        [run("head -c 9000000 /dev/urandom > /gone; head -c 5000000 /dev/urandom > /data; sync"), run("rm /gone")];
    let export = "[{raw: {path: a.img}}, {raw: {path: small.img, shrink: true}}, {qcow2: {path: small.qcow2, shrink: true, sparsify: true, compress: zstd}}]";
    let template = bench.template("t.yml", &steps, export);
    bench.build("chroot", &template, &[]).exits(0);
    testkit::fsck_clean(&bench.path("small.img"), "raw");
    let trees = ["a.img", "small.img", "small.qcow2"]
        .map(|name| tree_of_image(&bench.path(name), if name.ends_with("qcow2") { "qcow2" } else { "raw" }));
    assert!(difference(&trees[0], &trees[1]).is_empty() && difference(&trees[0], &trees[2]).is_empty());
    let again = bench.build("chroot", &template, &[]).exits(0);
    assert!(again.of("export_finished").iter().all(|event| event["current"] == true), "{}", again.stdout);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
    let sizes = ["a.img", "small.img"].map(|name| fs::metadata(bench.path(name)).unwrap().len());
    (bench, sizes[0], sizes[1])
}

#[test]
fn the_last_partition_shrinks_and_the_disk_with_it() {
    let options = TinyOptions { size_mib: 600, partitioned: true, separate_boot: true, ..TinyOptions::default() };
    let (bench, before, after) = shrunk(&options);
    assert!(before > 600 << 20 && after < 150 << 20, "{before}, {after}");
    let [old, new] = ["a.img", "small.img"].map(|name| table(&bench.path(name)));
    testkit::run(Command::new("sfdisk").arg("--verify").arg(bench.path("small.img")));
    assert_eq!(old["id"], new["id"]);
    assert_eq!(old["partitions"][0]["size"], new["partitions"][0]["size"]);
    for index in [0, 1] {
        for part in ["start", "type", "uuid", "name"] {
            assert_eq!(old["partitions"][index][part], new["partitions"][index][part]);
        }
    }
    // What is before the last partition has not changed, but for the two places where the size of the disk stands.
    let read = |name: &str| {
        fs::read(bench.path(name)).unwrap()[..old["partitions"][1]["start"].as_u64().unwrap() as usize * 512].to_vec()
    };
    let (old, new) = (read("a.img"), read("small.img"));
    assert!(old[..440] == new[..440] && old[34 * 512..] == new[34 * 512..]);
    // The second copy of the table is where it belongs: sfdisk looks for it there.
    let said = testkit::run(Command::new("sfdisk").arg("--list").arg(bench.path("small.img")));
    let said = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
    assert!(!said.contains("backup") && !said.contains("mismatch"), "{said}");
}

#[test]
fn a_disk_without_a_table_shrinks() {
    let (_, before, after) = shrunk(&TinyOptions { size_mib: 400, ..TinyOptions::default() });
    assert!(before == 400 << 20 && after < 80 << 20, "{before}, {after}");
}

#[test]
fn what_cannot_shrink_is_named() {
    for fs in [Fs::Xfs, Fs::Btrfs] {
        let bench = Bench::new(tiny_guest(&TinyOptions { partitioned: true, ..TinyOptions::with_fs(fs) }));
        let template = bench.template("t.yml", &[], "raw: {path: a.img, shrink: true}");
        let ran = bench.build("chroot", &template, &[]).exits(1);
        let kind = format!("{fs:?}").to_lowercase();
        assert!(ran.stderr.contains(&format!("holds {kind}, and only ext2, ext3 and ext4")), "{}", ran.stderr);
        assert!(!bench.path("a.img").exists());
    }
}
