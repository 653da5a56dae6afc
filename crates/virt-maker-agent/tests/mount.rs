//! Finding the guest's root and mounting after its fstab.

mod support;
use support::*;

#[test]
fn a_whole_disk_is_mounted() {
    let lab = Lab::new();
    let disk = lab.guest();
    let (mut agent, mounted) = lab.mounted(&disk);
    assert_eq!(mounted.file_systems.len(), 1);
    assert_eq!(mounted.file_systems[0].kind, "ext4");
    assert_eq!(mounted.os.id, "testos");
    assert_eq!(agent.ok("echo hello; hostname"), "hello\nguest-name\n");
}
