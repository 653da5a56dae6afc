//! Bases that are made larger: the space is there, nothing is moved, and what is wrong is named.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Bench, run};
use serde_json::Value;
use testkit::{Fs, HostState, TinyOptions, appliance_lock, tiny_guest};

fn table(disk: &Path) -> Value {
    let said = testkit::run(Command::new("sfdisk").arg("--json").arg(disk)).stdout;
    serde_json::from_slice::<Value>(&said).unwrap()["partitiontable"]["partitions"].clone()
}

/// Builds a guest whose `disk` import has this `resize`, and returns the size of `/` in MiB as the guest sees it, with
/// the partitions before and after.
fn resized(options: &TinyOptions, resize: &str) -> (u64, Value, Value) {
    resized_on(&Bench::new(tiny_guest(options)), resize)
}

fn resized_on(bench: &Bench, resize: &str) -> (u64, Value, Value) {
    let text = format!(
        "spec:\n  import:\n    disk: {{path: '{}', resize: {resize}}}\n  steps:\n    - {}\n  export:\n    raw: {{path: a.img}}\n",
        bench.base.display(),
        run("df -m / | tail -n 1 | awk '{print \"size\", $2}'; cat /etc/hostname")
    );
    let template = bench.path("t.yml");
    fs::write(&template, text).unwrap();
    let ran = bench.build("chroot", &template, &[]).exits(0);
    let said = ran.said();
    assert!(said.contains("tiny"), "{said}");
    testkit::fsck_clean(&bench.path("a.img"), "raw");
    testkit::run(Command::new("sfdisk").args(["--verify"]).arg(bench.path("a.img")));
    let size = said.split_whitespace().skip_while(|word| *word != "size").nth(1).unwrap().parse().unwrap();
    (size, table(&bench.base), table(&bench.path("a.img")))
}

#[test]
fn the_last_partition_grows_in_its_place() {
    let before = HostState::capture();
    let options = TinyOptions { partitioned: true, separate_boot: true, ..TinyOptions::default() };
    let (size, old, new) = resized(&options, "{size: 400M, expand: /dev/sda2}");
    assert!(size > 300, "{size} MiB");
    assert_eq!(old[0]["start"], new[0]["start"]);
    for part in ["start", "uuid", "type"] {
        assert_eq!(old[1][part], new[1][part]);
    }
    assert!(new[1]["size"].as_u64() > old[1]["size"].as_u64());
    // Only the disk grows.
    let (size, _, new) = resized(&options, "{size: 400M}");
    assert!(size < 70 && new[1]["size"] == old[1]["size"]);
    before.assert_nothing_left();
}

/// What must stay of a partition, whatever moves.
fn identity(part: &Value) -> Vec<Value> {
    ["node", "type", "uuid", "name", "attrs"]
        .map(|key| match (key, &part[key]) {
            ("node", Value::String(node)) => node.rsplit('p').next().unwrap().rsplit("img").next().unwrap().into(),
            (_, value) => value.clone(),
        })
        .to_vec()
}

