//! Fetching a URL to a file, resuming where an earlier attempt stopped.
//!
//! For each URL there are two files in the cache: the data, which only ever grows at its end, and a note of what the
//! server said the whole is (`ETag` or `Last-Modified`, and length). A partial download is continued only if the server
//! confirms with `If-Range` that the whole is still the same; else it begins anew. Who holds the `flock` of the data
//! may write it, use it or remove it; a process that was killed leaves a partial download that the next one continues.
//!
//! A partial download is not synced: after a power failure it may lack what was not yet on the disk, but as the
//! file systems in use never show data past what was written, what is there is a true beginning. Before a download is noted
//! as complete it is synced, for nothing else may show that a part of it is missing: it may have no checksum. The note says
//! how long the whole is, and data of another length is no whole.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::ImportContext;
use super::http::{self, agent, refusal, shown};
use crate::disk::VIRTUAL_SIZE_MAX;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Meter;
use crate::host::lock::Lock;
use crate::host::temporary::{self, Durability};
use crate::host::waiting::Waits;
use crate::host::{Cancel, own};
use crate::key::Digest;

/// How often in a row a transfer may break off without a byte of progress.
const ATTEMPTS: u32 = 5;
/// The wait before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a request to stop is looked for.
const TICK: Duration = Duration::from_millis(50);

/// A download that is whole. Its lock is held until this is dropped.
pub(super) struct Fetched {
    /// The data; positions are the user's affair.
    pub file: File,
    /// It was fetched now, and not by an earlier call.
    pub fresh: bool,
    data: PathBuf,
    note: PathBuf,
}

impl Fetched {
    /// Where it lies, as long as it is not discarded.
    pub(super) fn path(&self) -> &Path {
        &self.data
    }

    /// Removes it: its content is in the store now, or it is wrong.
    pub(super) fn discard(self) {
        // The note first: data without a note is never continued.
        let _ = fs::remove_file(&self.note);
        let _ = fs::remove_file(&self.data);
    }
}

/// What is known of the data beside it.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Note {
    url: String,
    validator: Option<String>,
    total: Option<u64>,
    complete: bool,
    /// Bytes of the whole that was fetched.
    #[serde(default)]
    length: Option<u64>,
}

impl Note {
    fn read(path: &Path, url: &str) -> Note {
        let note = own::read(path).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        // The file's name says which URL it is; earlier versions wrote it down whole.
        let known = |note: &Note| note.url == shown(url) || note.url == url;
        note.filter(known).unwrap_or_else(|| Note { url: shown(url), ..Note::default() })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).expect("a note is serialisable");
        temporary::replace(path, &text, Durability::None)
            .context(ErrorKind::Store, || format!("cannot write {}", path.display()))
    }

    /// Whether the data, of this length, is the whole. A note of an older version says nothing but what the server announced.
    fn is_whole(&self, length: u64) -> bool {
        self.complete && self.length.or(self.total) == Some(length)
    }
}

/// What is said of a download that broke off.
const KEPT: &str = "what was fetched is kept; another build continues from there";

/// Makes the next [`fetch`] of this URL begin anew.
pub(super) fn forget(url: &str, context: &ImportContext<'_>) {
    let name = Digest::of(url.as_bytes()).to_string();
    // Data without a note is never continued.
    let _ = fs::remove_file(context.cache_dir.join("downloads").join(format!("{name}.json")));
}

