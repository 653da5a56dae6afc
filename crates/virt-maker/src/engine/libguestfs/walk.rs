//! Listing a tree of the guest: one `find` in the appliance, whose output comes back in pieces.

use std::path::Path;

use virt_maker_agent::walk::Entry;

use super::session::LibguestfsSession;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::FileKind;

/// Where the appliance keeps the listing.
const LISTING: &str = "/tmp/virt-maker-walk";
/// Bytes in a piece; it comes as hexadecimal digits, and 4 MiB are the most that one call gives.
const PIECE: u64 = 1 << 20;
/// Fields of an entry, each with a NUL after it.
const FORMAT: &str = r"%y\0%m\0%U\0%G\0%s\0%i\0%T@\0%C@\0%p\0%l\0";
const FIELDS: usize = 10;

impl LibguestfsSession {
    /// Everything at and below `path`, which is followed if it is a link.
    pub(super) fn list_tree(&mut self, path: &str, depth: Option<u32>) -> Result<Vec<Entry>> {
        self.appliance.cancel.check()?;
        let what = format!("cannot list {path}");
        let failed = |session: &Self, error| session.appliance.error(ErrorKind::Step, &what, error);
        let real = match path.trim_end_matches('/') {
            "" => String::new(),
            path => {
                let found = self.appliance.handle.realpath(path);
                found.map_err(|error| failed(self, error))?.trim_end_matches('/').to_owned()
            }
        };
        let start = format!("/sysroot{real}");
        let depth = depth.map_or_else(String::new, |depth| format!(" -maxdepth {depth}"));
        // A mount point is named with a dot, so that find looks into what is mounted there.
        let dot = if self.mode(path)? == libc::S_IFDIR { "/." } else { "" };
        let text = self.listing(&format!("find {}{dot}{depth} -printf '{FORMAT}'", quoted(&start)), &what)?;
        let fields: Vec<&[u8]> = text.split(|byte| *byte == 0).collect();
        let shown = path.trim_end_matches('/');
        let entries = fields.chunks_exact(FIELDS).map(|fields| entry(fields, &start, shown));
        entries.collect::<Option<Vec<_>>>().ok_or_else(|| Error::new(ErrorKind::Internal, what))
    }

    /// What a command of the appliance's shell writes, of any length.
    pub(super) fn listing(&mut self, command: &str, what: &str) -> Result<Vec<u8>> {
        self.appliance.cancel.check()?;
        let failed = |session: &Self, error| session.appliance.error(ErrorKind::Step, what, error);
        let broken = || Error::new(ErrorKind::Internal, what);
        let command = format!("{command} > {LISTING} && stat -c %s {LISTING}");
        let length = self.appliance.handle.appliance_sh(&command).map_err(|error| failed(self, error))?;
        let length: u64 = length.trim().parse().map_err(|_| broken())?;
        let mut text = Vec::with_capacity(length as usize);
        for piece in 0..length.div_ceil(PIECE) {
            self.appliance.cancel.check()?;
            let command =
                format!("dd if={LISTING} bs={PIECE} skip={piece} count=1 2>/dev/null | od -An -v -tx1 | tr -d ' \\n'");
            let digits = self.appliance.handle.appliance_sh(&command).map_err(|error| failed(self, error))?;
            text.extend(base16ct::mixed::decode_vec(digits.trim()).map_err(|_| broken())?);
        }
        Ok(text)
    }

    /// What is at a path, links followed: `S_IFREG` and so on.
    fn mode(&mut self, path: &str) -> Result<u32> {
        let stat = self.appliance.handle.stat(path, true);
        let stat =
            stat.map_err(|error| self.appliance.error(ErrorKind::Step, format!("cannot look at {path}"), error))?;
        Ok(stat.mode & libc::S_IFMT)
    }

    /// Copies a file of the guest to `out`, through a file on the host.
    pub(super) fn copy_out(&mut self, path: &str, out: &mut dyn std::io::Write) -> Result<u64> {
        let what = format!("cannot read {path}");
        if self.mode(path)? != libc::S_IFREG {
            return Err(Error::new(ErrorKind::Step, format!("{what}: it is no regular file")));
        }
        let copy = self.work_dir.join("download");
        let name = copy.to_string_lossy().into_owned();
        let done = self.appliance.handle.download(path, &name);
        let done = done.map_err(|error| self.appliance.error(ErrorKind::Step, &what, error));
        let copied = done.and_then(|()| send(&copy, out).context(ErrorKind::Host, || what));
        let _ = std::fs::remove_file(&copy);
        copied
    }
}

fn send(file: &Path, out: &mut dyn std::io::Write) -> std::io::Result<u64> {
    std::io::copy(&mut std::fs::File::open(file)?, out)
}

/// A word for the appliance's shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn entry(fields: &[&[u8]], start: &str, shown: &str) -> Option<Entry> {
    let text = |index: usize| std::str::from_utf8(fields[index]).ok();
    let number = |index: usize| text(index)?.parse::<u64>().ok();
    let time = |index: usize| {
        let (seconds, part) = text(index)?.split_once('.')?;
        Some((seconds.parse().ok()?, part.get(..9)?.parse().ok()?))
    };
    let kind = match fields[0] {
        b"f" => FileKind::File,
        b"d" => FileKind::Directory,
        b"l" => FileKind::Symlink,
        _ => FileKind::Other,
    };
    let below = fields[8].strip_prefix(start.as_bytes())?;
    let below = below.strip_prefix(b"/.").unwrap_or(below);
    let mut path = [shown.as_bytes(), below].concat();
    if path.is_empty() {
        path.push(b'/');
    }
    Some(Entry {
        path,
        kind,
        mode: u32::from_str_radix(text(1)?, 8).ok()?,
        uid: number(2)? as u32,
        gid: number(3)? as u32,
        size: number(4)?,
        inode: number(5)?,
        device: 0,
        modified: time(6)?,
        changed: time(7)?,
        target: fields[9].to_vec(),
    })
}
