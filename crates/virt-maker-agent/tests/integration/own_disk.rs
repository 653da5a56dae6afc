//! The guest's own disk as its commands see it: what is asked by those who make boot entries and initial RAM disks.

use super::support::*;

use std::fs;

use virt_maker_agent::protocol::{Exit, Request};

const TABLE: &str = "label: gpt\n\
    start=2048, size=131072, name=\"my root\", uuid=11111111-2222-3333-4444-555555555555\n\
    start=133120, size=8192, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, name=pages\n";
const ROOT: &str = "0b6a4f6e-5e1c-4a5c-9a6f-2b8f6d3e1a10";

/// A disk with a root, which has the programs that ask, and swap space.
fn disk(lab: &Lab) -> String {
    let tree = lab.tree(|at| {
        for program in ["/usr/sbin/grub-probe", "/usr/bin/udevadm", "/usr/bin/lsblk"] {
            with_program(at, program);
        }
        let fstab = format!("UUID={ROOT} / ext4 defaults 0 1\nPARTLABEL=pages none swap sw 0 0\n");
        fs::write(at.join("etc/fstab"), fstab).unwrap();
    });
    let root = lab.ext("root", "ext4", &["-U", ROOT, "-L", "../a b"], &tree);
    let swap = lab.text("swap");
    fs::File::create(&swap).unwrap().set_len(4 << 20).unwrap();
    tool("mkswap", &[&swap]);
    lab.partitioned("disk", 72 << 20, TABLE, &[(2048, &root), (133_120, &swap)])
}

#[test]
fn boot_loaders_find_the_guests_own_disk() {
    let lab = Lab::new();
    let disk = disk(&lab);
    let (mut agent, _) = lab.mounted(&disk);
    assert_eq!(agent.ok("head -n 1 /proc/mounts | cut -d' ' -f1-3"), "/dev/sda1 / ext4\n");
    assert_eq!(agent.ok("cat /proc/cmdline"), format!("root=UUID={ROOT} ro\n"));
    for (target, answer) in
        [("device", "/dev/sda1"), ("disk", "/dev/sda"), ("fs", "ext2"), ("fs_uuid", ROOT), ("partmap", "gpt")]
    {
        assert_eq!(agent.ok(&format!("grub-probe --target={target} / 2>&1")), format!("{answer}\n"));
    }
    let by =
        agent.ok("cd /dev/disk; find * -type l | while read -r name; do echo \"$name\" $(readlink -f \"$name\"); done");
    for line in [
        format!("by-uuid/{ROOT} /dev/sda1"),
        r"by-label/..\x2fa\x20b /dev/sda1".to_string(),
        r"by-partlabel/my\x20root /dev/sda1".to_string(),
        "by-partuuid/11111111-2222-3333-4444-555555555555 /dev/sda1".to_string(),
        "by-partlabel/pages /dev/sda2".to_string(),
    ] {
        assert!(by.lines().any(|found| found == line), "{line} is not in {by}");
    }
    assert_eq!(agent.ok("sed 1d /proc/swaps | cut -d' ' -f1"), "/dev/sda2\n");
    assert_eq!(
        agent.ok("sed 1,2d /proc/partitions | while read -r _ _ size name; do echo $size $name; done"),
        "73728 sda\n65536 sda1\n4096 sda2\n"
    );
    assert_eq!(
        agent.ok("lsblk -rno NAME,TYPE,FSTYPE,MOUNTPOINT"),
        "sda disk  \nsda1 part ext4 /\nsda2 part swap [SWAP]\n"
    );
    // The number that every file tells leads there, as the node's does.
    let place = "cat /sys/dev/block/$(($1 >> 8)):$(($1 & 255))/uevent | grep DEVNAME";
    assert_eq!(agent.ok(&format!("set -- $(stat -c %d /); {place}")), "DEVNAME=sda1\n");
    assert_eq!(
        agent.ok("udevadm info -q property -n /dev/sda1 | grep -E '^ID_FS_(TYPE|UUID)='"),
        format!("ID_FS_TYPE=ext4\nID_FS_UUID={ROOT}\n")
    );
    agent.client.done(&Request::Freeze).unwrap();
    agent.client.done(&Request::Thaw).unwrap();
    agent.client.done(&Request::Unmount).unwrap();
    assert_eq!(loops_on(&disk), "");
}

#[test]
fn the_guests_own_disk_can_be_read_and_not_written() {
    let lab = Lab::new();
    let disk = disk(&lab);
    let (mut agent, _) = lab.mounted(&disk);
    let before = agent.ok("dd if=/dev/sda1 bs=1k count=64 2>/dev/null | md5sum; dd if=/dev/sda bs=1k skip=1024 count=64 2>/dev/null | md5sum");
    let lines: Vec<&str> = before.lines().collect();
    assert_eq!(lines[0], lines[1], "the partition lies where the table says");
    for node in ["sda", "sda1", "sda2"] {
        let write = format!("dd if=/dev/zero of=/dev/{node} bs=512 count=1 conv=notrunc,fsync");
        assert_ne!(agent.shell(&write).0, Exit::Status(0), "{node}");
        // What the node is over is not told, and cannot be changed.
        assert_ne!(agent.shell(&format!("losetup -d /dev/{node}")).0, Exit::Status(0), "{node}");
        // A node of its number that the command makes itself cannot be opened.
        let own =
            format!("set -- $(stat -c '%t %T' /dev/{node}); mknod /tmp/{node} b 0x$1 0x$2 && head -c 1 /tmp/{node}");
        assert_ne!(agent.shell(&own).0, Exit::Status(0), "{node}");
    }
    // What is read is what is there now, though it was read before.
    let look = "tr -d '\\0' </dev/sda1 | grep -c found-$((4000 + 711)) || true";
    assert_eq!(agent.ok(look), "0\n");
    agent.ok("echo found-$((4000 + 711)) >/tmp/words");
    agent.client.done(&Request::Freeze).unwrap();
    agent.client.done(&Request::Thaw).unwrap();
    assert_eq!(agent.ok(look), "1\n");
}

/// A command is root, and the first process that it sees was started from a file of the host. That one is read-only by this
/// name at all times, and not just while somebody runs it. It has these rights already, so nothing is changed in any case; to
/// open it for writing is refused before that question, while it runs.
#[test]
fn a_command_cannot_write_the_program_of_its_walls() {
    let lab = Lab::new();
    let disk = disk(&lab);
    let (mut agent, _) = lab.mounted(&disk);
    let said = agent.ok("exec 3</proc/1/exe; chmod 755 /proc/1/exe 2>&1; chmod 755 /proc/self/fd/3 2>&1; true");
    assert_eq!(said.matches("Read-only file system").count(), 2, "{said}");
}
