//! Archives in the form that the kernel unpacks as its first root: cpio, "newc".
//!
//! The format is that of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. Entries have no times,
//! no owners but root, and numbers in the order in which they were added, so equal content makes equal bytes.

use std::collections::BTreeSet;
use std::fmt::Write as _;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

/// An archive in the making.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// Adds a folder and all above it. Paths are absolute.
    pub fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let part = &path[..end];
            if !part.is_empty() && self.folders.insert(part.to_owned()) {
                self.entry(part, DIRECTORY, &[]);
            }
        }
    }

    /// Adds a file with these permission bits, and the folders above it.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_start_matches('/');
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
        self.entry(path, FILE | mode, content);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let length = u32::try_from(content.len()).expect("no file of an appliance has 4 GiB");
        let name_length = name.len() as u32 + 1;
        let mut head = String::from("070701");
        // Number, mode, owner, group, links, time, size, four device numbers, length of the name, checksum.
        for field in [self.entries, mode, 0, 0, links, 0, length, 0, 0, 0, 0, name_length, 0] {
            let _ = write!(head, "{field:08X}");
        }
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// Another program reads what this one writes.
    #[test]
    fn busybox_unpacks_it() {
        let mut archive = Archive::default();
        archive.file("/a/b/one", 0o755, b"first\n");
        archive.file("/a/two", 0o600, &[5; 4097]);
        archive.folder("/a/b/empty");
        let folder = tempfile::tempdir().unwrap();
        let mut busybox = Command::new("busybox")
            .args(["cpio", "-i", "-d"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        busybox.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        assert!(busybox.wait().unwrap().success());
        assert_eq!(std::fs::read(folder.path().join("a/b/one")).unwrap(), b"first\n");
        assert_eq!(std::fs::read(folder.path().join("a/two")).unwrap(), [5; 4097]);
        assert!(folder.path().join("a/b/empty").is_dir());
    }
}
