//! Tiny guests: a Linux of one static program, in a real file system on a real partition table, made in a second.
//!
//! What must hold: the agent and libguestfs both recognise it as a Debian; commands run in it (`/bin/sh` is busybox);
//! every image is clean by `fsck`; making it needs no mount and no loop device.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::cache::fixture;
use crate::command::{run, run_with_input};

/// Raise it when the tree or the way it is made changes.
const RECIPE: u32 = 1;
const MIB: u64 = 1 << 20;

/// A file system for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fs {
    /// ext4 by `mke2fs -d`.
    Ext4,
    /// XFS by `mkfs.xfs -p`; at least 300 MiB for each file system.
    Xfs,
    /// btrfs by `mkfs.btrfs --rootdir`; at least 120 MiB for each file system.
    Btrfs,
}

/// How many root file systems a guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roots {
    /// None: a disk with an empty file system.
    None,
    /// One, as a guest should.
    One,
    /// Two: the second is a partition of its own with the same tree. Needs `partitioned`.
    Two,
}

/// What a tiny guest is made of. Two equal sets of options give the same image.
#[derive(Debug, Clone)]
pub struct TinyOptions {
    /// File system of every partition.
    pub fs: Fs,
    /// Size of the root file system in MiB.
    pub size_mib: u64,
    /// With a GPT (root is the last partition, unless `root_first`), or a file system on the whole disk.
    pub partitioned: bool,
    /// `/boot` is a partition of its own, the first one. Needs `partitioned`.
    pub separate_boot: bool,
    /// `/home` is a partition of its own. Needs `partitioned`.
    pub separate_home: bool,
    /// `/home`, where it is a partition, lies behind the root and not before it.
    pub root_first: bool,
    /// Lines to add to `/etc/fstab`.
    pub fstab_extra: Vec<String>,
    /// Files to add: absolute path in the guest, content, permission bits. Folders are made as needed.
    pub files: Vec<(String, Vec<u8>, u32)>,
    /// Symbolic links to add or to put in place of what is there: absolute path in the guest, target.
    pub links: Vec<(String, String)>,
    /// How many root file systems there are.
    pub roots: Roots,
}

impl Default for TinyOptions {
    /// ext4 of 64 MiB on the whole disk.
    fn default() -> Self {
        TinyOptions {
            fs: Fs::Ext4,
            size_mib: 64,
            partitioned: false,
            separate_boot: false,
            separate_home: false,
            root_first: false,
            fstab_extra: Vec::new(),
            files: Vec::new(),
            links: Vec::new(),
            roots: Roots::One,
        }
    }
}

impl TinyOptions {
    /// The default with another file system, of the smallest round size that it takes.
    pub fn with_fs(fs: Fs) -> Self {
        TinyOptions { fs, size_mib: smallest(fs), ..TinyOptions::default() }
    }
}

fn smallest(fs: Fs) -> u64 {
    match fs {
        Fs::Ext4 => 64,
        Fs::Xfs => 320,
        Fs::Btrfs => 160,
    }
}

/// A tiny guest as a cached, read-only raw image. Overlay it or copy it ([`crate::copy_image`]), never write to it.
pub fn tiny_guest(options: &TinyOptions) -> PathBuf {
    let several = options.separate_boot || options.separate_home || options.roots == Roots::Two;
    assert!(options.partitioned || !several, "several file systems need a partition table");
    let busybox = busybox();
    let program = fs::read(&busybox).expect("busybox is readable");
    let recipe = format!("tiny {RECIPE} {options:?} {:x?}", Sha256::digest(&program));
    let stem = format!("tiny-{:?}", options.fs).to_lowercase();
    fixture(&stem, "raw", recipe.as_bytes(), |target, scratch| {
        Maker { options, busybox: &busybox, scratch, seed: recipe.as_bytes() }.make(target);
    })
}

pub(crate) fn busybox() -> PathBuf {
    let places = ["/bin/busybox", "/usr/bin/busybox", "/usr/lib/busybox/busybox"];
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("busybox-static is installed (package busybox-static)")
}

/// One file system to come.
struct Volume {
    name: &'static str,
    /// Where it is mounted in the guest; `None` for one that its fstab does not name.
    mount: Option<&'static str>,
    mib: u64,
    uuid: String,
}

struct Maker<'a> {
    options: &'a TinyOptions,
    busybox: &'a Path,
    scratch: &'a Path,
    seed: &'a [u8],
}

