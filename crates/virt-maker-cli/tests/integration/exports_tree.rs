//! Exports of the guest's files: what comes out is what is in the guest, on each engine, and nothing else on the host
//! changes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Bench, run};
use testkit::tree::{difference, root_offset, tree_of_folder, tree_of_image};
use testkit::{HostState, TinyOptions, appliance_lock, tiny_guest};

/// What an archive may get wrong: owners, set-id bits, links, devices, long and odd names, holes, attributes.
const ODD: &str = "mkdir -p /odd/dir; cd /odd; echo one > file; ln file second; ln -s /odd/file link; chown 70000:3000000 file; \
    chmod 4755 file; mkfifo pipe; mknod null c 1 3; echo x > 'with blank and \
    newline'; n=$(printf 'n%.0s' $(seq 200)); mkdir $n; echo long > $n/$n; ln -s $n/$n/$n longlink; \
    dd if=/dev/zero of=holes bs=1 count=1 seek=30000000; echo middle | dd of=holes bs=1 seek=9000000 conv=notrunc; \
    printf 'bytes' > \"$(printf 'latin\\351')\"; touch empty; chmod 1750 dir";

/// Puts ACLs into the root file system of a tiny guest, which is the last partition, without a mount.
fn with_acls(bench: &Bench) -> PathBuf {
    let disk = bench.path("acl.raw");
    testkit::copy_image(&bench.base, &disk);
    let entry = |tag: u8, rights: u8, id: u32| [&[tag, 0, rights, 0][..], &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let [owner, group, mask, other] = [(1, 6), (4, 4), (16, 6), (32, 0)].map(|(tag, rights)| entry(tag, rights, none));
    let acl = [&[2, 0, 0, 0][..], &owner, &entry(2, 6, 70001), &group, &entry(8, 6, 33), &mask, &other].concat();
    fs::write(bench.path("acl"), acl).unwrap();
    let script = format!(
        "ea_set -f {0} /etc/hostname system.posix_acl_access\nset_inode_field /etc/hostname mode 0100660\n\
         ea_set -f {0} /etc system.posix_acl_default\n",
        bench.path("acl").display()
    );
    fs::write(bench.path("script"), script).unwrap();
    let place = format!("{}?offset={}", disk.display(), root_offset(&disk));
    testkit::run(Command::new("debugfs").arg("-w").arg("-f").arg(bench.path("script")).arg(place));
    testkit::fsck_clean(&disk, "raw");
    disk
}

fn archived(engine: &str) {
    let before = HostState::capture();
    let options = TinyOptions { partitioned: true, separate_home: true, ..TinyOptions::default() };
    let mut bench = Bench::new(tiny_guest(&options));
    bench.base = with_acls(&bench);
    let steps = [run(ODD), run("echo home > /home/tiny/file; chown -R 1000:1000 /home/tiny")];
    // Each export of files takes libguestfs an appliance, so there one archive is both: what was compressed is unpacked below.
    let one_archive = engine == "libguestfs";
    let archives = if one_archive {
        "{tar: {path: a.tar.zst, compress: zstd, level: 1, manifest: true}}"
    } else {
        "{tar: {path: a.tar, manifest: true}}, {tar: {path: a.tar.zst, compress: zstd, level: 1}}"
    };
    let export = format!("[{archives}, {{dir: {{path: tree}}}}, {{raw: {{path: a.img}}}}]");
    let template = bench.template("t.yml", &steps, &export);
    bench.build(engine, &template, &[]).exits(0);
    let plain = testkit::run(Command::new("zstd").arg("-dc").arg(bench.path("a.tar.zst"))).stdout;
    if one_archive {
        fs::write(bench.path("a.tar"), plain).unwrap();
    } else {
        assert!(plain == fs::read(bench.path("a.tar")).unwrap(), "the same bytes each time");
    }
    let mut wanted = tree_of_image(&bench.path("a.img"), "raw");
    // Only the last partition is looked into by that; the other one is at its place in the tree.
    wanted.retain(|path, _| !path.starts_with("/home"));
    let acl = |path: &str, name: &str| wanted[path].xattrs.contains_key(name);
    assert!(acl("/etc/hostname", "system.posix_acl_access") && acl("/etc", "system.posix_acl_default"));
    let without_home = |folder: &Path| {
        let mut tree = tree_of_folder(folder);
        let home = tree.get("/home/tiny/file").map(|file| (file.uid, file.content.clone()));
        assert_eq!(home.map(|(uid, _)| uid), Some(1000), "{engine}: another file system is in it");
        tree.retain(|path, _| !path.starts_with("/home"));
        tree
    };
    let unpacked = bench.path("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-xpf"]).arg(bench.path("a.tar")).args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-C"]);
    testkit::run(tar.arg(&unpacked));
    // Whoever unpacks ACLs in their own form has them, too.
    let with_acls = bench.path("unpacked with acls");
    fs::create_dir(&with_acls).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-xpf"]).arg(bench.path("a.tar")).args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls"]);
    testkit::run(tar.arg("-C").arg(&with_acls));
    for (name, folder) in [("tar", &unpacked), ("tar --acls", &with_acls), ("dir", &bench.path("tree"))] {
        let found = without_home(folder);
        let changed = difference(&wanted, &found);
        assert!(changed.is_empty(), "{engine}, {name}: {changed:?}");
    }
    let holes = fs::metadata(unpacked.join("odd/holes")).unwrap();
    // libguestfs packs holes as zeroes.
    let most = if engine == "libguestfs" { u64::MAX } else { 1000 };
    assert!(holes.size() == 30_000_001 && holes.blocks() < most, "{engine}: {holes:?}");
    assert!(engine == "libguestfs" || fs::metadata(bench.path("a.tar")).unwrap().size() < 20_000_000);
    assert_eq!(fs::metadata(bench.path("tree")).unwrap().permissions().mode() & 0o7777, 0o700);

    // All of it is current until somebody changes something, wherever that is.
    let again = bench.build(engine, &template, &[]).exits(0);
    assert!(again.of("export_finished").iter().all(|event| event["current"] == true), "{}", again.stdout);
    let deep = bench.path("tree/odd/empty");
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o777)).unwrap();
    // Whether something is current is known before an engine is, so one appliance more would say nothing more.
    if engine != "libguestfs" {
        let again = bench.build(engine, &template, &[]).exits(0);
        // They are made side by side, so they end in any order.
        for event in again.of("export_finished") {
            assert_eq!(event["current"] == true, event["kind"] != "dir", "{event}");
        }
        assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o777, 0o644);
    }
    let left: Vec<_> = fs::read_dir(bench.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".virt-maker-")), "{left:?}");
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

