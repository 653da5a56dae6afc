//! Secrets that got into a guest: their values are looked for in the files of the result.
//!
//! Only what a step could read is looked for, and only as it is: one that was hashed, encoded or compressed is not found.
//! A value of fewer than [`LEAST`] bytes would be found by chance, so it is left out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use memchr::memmem::Finder;

use super::Build;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::guest::Secrets;
use crate::host::Cancel;

/// Shortest value that is looked for, in bytes.
const LEAST: usize = 6;
/// Paths that a message names.
const SHOWN: usize = 3;
const CHUNK: usize = 1 << 20;

/// The values that are looked for: of all secrets that steps of a spec name.
pub(super) fn values(build: &Build<'_>, spec: usize) -> Result<Secrets> {
    let mut all = build.secrets(spec)?;
    all.0.retain(|_, value| value.trim().len() >= LEAST);
    Ok(all)
}

/// The paths of the files that hold a secret, by its name.
pub(super) fn find(archive: &Path, secrets: &Secrets, cancel: &Cancel) -> io::Result<BTreeMap<String, Vec<String>>> {
    let finders: Vec<_> = secrets
        .0
        .iter()
        .map(|(name, value)| (name, Finder::new(value.trim().as_bytes()), value.trim().len()))
        .collect();
    let overlap = finders.iter().map(|(_, _, length)| length - 1).max().unwrap_or(0);
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut archive = tar::Archive::new(BufReader::with_capacity(CHUNK, File::open(archive)?));
    let mut buffer = Vec::with_capacity(CHUNK + overlap);
    for entry in archive.entries()? {
        if cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let mut entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches('.').to_owned();
        buffer.clear();
        loop {
            // What the last piece ended with may be the beginning of a value.
            let kept = buffer.len().min(overlap);
            buffer.drain(..buffer.len() - kept);
            let count = (&mut entry).take(CHUNK as u64).read_to_end(&mut buffer)?;
            for (name, finder, _) in &finders {
                let paths = found.get(*name);
                if finder.find(&buffer).is_some() && paths.is_none_or(|paths| paths.last() != Some(&path)) {
                    found.entry((*name).clone()).or_default().push(path.clone());
                }
            }
            if count < CHUNK {
                break;
            }
        }
    }
    Ok(found)
}

/// Says what was found; an error where nothing may be.
pub(super) fn tell(found: BTreeMap<String, Vec<String>>, clean: bool, events: &Events) -> Result<()> {
    for (name, paths) in found {
        let shown: Vec<_> = paths.iter().take(SHOWN).map(|path| path.escape_debug().to_string()).collect();
        let more = match paths.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!("the secret `{name}` is in the result: {}{more}", shown.join(", "));
        if clean {
            let hint = "have the step that reads it leave it out, or remove it in the same step";
            return Err(Error::new(ErrorKind::Export, message).with_hint(hint));
        }
        events.warn(message);
    }
    Ok(())
}