impl Maker<'_> {
    fn make(&self, target: &Path) {
        let volumes = self.volumes();
        let tree = self.scratch.join("tree");
        self.tree(&tree, &volumes);
        // File systems of their own get the part of the tree that is below their mount point.
        let mut sources = Vec::new();
        for volume in &volumes {
            let source = match volume.mount {
                Some("/") => tree.clone(),
                None if volume.name == "second" => tree.clone(),
                Some(mount) => {
                    let part = self.scratch.join(volume.name);
                    let inside = tree.join(&mount[1..]);
                    fs::rename(&inside, &part).expect("every mount point is in the tree");
                    make_dir(&inside, 0o755);
                    part
                }
                None => {
                    let empty = self.scratch.join("empty");
                    make_dir(&empty, 0o755);
                    empty
                }
            };
            sources.push(source);
        }

        let starts = self.partition(target, &volumes);
        let mut disk = File::options().write(true).open(target).expect("the disk was made");
        for ((volume, source), start) in volumes.iter().zip(&sources).zip(starts) {
            let image = self.scratch.join(format!("{}.img", volume.name));
            File::create(&image).and_then(|file| file.set_len(volume.mib * MIB)).expect("room for an image");
            self.make_fs(&image, source, volume);
            copy_sparse(&image, &mut disk, start);
        }
    }

    fn volumes(&self) -> Vec<Volume> {
        let options = self.options;
        let extra = smallest(options.fs);
        let volume = |name, mount, mib| Volume { name, mount, mib, uuid: uuid(self.seed, name) };
        let mut volumes = Vec::new();
        if options.separate_boot {
            volumes.push(volume("boot", Some("/boot"), extra));
        }
        if options.separate_home && !options.root_first {
            volumes.push(volume("home", Some("/home"), extra));
        }
        match options.roots {
            Roots::None => volumes.push(volume("none", None, options.size_mib)),
            Roots::One => volumes.push(volume("root", Some("/"), options.size_mib)),
            Roots::Two => {
                volumes.push(volume("second", None, options.size_mib));
                volumes.push(volume("root", Some("/"), options.size_mib));
            }
        }
        if options.separate_home && options.root_first {
            volumes.push(volume("home", Some("/home"), extra));
        }
        volumes
    }

    fn tree(&self, tree: &Path, volumes: &[Volume]) {
        make_dir(tree, 0o755);
        for (dir, mode) in DIRECTORIES {
            make_dir(&tree.join(dir), *mode);
        }
        fs::copy(self.busybox, tree.join("bin/busybox")).expect("busybox is readable");
        set_mode(&tree.join("bin/busybox"), 0o755);
        let applets = run(Command::new(self.busybox).arg("--list"));
        for applet in String::from_utf8(applets.stdout).expect("names of applets").lines() {
            if applet != "busybox" {
                symlink("busybox", tree.join("bin").join(applet)).expect("an empty folder");
            }
        }
        for (path, content, mode) in FILES {
            write(&tree.join(path), content.as_bytes(), *mode);
        }

        let kind = format!("{:?}", self.options.fs).to_lowercase();
        let mut fstab = String::from("# <file system> <mount point> <type> <options> <dump> <pass>\n");
        for volume in volumes.iter().rev() {
            if let Some(mount) = volume.mount {
                let pass = if mount == "/" { 1 } else { 2 };
                fstab += &format!("UUID={} {mount} {kind} defaults 0 {pass}\n", volume.uuid);
            }
        }
        for line in &self.options.fstab_extra {
            fstab += line;
            fstab.push('\n');
        }
        write(&tree.join("etc/fstab"), fstab.as_bytes(), 0o644);

        for (path, content, mode) in &self.options.files {
            write(&inside(tree, path), content, *mode);
        }
        for (path, target) in &self.options.links {
            let path = inside(tree, path);
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path).expect("a folder of the tree"),
                Ok(_) => fs::remove_file(&path).expect("a file of the tree"),
                Err(_) => fs::create_dir_all(path.parent().expect("not the root")).expect("a new folder"),
            }
            symlink(target, &path).expect("nothing is in the way");
        }
    }

    /// Makes the disk and says where each volume starts, in bytes.
    fn partition(&self, target: &Path, volumes: &[Volume]) -> Vec<u64> {
        let disk = File::create(target).expect("a new file");
        if !self.options.partitioned {
            disk.set_len(volumes[0].mib * MIB).expect("room for the disk");
            return vec![0];
        }
        let mut script = format!("label: gpt\nlabel-id: {}\n", uuid(self.seed, "disk"));
        let (mut start, mut starts) = (MIB, Vec::new());
        for volume in volumes {
            let id = uuid(self.seed, &format!("partition {}", volume.name));
            script += &format!(
                "start={}, size={}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid={id}, name={}\n",
                start / 512,
                volume.mib * MIB / 512,
                volume.name
            );
            starts.push(start);
            start += volume.mib * MIB;
        }
        // The last MiB is for the backup table.
        disk.set_len(start + MIB).expect("room for the disk");
        let mut sfdisk = Command::new("sfdisk");
        run_with_input(sfdisk.args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(target), script.as_bytes());
        starts
    }

    fn make_fs(&self, image: &Path, source: &Path, volume: &Volume) {
        match self.options.fs {
            Fs::Ext4 => {
                let mut mke2fs = Command::new("mke2fs");
                mke2fs.args(["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-U", &volume.uuid, "-d"]);
                run(mke2fs.arg(source).arg(image));
            }
            Fs::Xfs => {
                let prototype = self.scratch.join(format!("{}.proto", volume.name));
                let mut text = String::from("none\n0 0\nd--755 0 0\n");
                prototype_of(source, &mut text);
                text.push_str("$\n");
                fs::write(&prototype, text).expect("a new file");
                let mut mkfs = Command::new("mkfs.xfs");
                mkfs.args(["-q", "-f", "-m", &format!("uuid={}", volume.uuid), "-p"]);
                run(mkfs.arg(&prototype).arg(image));
            }
            Fs::Btrfs => {
                let mut mkfs = Command::new("mkfs.btrfs");
                mkfs.args(["-q", "-f", "-U", &volume.uuid, "--rootdir"]);
                run(mkfs.arg(source).arg(image));
            }
        }
    }
}

