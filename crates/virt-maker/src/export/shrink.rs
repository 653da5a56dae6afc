//! Shrinking: the smallest file system, and a disk that ends where it does.
//!
//! Only the last partition changes, and nothing before it, so a boot loader finds what it found. Its file system is made
//! smaller by `resize2fs` in a file of its own, the table is written again for a shorter disk (numbers, identities, names
//! and types stay), and the disk is cut behind it. Without a partition table the whole disk is the file system.
//!
//! The layer is not touched: all of this happens on a copy, which the export then reads in its place.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::ExportContext;
use super::convert::{Removed, Target, convert};
use crate::disk::table::{SECTOR, Table, content, copy_data, is_ext};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::walls::Walls;

/// What stays free in the file system: a guest writes at its first boot (its identity, logs), before anything grows.
const ROOM: u64 = 32 << 20;
const MIB: u64 = 1 << 20;

/// A smaller disk.
pub(super) struct Shrunk {
    /// The disk, raw.
    pub disk: Removed,
    /// Its size in bytes.
    pub size: u64,
}

/// Copies the disk of the context to `place`, a path that does not exist yet, and makes it as small as it can be.
pub(super) fn shrink(place: PathBuf, context: &ExportContext<'_>) -> Result<Shrunk> {
    let disk = Removed(place);
    convert(Target::Raw, &disk.0, context)?;
    let failed = || "cannot shrink the disk";
    let file = File::options().read(true).write(true).open(&disk.0).context(ErrorKind::Export, failed)?;
    let cannot = |what: String| {
        let error = Error::new(ErrorKind::Export, format!("the disk cannot be shrunk: {what}"));
        Err(error.with_hint("leave `shrink` out; `sparsify` alone drops unused blocks, too"))
    };
    // A file system that begins where the disk does has no table before it.
    let whole = is_ext(&file, 0).context(ErrorKind::Export, failed)?;
    let table = if whole { None } else { Some(Table::read(&disk.0, context.cancel)?) };
    let last = table.as_ref().and_then(|table| table.partitions.iter().max_by_key(|partition| partition.start));
    let (start, length) = match (&table, last) {
        (None, _) => (0, file.metadata().context(ErrorKind::Export, failed)?.len()),
        (Some(_), None) => return cannot("it has no partition".into()),
        (Some(table), Some(last)) if !table.gpt && last.number > 4 => {
            return cannot(format!("its last partition, {}, is a logical one", last.number));
        }
        (Some(_), Some(last)) => (last.start * SECTOR, last.sectors * SECTOR),
    };
    if !is_ext(&file, start).context(ErrorKind::Export, failed)? {
        let number = last.map_or(0, |last| last.number);
        let kind = last.map_or(Ok(String::new()), |last| content(&disk.0, last, context.cancel))?;
        let kind = if kind.is_empty() { "nothing that is known".into() } else { kind.escape_debug().to_string() };
        return cannot(format!(
            "its last partition, {number}, holds {kind}, and only ext2, ext3 and ext4 can be made smaller"
        ));
    }

    let part = Removed(disk.0.with_extension("part"));
    let small = File::options().read(true).write(true).create_new(true).open(&part.0);
    let small = small.context(ErrorKind::Export, failed)?;
    copy_data(&file, start, length, &small, 0).context(ErrorKind::Export, failed)?;
    small.set_len(length).context(ErrorKind::Export, failed)?;
    let kept = shrink_ext(&part.0, length, context)?;

    let size = match (&table, last) {
        (Some(table), Some(last)) => {
            // The second table of a GPT lies behind the last partition, which ends at a whole MiB.
            let size = start + kept + if table.gpt { MIB } else { 0 };
            let mut places = table.partitions.clone();
            let last = places.iter_mut().find(|place| place.number == last.number);
            last.into_iter().for_each(|last| last.sectors = kept / SECTOR);
            let change = table.change(places, &disk.0, context.cancel)?;
            // All behind the start of the partition becomes a hole first.
            file.set_len(start).and_then(|()| file.set_len(size)).context(ErrorKind::Export, failed)?;
            change.write(&disk.0, context.cancel)?;
            size
        }
        _ => {
            file.set_len(0).and_then(|()| file.set_len(kept)).context(ErrorKind::Export, failed)?;
            kept
        }
    };
    copy_data(&small, 0, kept, &file, start).context(ErrorKind::Export, failed)?;
    Ok(Shrunk { disk, size })
}

/// Makes the file system in a file of `length` bytes as small as it can be, but for some room, and gives its new size in
/// bytes, a whole number of MiB where the old one was.
fn shrink_ext(part: &Path, length: u64, context: &ExportContext<'_>) -> Result<u64> {
    let tool = |name: &str| -> Result<_> { Ok(Walls::for_data().write(part)?.tool(name, "e2fsprogs")) };
    // Status 1 says that something was mended. A fixed text: the path is an argument.
    let check = |options: &str| -> Result<()> {
        let script = format!("e2fsck -f -p {options} \"$1\" >&2 || [ $? -le 1 ]");
        Walls::for_data().write(part)?.tool("sh", "dash").args(["-c", &script, "sh"]).arg(part).run(context.cancel)?;
        Ok(())
    };
    check("")?;
    tool("resize2fs")?.arg("-M").arg(part).run(context.cancel)?;
    let least = fs::metadata(part).context(ErrorKind::Export, || "cannot shrink the disk")?.len();
    let kept = least.saturating_add(ROOM).next_multiple_of(MIB).min(length);
    if kept > least {
        File::options()
            .write(true)
            .open(part)
            .and_then(|file| file.set_len(kept))
            .context(ErrorKind::Export, || "cannot shrink the disk")?;
        tool("resize2fs")?.arg(part).arg(format!("{}K", kept / 1024)).run(context.cancel)?;
    }
    // What was moved left its old blocks as they were.
    check("-E discard")?;
    Ok(kept)
}
