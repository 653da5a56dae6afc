//! What a crash of the host cannot take any more.
//!
//! A file's content is durable after `fsync` of the file; its name after `fsync` of its folder. What is written under
//! a temporary name, synced and renamed is there whole or not at all; without the last sync of the folder a crash can
//! lose the whole of it, never a part. [`super::temporary`] writes so.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes the content of a file durable.
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the names in a folder durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