/// Lines of an XFS prototype file for what is in `dir`; see `mkfs.xfs(8)`, option `-p`.
fn prototype_of(dir: &Path, text: &mut String) {
    let mut entries: Vec<_> = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry")).collect();
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_str().filter(|name| !name.contains(char::is_whitespace));
        let name = name.expect("XFS prototypes know no blanks in names");
        let metadata = entry.metadata().expect("an entry");
        let mode = metadata.permissions().mode();
        let setuid = if mode & 0o4000 != 0 { 'u' } else { '-' };
        let setgid = if mode & 0o2000 != 0 { 'g' } else { '-' };
        let bits = format!("{setuid}{setgid}{:03o} 0 0", mode & 0o777);
        if metadata.is_dir() {
            text.push_str(&format!("{name} d{bits}\n"));
            prototype_of(&path, text);
            text.push_str("$\n");
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).expect("a symbolic link");
            text.push_str(&format!("{name} l{bits} {}\n", target.display()));
        } else {
            text.push_str(&format!("{name} -{bits} {}\n", path.display()));
        }
    }
}

/// Copies the parts of `image` that are not zero to `disk` from `start`.
fn copy_sparse(image: &Path, disk: &mut File, start: u64) {
    let mut image = File::open(image).expect("the image was made");
    let mut block = vec![0; 64 << 10];
    let mut offset = start;
    loop {
        let count = image.read(&mut block).expect("reading an image");
        if count == 0 {
            return;
        }
        if block[..count].iter().any(|&byte| byte != 0) {
            disk.seek(SeekFrom::Start(offset)).expect("seeking in a file");
            disk.write_all(&block[..count]).expect("room for the disk");
        }
        offset += count as u64;
    }
}

/// A UUID that depends on the recipe and on what it is for, in the form of version 4.
fn uuid(seed: &[u8], purpose: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(seed);
    digest.update([0]);
    digest.update(purpose);
    let mut bytes: [u8; 16] = digest.finalize()[..16].try_into().expect("16 of 32 bytes");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn inside(tree: &Path, path: &str) -> PathBuf {
    tree.join(path.strip_prefix('/').expect("an absolute path in the guest"))
}

fn make_dir(path: &Path, mode: u32) {
    fs::create_dir_all(path).expect("a new folder");
    set_mode(path, mode);
}

fn write(path: &Path, content: &[u8], mode: u32) {
    fs::create_dir_all(path.parent().expect("not the root")).expect("a new folder");
    fs::write(path, content).expect("a new file");
    set_mode(path, mode);
}

/// The host's umask must not reach the guest.
fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("an own file");
}

const DIRECTORIES: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("boot", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("home/tiny", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("var", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

// libguestfs takes the version of a Debian from `debian_version` and the rest from `os-release`.
const FILES: &[(&str, &str, u32)] = &[
    (
        "etc/os-release",
        "PRETTY_NAME=\"Debian GNU/Linux 12 (tiny)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n",
        0o644,
    ),
    ("etc/debian_version", "12.0\n", 0o644),
    ("etc/hostname", "tiny\n", 0o644),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 tiny\n", 0o644),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ntiny:x:1000:1000:tiny:/home/tiny:/bin/sh\n", 0o644),
    ("etc/group", "root:x:0:\ntiny:x:1000:\n", 0o644),
    ("etc/shadow", "root:*:19000:0:99999:7:::\ntiny:*:19000:0:99999:7:::\n", 0o600),
    ("etc/resolv.conf", "nameserver 192.0.2.1\n", 0o644),
    ("boot/README", "A tiny guest has no kernel.\n", 0o644),
];
