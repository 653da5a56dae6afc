//! Collecting: what goes when the store has to keep to its size.
//!
//! # What goes
//! First what can never be a hit again: entries that are damaged, and layers whose parent is gone or was made anew. Then,
//! those that are older than `max_age`. Then, while a limit of size is passed, the leaf that was not used for the longest time,
//! leaf by leaf; a layer counts as used when anything that lies on it was, and later for what it took to make ([`worth`]): what
//! is made again in a moment goes before what takes minutes; after a build, what that build used goes last. What is leased, pinned or tagged stays, and so does all below it.
//!
//! # How it goes
//! In batches. The gate is closed ([`super::lease`]), leases, pins and tags are read anew, and the folders of a batch
//! move to a workspace, each by one rename; one that was used since it was chosen stays. The gate opens, `layers/` is
//! synced, and only then images are removed. A crash in between leaves a workspace whose records name the images, and
//! the next process that opens the store removes both, as it does with drafts.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::record::{self, ImageName, Making};
use super::tree::Tree;
use super::wish::Wish;
use super::{Store, hooks, seal};
use crate::error::{Context, ErrorKind, Result};
use crate::host::{Cancel, durable};
use crate::key::LayerKey;

#[cfg(test)]
mod tests;

/// How many layers are removed before others get their turn at the store.
const BATCH: usize = 256;
/// How many threads remove files.
const REMOVERS: usize = 8;

/// Why a layer goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Why {
    /// It can never be used again.
    Unusable {
        /// What is wrong.
        problem: String,
    },
    /// It was not used for longer than `--max-age` allows.
    MaxAge {
        /// For so many seconds.
        unused: u64,
    },
    /// The layers take more than `--max-size`.
    MaxSize,
    /// Less is free than `--min-free`.
    MinFree,
    /// Everything goes.
    Clean,
    /// `verify --repair` found it, or one below it, bad.
    Bad {
        /// What is wrong.
        problem: String,
    },
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Unusable { problem } => write!(f, "could not be used: {problem}"),
            Why::MaxAge { .. } => f.write_str("--max-age"),
            Why::MaxSize => f.write_str("--max-size"),
            Why::MinFree => f.write_str("--min-free"),
            Why::Clean => f.write_str("cache clean"),
            Why::Bad { problem } => write!(f, "cache verify --repair: {problem}"),
        }
    }
}

/// What shows that a layer is still the one that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stamp {
    /// It can be read, and was last used then: one that was made anew was made later.
    Used(SystemTime),
    /// It is damaged: the files that it is made of.
    Damaged(Making),
}

impl Stamp {
    fn fits(&self, folder: &std::path::Path) -> bool {
        match self {
            Stamp::Used(used) => record::used(folder) == Some(*used),
            Stamp::Damaged(making) => Making::of(folder) == *making,
        }
    }
}

/// A layer that goes.
#[derive(Debug, Clone, Serialize)]
pub struct Victim {
    /// Its key.
    pub key: LayerKey,
    /// What it is, in one line; empty where its record cannot be read.
    pub summary: String,
    /// Bytes that its image takes.
    pub bytes: u64,
    /// When it, or one on it, was last used, in seconds since 1970.
    pub used: u64,
    /// Why.
    pub why: Why,
    /// To see whether it was used or made anew meanwhile.
    #[serde(skip)]
    stamp: Stamp,
    #[serde(skip)]
    parent: Option<LayerKey>,
}

/// What was collected, or would be.
#[derive(Debug, Default, Serialize)]
pub struct Collection {
    /// Layers, in the order in which they go: each before what it lies on.
    pub layers: Vec<Victim>,
    /// Images that no layer has.
    pub stray_images: Vec<String>,
    /// Bytes of both.
    pub bytes: u64,
    /// Layers that would have gone, but were used or kept since they were chosen.
    pub spared: usize,
    /// How many layers are left, and their bytes.
    pub left: (usize, u64),
    /// How many of those are leased, pinned, tagged, or below such a layer.
    pub protected: usize,
    /// The limits that are passed all the same, because the rest is protected.
    pub unmet: Vec<&'static str>,
}

