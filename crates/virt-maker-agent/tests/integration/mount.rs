//! Finding the guest's root and mounting after its fstab.

use crate::support::*;

use std::fs;
use std::os::unix::fs::symlink;

use virt_maker_agent::protocol::{Failure, FailureKind, Mounted, Request, Root};

/// A disk with a root and a second ext4 on a GPT; the root's fstab is `fstab`.
fn two_partitions(lab: &Lab, fstab: &str) -> String {
    let root_tree = lab.tree(|at| {
        fs::write(at.join("etc/fstab"), fstab).unwrap();
        fs::create_dir_all(at.join("srv/data")).unwrap();
        symlink("/../../../../../../../../srv", at.join("roundabout")).unwrap();
    });
    let data_tree = lab.path("data-tree");
    fs::create_dir(&data_tree).unwrap();
    fs::write(data_tree.join("mark"), "data\n").unwrap();
    let root =
        lab.ext("root-part", "ext4", &["-L", "rootfs", "-U", "11111111-2222-3333-4444-555555555555"], &root_tree);
    let data = lab.ext(
        "data-part",
        "ext4",
        &["-L", "my data", "-U", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"],
        data_tree.to_str().unwrap(),
    );
    let script = "label: gpt\nfirst-lba: 34\n\
                  start=2048, size=131072, type=linux, name=one, uuid=0F0F0F0F-0000-4000-8000-000000000001\n\
                  start=133120, size=131072, type=linux, name=two, uuid=0F0F0F0F-0000-4000-8000-000000000002\n\
                  start=264192, size=2048, type=21686148-6449-6E6F-744E-656564454649\n";
    lab.partitioned("disk", 140 * MIB, script, &[(2048, &root), (133120, &data)])
}

fn mount_with(fstab: &str) -> (Lab, Agent, Mounted) {
    let lab = Lab::new();
    let disk = two_partitions(&lab, fstab);
    let (agent, mounted) = lab.mounted(&disk);
    (lab, agent, mounted)
}

fn refused(lab: &Lab, disk: &str) -> Failure {
    let mut agent = lab.agent();
    let failure = failed(agent.client.mount(disk));
    assert_eq!(loops_on(disk), "", "{failure:?}");
    // The conversation goes on, and nothing is mounted.
    assert_eq!(failed(agent.client.call(&Request::Freeze)).kind, FailureKind::Protocol);
    failure
}

fn refused_with(fstab: &str) -> Failure {
    let lab = Lab::new();
    let disk = two_partitions(&lab, fstab);
    refused(&lab, &disk)
}

#[test]
fn a_whole_disk_is_mounted() {
    let lab = Lab::new();
    let disk = lab.guest();
    let (mut agent, mounted) = lab.mounted(&disk);
    assert_eq!(mounted.file_systems.len(), 1);
    let root = &mounted.file_systems[0];
    assert_eq!((root.kind.as_str(), root.mount_point.as_str(), root.partition), ("ext4", "/", 0));
    assert_eq!((mounted.os.id.as_str(), mounted.os.pretty_name.as_str()), ("testos", "Test \"OS\""));
    assert_eq!(mounted.os.id_like, ["a", "b"]);
    assert_eq!(mounted.warnings, [""; 0]);
    assert_eq!(agent.ok("echo hello; hostname"), "hello\nguest-name\n");
    assert_eq!(failed(agent.client.mount(&disk)).kind, FailureKind::Protocol);
}

#[test]
fn every_way_to_name_a_device() {
    for name in [
        "UUID=AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee",
        "LABEL=my\\040data",
        "PARTUUID=0f0f0f0f-0000-4000-8000-000000000002",
        "PARTLABEL=two",
        "/dev/sda2",
        "/dev/vda2",
        "/dev/nvme0n1p2",
        "/dev/disk/by-uuid/aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "/dev/disk/by-label/my\\x20data",
    ] {
        let (_lab, mut agent, mounted) = mount_with(&format!(
            "LABEL=rootfs / ext4 errors=remount-ro 0 1\n{name} /srv/data ext4 ro,noexec 0 2\nproc /proc proc\n/dev/sda9 none swap\n"
        ));
        assert_eq!(mounted.warnings, [""; 0], "{name}");
        let places: Vec<_> = mounted.file_systems.iter().map(|one| (one.mount_point.as_str(), one.partition)).collect();
        assert_eq!(places, [("/", 1), ("/srv/data", 2)], "{name}");
        // Writable, whatever fstab says: a step has to change it.
        assert_eq!(agent.ok("cat /srv/data/mark; echo x >/srv/data/new; cat /srv/data/new"), "data\nx\n");
    }
}

#[test]
fn both_file_systems_are_clean_when_frozen() {
    let (lab, mut agent, _) = mount_with("LABEL=my\\040data /srv/data ext4 defaults 0 2\n");
    agent.ok("for i in $(seq 50); do echo $i >/srv/data/$i; echo $i >/root/$i; done");
    agent.client.done(&Request::Freeze).unwrap();
    for (name, start) in [("one", 2048u64), ("two", 133120)] {
        let part = lab.text(name);
        tool(
            "dd",
            &[
                &format!("if={}", lab.text("disk")),
                &format!("of={part}"),
                "bs=1M",
                "iflag=skip_bytes,count_bytes",
                &format!("skip={}", start * 512),
                "count=67108864",
            ],
        );
        tool("e2fsck", &["-fn", &part]);
        assert!(!tool("dumpe2fs", &["-h", &part]).contains("needs_recovery"));
    }
    agent.client.done(&Request::Thaw).unwrap();
    // A mount point is not removed with what is on it.
    assert!(failed(agent.client.done(&Request::Remove { path: "/srv".into() })).message.contains("mounted"));
    assert_eq!(agent.ok("cat /srv/data/50"), "50\n");
}

#[test]
fn mounts_go_by_depth_and_never_out_of_the_root() {
    let host = fs::read_to_string("/proc/mounts").unwrap();
    let (_lab, mut agent, mounted) = mount_with("LABEL=my\\040data /roundabout/data ext4 defaults 0 2\n");
    assert_eq!(mounted.file_systems[1].mount_point, "/roundabout/data");
    assert_eq!(agent.ok("cat /srv/data/mark"), "data\n");
    assert_eq!(fs::read_to_string("/proc/mounts").unwrap(), host);
    let failure = refused_with("LABEL=my\\040data /../../mnt ext4 defaults 0 2\n");
    assert_eq!(failure.kind, FailureKind::Fstab);
}

/// What fstab names and nobody finds is left out with a warning, unless the tree is not the guest's own without it; and even
/// then the guest can be opened, to be mended.
#[test]
fn what_is_not_there_is_left_out() {
    for (line, why) in [
        ("UUID=99999999-0000-0000-0000-000000000000 /srv/data ext4 defaults 0 2", "partition 1: ext4"),
        ("LABEL=gone /srv/data ext4 defaults 0 2", "no such device"),
        ("PARTUUID=99999999-01 /srv/data ext4 defaults 0 2", "no such device"),
        ("/dev/disk/by-id/ata-gone-part1 /srv/data ext4 defaults 0 2", "no such device"),
        ("/dev/sdb1 /srv/data ext4 defaults 0 2", "no such device"),
        ("/dev/sda4 /srv/data ext4 defaults 0 2", "no such device"),
        ("/dev/mapper/vg-data /srv/data ext4 defaults 0 2", "no such device"),
        ("LABEL=my\\040data /no/such/place ext4 defaults 0 2", "mount point"),
    ] {
        let (_lab, _agent, mounted) = mount_with(&format!("# first\n{line}\n"));
        assert_eq!(mounted.file_systems.len(), 1, "{line}");
        let [warning] = &mounted.warnings[..] else { panic!("{line}: {:?}", mounted.warnings) };
        let place = line.split(' ').nth(1).unwrap();
        for part in ["fstab line 2", place, why, "nofail"] {
            assert!(warning.contains(part), "{line}: {warning}");
        }
        // The same line for a place that cannot be missed.
        let essentials: &[&str] = if line.starts_with("LABEL=gone") { &["/usr", "/boot/", "/var"] } else { &[] };
        for essential in essentials {
            let line = line.replace(place, essential);
            let lab = Lab::new();
            let disk = two_partitions(&lab, &format!("{line}\n"));
            let failure = refused(&lab, &disk);
            assert_eq!(failure.kind, FailureKind::Fstab, "{line}: {failure:?}");
            assert!(failure.message.contains("fstab line 1"), "{failure:?}");
        }
    }
    let lab = Lab::new();
    let disk = two_partitions(&lab, "LABEL=gone /var ext4 defaults 0 2\n");
    let mut agent = lab.agent();
    let mounted = agent.client.mount_as(&disk, true, None).unwrap();
    assert!(mounted.warnings[0].contains("mended"), "{:?}", mounted.warnings);
    assert_eq!(agent.ok("grep -c gone /etc/fstab"), "1\n");
}

#[test]
fn nofail_and_noauto_are_obeyed() {
    let (_lab, _agent, mounted) = mount_with(
        "LABEL=elsewhere / ext4 defaults 0 1\nUUID=99999999-0000-0000-0000-000000000000 /srv/data ext4 defaults,nofail 0 2\n\
         /dev/mapper/x /boot ext4 noauto 0 0\nserver:/x /srv nfs defaults 0 0\n",
    );
    assert_eq!(mounted.file_systems.len(), 1);
    assert_eq!(mounted.warnings.len(), 2, "{:?}", mounted.warnings);
    assert!(mounted.warnings[0].contains("LABEL=elsewhere"));
    assert!(mounted.warnings[1].contains("nofail"));
}

#[test]
fn a_broken_file_system_is_an_error() {
    let lab = Lab::new();
    let disk = two_partitions(&lab, "LABEL=my\\040data /srv/data ext4 defaults 0 2\n");
    // A block count beyond the partition, in the second file system's superblock.
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&[0xff; 4], 133120 * 512 + 1024 + 4).unwrap();
    let failure = refused(&lab, &disk);
    assert_eq!(failure.kind, FailureKind::Fstab);
    assert!(failure.message.contains("mount partition 2, ext4"), "{failure:?}");
}