#[test]
fn files_come_out_as_they_are_with_chroot() {
    archived("chroot");
}

#[test]
fn files_come_out_as_they_are_with_vm_appliance() {
    let _lock = appliance_lock();
    archived("vm");
}

#[test]
fn files_come_out_as_they_are_with_libguestfs() {
    let _lock = appliance_lock();
    archived("libguestfs");
}

/// Attributes that only a real `setfattr` and `setcap` in the host's own view of a guest can make.
#[test]
fn extended_attributes_come_out() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let image = bench.path("base.raw");
    testkit::copy_image(&bench.base, &image);
    let mut debugfs = Command::new("debugfs");
    let commands = "ea_set /etc/hostname user.note \"a = b\"\n\
        ea_set -f caps /bin/busybox security.capability\nea_set /tmp security.selinux system_u:object_r:tmp_t:s0\n";
    fs::write(bench.path("caps"), [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    debugfs.arg("-w").arg("-f").arg("-").arg(&image).current_dir(bench.folder.path());
    testkit::run_with_input(&mut debugfs, commands.as_bytes());
    let bench = Bench { base: image, ..bench };
    let template =
        bench.template("t.yml", &[run("true")], "[{tar: {path: a.tar}}, {dir: {path: tree}}, {raw: {path: a.img}}]");
    bench.build("chroot", &template, &[]).exits(0);
    let (wanted, found) = (tree_of_image(&bench.path("a.img"), "raw"), tree_of_folder(&bench.path("tree")));
    for path in ["/etc/hostname", "/bin/busybox", "/tmp"] {
        assert!(!wanted[path].xattrs.is_empty(), "{path}");
        assert_eq!(wanted[path], found[path]);
    }
    let list = testkit::run(Command::new("tar").args(["--xattrs", "-tvvf"]).arg(bench.path("a.tar"))).stdout;
    assert!(String::from_utf8_lossy(&list).contains("user.note"));
}

#[test]
fn a_folder_of_somebody_else_stays() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.template("t.yml", &[], "dir: {path: tree}");
    fs::create_dir(bench.path("tree")).unwrap();
    fs::write(bench.path("tree/mine"), "keep").unwrap();
    let ran = bench.build("chroot", &template, &[]).exits(1);
    assert!(ran.stderr.contains("not made by this export"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(bench.path("tree/mine")).unwrap(), "keep");
    fs::remove_file(bench.path("tree/mine")).unwrap();
    // An empty one is taken.
    bench.build("chroot", &template, &[]).exits(0);
    assert!(bench.path("tree/etc/hostname").is_file());
    for (export, expected) in [
        ("tar: {path: a, sparsify: true}", "unknown argument `sparsify`"),
        ("dir: {path: a, checksum: true}", "unknown argument `checksum`"),
        ("tar: {path: a, compress: lz4, level: 3}", "lz4 is written at one level"),
    ] {
        let template = bench.template("t.yml", &[], export);
        let ran = bench.build("chroot", &template, &[]).exits(1);
        assert!(ran.stderr.contains(expected), "{export}: {}", ran.stderr);
    }
}
