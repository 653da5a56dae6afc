//! Folders, files, links and nodes for the appliance, packed: one program unpacks them. Without KVM a program takes 50 ms
//! to start there, so one for each of them would be felt.

use std::fmt::Write as _;
use std::io;

use tar::{EntryType, Header};

use super::shell::{HERE, quote};
use crate::error::{Context, ErrorKind, Result};

/// What is to lie below [`HERE`]. All is root's, and its time is that of its unpacking.
pub(super) struct Packed {
    tar: tar::Builder<Vec<u8>>,
    /// What goes below `machine/proc`, and covers what the kernel has there.
    of_proc: Vec<String>,
}

impl Packed {
    pub(super) fn new() -> Packed {
        Packed { tar: tar::Builder::new(Vec::new()), of_proc: Vec::new() }
    }

    /// Folders above it are made as they are needed. One that is there stays as it is.
    pub(super) fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.cover(path);
        self.tar.append_data(&mut header(EntryType::Directory, mode), path, io::empty())
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.cover(path);
        let mut header = header(EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, path, content)
    }

    pub(super) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.tar.append_link(&mut header(EntryType::Symlink, 0o777), path, target)
    }

    /// A device; `group` is its group's number.
    pub(super) fn node(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        group: u64,
        (major, minor): (u32, u32),
    ) -> io::Result<()> {
        let mut header = header(kind, mode);
        header.set_gid(group);
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        self.tar.append_data(&mut header, path, io::empty())
    }

    fn cover(&mut self, path: &str) {
        self.of_proc.extend(path.strip_prefix("machine/proc/").map(str::to_owned));
    }

    /// The archive, and shell text that unpacks it from that place in the appliance.
    pub(super) fn finish(self, archive: &str) -> Result<(Vec<u8>, String)> {
        let mut text = String::from("set -e\nset --\n");
        for file in &self.of_proc {
            // What the kernel does not have is not covered.
            let left_out = quote(&format!("--exclude=machine/proc/{file}"));
            let _ = writeln!(text, "[ -e {} ] || set -- \"$@\" {left_out}", quote(&format!("/proc/{file}")));
        }
        let _ = writeln!(text, "tar -x -m -p --no-overwrite-dir --numeric-owner -C {HERE} -f {archive} \"$@\"");
        // Frees the memory, without a program.
        let _ = writeln!(text, ": >{archive}");
        let bytes = self.tar.into_inner();
        Ok((bytes.context(ErrorKind::Internal, || "cannot pack files for the appliance".to_owned())?, text))
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}
