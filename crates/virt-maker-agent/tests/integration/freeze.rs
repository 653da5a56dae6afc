//! Between freeze and thaw the disk holds clean file systems, as independent tools see them.

use crate::support::*;

use virt_maker_agent::protocol::{FailureKind, Request};

/// Copies the disk while the agent holds it frozen, and thaws.
fn copy_frozen(lab: &Lab, agent: &mut Agent, disk: &str, name: &str) -> String {
    agent.client.done(&Request::Freeze).unwrap();
    let copy = lab.text(name);
    tool("cp", &["--sparse=always", disk, &copy]);
    agent.client.done(&Request::Thaw).unwrap();
    copy
}

const WORK: &str = "mkdir /work; for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/urandom of=/work/$i bs=64k count=$i 2>/dev/null; done; \
                    rm /work/3; mv /work/4 /work/four; ln /work/5 /work/five; chmod 4755 /work/6; chown 1:2 /work/7";

/// Writes, freezes and checks three times, so that a thaw that leaves traces shows as well.
fn check(kind: &str, options: &[&str]) {
    let lab = Lab::new();
    let tree = lab.tree(|_| {});
    let disk = lab.ext("disk", kind, options, &tree);
    let (mut agent, mounted) = lab.mounted(&disk);
    assert_eq!(mounted.file_systems[0].kind, kind);
    for round in 0..3 {
        agent.ok(&format!("{WORK}; mv /work /work{round}"));
        let sum = agent.ok(&format!("md5sum </work{round}/9"));
        let copy = copy_frozen(&lab, &mut agent, &disk, &format!("copy{round}"));
        tool("e2fsck", &["-fn", &copy]);
        let super_block = tool("dumpe2fs", &["-h", &copy]);
        assert!(!super_block.contains("needs_recovery"), "{super_block}");
        assert!(super_block.contains("Filesystem state:         clean"), "{super_block}");
        let out = lab.text("out");
        debugfs(&copy, &format!("dump /work{round}/9 {out}"));
        assert_eq!(tool("md5sum", &[&out])[..32], sum[..32]);
    }
}

#[test]
fn ext4_is_clean() {
    check("ext4", &[]);
}

#[test]
fn ext4_with_an_orphan_file_is_clean() {
    check("ext4", &["-O", "orphan_file,metadata_csum,64bit"]);
}

#[test]
fn ext4_without_a_journal_is_clean() {
    check("ext4", &["-O", "^has_journal"]);
}

#[test]
fn ext3_is_clean() {
    check("ext3", &[]);
}

#[test]
fn ext2_is_clean() {
    check("ext2", &[]);
}

#[test]
fn a_journal_that_wants_replay_at_the_start_is_replayed() {
    let lab = Lab::new();
    let disk = lab.guest();
    let dirty = lab.text("dirty");
    {
        let (mut agent, _) = lab.mounted(&disk);
        agent.ok(WORK);
        agent.ok("sync");
        tool("cp", &[&disk, &dirty]);
    }
    assert!(tool("dumpe2fs", &["-h", &dirty]).contains("needs_recovery"), "the copy was to be dirty");
    let (mut agent, _) = lab.mounted(&dirty);
    assert_eq!(agent.ok("ls /work").split_whitespace().count(), 9);
    let copy = copy_frozen(&lab, &mut agent, &dirty, "copy");
    tool("e2fsck", &["-fn", &copy]);
}

/// A guest on a file system that no tool fills from a folder: made by the agent's own file operations.
fn made_by_hand(lab: &Lab, make: &[&str]) -> String {
    let disk = lab.text("disk");
    std::fs::File::create(&disk).unwrap().set_len(400 * MIB).unwrap();
    tool(make[0], &[&make[1..], &[disk.as_str()]].concat());
    let tree = lab.tree(|_| {});
    let point = lab.path("point");
    std::fs::create_dir(&point).unwrap();
    // In a namespace of its own, so that a failure leaves no mount.
    let script = "mount -o loop \"$0\" \"$1\" && cp -a \"$2\"/. \"$1\" && umount \"$1\"";
    tool(
        "unshare",
        &["--mount", "--propagation", "private", "sh", "-c", script, &disk, point.to_str().unwrap(), &tree],
    );
    disk
}

