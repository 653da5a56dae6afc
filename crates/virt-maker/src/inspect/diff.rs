//! What differs between two layers: files added, changed, removed.
//!
//! Both trees are listed, and compared by path. A file whose inode number, size, and times of content and of inode are
//! the same in both was not touched between them, since the time of the inode cannot be set by a program; so of two
//! neighbours only what was written is read. What is not told apart by its attributes is read and compared by digest.
//! Times alone are no difference, nor are the sizes of folders.

use std::collections::HashMap;
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Inside, Look};
use crate::engine::Opener;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Entry, FileKind, Guest};
use crate::store::Store;

/// The longest file whose text is shown, in bytes.
const TEXT_MAX: u64 = 1 << 20;

/// All that differs, by path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// One for each path.
    pub changes: Vec<Changed>,
}

/// What is at one path in each of two layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changed {
    /// Path in the guest; bytes that are no UTF-8 are replaced. It is data: escape it before a terminal sees it.
    pub path: String,
    /// What happened to it.
    pub change: Change,
    /// What is there in the first layer.
    pub before: Option<Facts>,
    /// What is there in the second.
    pub after: Option<Facts>,
    /// Both texts, where they were asked for and both are texts.
    #[serde(skip)]
    pub texts: Option<(String, String)>,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is in the second layer only.
    Added,
    /// It is in both, and not the same.
    Changed,
    /// It is in the first layer only.
    Removed,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Facts {
    /// The kind.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Target of a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Facts {
    fn of(entry: &Entry) -> Facts {
        let target = (entry.kind == FileKind::Symlink).then(|| String::from_utf8_lossy(&entry.target).into_owned());
        Facts { kind: entry.kind, mode: entry.mode, uid: entry.uid, gid: entry.gid, size: entry.size, target }
    }
}

/// Compares two layers, or guests that failed steps left. With `content`, texts of changed files are fetched.
///
/// Both are opened and listed at the same time, each by a thread of its own, for a session's helpers end with the thread
/// that started them.
pub fn diff(store: &Store, one: Look, two: Look, opener: &Opener, content: bool) -> Result<Difference> {
    std::thread::scope(|scope| {
        let open = |look: Look| {
            let (jobs, todo) = channel();
            scope.spawn(move || serve(&todo, || Inside::open(store, look, opener)));
            Remote { jobs }
        };
        let (one, two) = (open(one), open(two));
        let list = |guest: &mut dyn Guest| guest.walk("/", None);
        let (before, after) = (one.ask(list)?, two.ask(list)?);
        let (before, after) = (before.wait()?, after.wait()?);
        compare(&before, &after, &one, &two, content)
        // Dropping the two ends their threads, and these close the layers.
    })
}

/// Something to do in a guest, or the reason why there is none.
type Job = Box<dyn FnOnce(Result<&mut dyn Guest>) + Send>;

/// A guest that another thread has open.
struct Remote {
    jobs: Sender<Job>,
}

/// What comes of a job.
struct Answer<T>(Receiver<Result<T>>);

impl Remote {
    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Guest) -> Result<T> + Send + 'static,
    ) -> Result<Answer<T>> {
        let (reply, answer) = channel();
        let job: Job = Box::new(move |guest| {
            // Whoever asked may be gone, after an error of the other guest.
            let _ = reply.send(guest.and_then(work));
        });
        self.jobs.send(job).map_err(|_| gone())?;
        Ok(Answer(answer))
    }
}

impl<T> Answer<T> {
    fn wait(self) -> Result<T> {
        self.0.recv().unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Internal, "the thread that has the layer open is gone")
}

/// Opens a guest and does jobs in it until nobody has more.
fn serve(jobs: &Receiver<Job>, open: impl FnOnce() -> Result<Inside>) {
    match open() {
        Ok(mut inside) => {
            jobs.iter().for_each(|job| job(Ok(inside.guest())));
            inside.close();
        }
        // The first one to ask gets the reason; there is no second.
        Err(error) => {
            if let Ok(job) = jobs.recv() {
                job(Err(error));
            }
        }
    }
}

fn compare(before: &[Entry], after: &[Entry], one: &Remote, two: &Remote, content: bool) -> Result<Difference> {
    let before: HashMap<&[u8], &Entry> = before.iter().map(|entry| (&*entry.path, entry)).collect();
    let mut changes = Vec::new();
    let mut seen = 0;
    for entry in after {
        let Some(old) = before.get(&*entry.path) else {
            changes.push((entry, None, Some(entry)));
            continue;
        };
        seen += 1;
        if !is_untouched(old, entry) && (differs(old, entry) || !same_bytes(old, entry, one, two)?) {
            changes.push((entry, Some(*old), Some(entry)));
        }
    }
    if seen < before.len() {
        let there: std::collections::HashSet<&[u8]> = after.iter().map(|entry| &*entry.path).collect();
        changes.extend(before.values().filter(|old| !there.contains(&*old.path)).map(|old| (*old, Some(*old), None)));
    }
    changes.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    let mut list = Vec::with_capacity(changes.len());
    for (entry, old, new) in changes {
        let change = match (old, new) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            _ => Change::Changed,
        };
        let texts = if content { texts(old, new, one, two)? } else { None };
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        list.push(Changed { path, change, before: old.map(Facts::of), after: new.map(Facts::of), texts });
    }
    Ok(Difference { changes: list })
}

/// Nothing was written to it between the two.
fn is_untouched(old: &Entry, new: &Entry) -> bool {
    old.changed != (0, 0)
        && (old.inode, old.size, old.modified, old.changed) == (new.inode, new.size, new.modified, new.changed)
        && old.kind == new.kind
}

/// Whether the attributes tell them apart.
fn differs(old: &Entry, new: &Entry) -> bool {
    let sized = old.kind == FileKind::File && old.size != new.size;
    (old.kind, old.mode, old.uid, old.gid, old.device, &old.target)
        != (new.kind, new.mode, new.uid, new.gid, new.device, &new.target)
        || sized
}

fn same_bytes(old: &Entry, new: &Entry, one: &Remote, two: &Remote) -> Result<bool> {
    // A name that is no text cannot be asked for; what was touched counts as changed then.
    let Ok(path) = std::str::from_utf8(&old.path) else { return Ok(false) };
    if old.kind != FileKind::File || (old.size, new.size) == (0, 0) {
        return Ok(true);
    }
    let digest = |remote: &Remote| {
        let path = path.to_owned();
        remote.ask(move |guest| {
            let mut hasher = Hasher(Sha256::new());
            guest.read_to(&path, &mut hasher)?;
            Ok::<[u8; 32], Error>(hasher.0.finalize().into())
        })
    };
    let (one, two) = (digest(one)?, digest(two)?);
    Ok(one.wait()? == two.wait()?)
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Both texts of a file, the empty text for one that is not there; none where one is no text, or too long.
fn texts(old: Option<&Entry>, new: Option<&Entry>, one: &Remote, two: &Remote) -> Result<Option<(String, String)>> {
    let text = |entry: Option<&Entry>, remote: &Remote| {
        let Some(entry) = entry else { return Ok(Some(String::new())) };
        let Ok(path) = std::str::from_utf8(&entry.path) else { return Ok(None) };
        if entry.kind != FileKind::File || entry.size > TEXT_MAX {
            return Ok(None);
        }
        let path = path.to_owned();
        let bytes = remote.ask(move |guest| guest.read(&path, TEXT_MAX))?.wait()?;
        Ok::<_, Error>(String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')))
    };
    let (Some(before), Some(after)) = (text(old, one)?, text(new, two)?) else { return Ok(None) };
    Ok((before != after).then_some((before, after)))
}
