//! Programs of the host on what a guest made: partition tables and file systems that are grown, shrunk, checked and kept
//! as caches, with what means harm in them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testkit::{TinyOptions, tiny_guest};

use super::Project;

/// Bytes of a disk, each at its place.
type Change = (u64, Vec<u8>);
/// What is changed, and what that makes of it.
type Member = (&'static str, Vec<Change>);

/// How a build of something that may be no disk at all may end: well, refused, or with what a program said about it.
const ENDS: &[i32] = &[0, 1, 4, 5];

/// A copy of a guest, with some bytes of it replaced.
fn altered(project: &Project<'_>, options: &TinyOptions, changes: &[Change]) -> PathBuf {
    let path = project.folder.join("sub/disk.img");
    let _ = fs::remove_file(&path);
    fs::copy(tiny_guest(options), &path).expect("room for an image");
    let mut permissions = fs::metadata(&path).expect("it was made").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(&path, permissions).expect("it is ours");
    let file = File::options().write(true).open(&path).expect("it is ours");
    changes.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).expect("it can be written"));
    path
}

/// Grows it, runs something in it, shrinks it.
fn through_all(project: &Project<'_>, what: &str, disk: &Path, codes: &[i32]) {
    let spec = json!({
        "import": { "disk": { "path": disk, "resize": { "size": "700M", "expand": "/dev/sda1" } } },
        "steps": [{ "run": "echo here > /here" }],
        "export": { "raw": { "path": "shrunk.img", "shrink": true, "clean": true } },
    });
    project.builds(what, &spec, &["--force-export"], codes);
    let spec = json!({
        "import": { "download": { "url": disk } }, "steps": [{ "run": "true" }],
        "export": { "raw": { "path": "shrunk.img", "shrink": true } },
    });
    project.builds(what, &spec, &["--force-export"], codes);
    let _ = fs::remove_file(project.folder.join("shrunk.img"));
}

/// A record of a table of the DOS kind: type, first sector, sectors.
fn record(kind: u8, start: u32, count: u32) -> Vec<u8> {
    [&[0, 0, 0, 0, kind, 0, 0, 0][..], &start.to_le_bytes(), &count.to_le_bytes()].concat()
}

/// Tables whose partitions lie beyond the disk, over one another, over the table, or without an end.
pub(super) fn tables(project: &Project<'_>) -> usize {
    let gpt = TinyOptions { partitioned: true, ..TinyOptions::default() };
    let entry = |first: u64, last: u64| [first.to_le_bytes(), last.to_le_bytes()].concat();
    let dos = |records: &[Vec<u8>]| vec![(446, records.concat()), (510, vec![0x55, 0xaa])];
    // Of the table in the second sector, the sums do not fit then: what does not check them takes the numbers.
    let members: [Member; 9] = [
        ("a partition beyond the disk", vec![(1024 + 32, entry(1 << 40, 1 << 41))]),
        ("a partition that ends before it begins", vec![(1024 + 32, entry(4096, 34))]),
        ("a partition over the table", vec![(1024 + 32, entry(0, 1 << 16))]),
        ("a partition of all there is", vec![(1024 + 32, entry(0, u64::MAX))]),
        (
            "entries without end",
            vec![(512 + 80, u32::MAX.to_le_bytes().into()), (512 + 84, 128u32.to_le_bytes().into())],
        ),
        ("a table that lies nowhere", vec![(512 + 72, u64::MAX.to_le_bytes().into())]),
        ("a chain that bites its tail", dos(&[record(5, 0, 4096), record(0x0f, 0, 4096)])),
        ("partitions over one another", dos(&[record(0x83, 0, u32::MAX), record(0x83, 1, u32::MAX)])),
        ("a type that is a table again", dos(&[record(0xee, 1, u32::MAX), record(0x05, 1, 1)])),
    ];
    let count = members.len();
    for (what, changes) in &members {
        let disk = altered(project, &gpt, changes);
        through_all(project, what, &disk, ENDS);
    }
    count
}

