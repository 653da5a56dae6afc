//! The Debian of the test kit is one, and libguestfs takes the tiny guests for Linux too.

use std::process::Command;

use testkit::{Fs, TinyOptions, appliance_lock, debian_guest, fsck_clean, read_file_from_image, run, tiny_guest};

#[test]
fn the_debian_guest_is_a_debian() {
    let image = debian_guest();
    fsck_clean(&image, "raw");
    let release = String::from_utf8(read_file_from_image(&image, "/usr/lib/os-release")).unwrap();
    assert!(release.contains("VERSION_CODENAME=bookworm"), "{release}");
    let status = String::from_utf8(read_file_from_image(&image, "/var/lib/dpkg/status")).unwrap();
    assert!(status.contains("Package: apt\nStatus: install ok installed\n"));
}

/// What does not look like Linux to libguestfs cannot test its engine. It takes an appliance.
#[test]
fn the_tiny_guest_is_linux_to_libguestfs() {
    let _lock = appliance_lock();
    let others = TinyOptions { partitioned: true, ..TinyOptions::with_fs(Fs::Xfs) };
    let mut inspector = Command::new("virt-inspector");
    inspector.env("LIBGUESTFS_BACKEND", "direct").env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg");
    inspector.args(["--no-applications", "--no-icon", "--format=raw"]);
    // Both in one appliance, as two systems of one machine.
    for options in [TinyOptions::default(), others] {
        inspector.arg("-a").arg(tiny_guest(&options));
    }
    let report = String::from_utf8(run(&mut inspector).stdout).unwrap();
    for part in ["<name>linux</name>", "<distro>debian</distro>", "<major_version>12</major_version>"] {
        assert_eq!(report.matches(part).count(), 2, "{part} in:\n{report}");
    }
}
