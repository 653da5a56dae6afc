//! What was learned about sources: which bytes a URL gave, and which digest a file of the host had.
//!
//! A file is known by its device, inode, size and times of change, to the nanosecond: a digest is used again only
//! while all of them are the same. The time of the last status change cannot be set by hand. An entry that cannot be
//! read is as good as none, and is mentioned.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::ImportContext;
use crate::event::Meter;
use crate::host::url::shown_in;
use crate::host::{digest, temporary};
use crate::key::Digest;

/// Two changes of a file within one tick of the kernel's clock may leave the same times; a tick is at most 10 ms.
const TICK: Duration = Duration::from_millis(100);
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Known {
    version: u32,
    source: String,
    /// Device, inode, size, seconds and nanoseconds of modification and of status change; none for a URL.
    stat: Option<[i128; 7]>,
    digest: Digest,
}

fn entry(cache_dir: &Path, source: &str) -> PathBuf {
    cache_dir.join("sources").join(format!("{}.json", Digest::of(source.as_bytes())))
}

fn load(source: &str, context: &ImportContext<'_>) -> Option<Known> {
    let path = entry(context.cache_dir, source);
    let damaged = |problem: &dyn std::fmt::Display| {
        context.events.warn(format!("{} is not used, for it cannot be read: {problem}", path.display()));
    };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            damaged(&error);
            return None;
        }
    };
    match serde_json::from_slice::<Known>(&text) {
        // The file's name says which source it is; earlier versions wrote it down whole.
        Ok(known) => {
            let same = known.source == shown_in(source) || known.source == source;
            (known.version == VERSION && same).then_some(known)
        }
        Err(error) => {
            damaged(&error);
            None
        }
    }
}

fn save(cache_dir: &Path, source: &str, stat: Option<[i128; 7]>, digest: Digest) {
    // Only speed depends on it.
    let path = entry(cache_dir, source);
    let known = Known { version: VERSION, source: shown_in(source), stat, digest };
    if let Some(folder) = path.parent()
        && fs::create_dir_all(folder).is_ok()
    {
        let _ = temporary::replace_durably(&path, &serde_json::to_vec(&known).expect("serialisable"));
    }
}

/// What a URL gave when it was last fetched.
pub(super) fn of_url(url: &str, context: &ImportContext<'_>) -> Option<Digest> {
    load(url, context).map(|known| known.digest)
}

/// Notes what a URL gave.
pub(super) fn note_url(url: &str, digest: Digest, context: &ImportContext<'_>) {
    save(context.cache_dir, url, None, digest);
}

/// Forgets what a URL gave, because it gives something else now.
pub(super) fn forget_url(url: &str, context: &ImportContext<'_>) {
    let _ = fs::remove_file(entry(context.cache_dir, url));
}

/// The digest of a file, from the cache while the file is unchanged.
pub(super) fn of_file(path: &Path, context: &ImportContext<'_>) -> io::Result<Digest> {
    let source = format!("file:{}", path.display());
    let (stat, length) = stat_of(path)?;
    if let Some(digest) = unchanged(&source, stat, context) {
        return Ok(digest);
    }
    let settled = is_settled(stat);
    let mut meter = Meter::bytes(context.events, "digest", Some(length));
    let digest = digest::of_file_with(path, &mut |done| {
        meter.at(done);
        if context.cancel.is_cancelled() { Err(io::Error::other("cancelled")) } else { Ok(()) }
    })?;
    if settled && stat_of(path)?.0 == stat {
        save(context.cache_dir, &source, Some(stat), digest);
    }
    Ok(digest)
}

/// What is known of a file, if it is the same as then.
fn unchanged(source: &str, stat: [i128; 7], context: &ImportContext<'_>) -> Option<Digest> {
    load(source, context).filter(|known| known.stat == Some(stat)).map(|known| known.digest)
}

/// The digest of a file that is open, as far as it was learned before.
pub(super) struct Learned {
    stat: [i128; 7],
    digest: Digest,
}

impl Learned {
    /// What is known of the file at `path`, which was opened as `file`, and has not changed since.
    pub(super) fn of(path: &Path, file: &File, context: &ImportContext<'_>) -> Option<Learned> {
        let stat = identity(&file.metadata().ok()?);
        let digest = unchanged(&format!("file:{}", path.display()), stat, context)?;
        Some(Learned { stat, digest })
    }

    /// The digest of what was read of the file until now, if nobody has changed it meanwhile.
    pub(super) fn still(&self, file: &File) -> Option<Digest> {
        (identity(&file.metadata().ok()?) == self.stat).then_some(self.digest)
    }
}

/// Identity and length in bytes. Only for files: opening a pipe would wait for ever.
fn stat_of(path: &Path) -> io::Result<([i128; 7], u64)> {
    let stat = fs::metadata(path)?;
    if !stat.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok((identity(&stat), stat.len()))
}

fn identity(stat: &fs::Metadata) -> [i128; 7] {
    [
        stat.dev().into(),
        stat.ino().into(),
        stat.size().into(),
        stat.mtime().into(),
        stat.mtime_nsec().into(),
        stat.ctime().into(),
        stat.ctime_nsec().into(),
    ]
}

/// Whether the file's last change is so long ago that another one would have another time.
fn is_settled(stat: [i128; 7]) -> bool {
    let changed = stat[5] * 1_000_000_000 + stat[6];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    changed + TICK.as_nanos() as i128 <= now.as_nanos() as i128
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::event::{Event, Events};
    use crate::host::Cancel;

    #[test]
    fn a_file_is_digested_again_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let events = Events::new(move |event| sink.lock().unwrap().push(event));
        let (cancel, env) = (Cancel::default(), BTreeMap::new());
        let context = ImportContext {
            cache_dir: folder.path(),
            events: &events,
            cancel: &cancel,
            env: &env,
            certificates: &Default::default(),
            host_network: false,
        };
        let path = folder.path().join("image");
        // Larger than what is digested without a word, so that the meter shows whether it was read.
        let mut bytes = vec![1; 5 << 20];
        fs::write(&path, &bytes).unwrap();
        let reads = |seen: &Mutex<Vec<Event>>| {
            let events = std::mem::take(&mut *seen.lock().unwrap());
            assert!(!events.iter().any(|event| matches!(event, Event::Warning { .. })));
            events.iter().any(|event| matches!(event, Event::Progress { .. }))
        };
        // What was written this instant is digested, but not remembered.
        assert_eq!(of_file(&path, &context).unwrap(), Digest::of(&bytes));
        std::thread::sleep(2 * TICK);
        assert_eq!(of_file(&path, &context).unwrap(), Digest::of(&bytes));
        assert!(reads(&seen));
        assert_eq!(of_file(&path, &context).unwrap(), Digest::of(&bytes));
        assert!(!reads(&seen));
        // The same length and time of modification, other content.
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        bytes[0] = 2;
        fs::write(&path, &bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(of_file(&path, &context).unwrap(), Digest::of(&bytes));
        assert!(reads(&seen));
        std::thread::sleep(2 * TICK);
        of_file(&path, &context).unwrap();
        reads(&seen);

        // A damaged entry is a miss with a warning.
        for entry in fs::read_dir(folder.path().join("sources")).unwrap() {
            fs::write(entry.unwrap().path(), "{").unwrap();
        }
        assert_eq!(of_file(&path, &context).unwrap(), Digest::of(&bytes));
        let events = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(events.iter().filter(|event| matches!(event, Event::Warning { .. })).count(), 1);

        assert!(of_file(folder.path(), &context).unwrap_err().to_string().contains("not a regular file"));
        assert_eq!(of_file(&folder.path().join("none"), &context).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
