//! Tiny guests are what the test kit says they are, by the word of others.

use std::process::Command;

use testkit::{Fs, Roots, TinyOptions, Volumes, find_file_in_image, fsck_clean, read_file_from_image, run, tiny_guest};

fn kinds() -> [TinyOptions; 3] {
    [Fs::Ext4, Fs::Xfs, Fs::Btrfs].map(TinyOptions::with_fs)
}

#[test]
fn every_kind_is_clean() {
    for options in kinds() {
        let image = tiny_guest(&options);
        fsck_clean(&image, "raw");
        let volumes = Volumes::of(&image, "raw");
        let found: Vec<_> = volumes.volumes.iter().map(|volume| volume.fs.clone()).collect();
        assert_eq!(found, [format!("{:?}", options.fs).to_lowercase()]);
    }
}

#[test]
fn equal_options_give_one_image_and_others_another() {
    let image = tiny_guest(&TinyOptions::default());
    assert_eq!(image, tiny_guest(&TinyOptions::default()));
    assert_ne!(image, tiny_guest(&TinyOptions { size_mib: 65, ..TinyOptions::default() }));
}

#[test]
fn parts_of_the_tree_live_on_their_own_partitions() {
    let options = TinyOptions { separate_boot: true, separate_home: true, partitioned: true, ..TinyOptions::default() };
    let image = tiny_guest(&options);
    fsck_clean(&image, "raw");
    let volumes = Volumes::of(&image, "raw");
    assert_eq!(volumes.volumes.len(), 3);
    let fstab = String::from_utf8(read_file_from_image(&image, "/etc/fstab")).unwrap();
    for volume in &volumes.volumes {
        let probe = run(Command::new("blkid").args(["--probe", "-o", "value", "-s", "UUID"]).arg(&volume.path));
        let uuid = String::from_utf8(probe.stdout).unwrap();
        assert!(fstab.contains(uuid.trim()), "{uuid} is not in:\n{fstab}");
    }
    assert!(find_file_in_image(&image, "/README").is_some(), "the boot partition has what /boot had");
    assert!(find_file_in_image(&image, "/boot/README").is_none(), "and the root has it no more");
}

#[test]
fn unpartitioned_without_a_root_and_with_two() {
    let plain = tiny_guest(&TinyOptions::default());
    fsck_clean(&plain, "raw");
    assert!(find_file_in_image(&plain, "/etc/os-release").is_some());
    let none = tiny_guest(&TinyOptions { roots: Roots::None, ..TinyOptions::default() });
    fsck_clean(&none, "raw");
    assert!(find_file_in_image(&none, "/etc/os-release").is_none());
    let two = tiny_guest(&TinyOptions { roots: Roots::Two, partitioned: true, ..TinyOptions::default() });
    fsck_clean(&two, "raw");
    assert_eq!(Volumes::of(&two, "raw").volumes.len(), 2);
}

#[test]
fn files_links_and_fstab_lines_are_added() {
    let options = TinyOptions {
        fstab_extra: vec!["LABEL=nowhere /srv ext4 defaults 0 0".to_owned()],
        files: vec![("/opt/deep/file".to_owned(), b"content\n".to_vec(), 0o640)],
        links: vec![("/etc/resolv.conf".to_owned(), "../run/resolv.conf".to_owned())],
        ..TinyOptions::default()
    };
    let image = tiny_guest(&options);
    assert_eq!(read_file_from_image(&image, "/opt/deep/file"), b"content\n");
    let fstab = read_file_from_image(&image, "/etc/fstab");
    assert!(String::from_utf8(fstab).unwrap().ends_with("LABEL=nowhere /srv ext4 defaults 0 0\n"));
    let volumes = Volumes::of(&image, "raw");
    let link = run(Command::new("debugfs").args(["-R", "stat /etc/resolv.conf"]).arg(&volumes.volumes[0].path));
    assert!(String::from_utf8_lossy(&link.stdout).contains("../run/resolv.conf"));
}