#[test]
fn a_guest_without_a_root() {
    let lab = Lab::new();
    let empty = lab.text("empty");
    fs::File::create(&empty).unwrap().set_len(8 * MIB).unwrap();
    let failure = refused(&lab, &empty);
    assert_eq!(failure.kind, FailureKind::NoRoot);
    assert!(failure.message.contains("nothing that is known"), "{failure:?}");

    let tree = lab.path("no-root");
    fs::create_dir_all(tree.join("usr/etc")).unwrap();
    let disk = lab.ext("data", "ext4", &[], tree.to_str().unwrap());
    let failure = refused(&lab, &disk);
    assert_eq!(failure.kind, FailureKind::NoRoot);
    assert!(failure.message.contains("has no Linux root"), "{failure:?}");

    // /etc as a link is no root: what it leads to may be anything.
    let tree = lab.tree(|at| {
        fs::rename(at.join("etc"), at.join("etc2")).unwrap();
        symlink("/../../../etc", at.join("etc")).unwrap();
    });
    let disk = lab.ext("linked", "ext4", &[], &tree);
    assert_eq!(refused(&lab, &disk).kind, FailureKind::NoRoot);

    let mut agent = lab.agent();
    let failure = failed(agent.client.mount("/no/such/disk"));
    assert!(failure.message.contains("/no/such/disk"), "{failure:?}");
}

