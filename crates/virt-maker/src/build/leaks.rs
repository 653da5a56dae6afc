//! Secrets that got into a guest: their values are looked for in the files of the result.
//!
//! Only what a step could read is looked for, and only as it is: one that was hashed, encoded or compressed is not found.
//! A value of fewer than [`LEAST`] bytes would be found by chance, so it is left out.
//!
//! A layer may hold a value that its secret does not have any more: a new value alone makes no step run again. Such values
//! are known by their lengths and digests ([`Store::held`](crate::store::Store::held)). Where no layer was made with
//! another value than that of now, nothing more is done than a search for these.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use memchr::memmem::Finder;

use super::Build;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::Secrets;
use crate::host::{Cancel, rolling};
use crate::plan::SpecId;
use crate::store::{Held, HeldValue, LayerRecord, Scratch};

/// Shortest value that is looked for, in bytes.
const LEAST: usize = 6;
/// How many values of the past are looked for, those of the last layers first: each length among them costs a pass.
const PAST_MAX: usize = 64;
/// Paths that a message names.
const SHOWN: usize = 3;
const CHUNK: usize = 1 << 20;

/// What is looked for.
pub(super) struct Wanted {
    /// Values of now, of all secrets that steps of the spec name.
    now: Secrets,
    /// Values that these secrets had.
    past: Vec<HeldValue>,
    /// One for each length of those.
    finders: Vec<rolling::Finder>,
}

/// A value that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leak {
    secret: String,
    /// It is none of now: the layer that was made with it.
    past: Option<String>,
}

/// Those among the values of secrets that are looked for, as they are looked for.
fn long_enough(secrets: &Secrets) -> impl Iterator<Item = (&str, &[u8])> {
    let values = secrets.0.iter().map(|(name, value)| (name.as_str(), value.trim().as_bytes()));
    values.filter(|(_, value)| value.len() >= LEAST)
}

/// Writes down what the step of a draft could read.
pub(super) fn note(build: &Build<'_>, draft: &Scratch, secrets: &Secrets) -> Result<()> {
    build.store.hold(draft, long_enough(secrets))
}

/// What is to be looked for in the result `tip` of a spec.
pub(super) fn wanted(build: &Build<'_>, spec: SpecId, tip: &LayerRecord) -> Result<Wanted> {
    let mut now = build.secrets(spec)?;
    now.0.retain(|_, value| value.trim().len() >= LEAST);
    let held = build.store.held(tip)?;
    for problem in &held.problems {
        let what = "values that secrets had before are not looked for, as far as only this layer could tell of them";
        build.events.warn(format!("{problem}: {what}"));
    }
    let (wanted, left_out) = Wanted::new(now, held);
    if left_out > 0 {
        build.events.warn(format!(
            "layers were made with more than {PAST_MAX} values that secrets had before: the {left_out} of the lowest \
             layers are not looked for"
        ));
    }
    Ok(wanted)
}

impl Wanted {
    /// Leaves out what is looked for anyway, and twice the same; says how many values there are beyond the limit.
    fn new(now: Secrets, held: Held) -> (Wanted, usize) {
        let Held { values: mut past, rolling, .. } = held;
        let current = |value: &HeldValue| long_enough(&now).any(|(_, text)| value.is(text));
        past.retain(|value| !current(value));
        let mut seen = BTreeSet::new();
        past.retain(|value| seen.insert((value.name.clone(), value.length, value.hash)));
        let left_out = past.len().saturating_sub(PAST_MAX);
        past.truncate(PAST_MAX);
        let mut lengths: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        past.iter().for_each(|value| lengths.entry(value.length).or_default().push(value.hash));
        let finders = lengths.into_iter().map(|(length, hashes)| rolling.finder(length, hashes)).collect();
        (Wanted { now, past, finders }, left_out)
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.now.0.is_empty() && self.past.is_empty()
    }