/// Fetches `url` into the cache, unless it lies there whole already.
pub(super) fn fetch(url: &str, context: &ImportContext<'_>) -> Result<Fetched> {
    let folder = context.cache_dir.join("downloads");
    let made = fs::create_dir_all(&folder).and_then(|()| folder.canonicalize());
    let folder = made.context(ErrorKind::Store, || format!("cannot make {}", folder.display()))?;
    let name = Digest::of(url.as_bytes()).to_string();
    let (data, note) = (folder.join(format!("{name}.part")), folder.join(format!("{name}.json")));
    let file = open_locked(&data, &context.events.waits(context.cancel))?;
    let mut fetched = Fetched { file, fresh: false, data, note };
    let note = Note::read(&fetched.note, url);
    if note.is_whole(length(&fetched.file)?) {
        return Ok(fetched);
    }
    if note.complete {
        // What is there may be the beginning of the whole, or not: nothing says how it lost the rest.
        context.events.warn(format!("what was fetched of {} is not whole any more, and is fetched anew", shown(url)));
        let _ = fs::remove_file(&fetched.note);
    }
    fetched.fresh = true;
    let agent = agent(url, context)?;
    let _stopper = Stopper::new(&agent, context.cancel);
    let mut failures = 0;
    loop {
        let before = length(&fetched.file)?;
        let done = transfer(&agent, url, &mut fetched, context);
        context.cancel.check()?;
        let error = match done {
            Ok(()) => return Ok(fetched),
            Err(Broken::ForGood(error)) => return Err(error),
            Err(Broken::Maybe(error)) => error,
        };
        failures = if length(&fetched.file)? > before { 1 } else { failures + 1 };
        if failures >= ATTEMPTS {
            return Err(match (error.hint().map(str::to_owned), length(&fetched.file)?) {
                // Nothing was fetched that could be kept.
                (_, 0) => error,
                (None, _) => error.with_hint(KEPT),
                (Some(hint), _) => error.with_hint(format!("{hint}; {KEPT}")),
            });
        }
        context.events.warn(format!("{}; trying again", crate::error::chain(&error)));
        pause(PAUSE * 2u32.pow(failures - 1), context.cancel)?;
    }
}

/// Opens the data and locks it. Waits for another process that has it; that may remove it meanwhile.
fn open_locked(path: &Path, waits: &Waits) -> Result<File> {
    let failed = || format!("cannot write {}", path.display());
    loop {
        let file = own::open(path, OFlags::RDWR | OFlags::CREATE);
        let file = file.context(ErrorKind::Store, failed)?;
        waits.lock(&file, Lock::Exclusive, path, ErrorKind::Store)?;
        let locked = file.metadata().context(ErrorKind::Store, failed)?;
        if fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (locked.dev(), locked.ino())) {
            return Ok(file);
        }
    }
}

fn pause(time: Duration, cancel: &Cancel) -> Result<()> {
    let begin = Instant::now();
    loop {
        cancel.check()?;
        match time.checked_sub(begin.elapsed()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(TICK)),
            _ => return Ok(()),
        }
    }
}

fn length(file: &File) -> Result<u64> {
    file.metadata().map(|stat| stat.len()).context(ErrorKind::Store, || "cannot read the length of a download")
}

/// Ends the requests of an agent when the build is cancelled, until it is dropped.
struct Stopper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Stopper {
    fn new(agent: &Agent, cancel: &Cancel) -> Stopper {
        let (stop, stopped) = channel::<()>();
        let (agent, cancel) = (agent.clone(), cancel.clone());
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if cancel.is_cancelled() {
                    return agent.shutdown();
                }
            }
        });
        Stopper { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Why a transfer did not end well.
enum Broken {
    /// Another attempt may succeed.
    Maybe(Error),
    /// It will not.
    ForGood(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        Broken::ForGood(error)
    }
}

/// One request, and its body appended to the data.
fn transfer(agent: &Agent, url: &str, fetched: &mut Fetched, context: &ImportContext<'_>) -> Result<(), Broken> {
    let have = length(&fetched.file)?;
    let old = Note::read(&fetched.note, url);
    let mut request = agent.get(url);
    if let Some(validator) = old.validator.as_ref().filter(|_| have > 0) {
        request = request.header("Range", format!("bytes={have}-")).header("If-Range", validator);
    }
    let cannot = || format!("cannot fetch {}", shown(url));
    let response = request.call().map_err(|source| {
        if let Some(error) = refusal(&cannot(), &source) {
            return Broken::ForGood(error);
        }
        let for_good = is_final(&source);
        let advice = http::advice(&source);
        let error = Error::new(ErrorKind::Base, cannot()).with_source(source);
        let error = advice.into_iter().fold(error, Error::with_hint);
        if for_good { Broken::ForGood(error) } else { Broken::Maybe(error) }
    })?;
    let new = note_of(&response, url);
    let begin = match response.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT if continues(&response, &old, &new, have) => have,
        // Nothing is left to fetch: an earlier process was killed before it could say so.
        StatusCode::RANGE_NOT_SATISFIABLE if old.total == Some(have) && new.total == Some(have) => {
            return Ok(complete(old, fetched)?);
        }
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
            let _ = fs::remove_file(&fetched.note);
            let message = format!("{} is no longer what it was when its download began", shown(url));
            return Err(Broken::Maybe(Error::new(ErrorKind::Base, message)));
        }
        status => {
            let error = Error::new(ErrorKind::Base, format!("{}: the server says {status}", cannot()));
            let later = status.is_server_error()
                || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
            return Err(if later { Broken::Maybe(error) } else { Broken::ForGood(error) });
        }
    };
    let total = new.total;
    if total.is_some_and(|total| total > VIRTUAL_SIZE_MAX) {
        let message = format!("{}: the server announces more bytes than any image has", cannot());
        return Err(Broken::ForGood(Error::new(ErrorKind::Base, message)));
    }
    let failed = || format!("cannot write {}", fetched.data.display());
    // The data is cut before the note speaks of the new whole, never the other way round.
    fetched.file.set_len(begin).and_then(|()| fetched.file.seek(SeekFrom::End(0))).context(ErrorKind::Store, failed)?;
    new.write(&fetched.note)?;
    receive(response, &mut fetched.file, begin, total, url, context)?;
    Ok(complete(new, fetched)?)
}