#[test]
fn a_guest_with_two_roots() {
    let lab = Lab::new();
    let tree = lab.tree(|_| {});
    let part = lab.ext("part", "ext4", &[], &tree);
    let script = "label: dos\nstart=2048, size=131072, type=83\nstart=133120, size=131072, type=83\n";
    let disk = lab.partitioned("disk", 130 * MIB, script, &[(2048, &part), (133120, &part)]);
    let failure = refused(&lab, &disk);
    assert_eq!(failure.kind, FailureKind::SeveralRoots);
    assert!(failure.message.contains("partition 1, partition 2"), "{failure:?}");
}

#[test]
fn a_logical_partition_holds_a_root() {
    let lab = Lab::new();
    let tree = lab.tree(|at| fs::write(at.join("etc/fstab"), "/dev/sda6 / ext4 defaults 0 1\n").unwrap());
    let part = lab.ext("part", "ext4", &[], &tree);
    let script = "label: dos\nstart=2048, size=8192, type=83\nstart=10240, size=200000, type=5\n\
                  start=12288, size=2048, type=82\nstart=16384, size=131072, type=83\n";
    let disk = lab.partitioned("disk", 110 * MIB, script, &[(16384, &part)]);
    let (mut agent, mounted) = lab.mounted(&disk);
    assert_eq!(mounted.file_systems[0].partition, 6);
    assert_eq!(mounted.warnings, [""; 0]);
    agent.ok("true");
}