#[test]
fn xfs_is_clean() {
    let lab = Lab::new();
    let disk = made_by_hand(&lab, &["mkfs.xfs", "-q"]);
    let (mut agent, mounted) = lab.mounted(&disk);
    assert_eq!(mounted.file_systems[0].kind, "xfs");
    for round in 0..3 {
        agent.ok(&format!("{WORK}; mv /work /work{round}"));
        let copy = copy_frozen(&lab, &mut agent, &disk, &format!("copy{round}"));
        let said = tool("xfs_repair", &["-n", &copy]);
        assert!(!said.contains("ALERT"), "{said}");
        let log = tool("xfs_logprint", &["-t", &copy]);
        assert!(log.contains("<CLEAN>"), "{log}");
    }
}

#[test]
fn btrfs_is_clean() {
    let lab = Lab::new();
    let disk = made_by_hand(&lab, &["mkfs.btrfs", "-q"]);
    let (mut agent, mounted) = lab.mounted(&disk);
    assert_eq!(mounted.file_systems[0].kind, "btrfs");
    for round in 0..3 {
        agent.ok(&format!("{WORK}; mv /work /work{round}"));
        let copy = copy_frozen(&lab, &mut agent, &disk, &format!("copy{round}"));
        tool("btrfs", &["check", &copy]);
        assert!(tool("btrfs", &["inspect-internal", "dump-super", &copy]).contains("log_root\t\t0\n"));
    }
}

#[test]
fn nothing_is_changed_while_frozen() {
    let lab = Lab::new();
    let disk = lab.guest();
    let (mut agent, _) = lab.mounted(&disk);
    agent.client.done(&Request::Freeze).unwrap();
    let problem = failed(agent.client.call(&Request::Stat { path: "/".into() }));
    assert_eq!(problem.kind, FailureKind::Protocol);
    let problem = failed(agent.client.write("/x", &mut &b"x"[..], Default::default()));
    assert!(problem.message.contains("frozen"), "{problem:?}");
    // A second freeze is none, and a thaw ends both.
    agent.client.done(&Request::Freeze).unwrap();
    agent.client.done(&Request::Thaw).unwrap();
    agent.client.write("/x", &mut &b"x"[..], Default::default()).unwrap();
    assert_eq!(agent.ok("cat /x"), "x");
}

#[test]
fn a_killed_agent_leaves_nothing_even_when_frozen() {
    for frozen in [false, true] {
        let lab = Lab::new();
        let disk = lab.guest();
        let (mut agent, _) = lab.mounted(&disk);
        assert!(loops_on(&disk).contains("/dev/loop"));
        if frozen {
            agent.client.done(&Request::Freeze).unwrap();
        }
        agent.child.kill().unwrap();
        agent.child.wait().unwrap();
        assert_eq!(loops_at_last(&disk), "", "frozen: {frozen}");
        assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains(lab.folder.path().to_str().unwrap()));
    }
}

#[test]
fn unmount_lets_go_of_the_disk() {
    let lab = Lab::new();
    let disk = lab.guest();
    let (mut agent, _) = lab.mounted(&disk);
    agent.ok("echo x >/x");
    agent.client.done(&Request::Unmount).unwrap();
    assert_eq!(loops_on(&disk), "");
    tool("e2fsck", &["-fn", &disk]);
    assert_eq!(debugfs(&disk, "cat /x"), "x\n");
    // And it can be mounted again, in the same conversation.
    agent.client.mount(&disk).unwrap();
    assert_eq!(agent.ok("cat /x"), "x\n");
    drop(agent);
    assert_eq!(loops_at_last(&disk), "");
}

/// Loop devices on `disk` once the agent is gone. What a test kills is the keeper; the agent dies of that a moment
/// later, and with it its mounts and loop devices.
fn loops_at_last(disk: &str) -> String {
    let begin = std::time::Instant::now();
    while !loops_on(disk).is_empty() && begin.elapsed() < std::time::Duration::from_secs(60) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    loops_on(disk)
}
