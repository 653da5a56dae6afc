//! Writing so that a crash loses either all or nothing.
//!
//! A file's content is durable after `fsync` of the file; its name after `fsync` of its folder. What is written under
//! a temporary name, synced and renamed is there whole or not at all; without the last sync of the folder a crash can
//! lose the whole of it, never a part.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Makes the content of a file durable.
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the names in a folder durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a file, mode 0600, replacing what is there at once, and returns when it is durable.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{name}.{}.{count}.tmp", std::process::id()));
    let done = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done.and_then(|()| sync_dir(folder))
}