#[test]
fn what_needs_another_engine_says_so() {
    use std::os::unix::fs::FileExt;
    let lab = Lab::new();
    for (name, places) in [
        ("LVM2_member", &[(512u64, &b"LABELONE"[..]), (536, b"LVM2 001")][..]),
        ("crypto_LUKS", &[(0, b"LUKS\xba\xbe\0\x01")]),
    ] {
        let disk = lab.text(name);
        let file = fs::File::create(&disk).unwrap();
        file.set_len(8 * MIB).unwrap();
        for (place, bytes) in places {
            file.write_all_at(bytes, *place).unwrap();
        }
        let failure = refused(&lab, &disk);
        assert_eq!(failure.kind, FailureKind::Unsupported, "{failure:?}");
        assert!(failure.message.contains(name) && failure.message.contains("libguestfs"), "{failure:?}");
    }
}

#[test]
fn a_file_system_that_the_kernel_may_lack() {
    let lab = Lab::new();
    let tree = lab.tree(|at| {
        fs::write(at.join("etc/fstab"), "UUID=ABCD-1234 /boot vfat umask=0077 0 1\n").unwrap();
    });
    let root = lab.ext("root", "ext4", &[], &tree);
    let esp = lab.text("esp");
    fs::File::create(&esp).unwrap().set_len(16 * MIB).unwrap();
    tool("mkfs.vfat", &["-i", "abcd1234", &esp]);
    let script = "label: gpt\nstart=2048, size=32768, type=uefi\nstart=34816, size=131072, type=linux\n";
    let disk = lab.partitioned("disk", 90 * MIB, script, &[(2048, &esp), (34816, &root)]);
    let mut agent = lab.agent();
    let result = agent.client.mount(&disk);
    let known = fs::read_to_string("/proc/filesystems").unwrap().contains("vfat") || {
        std::process::Command::new("modprobe").arg("vfat").status().is_ok_and(|status| status.success())
    };
    if known {
        assert_eq!(result.unwrap().file_systems.len(), 2);
    } else {
        let failure = failed(result);
        assert_eq!(failure.kind, FailureKind::Unsupported);
        assert!(failure.message.contains("vfat") && failure.message.contains("libguestfs"), "{failure:?}");
    }
}

#[test]
fn broken_tables_are_refused() {
    use std::os::unix::fs::FileExt;
    let lab = Lab::new();
    let disk = two_partitions(&lab, "");
    let file = fs::File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&[0xff; 64], 1024 + 32).unwrap();
    file.write_all_at(&[0; 512], 140 * MIB - 512).unwrap();
    let failure = refused(&lab, &disk);
    assert!(failure.message.contains("partition table is broken"), "{failure:?}");
}

