//! Shrinking: the smallest file system, and a disk that ends where it does.
//!
//! Only the last partition changes, and nothing before it, so a boot loader finds what it found. Its file system is made
//! smaller by `resize2fs` in a file of its own, the table is written again for a shorter disk (numbers, identities, names
//! and types stay), and the disk is cut behind it. Without a partition table the whole disk is the file system.
//!
//! The layer is not touched: all of this happens on a copy, which the export then reads in its place.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ExportContext;
use super::convert::{Removed, Target, convert};
use crate::disk::table::{SECTOR, Table, copy_data, is_ext, number as number_of};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::walls::Walls;

/// What stays free in the file system: a guest writes at its first boot (its identity, logs), before anything grows.
const ROOM: u64 = 32 << 20;
const MIB: u64 = 1 << 20;
/// Code in the first sector, before what is the table's own.
const BOOT_CODE: usize = 440;

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
    convert(Target::Raw, false, &disk.0, context)?;
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
        let kind = kind_of(&disk.0, start, context);
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
            let mut code = [0; BOOT_CODE];
            file.read_exact_at(&mut code, 0).context(ErrorKind::Export, failed)?;
            let dump = dump_table(&disk.0, last.number, kept / SECTOR, context)?;
            // All behind the start of the partition becomes a hole first.
            file.set_len(start).and_then(|()| file.set_len(size)).context(ErrorKind::Export, failed)?;
            write_table(&disk.0, dump, context)?;
            file.write_all_at(&code, 0).context(ErrorKind::Export, failed)?;
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

/// The table of a disk as text for `sfdisk`, with a partition of another size and without what depends on the disk's.
fn dump_table(disk: &Path, number: u32, sectors: u64, context: &ExportContext<'_>) -> Result<String> {
    let dump = Walls::for_data().read(disk)?.tool("sfdisk", "fdisk").arg("--dump").arg(disk).run(context.cancel)?;
    let mut script = String::new();
    for line in String::from_utf8_lossy(&dump).lines() {
        let is_the_one = line.split_once(" : ").is_some_and(|(name, _)| number_of(name) == Some(number));
        match line.split_once("size=") {
            _ if line.starts_with("last-lba:") || line.starts_with("device:") => continue,
            Some((before, after)) if is_the_one => {
                let rest = after.trim_start().trim_start_matches(|digit: char| digit.is_ascii_digit());
                script.push_str(&format!("{before}size={sectors}{rest}"));
            }
            _ => script.push_str(line),
        }
        script.push('\n');
    }
    Ok(script)
}

fn write_table(disk: &Path, script: String, context: &ExportContext<'_>) -> Result<()> {
    Walls::for_data()
        .write(disk)?
        .tool("sfdisk", "fdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never", "--wipe-partitions=never"])
        .arg(disk)
        .input(script)
        .run(context.cancel)?;
    Ok(())
}

/// What is at a place of a disk, for an error.
fn kind_of(disk: &Path, start: u64, context: &ExportContext<'_>) -> String {
    let blkid = |walls: Walls| {
        let blkid = walls.tool("blkid", "util-linux");
        blkid.args(["-p", "-s", "TYPE", "-o", "value", "-O", &start.to_string()]).arg(disk).run(context.cancel)
    };
    let said = Walls::for_data().read(disk).and_then(blkid);
    let said = said.map(|said| String::from_utf8_lossy(&said).trim().escape_debug().to_string()).unwrap_or_default();
    if said.is_empty() { "nothing that is known".into() } else { said }
}
