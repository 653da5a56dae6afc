//! What means harm: images that name files of the host, archives that lead out of their folder; and a victim, a folder of
//! the host that sees every touch.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::command::run;

/// A folder of the host with a secret in it. Whoever opens, reads or changes anything in there is seen.
pub struct Victim {
    folder: tempfile::TempDir,
    watch: OwnedFd,
}

impl Victim {
    /// What is in its file `secret`.
    pub const SECRET: &'static str = "this is nobody's business: 7c1f9d2e55b0";

    /// In the folder for temporary files.
    pub fn new() -> Victim {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("secret"), Victim::SECRET).expect("the folder is ours");
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).expect("the kernel has inotify");
        let all = WatchFlags::OPEN
            | WatchFlags::ACCESS
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE;
        inotify::add_watch(&watch, folder.path(), all).expect("the folder can be watched");
        Victim { folder, watch }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The file with the secret.
    pub fn secret(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// Forgets what was done to it until now.
    pub fn forget(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.watch, &mut buffer);
        while events.next().is_ok() {}
    }

    /// Panics if anybody touched it since it was made, or since the last call.
    #[track_caller]
    pub fn assert_untouched(&self, by: &str) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.watch, &mut buffer);
        if let Ok(event) = events.next() {
            panic!("{by}: {:?} of {:?} on the host", event.events(), event.file_name());
        }
    }
}

impl Default for Victim {
    fn default() -> Victim {
        Victim::new()
    }
}

/// An image that is to be refused, and words that its refusal has.
pub struct HostileImage {
    /// What it is.
    pub name: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// Words of the message.
    pub words: &'static [&'static str],
}

/// Bytes of a qcow2 header, each at its offset: they name `file` as the backing file.
fn backing(file: &str) -> Vec<(u64, Vec<u8>)> {
    let (offset, length) = (512u64, file.len() as u32);
    vec![(offset, file.into()), (8, offset.to_be_bytes().into()), (16, length.to_be_bytes().into())]
}

/// Images that mean harm, in `folder`, made of a raw `guest`. Those that name a file of the host name `victim`.
pub fn hostile_images(guest: &Path, folder: &Path, victim: &Path) -> Vec<HostileImage> {
    let good = folder.join("good.qcow2");
    run(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).args([guest, &good]));
    let victim = victim.to_str().expect("a path of ours is text");
    let feature = |bits: u64| vec![(72, bits.to_be_bytes().to_vec())];
    type Change = (&'static str, Vec<(u64, Vec<u8>)>, &'static [&'static str]);
    let json = format!("json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"file\",\"filename\":\"{victim}\"}}}}");
    let changes: Vec<Change> = vec![
        ("backed.qcow2", backing(victim), &["backing file"]),
        ("itself.qcow2", backing("itself.qcow2"), &["backing file"]),
        ("json.qcow2", backing(&json), &["backing file"]),
        ("external.qcow2", feature(4), &["external data file"]),
        ("unknown.qcow2", feature(1 << 40), &["feature"]),
        ("huge.qcow2", vec![(24, (1u64 << 60).to_be_bytes().into())], &["size"]),
    ];
    let mut images = Vec::new();
    for (name, change, words) in changes {
        let path = folder.join(name);
        fs::copy(&good, &path).expect("room for an image");
        let file = fs::OpenOptions::new().write(true).open(&path).expect("it was made");
        change.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).expect("it can be written"));
        images.push(HostileImage { name, path, words });
    }
    let short = folder.join("short.qcow2");
    fs::copy(&good, &short).expect("room for an image");
    let file = fs::OpenOptions::new().write(true).open(&short).expect("it was made");
    file.set_len(200_000).expect("it can be cut");
    images.push(HostileImage { name: "short.qcow2", path: short, words: &["short.qcow2"] });
    let extents = folder.join("extents.vmdk");
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\n\
         # Extent description\nRW 2048 FLAT \"{victim}\" 0\n\n# The Disk Data Base\n#DDB\nddb.adapterType = \"ide\"\n"
    );
    fs::write(&extents, text).expect("the folder is ours");
    images.push(HostileImage { name: "extents.vmdk", path: extents, words: &["VMDK"] });
    // A guest on a raw disk wrote a header where a file system leaves room.
    let probed = folder.join("probed.raw");
    probed_raw(guest, &probed, victim);
    images.push(HostileImage { name: "probed.raw", path: probed, words: &["backing file"] });
    fs::remove_file(good).expect("it is ours");
    images
}

/// A raw disk of a guest that begins with a qcow2 header which names `victim`: what a guest can write to its own disk.
pub fn probed_raw(guest: &Path, path: &Path, victim: &str) {
    fs::copy(guest, path).expect("room for an image");
    let mut permissions = fs::metadata(path).expect("it was made").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(path, permissions).expect("it is ours");
    let file = fs::OpenOptions::new().write(true).open(path).expect("it was made");
    let header = [
        (0, b"QFI\xfb\0\0\0\x03".to_vec()),
        (20, 16u32.to_be_bytes().into()),
        (24, (64u64 << 20).to_be_bytes().into()),
    ];
    let changes = header.into_iter().chain(backing(victim));
    changes.for_each(|(at, bytes): (u64, Vec<u8>)| file.write_all_at(&bytes, at).expect("it can be written"));
}

/// An entry of an archive: type (`0` file, `1` hard link, `2` symbolic link, `3` device), name, target or content.
pub type TarEntry<'a> = (u8, &'a str, &'a str);

/// A tar (POSIX.1-1988) with names as they are given, which programs that make archives would not write.
pub fn tar(entries: &[TarEntry<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (kind, name, text) in entries {
        let content = if *kind == b'0' { text.as_bytes() } else { b"" };
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, b"0000644\x000000000\x000000000\x00");
        put(124, format!("{:011o}\0{:011o}\0        ", content.len(), 0).as_bytes());
        put(156, &[*kind]);
        if *kind != b'0' {
            put(157, text.as_bytes());
        }
        put(257, b"ustar\x0000");
        put(329, b"0000001\x000000003\x00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_victim_sees_who_reads_and_who_writes() {
        let victim = Victim::new();
        victim.assert_untouched("nobody");
        for touch in
            [|path: &Path| drop(fs::read(path.join("secret"))), |path: &Path| drop(fs::write(path.join("x"), "x"))]
        {
            touch(victim.path());
            let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| victim.assert_untouched("test")));
            assert!(seen.is_err());
        }
    }

    #[test]
    fn an_archive_has_the_names_that_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let entries: [TarEntry<'_>; 3] = [(b'0', "../../up", "text"), (b'2', "link", "/etc"), (b'3', "disk", "")];
        fs::write(&path, tar(&entries)).unwrap();
        let listed = run(Command::new("tar").args(["-P", "-tvf"]).arg(&path));
        let listed = String::from_utf8(listed.stdout).unwrap();
        for words in ["../../up", "link -> /etc", "disk"] {
            assert!(listed.contains(words), "{listed}");
        }
    }
}
