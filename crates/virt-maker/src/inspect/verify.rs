//! Verifying a store: each layer's image against its digest, its chain, and its file systems.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use crate::disk::{ImageFormat, overlay};
use crate::engine::chroot::FileSystemChecker;
use crate::error::{ErrorKind, Result, chain};
use crate::event::{Event, Events};
use crate::host::{Cancel, digest};
use crate::key::LayerKey;
use crate::store::{Layer, Listed, Lookup, Store, Verdict};

/// A layer with what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// Its key.
    pub key: LayerKey,
    /// What it is, in one line; empty where its record cannot be read.
    pub summary: String,
    /// What is wrong.
    pub problems: Vec<String>,
    /// Which making of the layer this is of; none where its record cannot be read.
    #[serde(skip)]
    pub id: Option<String>,
}

/// What was verified.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// How many layers were looked at.
    pub layers: usize,
    /// How many file systems were checked.
    pub file_systems: usize,
    /// Those that are bad by themselves. What lies on them cannot be used either.
    pub bad: Vec<Bad>,
    /// What was not checked, and why; each reason once, with the number of layers.
    pub unchecked: Vec<(String, usize)>,
}

impl Verified {
    /// What [`Store::collect`] is told to remove what is bad.
    pub fn bad_keys(&self) -> HashMap<LayerKey, Verdict> {
        let verdict = |bad: &Bad| Verdict { problem: bad.problems.join("; "), id: bad.id.clone() };
        self.bad.iter().map(|bad| (bad.key, verdict(bad))).collect()
    }
}

/// Verifies all layers. Digests and chains need nothing; file systems are checked where engine `chroot` can work, and
/// what was not checked is said.
pub fn verify(store: &Store, agent: &Path, events: &Events, cancel: &Cancel) -> Result<Verified> {
    let (listed, damaged) = store.listing()?;
    let keys: Vec<LayerKey> = listed.iter().map(|listed| listed.layer.record.key).collect();
    // Nothing of it goes while it is read.
    let _lease = store.lease(&keys)?;
    let mut found = Verified { layers: listed.len() + damaged.len(), ..Verified::default() };
    for (key, problem) in damaged {
        found.bad.push(Bad { key, summary: String::new(), problems: vec![problem], id: None });
    }
    let mut problems = read_all(store, &listed, events, cancel)?;
    let mut unchecked: Vec<(String, usize)> = Vec::new();
    let mut note = |reason: String| match unchecked.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, count)) => *count += 1,
        None => unchecked.push((reason, 1)),
    };
    let workspace = store.workspace()?;
    let mut checker = FileSystemChecker::start(agent, workspace.path(), cancel);
    let by_key: HashMap<LayerKey, usize> = keys.iter().enumerate().map(|(place, key)| (*key, place)).collect();
    for place in 0..listed.len() {
        cancel.check()?;
        let layer = &listed[place].layer;
        // On a bad one, the file system cannot be right; what is wrong is said where it is wrong.
        let below_bad =
            layer.record.parent().and_then(|key| by_key.get(&key)).is_some_and(|at| !problems[*at].is_empty());
        if !problems[place].is_empty() || below_bad || listed[place].problem.is_some() {
            continue;
        }
        match &mut checker {
            Err(error) => note(format!("file systems: {}", chain(error))),
            Ok(checker) => match store.image(layer).and_then(|image| checker.check(&image)) {
                Ok(checked) => {
                    found.file_systems += checked.checked;
                    problems[place].extend(checked.problems);
                    checked.unchecked.into_iter().for_each(&mut note);
                }
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => problems[place].push(chain(&error)),
            },
        }
    }
    for (listed, mut problems) in listed.into_iter().zip(problems) {
        problems.extend(listed.problem);
        if !problems.is_empty() {
            let record = &listed.layer.record;
            let summary = format!("{}: {}", record.material.kind, record.summary);
            found.bad.push(Bad { key: record.key, summary, problems, id: Some(record.id.clone()) });
        }
    }
    found.unchecked = unchecked;
    Ok(found)
}

/// Reads every image, on two processors at most, for the disk is the limit; for each layer what is wrong.
fn read_all(store: &Store, listed: &[Listed], events: &Events, cancel: &Cancel) -> Result<Vec<Vec<String>>> {
    let parents: HashMap<LayerKey, &Layer> = listed.iter().map(|one| (one.layer.record.key, &one.layer)).collect();
    let problems = Mutex::new(vec![Vec::new(); listed.len()]);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = listed.get(place).filter(|_| !cancel.is_cancelled()) else { return };
                    let parent = |layer: &Layer| layer.record.parent().and_then(|key| parents.get(&key).copied());
                    let base = std::iter::successors(Some(&one.layer), |layer| parent(layer)).last();
                    let (parent, base) = (parent(&one.layer), base.filter(|base| base.record.parent().is_none()));
                    let mut found = read_one(&one.layer, parent, base);
                    // It may have been flattened since the list was made.
                    if !found.is_empty()
                        && let Lookup::Present(now) = store.lookup(one.layer.record.key)
                        && now.flat != one.layer.flat
                    {
                        found = read_one(&now, parent, base);
                    }
                    problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[place] = found;
                    let (done, total) = (place as u64 + 1, Some(listed.len() as u64));
                    let message = format!("{done} of {} read", total.unwrap_or_default());
                    events.send(Event::Trace { source: "verify", message });
                }
            });
        }
    });
    cancel.check()?;
    Ok(problems.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// What is wrong with one image. The file below it is the image of the layer's parent, of a flat one that of its base.
fn read_one(layer: &Layer, parent: Option<&Layer>, base: Option<&Layer>) -> Vec<String> {
    let record = &layer.record;
    let mut problems = Vec::new();
    match digest::of_file(&layer.path) {
        Ok(found) if found == record.digest => {}
        Ok(found) => problems.push(format!("its image has sha256:{found} instead of sha256:{}", record.digest)),
        Err(error) => problems.push(format!("its image cannot be read: {error}")),
    }
    if record.format == ImageFormat::Qcow2 {
        let below = if layer.flat { base } else { parent };
        let expected = below.map(|parent| (parent.record.image_name(), Some(parent.record.format.name().to_owned())));
        match overlay::backing(&layer.path) {
            // Whose parent is gone is said elsewhere.
            Ok(found) if found == expected || (below.is_none() && record.parent().is_some()) => {}
            Ok(found) => {
                let name = found.map_or("none".to_owned(), |(name, _)| name.escape_debug().to_string());
                problems.push(format!("its image names another one below it: {name}"));
            }
            Err(error) => problems.push(format!("its image cannot be used: {error}")),
        }
    }
    problems
}