/// A btrfs whose root is in a subvolume, as several distributions make it; `root` is the option by which the fstab names
/// it, `subvol=@` for one. Subvolumes are made in their order, each with the root's tree, those that end in `/` empty.
fn btrfs(lab: &Lab, subvolumes: &[&str], default: Option<&str>, root: &str) -> String {
    let disk = lab.text("btrfs-disk");
    fs::File::create(&disk).unwrap().set_len(300 * MIB).unwrap();
    tool("mkfs.btrfs", &["-q", "-L", "pool", &disk]);
    let tree = lab.tree(|at| {
        fs::write(
            at.join("etc/fstab"),
            format!("LABEL=pool / btrfs {root} 0 0\nLABEL=pool /srv btrfs subvol=/@srv,noatime 0 0\n"),
        )
        .unwrap();
        fs::create_dir(at.join("srv")).unwrap();
    });
    let point = lab.path("point");
    fs::create_dir(&point).unwrap();
    let mut script = "set -e; mount -o loop \"$0\" \"$1\"; cd \"$1\"; btrfs subvolume create @srv; echo srv >@srv/mark; mkdir plain;".to_string();
    for name in subvolumes {
        script += &match name.strip_suffix('/') {
            Some(name) => format!("mkdir -p $(dirname {name}); btrfs subvolume create {name};"),
            None => format!(
                "mkdir -p $(dirname {name}); btrfs subvolume create {name}; cp -a \"$2\"/. {name}; echo {name} > {name}/which;"
            ),
        };
    }
    if let Some(name) = default {
        script += &format!("btrfs subvolume set-default {name};");
    }
    script += "cd /; umount \"$1\"";
    tool(
        "unshare",
        &["--mount", "--propagation", "private", "sh", "-c", &script, &disk, point.to_str().unwrap(), &tree],
    );
    disk
}

#[test]
fn subvolumes_of_btrfs() {
    for (subvolumes, default) in [(&["@"][..], None), (&["@", "snapshot"], Some("@"))] {
        let lab = Lab::new();
        let disk = btrfs(&lab, subvolumes, default, "subvol=@");
        let (mut agent, mounted) = lab.mounted(&disk);
        assert_eq!(mounted.file_systems.len(), 2, "{mounted:?}");
        assert_eq!(mounted.warnings, [""; 0]);
        assert_eq!(agent.ok("cat /srv/mark; echo x >/new; echo y >/srv/new; cat /new /srv/new"), "srv\nx\ny\n");
        agent.client.done(&Request::Freeze).unwrap();
        let copy = lab.text("copy");
        tool("cp", &[&disk, &copy]);
        agent.client.done(&Request::Thaw).unwrap();
        tool("btrfs", &["check", &copy]);
        assert_eq!(agent.ok("echo z >/srv/new; cat /srv/new"), "z\n");
        agent.client.done(&Request::Unmount).unwrap();
        assert_eq!(loops_on(&disk), "");
    }
}

/// Of several roots, the one that is named is taken; a name that means none is told with what there is.
#[test]
fn a_root_that_is_named() {
    let lab = Lab::new();
    let disk = btrfs(&lab, &["one", "two", "empty/"], None, "subvol=none");
    assert_eq!(refused(&lab, &disk).kind, FailureKind::SeveralRoots);
    let root = |device: &str, path: Option<&str>| Root { device: device.into(), subvolume: path.map(str::to_owned) };
    let mut agent = lab.agent();
    agent.client.mount_as(&disk, false, Some(&root("LABEL=pool", Some("/two")))).unwrap();
    assert_eq!(agent.ok("cat /which /srv/mark"), "two\nsrv\n");
    agent.client.done(&Request::Unmount).unwrap();
    for (said, words) in [
        (root("LABEL=pool", Some("three")), "subvolume three of LABEL=pool"),
        (root("LABEL=pool", Some("empty")), "there is no Linux root"),
        (root("LABEL=pool", None), "there is no Linux root"),
        (root("LABEL=other", None), "no such device; the disk has "),
    ] {
        let failure = failed(lab.agent().client.mount_as(&disk, false, Some(&said)));
        assert!(failure.kind == FailureKind::NoRoot && failure.message.contains(words), "{failure:?}");
    }
    assert_eq!(loops_on(&disk), "");
}