impl Store {
    /// Collects what `wish` says, or with `dry_run` only says what that would be.
    pub fn collect(&self, wish: &Wish, dry_run: bool, cancel: &Cancel) -> Result<Collection> {
        // Listed before anything that could own them is read, so that none is taken for a stray that is being sealed.
        let images = self.image_names()?;
        let tree = Tree::read(self)?;
        let gate = self.close_gate()?;
        let protected = tree.protected(self, &gate, wish)?;
        drop(gate);
        let free = self.free_bytes()?;
        let mut found = tree.choose(wish, &protected, free);
        if !dry_run {
            self.remove_layers(&tree, wish, &mut found, cancel)?;
            self.forget_builds()?;
        }
        let (strays, alive) = self.strays(images, &found, dry_run)?;
        // Nobody who looks at the store can come to one of these. Of those of keys that are there, somebody may have one.
        self.remove_strays(strays, &mut found, dry_run);
        if !alive.is_empty() {
            let gate = self.close_gate()?;
            let used = gate.used_keys()?;
            let unused = alive.into_iter().filter(|image| !used.contains(&image.key)).collect();
            self.remove_strays(unused, &mut found, dry_run);
        }
        Ok(found)
    }

    /// Takes the chosen layers out of the store, in their order. What was used or kept meanwhile is taken off the list.
    fn remove_layers(&self, tree: &Tree, wish: &Wish, found: &mut Collection, cancel: &Cancel) -> Result<()> {
        let workspace = self.workspace()?;
        let chosen = std::mem::take(&mut found.layers);
        let mut spared: HashSet<LayerKey> = HashSet::new();
        for batch in chosen.chunks(BATCH) {
            cancel.check()?;
            let gate = self.close_gate()?;
            let protected = tree.protected(self, &gate, wish)?;
            let mut gone = Vec::new();
            for victim in batch {
                let folder = self.layer_dir(victim.key);
                if !victim.stamp.fits(&folder) || protected.contains(&victim.key) || spared.contains(&victim.key) {
                    // Nothing below a layer that stays may go.
                    spared.extend([Some(victim.key), victim.parent].into_iter().flatten());
                    found.spared += 1;
                    found.left = (found.left.0 + 1, found.left.1 + victim.bytes);
                    found.bytes -= victim.bytes;
                    continue;
                }
                let away = workspace.path().join(victim.key.to_string());
                match fs::rename(&folder, &away) {
                    Ok(()) => gone.push((victim, away)),
                    // Somebody else collected it.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => found.bytes -= victim.bytes,
                    Err(error) => {
                        return Err(error)
                            .context(ErrorKind::Store, || format!("cannot remove layer {}", victim.key.short()));
                    }
                }
            }
            let lines: Vec<_> = gone.iter().map(|(victim, _)| (victim.key, victim.why.to_string())).collect();
            self.note_collected(lines.iter().map(|(key, why)| (*key, &**why)))?;
            drop(gate);
            let folder = self.root().join("layers");
            durable::sync_dir(&folder).context(ErrorKind::Store, || format!("cannot sync {}", folder.display()))?;
            self.remove_files(&gone);
            found.layers.extend(gone.into_iter().map(|(victim, _)| victim.clone()));
        }
        Ok(())
    }

    /// Removes the images and the folders of layers that were taken out. Freeing blocks is a wait for the disk on some file
    /// systems, for each file, so several wait at once. What cannot be removed here goes with the workspace.
    fn remove_files(&self, gone: &[(&Victim, PathBuf)]) {
        let share = gone.len().div_ceil(REMOVERS).max(1);
        std::thread::scope(|scope| {
            for part in gone.chunks(share) {
                scope.spawn(move || {
                    for (_, away) in part {
                        if let Some(name) = seal::image_of(away) {
                            let _ = fs::remove_file(self.images_dir().join(name.to_string()));
                        }
                        let _ = fs::remove_dir_all(away);
                    }
                });
            }
        });
    }

