//! What is known of an artifact that is a folder: enough to see that somebody changed something in it.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Appends to `known` what changes when anything below `folder` does, in the order of names, and adds up sizes of files.
/// A change of content, owner, mode or name changes a time that no program can set.
pub(super) fn list(folder: &Path, known: &mut Vec<u8>, size: &mut u64) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let stat = entry.metadata()?;
        known.extend_from_slice(entry.file_name().as_bytes());
        known.push(0);
        for number in [stat.ino() as i64, stat.mode().into(), stat.size() as i64, stat.ctime(), stat.ctime_nsec()] {
            known.extend_from_slice(&number.to_le_bytes());
        }
        if stat.is_dir() {
            list(&entry.path(), known, size)?;
        } else {
            *size += stat.size();
        }
        // One name ends where the next one of its folder begins.
        known.push(1);
    }
    Ok(())
}