/// Snapshots look like roots, and are none: what the guest boots is what its fstab says, else the default subvolume.
#[test]
fn snapshots_beside_a_root_are_none() {
    let layouts: &[(&[&str], Option<&str>, &str, &str)] = &[
        // One that somebody made by hand, beside the root.
        (&["@", "a-snapshot"], None, "subvol=@", "@"),
        (&["@", "a-snapshot"], None, "subvol=/@,compress=zstd:1", "@"),
        // The first subvolume has the number 257, since `@srv` has 256.
        (&["@", "a-snapshot"], None, "subvolid=257", "@"),
        // timeshift's.
        (&["timeshift-btrfs/snapshots/2026-01-01_10-00-01/@", "@", "@home/"], None, "defaults,subvol=@", "@"),
        // snapper's, as openSUSE has it: the root is itself a snapshot, and the fstab does not name it.
        (
            &["@/", "@/.snapshots/", "@/.snapshots/1/snapshot", "@/.snapshots/2/snapshot"],
            Some("@/.snapshots/1/snapshot"),
            "defaults",
            "@/.snapshots/1/snapshot",
        ),
        // After a rollback.
        (
            &["@/", "@/.snapshots/", "@/.snapshots/1/snapshot", "@/.snapshots/2/snapshot"],
            Some("@/.snapshots/2/snapshot"),
            "defaults",
            "@/.snapshots/2/snapshot",
        ),
        // The fstab has the word, also where the default subvolume is a root.
        (&["@", "old"], Some("old"), "subvol=@", "@"),
    ];
    for (subvolumes, default, root, which) in layouts {
        let lab = Lab::new();
        let disk = btrfs(&lab, subvolumes, *default, root);
        let (mut agent, _) = lab.mounted(&disk);
        assert_eq!(agent.ok("cat /which").trim_end(), *which, "{subvolumes:?}, {root}");
        agent.client.done(&Request::Unmount).unwrap();
    }
    let lab = Lab::new();
    let disk = btrfs(&lab, &["@", "snapshot"], None, "defaults");
    let failure = refused(&lab, &disk);
    assert_eq!(failure.kind, FailureKind::SeveralRoots);
    assert!(failure.message.contains("subvolume @") && failure.message.contains("subvolume snapshot"), "{failure:?}");
}

/// Who has to mend it wants the name of the feature.
#[test]
fn a_feature_that_makes_an_ext_read_only_is_named() {
    let lab = Lab::new();
    let disk = lab.guest();
    tool("tune2fs", &["-O", "read-only", &disk]);
    let failure = refused(&lab, &disk);
    assert!(failure.message.contains("the feature read-only"), "{failure:?}");
    assert!(failure.message.contains("tune2fs -O ^read-only"), "{failure:?}");
}

/// As in an appliance, where the disk is a device and not a file.
#[test]
fn a_block_device_is_as_good_as_a_file() {
    let lab = Lab::new();
    let disk = two_partitions(&lab, "LABEL=my\\040data /srv/data ext4 defaults 0 2\n");
    let device = tool("losetup", &["-f", "--show", &disk]).trim().to_string();
    let outcome = std::panic::catch_unwind(|| {
        let (mut agent, mounted) = lab.mounted(&device);
        assert_eq!(mounted.file_systems.len(), 2);
        assert_eq!(agent.ok("cat /srv/data/mark; echo x >/srv/data/x"), "data\n");
        agent.client.done(&Request::Unmount).unwrap();
    });
    tool("losetup", &["-d", &device]);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    let (mut agent, _) = lab.mounted(&disk);
    assert_eq!(agent.ok("cat /srv/data/x"), "x\n");
}

#[test]
fn requests_need_a_guest_and_a_greeting() {
    let lab = Lab::new();
    let mut agent = lab.agent();
    for request in
        [Request::Freeze, Request::Thaw, Request::Unmount, Request::Stat { path: "/".into() }, Request::Cancel]
    {
        assert_eq!(failed(agent.client.call(&request)).kind, FailureKind::Protocol);
    }
    assert_eq!(failed(agent.client.write("/x", &mut &b"abc"[..], Default::default())).kind, FailureKind::Protocol);
    let mut silent = Agent::start_silent(&lab.path("other"));
    assert!(silent.client.mount("/x").is_err());
    assert!(!silent.child.wait().unwrap().success());
}