/// Notes that the data is the whole.
fn complete(note: Note, fetched: &Fetched) -> Result<()> {
    fetched.file.sync_data().context(ErrorKind::Store, || format!("cannot write {}", fetched.data.display()))?;
    Note { complete: true, length: Some(length(&fetched.file)?), ..note }.write(&fetched.note)
}

/// Whether no other attempt can end better.
fn is_final(error: &ureq::Error) -> bool {
    use ureq::Error as E;
    match error {
        // Of TLS: what the server says is wrong, or it is not believed.
        E::Io(error) => matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData),
        E::Timeout(_) | E::HostNotFound | E::ConnectionFailed | E::ConnectProxyFailed(_) | E::BodyStalled => false,
        E::Protocol(_) => false,
        _ => true,
    }
}

/// What a response says of the whole.
fn note_of(response: &Response<Body>, url: &str) -> Note {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    // A weak ETag says nothing about bytes.
    let validator = header("etag").filter(|tag| !tag.starts_with("W/")).or_else(|| header("last-modified"));
    let total = match response.status() {
        StatusCode::OK => header("content-length"),
        _ => header("content-range").and_then(|range| Some(range.rsplit_once('/')?.1.to_owned())),
    };
    Note {
        url: shown(url),
        validator,
        total: total.and_then(|text| text.trim().parse().ok()),
        complete: false,
        length: None,
    }
}

/// Whether a partial response goes on exactly where the data ends, in the same whole. A server that does not know
/// `If-Range` may send a part of another one.
fn continues(response: &Response<Body>, old: &Note, new: &Note, have: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
    let same = |old: Option<&String>, new: Option<&String>| old.is_none() || new.is_none() || old == new;
    start == Some(have)
        && same(old.validator.as_ref(), new.validator.as_ref())
        && (old.total.is_none() || new.total.is_none() || old.total == new.total)
}

fn receive(
    response: Response<Body>,
    file: &mut File,
    begin: u64,
    total: Option<u64>,
    url: &str,
    context: &ImportContext<'_>,
) -> Result<(), Broken> {
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 256 << 10];
    let mut meter = Meter::bytes(context.events, "download", total);
    let mut done = begin;
    loop {
        context.cancel.check()?;
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(source) => {
                let message = format!("the download of {} broke off after {done} bytes", shown(url));
                return Err(Broken::Maybe(Error::new(ErrorKind::Base, message).with_source(source)));
            }
        };
        file.write_all(&buffer[..count]).context(ErrorKind::Store, || "cannot write the download")?;
        done += count as u64;
        meter.at(done);
    }
    // A shutdown by `Stopper` can look like an end.
    context.cancel.check()?;
    match total {
        Some(total) if total != done => {
            let message = format!("the download of {} ended after {done} of {total} bytes", shown(url));
            Err(Broken::Maybe(Error::new(ErrorKind::Base, message)))
        }
        _ => Ok(()),
    }
}