/// File systems whose first block says what is not so.
pub(super) fn broken(project: &Project<'_>) -> usize {
    // The first block of ext4 begins at 1024, of a file system on the whole disk.
    let at = |offset: u64, bytes: &[u8]| vec![(1024 + offset, bytes.to_vec())];
    let victim = project.field.victim();
    let short = victim.as_bytes()[..victim.len().min(63)].to_vec();
    let members: [Member; 8] = [
        ("more blocks than there are", at(4, &u32::MAX.to_le_bytes())),
        ("no inodes", at(40, &[0; 4])),
        ("blocks of 2^40 bytes", at(24, &30u32.to_le_bytes())),
        ("a journal on another device", [at(96, &0x0008u32.to_le_bytes()), at(208, &[7; 16])].concat()),
        ("features of the future", at(96, &u32::MAX.to_le_bytes())),
        ("a path where it was mounted last", at(136, &[&short[..], &[0]].concat())),
        (
            "options by which it is mounted",
            at(512, &[&b"errors=panic,usrjquota="[..], &short[..short.len().min(20)], &[0]].concat()),
        ),
        ("errors that panic", at(58, &[2, 0, 3, 0])),
    ];
    let count = members.len();
    for (what, changes) in &members {
        let disk = altered(project, &TinyOptions::default(), changes);
        through_all(project, what, &disk, ENDS);
    }
    count
}

/// What the guest's own table of mounts asks for: folders and devices of the host.
pub(super) fn fstab(project: &Project<'_>) -> usize {
    let victim = project.field.victim();
    let lines = [
        format!("{victim} /mnt none bind 0 0"),
        format!("{victim} {victim} none rbind 0 0"),
        "/dev/vda /mnt ext4 defaults 0 0".into(),
        "/dev/loop0 /mnt auto defaults 0 0".into(),
        "/proc/1/root /mnt none bind 0 0".into(),
        format!("overlay /mnt overlay lowerdir={victim},upperdir=/tmp,workdir=/var 0 0"),
        "LABEL=../../../../etc /mnt ext4 defaults 0 0".into(),
        "/dev/sda /../../../../.. ext4 defaults 0 0".into(),
        format!("/dev/sda {victim} ext4 defaults 0 0"),
    ];
    let script = format!(
        "cat /mnt/secret {victim}/secret 2>/dev/null && echo REACHED; touch /mnt/x {victim}/x 2>/dev/null; true"
    );
    let count = lines.len();
    for line in lines {
        let guest = tiny_guest(&TinyOptions { fstab_extra: vec![line.clone()], ..TinyOptions::default() });
        let spec: Value = json!({ "import": { "download": { "url": guest } }, "steps": [{ "run": script }] });
        let ran = project.builds(&line, &spec, &["-v"], ENDS);
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("REACHED\n"), "{line}: {}", ran.stdout);
    }
    count
}

/// Caches of packages: names that climb, targets that are links, and a disk that a guest left in pieces.
pub(super) fn caches(project: &Project<'_>) -> usize {
    let victim = project.field.victim();
    let base = project.field.base();
    let mount = |name: &str, target: &str, script: &str| {
        json!({ "import": base, "steps": [
            { "run": format!("mkdir -p /srv; ln -sfn {victim} /srv/out; ln -sfn ../../../../../..{victim} /srv/up") },
            { "run": script, "mounts": [{ "cache": name, "target": target }] },
        ] })
    };
    let up = format!("../../../../../../../..{victim}");
    let mut members = 0;
    for name in ["../../../x", "/etc", &up, "a/../../b", ".", ".."] {
        project.builds(&format!("a cache called {name}"), &mount(name, "/srv/c", "touch /srv/c/x"), &[], &[1]);
        members += 1;
    }
    for target in ["/srv/out", "/srv/up", "/srv/out/deep", "/proc", "/dev", "/"] {
        let spec = mount("own", target, "touch x; echo done");
        project.builds(&format!("a cache at {target}"), &spec, &[], ENDS);
        members += 1;
    }
    // What is in the cache leads out, for whoever opens it next.
    let script =
        format!("ln -sfn {victim} /srv/c/link; mkdir -p /srv/c/archives; ln -sfn {victim}/secret /srv/c/archives/lock");
    project.builds("links in a cache", &mount("left", "/srv/c", &script), &[], &[0]);
    let script = "cat /srv/c/link/secret /srv/c/archives/lock 2>/dev/null && echo REACHED; true";
    let ran = project.builds("links in a cache, later", &mount("left", "/srv/c", script), &["-v"], &[0]);
    assert!(!ran.stdout.contains("REACHED\n"), "{}", ran.stdout);
    members + 2
}