    /// The paths of the files that hold one, in an archive of all.
    pub(super) fn find(&self, archive: &Path, cancel: &Cancel) -> io::Result<BTreeMap<Leak, Vec<String>>> {
        let now: Vec<_> = long_enough(&self.now).map(|(name, value)| (name, Finder::new(value))).collect();
        let lengths = now.iter().map(|(_, finder)| finder.needle().len());
        let lengths = lengths.chain(self.finders.iter().map(rolling::Finder::length));
        let overlap = lengths.max().unwrap_or(1) - 1;
        let mut found: BTreeMap<Leak, Vec<String>> = BTreeMap::new();
        let mut archive = tar::Archive::new(BufReader::with_capacity(CHUNK, File::open(archive)?));
        let mut buffer = Vec::with_capacity(CHUNK + overlap);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches('.').to_owned();
            buffer.clear();
            loop {
                if cancel.is_cancelled() {
                    return Err(io::Error::other("cancelled"));
                }
                // What the last piece ended with may be the beginning of a value.
                let kept = buffer.len().min(overlap);
                buffer.drain(..buffer.len() - kept);
                let count = (&mut entry).take(CHUNK as u64).read_to_end(&mut buffer)?;
                for (name, finder) in &now {
                    if finder.find(&buffer).is_some() {
                        add(&mut found, Leak { secret: (*name).to_owned(), past: None }, &path);
                    }
                }
                for finder in &self.finders {
                    finder.each(&buffer, |hash, window| self.compare(hash, window, &path, &mut found));
                }
                if count < CHUNK {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Looks closer at what has the rolling hash of a value.
    fn compare(&self, hash: u64, window: &[u8], path: &str, found: &mut BTreeMap<Leak, Vec<String>>) {
        for value in self.past.iter().filter(|value| value.hash == hash && value.length == window.len()) {
            let leak = Leak { secret: value.name.clone(), past: Some(value.layer.short()) };
            // A file may have it very often, and a digest takes time.
            let known = found.get(&leak).is_some_and(|paths| paths.last().is_some_and(|last| last == path));
            if !known && value.is(window) {
                add(found, leak, path);
            }
        }
    }
}

fn add(found: &mut BTreeMap<Leak, Vec<String>>, leak: Leak, path: &str) {
    let paths = found.entry(leak).or_default();
    if paths.last().is_none_or(|last| last != path) {
        paths.push(path.to_owned());
    }
}

/// What is to be said of what was found: as warnings, or as the one error where nothing may be.
pub(super) fn tell(found: BTreeMap<Leak, Vec<String>>, clean: bool) -> (Vec<String>, Option<Error>) {
    let mut warnings = Vec::new();
    for (Leak { secret, past }, paths) in found {
        let shown: Vec<_> = paths.iter().take(SHOWN).map(|path| path.escape_debug().to_string()).collect();
        let more = match paths.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let place = format!("{}{more}", shown.join(", "));
        let (message, hint) = match past {
            None => (
                format!("the secret `{secret}` is in the result: {place}"),
                "have the step that reads it leave it out, or remove it in the same step",
            ),
            Some(layer) => (
                format!(
                    "a value that the secret `{secret}` had before is in the result: {place}; layer {layer} was made with it"
                ),
                "have the step that reads it leave it out, or remove it in the same step; with another `version` of the \
                 secret the step runs again, with the value of now",
            ),
        };
        if clean {
            return (Vec::new(), Some(Error::new(ErrorKind::Export, message).with_hint(hint)));
        }
        warnings.push(message);
    }
    (warnings, None)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::disk::ImageFormat;
    use crate::key::KeyMaterial;
    use crate::store::{Outcome, Owner, Store};

    fn secrets(values: &[(&str, &str)]) -> Secrets {
        Secrets(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// A store with one layer that was made with these values.
    fn held(folder: &Path, values: &Secrets) -> Held {
        let owner = Owner::new(folder.join("state/secret"), None);
        let store = Store::open(&folder.join("store"), &owner).unwrap();
        let workspace = store.workspace().unwrap();
        let material = KeyMaterial {
            role: "import".into(),
            kind: "test".into(),
            kind_version: 1,
            arguments: serde_json::Value::Null,
            inputs: Vec::new(),
            parent: None,
            options: serde_json::Map::new(),
        };
        let (folder, lock) = (workspace.subfolder("draft").unwrap(), store.try_lock(material.key()).unwrap().unwrap());
        let draft = store.scratch_base(folder, material, ImageFormat::Raw, 512).unwrap().into_draft(lock);
        std::fs::write(draft.image(), [0; 512]).unwrap();
        store.hold(&draft, long_enough(values)).unwrap();
        let layer = draft.commit(&store, Outcome::default(), |_| {}).unwrap();
        store.held(&layer.record).unwrap()
    }

    fn archive(path: &Path, files: &[(&str, &[u8])]) {
        let mut archive = tar::Builder::new(File::create(path).unwrap());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            archive.append_data(&mut header, name, *content).unwrap();
        }
        archive.finish().unwrap();
    }

    #[test]
    fn values_of_the_past_are_found_also_across_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let values =
            secrets(&[("a", "old-value-1"), ("b", "of now, and then"), ("c", "old-value-22\n"), ("d", "short")]);
        let held = held(folder.path(), &values);
        assert_eq!(held.values.len(), 3, "one is too short");
        let now = secrets(&[("a", "new-value"), ("b", "of now, and then"), ("c", "new-value-2"), ("d", "new-short")]);
        let (wanted, left_out) = Wanted::new(now, held);
        assert_eq!((wanted.past.len(), wanted.finders.len(), left_out), (2, 2, 0));
        let mut large = vec![b'.'; 2 * CHUNK];
        large.splice(CHUNK - 4..CHUNK - 4, *b"old-value-1");
        let tar = folder.path().join("x.tar");
        let b = "of now, and then".as_bytes();
        archive(&tar, &[("one", b"old-value-2"), ("two", &large), ("three", &[b"x", b, b"old-value-22"].concat())]);
        let found = wanted.find(&tar, &Cancel::default()).unwrap();
        let found: Vec<_> =
            found.iter().map(|(leak, paths)| (&*leak.secret, leak.past.is_some(), paths.join(" "))).collect();
        assert_eq!(found, [("a", true, "two".into()), ("b", false, "three".into()), ("c", true, "three".into())]);
    }

    #[test]
    fn values_of_now_are_not_looked_for_twice() {
        let folder = tempfile::tempdir().unwrap();
        let values = secrets(&[("a", "value-of-now")]);
        let (wanted, _) = Wanted::new(values.clone(), held(folder.path(), &values));
        assert!(wanted.past.is_empty() && wanted.finders.is_empty());
    }

    #[test]
    fn their_number_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let many: Vec<_> =
            (0..PAST_MAX + 9).map(|number| (format!("s{number:03}"), format!("value-{number}"))).collect();
        let many: Vec<_> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
        let (wanted, left_out) = Wanted::new(Secrets::default(), held(folder.path(), &secrets(&many)));
        assert_eq!((wanted.past.len(), left_out), (PAST_MAX, 9));
    }

    /// For the figures in the documents: `cargo test --release -p virt-maker --lib speed_of_the_search -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures"]
    fn speed_of_the_search() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..256 << 20).map(|_| next()).collect();
        let tar = folder.path().join("x.tar");
        archive(&tar, &[("noise", &noise)]);
        let now =
            secrets(&[("a", "new-value"), ("b", "new-longer-value"), ("c", "one of the new values that is longer")]);
        let past =
            secrets(&[("a", "old-value"), ("b", "old-longer-value"), ("c", "one of the old values that is longer")]);
        for (name, held_values) in [("none of the past", &now), ("three of the past", &past)] {
            let folder = tempfile::tempdir().unwrap();
            let (wanted, _) = Wanted::new(now.clone(), held(folder.path(), held_values));
            for _ in 0..3 {
                let begin = Instant::now();
                assert!(wanted.find(&tar, &Cancel::default()).unwrap().is_empty());
                println!("{name}: {:.0} MB/s", noise.len() as f64 / 1e6 / begin.elapsed().as_secs_f64());
            }
        }
    }
}
