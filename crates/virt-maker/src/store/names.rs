//! Tags and pins: names that people give to layers, and layers that they want to keep.
//!
//! A tag is a file `tags/NAME`, a pin a file `pins/KEY`; each is one small JSON object with a `version`, written whole or
//! not at all. Both keep their layer, and all below it, from being collected. They are written while the gate is open
//! (see [`super::lease`]), after the layer was seen to be there.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Lookup, Store};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::{clock, durable, own, temporary};
use crate::key::{Digest, LayerKey};

/// The version of the files of tags and pins.
const VERSION: u32 = 1;
/// Longest name of a tag, in bytes.
const NAME_MAX: usize = 100;
/// From so many hexadecimal digits on, a text is taken for the beginning of a key.
pub(super) const PREFIX_MIN: usize = 4;

/// A name for a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tag {
    /// The name.
    pub name: String,
    /// The layer.
    pub key: LayerKey,
    /// When it was given, in seconds since 1970.
    pub created: u64,
}

/// A layer that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pin {
    /// The layer.
    pub key: LayerKey,
    /// Since when, in seconds since 1970.
    pub created: u64,
}

#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    key: LayerKey,
    created: u64,
}

/// Whether `name` can be a tag; the error says what a tag may be.
pub fn check_tag(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let like_key = name.len() >= PREFIX_MIN && name.bytes().all(|digit| digit.is_ascii_hexdigit());
    let template = [".yml", ".yaml"].iter().any(|ending| name.ends_with(ending));
    let problem = if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
        "a tag has letters, digits, `.`, `_` and `-`, at most 100 of them"
    } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        "a tag begins with a letter or a digit"
    } else if like_key {
        "it could be the beginning of a key: it has hexadecimal digits only"
    } else if template {
        "it looks like a template's file"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Template, format!("`{}` cannot be a tag: {problem}", name.escape_debug())))
}

impl Store {
    /// Gives a layer a name; returns the layer that had it before. The layer has to be there.
    pub fn tag(&self, key: LayerKey, name: &str) -> Result<Option<LayerKey>> {
        check_tag(name)?;
        let _gate = self.open_gate()?;
        self.demand(key)?;
        let path = self.tags_dir().join(name);
        // One that cannot be read is replaced as one that is not there.
        let before = read(&path).ok().flatten().map(|note| note.key);
        write(&path, key)?;
        Ok(before)
    }

    /// Takes a name away; says whether it was there.
    pub fn untag(&self, name: &str) -> Result<bool> {
        check_tag(name)?;
        remove(&self.tags_dir().join(name))
    }

    /// The layer that has this name.
    pub fn tagged(&self, name: &str) -> Result<Option<LayerKey>> {
        if check_tag(name).is_err() {
            return Ok(None);
        }
        Ok(read(&self.tags_dir().join(name))?.map(|note| note.key))
    }

    /// All tags, by name. One that cannot be read is an error: what it protects is not known.
    pub fn tags(&self) -> Result<Vec<Tag>> {
        let notes = list(&self.tags_dir())?.into_iter();
        Ok(notes.map(|(name, note)| Tag { name, key: note.key, created: note.created }).collect())
    }

    /// Keeps a layer and all below it; says whether it was not pinned yet. The layer has to be there.
    pub fn pin(&self, key: LayerKey) -> Result<bool> {
        let _gate = self.open_gate()?;
        self.demand(key)?;
        let path = self.pins_dir().join(key.to_string());
        if path.exists() {
            return Ok(false);
        }
        write(&path, key)?;
        Ok(true)
    }

    /// Ends a pin; says whether there was one.
    pub fn unpin(&self, key: LayerKey) -> Result<bool> {
        remove(&self.pins_dir().join(key.to_string()))
    }

    /// All pins, the oldest first. One that cannot be read still says its layer: by its name.
    pub fn pins(&self) -> Result<Vec<Pin>> {
        let mut pins = Vec::new();
        for name in names(&self.pins_dir())? {
            let Some(key) = Digest::parse(&name).map(LayerKey) else { continue };
            let note = read(&self.pins_dir().join(&name)).ok().flatten();
            pins.push(Pin { key, created: note.map_or(0, |note| note.created) });
        }
        pins.sort_by_key(|pin| (pin.created, pin.key));
        Ok(pins)
    }

    fn demand(&self, key: LayerKey) -> Result<()> {
        match self.lookup(key) {
            Lookup::Present(_) => Ok(()),
            Lookup::Absent => Err(Error::new(ErrorKind::Template, format!("there is no layer {}", key.short()))),
            Lookup::Damaged(problem) => {
                Err(Error::new(ErrorKind::Store, format!("layer {} cannot be used: {problem}", key.short())))
            }
        }
    }

    fn tags_dir(&self) -> PathBuf {
        self.root().join("tags")
    }

    fn pins_dir(&self) -> PathBuf {
        self.root().join("pins")
    }
}

fn write(path: &Path, key: LayerKey) -> Result<()> {
    let created = clock::now();
    let text = serde_json::to_vec(&Note { version: VERSION, key, created }).expect("a note is serialisable");
    temporary::replace_durably(path, &text).context(ErrorKind::Store, || format!("cannot write {}", path.display()))
}

fn remove(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => {
            let folder = path.parent().unwrap_or(path);
            durable::sync_dir(folder).context(ErrorKind::Store, || format!("cannot sync {}", folder.display()))?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context(ErrorKind::Store, || format!("cannot remove {}", path.display())),
    }
}

fn read(path: &Path) -> Result<Option<Note>> {
    let text = match own::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.context(ErrorKind::Store, || format!("cannot read {}", path.display()))?,
    };
    match serde_json::from_slice::<Note>(&text) {
        Ok(note) if note.version == VERSION => Ok(Some(note)),
        _ => Err(Error::new(
            ErrorKind::Store,
            format!("{} is damaged, so it is not known what it keeps", path.display()),
        )
        .with_hint("give the name anew with `virt-maker tag`, or remove the file")),
    }
}

/// Names of the files in a folder, sorted, without those that are being written.
fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = || format!("cannot read {}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).context(ErrorKind::Store, failed)? {
        let name = entry.context(ErrorKind::Store, failed)?.file_name();
        names.extend(name.to_str().filter(|name| !name.starts_with('.')).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn list(folder: &Path) -> Result<Vec<(String, Note)>> {
    let mut notes = Vec::new();
    // What cannot be a name is none, whatever it is.
    for name in names(folder)?.into_iter().filter(|name| check_tag(name).is_ok()) {
        if let Some(note) = read(&folder.join(&name))? {
            notes.push((name, note));
        }
    }
    Ok(notes)
}