    /// Notes of builds none of whose layers is there, or is being made; verdicts on layers that are not.
    fn forget_builds(&self) -> Result<()> {
        let gate = self.close_gate()?;
        let leased = gate.leased()?;
        for (path, note) in self.noted() {
            let alive = |key: LayerKey| leased.contains(&key) || self.layer_dir(key).exists();
            if !note.layers.iter().any(|layer| alive(layer.key)) {
                let _ = fs::remove_file(path);
            }
        }
        for (path, verdict) in self.verdicts() {
            if !leased.contains(&verdict.layer) && !self.layer_dir(verdict.layer).exists() {
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// The images that lie in the store. What has another name is none.
    fn image_names(&self) -> Result<Vec<ImageName>> {
        let folder = self.images_dir();
        let entries =
            fs::read_dir(&folder).context(ErrorKind::Store, || format!("cannot read {}", folder.display()))?;
        Ok(entries.flatten().filter_map(|entry| ImageName::parse(entry.file_name().to_str()?)).collect())
    }

    fn remove_strays(&self, strays: Vec<ImageName>, found: &mut Collection, dry_run: bool) {
        for image in strays {
            let name = image.to_string();
            let path = self.images_dir().join(&name);
            found.bytes += super::allocated_bytes(&path).unwrap_or(0);
            found.stray_images.push(name);
            if !dry_run {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Those of `images` that belong to no layer and to nobody's work: of keys that are not there, and of keys that are there in
    /// another making.
    fn strays(
        &self,
        images: Vec<ImageName>,
        found: &Collection,
        dry_run: bool,
    ) -> Result<(Vec<ImageName>, Vec<ImageName>)> {
        // What is in the making is looked for before what is made: a draft that becomes a layer meanwhile is seen as one of them.
        let folders = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let drafts = folders(self.tmp_dir()).flat_map(folders).filter_map(|folder| seal::image_of(&folder));
        let drafts: HashSet<ImageName> = drafts.collect();
        hooks::reached("strays: drafts are known");
        let mut keys: HashSet<LayerKey> = self.keys()?.into_iter().collect();
        for victim in &found.layers {
            match victim.stamp {
                // Images of those that can be read count with them, also in a dry run.
                Stamp::Used(_) => keys.insert(victim.key),
                // A damaged one does not name its image. Where it went, and is there, it was made anew.
                Stamp::Damaged(_) if dry_run => keys.remove(&victim.key),
                Stamp::Damaged(_) => false,
            };
        }
        let mut count: HashMap<LayerKey, usize> = HashMap::new();
        images.iter().for_each(|image| *count.entry(image.key).or_default() += 1);
        let lies_there = |image: &ImageName| self.images_dir().join(image.to_string()).symlink_metadata().is_ok();
        let (mut strays, mut others) = (Vec::new(), Vec::new());
        for image in images.into_iter().filter(|image| !drafts.contains(image)) {
            if !keys.contains(&image.key) {
                strays.push(image);
            } else if count[&image.key] > 1 && self.record_of(image.key).is_some_and(|record| record.id != image.id) {
                others.push(image);
            }
        }
        strays.retain(lies_there);
        others.retain(lies_there);
        Ok((strays, others))
    }
}

/// How much later than it was a layer counts as used, for what it took to make it: ten minutes a second, and a month at most.
fn worth(duration: f64) -> Duration {
    const A_SECOND: f64 = 600.0;
    const MOST: f64 = 30.0 * 86_400.0;
    Duration::try_from_secs_f64((duration * A_SECOND).clamp(0.0, MOST)).unwrap_or_default()
}

/// What decides which leaf goes next, the least first: whether it can be used at all; whether it is too old to stay in any case; whether
/// the build that has just ended used it; when it counts as used; the deeper one; its number.
type Rank = (bool, bool, bool, SystemTime, Reverse<usize>, usize);

impl Tree {
    fn rank(
        &self,
        place: usize,
        wish: &Wish,
        unusable: &HashMap<usize, String>,
        used: &[SystemTime],
        depth: &[usize],
        now: SystemTime,
    ) -> Rank {
        let unused = now.duration_since(used[place]).unwrap_or_default();
        let too_old = wish.limits().and_then(|limits| limits.max_age).is_some_and(|limit| unused > limit);
        let counts = if too_old { used[place] } else { used[place] + worth(self.layers[place].record.duration) };
        let is_last = wish.is_last(used[place]);
        (!unusable.contains_key(&place), !too_old, is_last, counts, Reverse(depth[place]), place)
    }

    fn choose(&self, wish: &Wish, protected: &HashSet<LayerKey>, free: u64) -> Collection {
        let now = SystemTime::now();
        let none = HashMap::new();
        let bad = if let Wish::Bad(bad) = wish { bad } else { &none };
        let (order, depth) = self.order();
        let unusable = self.unusable(bad, &order);
        let used = self.used(&order);
        let mut children = vec![0usize; self.layers.len()];
        self.parent.iter().flatten().for_each(|parent| children[*parent] += 1);
        let mut total: u64 = self.layers.iter().map(|layer| layer.record.bytes).sum();
        let mut found = Collection::default();
        let victim = |place: usize, why: Why| {
            let layer = &self.layers[place];
            Victim {
                key: layer.record.key,
                summary: format!("{}: {}", layer.record.material.kind, layer.record.summary),
                bytes: layer.record.bytes,
                used: used[place].duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
                why,
                stamp: Stamp::Used(layer.used),
                parent: self.parent[place].map(|parent| self.layers[parent].record.key),
            }
        };
        let mut heap: BinaryHeap<_> = (0..self.layers.len())
            .filter(|place| children[*place] == 0 && !protected.contains(&self.layers[*place].record.key))
            .map(|place| Reverse(self.rank(place, wish, &unusable, &used, &depth, now)))
            .collect();
        while let Some(Reverse((.., place))) = heap.pop() {
            let unused = now.duration_since(used[place]).unwrap_or_default();
            let why = match (wish, unusable.get(&place)) {
                (Wish::Bad(_), Some(problem)) => Why::Bad { problem: problem.clone() },
                (Wish::Bad(_), None) => break,
                (_, Some(problem)) => Why::Unusable { problem: problem.clone() },
                (Wish::Everything, None) => Why::Clean,
                (Wish::Within(limits) | Wish::AfterBuild { limits, .. }, None) => {
                    let passed = |limit: Option<Duration>| limit.is_some_and(|limit| unused > limit);
                    if passed(limits.max_age) {
                        Why::MaxAge { unused: unused.as_secs() }
                    } else if limits.max_size.is_some_and(|limit| total > limit) {
                        Why::MaxSize
                    } else if limits.min_free.is_some_and(|limit| free.saturating_add(found.bytes) < limit) {
                        Why::MinFree
                    } else {
                        break;
                    }
                }
            };
            let victim = victim(place, why);
            total -= victim.bytes;
            found.bytes += victim.bytes;
            found.layers.push(victim);
            if let Some(parent) = self.parent[place] {
                children[parent] -= 1;
                if children[parent] == 0 && !protected.contains(&self.layers[parent].record.key) {
                    heap.push(Reverse(self.rank(parent, wish, &unusable, &used, &depth, now)));
                }
            }
        }
        for (key, problem) in &self.damaged {
            if protected.contains(key) {
                continue;
            }
            let problem = problem.clone();
            let why = if matches!(wish, Wish::Bad(_)) { Why::Bad { problem } } else { Why::Unusable { problem } };
            let summary = String::new();
            let stamp = Stamp::Damaged(self.makings.get(key).cloned().unwrap_or_default());
            found.layers.push(Victim { key: *key, summary, bytes: 0, used: 0, why, stamp, parent: None });
        }
        let gone = found.layers.iter().filter(|victim| matches!(victim.stamp, Stamp::Used(_))).count();
        found.left = (self.layers.len() - gone, total);
        found.protected = self.layers.iter().filter(|layer| protected.contains(&layer.record.key)).count();
        if let Some(limits) = wish.limits() {
            if limits.max_size.is_some_and(|limit| total > limit) {
                found.unmet.push("max_size");
            }
            if limits.min_free.is_some_and(|limit| free.saturating_add(found.bytes) < limit) {
                found.unmet.push("min_free");
            }
        }
        found
    }
}