/// Numbers that are not in the order of the disk (as cloud images have them), names, attributes, room for GRUB: all of it
/// stays, also where a partition has to move, and only what has to move does.
#[test]
fn numbers_names_and_attributes_stay() {
    let options = TinyOptions { partitioned: true, separate_boot: true, separate_home: true, ..TinyOptions::default() };
    let base = tiny_guest(&options);
    let bench = Bench::new(base.clone());
    // `/boot` becomes number 14 and `/home` number 15, with room for GRUB as number 3 before all of them.
    let disk = bench.path("base.img");
    testkit::copy_image(&base, &disk);
    let old = table(&base);
    let line = |at: usize, number: u32, more: &str| {
        format!(
            "x{number} : start={}, size={}, type={}, uuid={}, name={}{more}\n",
            old[at]["start"],
            old[at]["size"],
            old[at]["type"].as_str().unwrap(),
            old[at]["uuid"].as_str().unwrap(),
            old[at]["name"].as_str().unwrap(),
        )
    };
    let script = format!(
        "label: gpt\nfirst-lba: 34\nx3 : start=64, size=1900, type=21686148-6449-6E6F-744E-656564454649\n{}{}{}",
        line(0, 14, ", attrs=\"LegacyBIOSBootable GUID:60\""),
        line(1, 15, ""),
        line(2, 1, ", attrs=\"RequiredPartition\"")
    );
    let mut sfdisk = Command::new("sfdisk");
    testkit::run_with_input(sfdisk.args(["--quiet", "--no-reread", "--wipe=never"]).arg(&disk), script.as_bytes());
    // Code of a boot loader in the first sector, with the mark that the disk is booted, and in the room for GRUB.
    let mut bytes = fs::read(&disk).unwrap();
    bytes[..440].fill(0xaa);
    bytes[446] = 0x80;
    bytes[64 * 512..66 * 512].fill(0xbb);
    fs::write(&disk, &bytes).unwrap();
    let old = table(&disk);
    let parts = |table: &Value| -> Vec<Vec<Value>> { table.as_array().unwrap().iter().map(identity).collect() };
    // All in one build, each import a base of its own.
    let ways = [
        ("root", "{size: 500M, expand: root}", [0, 0, 0, 1]),
        ("last", "{size: 500M, /dev/sda1: 250M}", [0, 0, 0, 1]),
        ("middle", "{size: 500M, expand: /dev/sda15}", [0, 0, 1, 0]),
        ("two", "{size: 500M, /dev/sda14: 100M, /dev/vda1: 100M}", [0, 1, 0, 1]),
    ];
    for (name, resize, grown) in ways {
        let text = format!(
            "spec:\n  import:\n    disk: {{path: '{}', resize: {resize}}}\n  steps:\n    - {}\n  export:\n    raw: {{path: {name}.img}}\n",
            disk.display(),
            run("df -m / /boot /home | awk 'NR > 1 {print $6, $2}'; cat /etc/hostname")
        );
        fs::write(bench.path("t.yml"), text).unwrap();
        let ran = bench.build("chroot", &bench.path("t.yml"), &[]).exits(0);
        let said = ran.said();
        assert!(said.contains("tiny"), "{said}");
        let image = bench.path(&format!("{name}.img"));
        testkit::fsck_clean(&image, "raw");
        testkit::run(Command::new("sfdisk").arg("--verify").arg(&image));
        let new = table(&image);
        assert_eq!(parts(&new), parts(&old), "{name}");
        // By number: 1, 3, 14, 15; how it was grown is in the order of the disk.
        for (number, grown) in [3, 14, 15, 1].into_iter().zip(grown) {
            let find = |table: &Value| {
                let found = table.as_array().unwrap().iter();
                let name = format!("{number}");
                let found = found.clone().find(|part| identity(part)[0] == name.as_str());
                found.unwrap_or_else(|| panic!("no {number} in {table}")).clone()
            };
            let (old, new) = (find(&old), find(&new));
            let size = |part: &Value| part["size"].as_u64().unwrap();
            assert_eq!(size(&new) > size(&old), grown == 1, "{name}: {number}");
            let moves = (name == "middle" && number == 1) || (name == "two" && matches!(number, 15 | 1));
            assert_eq!(new["start"] != old["start"], moves, "{name}: {number}");
        }
        let mut bytes = vec![0; 1 << 20];
        std::io::Read::read_exact(&mut fs::File::open(&image).unwrap(), &mut bytes).unwrap();
        assert!(bytes[..440].iter().all(|byte| *byte == 0xaa) && bytes[446] == 0x80, "{name}: boot code");
        assert!(bytes[64 * 512..66 * 512].iter().all(|byte| *byte == 0xbb), "{name}: GRUB");
        let size = |mount: &str| -> u64 {
            let line = said.lines().find_map(|line| line.strip_prefix(mount)?.trim().parse().ok());
            line.unwrap_or_else(|| panic!("{mount}: {said}"))
        };
        match name {
            "root" => assert!(size("/ ") > 300, "{said}"),
            "last" => assert!((215..255).contains(&size("/ ")), "{said}"),
            "middle" => assert!(size("/home ") > 300 && size("/ ") < 70, "{said}"),
            _ => assert!(size("/boot ") > 75 && size("/ ") > 75 && size("/home ") < 70, "{said}"),
        }
    }
    // What would start from another place, and what holds nothing.
    for (resize, expected) in [
        ("{size: 500M, expand: /dev/sda3}", "partition 3 of the base holds no file system"),
        ("{size: 500M, /dev/sda1: 10M}", "more than `resize` says"),
        ("{size: 500M, /dev/sda1: 2G}", "the disk has room for"),
    ] {
        let text = format!("spec:\n  import:\n    disk: {{path: '{}', resize: {resize}}}\n", disk.display());
        fs::write(bench.path("t.yml"), text).unwrap();
        let ran = bench.build("chroot", &bench.path("t.yml"), &[]).exits(1);
        assert!(ran.stderr.contains(expected), "{resize}: {}", ran.stderr);
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let bench = Bench::new(tiny_guest(&TinyOptions { partitioned: true, ..TinyOptions::default() }));
    for (resize, expected) in [
        ("{expand: /dev/sda1}", "`size` is missing"),
        ("{size: 4}", "expected a size"),
        ("{size: 4G, expand: ROOT}", "expected `root`, or the name of a partition"),
        ("{size: 4G, expand: 3G}", "expected `root`, or the name of a partition"),
        ("{size: 4G, grow: x}", "neither `size`"),
        ("{size: 4G, '--delete1': 1G}", "neither `size`"),
        ("{size: 20M}", "only made larger"),
        ("{size: 1G, expand: /dev/sda7}", "has no partition 7; it has 1"),
        ("4G", "expected a mapping"),
    ] {
        let text =
            format!("spec:\n  import:\n    download: {{url: 'file://{}', resize: {resize}}}\n", bench.base.display());
        fs::write(bench.path("t.yml"), text).unwrap();
        let ran = bench.build("chroot", &bench.path("t.yml"), &[]).exits(1);
        assert!(ran.stderr.contains(expected), "{resize}: {}", ran.stderr);
    }
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

#[test]
fn an_empty_disk_has_its_partitions_and_file_systems() {
    let bench = Bench::new(std::path::PathBuf::from("/nonexistent"));
    let disk = |arguments: &str| {
        let text = format!("spec:\n  import:\n    blank: {arguments}\n  export:\n    raw: {{path: a.img}}\n");
        fs::write(bench.path("t.yml"), text).unwrap();
        bench.build("chroot", &bench.path("t.yml"), &[])
    };
    let parts = "[{size: 300M, fs: ext4, label: one}, {size: 40M, fs: vfat, label: ESP}, {size: 16M, fs: swap}, \
        {size: 1M}, {size: 320M, fs: xfs}, {fs: btrfs, label: rest_1}]";
    disk(&format!("{{size: 1G, partitions: {parts}}}")).exits(0);
    let image = bench.path("a.img");
    assert_eq!(fs::metadata(&image).unwrap().len(), 1 << 30);
    testkit::run(Command::new("sfdisk").arg("--verify").arg(&image));
    let table = table(&image);
    let kinds = [Some("ext4"), Some("vfat"), Some("swap"), None, Some("xfs"), Some("btrfs")];
    assert_eq!(table.as_array().unwrap().len(), kinds.len());
    for (part, kind) in table.as_array().unwrap().iter().zip(kinds) {
        let offset = (part["start"].as_u64().unwrap() * 512).to_string();
        let mut blkid = Command::new("blkid");
        let said = blkid.args(["-p", "-s", "TYPE", "-o", "value", "-O", &offset]).arg(&image).output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), kind.unwrap_or(""), "{part}");
    }
    // Features are those that older programs know, whatever the host's programs add by default; more can be said.
    let features = |image: &Path, part: &Value| {
        let part_file = bench.path("part");
        let _ = fs::remove_file(&part_file);
        let (start, size) = (part["start"].as_u64().unwrap(), part["size"].as_u64().unwrap());
        let mut dd = Command::new("dd");
        let place = [format!("skip={}", start / 2048), format!("count={}", size.div_ceil(2048))];
        dd.arg(format!("if={}", image.display())).arg(format!("of={}", part_file.display()));
        testkit::run(dd.args(["bs=1M", "conv=sparse", "status=none"]).args(place));
        part_file
    };
    let ext = |image: &Path, part: &Value| {
        let said = testkit::run(Command::new("dumpe2fs").arg("-h").arg(features(image, part))).stdout;
        let said = String::from_utf8(said).unwrap();
        let line = said.lines().find_map(|line| line.strip_prefix("Filesystem features:")).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let xfs = |image: &Path, part: &Value| {
        let mut xfs_db = Command::new("xfs_db");
        let said = testkit::run(xfs_db.args(["-r", "-f", "-c", "version"]).arg(features(image, part))).stdout;
        String::from_utf8(said).unwrap()
    };
    let found = ext(&image, &table[0]);
    let newer = ["orphan_file", "metadata_csum_seed"].map(str::to_owned);
    assert!(newer.iter().all(|feature| !found.contains(feature)), "{found:?}");
    assert!(["64bit", "metadata_csum", "extent"].iter().all(|name| found.contains(&(*name).to_owned())), "{found:?}");
    let found = xfs(&image, &table[4]);
    assert!(found.contains("REFLINK") && !found.contains("BIGTIME") && !found.contains("INOBTCNT"), "{found}");
    disk(
        "{size: 700M, partitions: [{size: 300M, fs: ext4, mkfs: {features: [^64bit, ^metadata_csum, quota], block_size: 1024}}, \
         {fs: xfs, mkfs: {features: [bigtime=1, reflink=0]}}]}",
    )
    .exits(0);
    let said = self::table(&image);
    let found = ext(&image, &said[0]);
    assert!(found.contains(&"quota".to_owned()) && !found.contains(&"64bit".to_owned()), "{found:?}");
    let found = xfs(&image, &said[1]);
    assert!(found.contains("BIGTIME") && !found.contains("REFLINK"), "{found}");
    assert_eq!(table[5]["name"], "rest_1");
    for (arguments, expected) in [
        ("{size: 1}", "at least 2M"),
        ("{size: 10M, partitions: [{size: 20M}]}", "does not fit"),
        ("{size: 10M, partitions: [{}, {}]}", "only the last"),
        ("{size: 10M, partitions: [{fs: zfs}]}", "unknown value `zfs`"),
        ("{size: 10M, partitions: [{fs: xfs, mkfs: {features: [orphan_file]}}]}", "expected `NAME=0` or `NAME=1`"),
        ("{size: 10M, partitions: [{fs: ext4, mkfs: {features: ['-x']}}]}", "expected a name, with `^`"),
        ("{size: 10M, partitions: [{fs: vfat, mkfs: {features: [x]}}]}", "only ext4, xfs and btrfs"),
        ("{size: 10M, partitions: [{fs: ext4, mkfs: {block_size: 3}}]}", "1024, 2048 or 4096"),
        ("{size: 10M, partitions: [{fs: btrfs, mkfs: {block_size: 4096}}]}", "only ext4 and xfs"),
        ("{size: 10M, partitions: [{label: \"a, name=b\"}]}", "at most 11"),
    ] {
        let ran = disk(arguments).exits(1);
        assert!(ran.stderr.contains(expected), "{arguments}: {}", ran.stderr);
    }
}

/// Guests whose bases were made larger, of each file system, with the root last and before another partition: a machine boots
/// the first, and mounts the others as roots one after the other. Each says how large its root is.
#[test]
fn resized_roots_are_those_of_a_machine_that_boots() {
    let _lock = appliance_lock();
    let file = |path: &str, text: &str, mode| (path.to_owned(), text.as_bytes().to_vec(), mode);
    let files = vec![
        file("/etc/inittab", "::sysinit:/etc/start\n::wait:/bin/sleep 1000\n", 0o644),
        file("/etc/start", START, 0o755),
    ];
    let links = vec![("/sbin/init".to_owned(), "/bin/busybox".to_owned())];
    let mut made = Vec::new();
    for (kind, root_first) in [Fs::Ext4, Fs::Xfs, Fs::Btrfs].into_iter().flat_map(|kind| [(kind, false), (kind, true)])
    {
        let options = TinyOptions {
            partitioned: true,
            separate_home: root_first,
            root_first,
            files: files.clone(),
            links: links.clone(),
            ..TinyOptions::with_fs(kind)
        };
        let bench = Bench::new(tiny_guest(&options));
        let (size, old, new) = resized_on(&bench, "{size: 1500M, expand: /dev/sda1}");
        assert!(size > 1050, "{kind:?}: {size} MiB");
        assert_eq!(old[0]["start"], new[0]["start"], "{kind:?}");
        made.push((format!("{kind:?}").to_lowercase(), bench));
    }
    let version = testkit::host_kernel();
    let [kernel, initrd] = ["vmlinuz", "initrd.img"].map(|name| Path::new("/boot").join(format!("{name}-{version}")));
    let images: Vec<_> = made.iter().map(|(_, bench)| bench.path("a.img")).collect();
    let images: Vec<&Path> = images.iter().map(AsRef::as_ref).collect();
    let machine = testkit::Machine::boot_kernel(&kernel, &initrd, &["xfs", "btrfs"], 1, &images);
    let console = machine.wait_for("@end", std::time::Duration::from_secs(400));
    let said: Vec<_> = console.lines().filter(|line| line.contains("@root")).collect();
    assert_eq!(said.len(), made.len(), "{console}");
    for ((kind, _), said) in made.iter().zip(said) {
        // `df -m`: the device, its size; then the line of /proc/mounts.
        let size: u64 = said.split_whitespace().nth(2).unwrap().parse().unwrap();
        assert!(size > 1050, "{kind}: {said}");
        assert!(said.contains(&format!(" {kind} ")), "{said}");
    }
}

/// Says what `/` is, then has the roots of the machine's other disks do so.
const START: &str = r#"#!/bin/sh
exec > /dev/ttyS0 2>&1
mount -t proc proc /proc
echo "@root $(df -m / | tail -n 1)" "$(grep ' / ' /proc/mounts)"
[ -z "$1" ] || exit 0
for disk in b c d e f; do
  mount /dev/vd${disk}1 /mnt
  mount --bind /dev /mnt/dev
  chroot /mnt /etc/start another
  umount /mnt/proc /mnt/dev /mnt
done
echo @end
"#;
