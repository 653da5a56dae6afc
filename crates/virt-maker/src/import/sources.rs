//! What was learned about sources: which bytes a URL gave, and which digest a file of the host had.
//!
//! A file is known by its device, inode, size and times of change, to the nanosecond: a digest is used again only
//! while all of them are the same. The time of the last status change cannot be set by hand. An entry that cannot be
//! read is as good as none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::{digest, durable};
use crate::key::Digest;

#[derive(Serialize, Deserialize)]
struct Known {
    version: u32,
    source: String,
    /// Device, inode, size, seconds and nanoseconds of modification and of status change; none for a URL.
    stat: Option<[i128; 7]>,
    digest: Digest,
}

const VERSION: u32 = 1;

fn entry(cache_dir: &Path, source: &str) -> PathBuf {
    cache_dir.join("sources").join(format!("{}.json", Digest::of(source.as_bytes())))
}

fn load(cache_dir: &Path, source: &str) -> Option<Known> {
    let known: Known = serde_json::from_slice(&fs::read(entry(cache_dir, source)).ok()?).ok()?;
    (known.version == VERSION && known.source == source).then_some(known)
}

fn save(cache_dir: &Path, known: &Known) {
    // Only speed depends on it.
    let path = entry(cache_dir, &known.source);
    if let Some(folder) = path.parent()
        && fs::create_dir_all(folder).is_ok()
    {
        let _ = durable::write(&path, &serde_json::to_vec(known).expect("serialisable"));
    }
}

/// What a URL gave when it was last fetched.
pub(super) fn of_url(cache_dir: &Path, url: &str) -> Option<Digest> {
    load(cache_dir, url).map(|known| known.digest)
}

/// Notes what a URL gave.
pub(super) fn note_url(cache_dir: &Path, url: &str, digest: Digest) {
    save(cache_dir, &Known { version: VERSION, source: url.to_owned(), stat: None, digest });
}

/// The digest of a file, from the cache while the file is unchanged.
pub(super) fn of_file(cache_dir: &Path, path: &Path) -> std::io::Result<Digest> {
    let source = format!("file:{}", path.display());
    let stat = stat_of(path)?;
    if let Some(known) = load(cache_dir, &source)
        && known.stat == Some(stat)
    {
        return Ok(known.digest);
    }
    let digest = digest::of_file(path)?;
    if stat_of(path)? == stat {
        save(cache_dir, &Known { version: VERSION, source, stat: Some(stat), digest });
    }
    Ok(digest)
}

fn stat_of(path: &Path) -> std::io::Result<[i128; 7]> {
    let stat = fs::metadata(path)?;
    Ok([
        stat.dev().into(),
        stat.ino().into(),
        stat.size().into(),
        stat.mtime().into(),
        stat.mtime_nsec().into(),
        stat.ctime().into(),
        stat.ctime_nsec().into(),
    ])
}
