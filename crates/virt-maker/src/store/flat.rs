//! Flattening: a layer that lies deep in a chain gets an image that lies right on the base, with the same content.
//!
//! qemu keeps each image of a chain open and looks through all of them for what the upper ones do not have, so a chain
//! costs descriptors, memory and time by its length. A flat image ends that, for the layer and for all that lie on it,
//! and keeps what matters: the key, the `id`, and the name of the file, by which the headers of its children know it.
//!
//! # How it goes
//! 1. The flat image is made as a draft, beside the other images, where a crash leaves it for the next process to
//!    remove: an empty overlay on the layer's image, which `qemu-img rebase` then puts on the base, writing into it
//!    what differs. Nobody else sees it, however long that takes.
//! 2. With the key's lock and within the gate (`lease.rs`), so that nobody makes this layer anew or collects it, the
//!    record gets the facts of the flat image besides those of the other one, and is synced. From here on the layer is
//!    good with either image.
//! 3. The flat image is renamed to the name of the other one. Who has that open goes on reading it.
//!
//! A crash before the second leaves nothing of it, one before the third a record with a `flat` that does not matter. The
//! base stays, because the layers between it and this one stay: they are what the key stands for.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde::Serialize;

use super::lock::{FLAT, LockFile};
use super::record::{self, FlatImage};
use super::tree::Tree;
use super::{Layer, Lookup, Store, allocated_bytes};
use crate::disk::overlay;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::{Cancel, Tool, digest, durable, temporary};
use crate::key::LayerKey;

/// What came of flattening a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Flattened {
    /// Its image lies on the base now.
    Done {
        /// How many images its chain had, the base included.
        images: usize,
        /// Bytes that the new one takes on the disk.
        bytes: u64,
    },
    /// It lies on the base already, or is one.
    NotNeeded,
    /// Somebody else flattens it, or makes it anew.
    Busy,
    /// The disk has not enough room for a second image beside the first.
    NoRoom,
}

/// How many images lie in a chain that is walked from its base to its tip, and which layers are to be flattened so that no
/// more than a number of them ever do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Images that are open where the last layer is, the base included.
    pub images: usize,
    /// The same, were all done that was asked for.
    counted: usize,
    limit: usize,
}

impl Depth {
    /// The smallest limit that means anything: a base, a flat image, and one on it.
    pub const LEAST: usize = 3;
    /// The limit where nobody says another one. `docs/store-format.md` has the figures.
    pub const DEFAULT: usize = 64;
    /// The largest limit: twice as many images, and some more, is what qemu can have open in one chain.
    pub const MOST: usize = 256;

    /// Before the base; chains are to have at most `limit` images, from [`Depth::LEAST`] to [`Depth::MOST`].
    pub fn new(limit: usize) -> Depth {
        Depth { images: 0, counted: 0, limit: limit.clamp(Depth::LEAST, Depth::MOST) }
    }

    /// One more layer; says whether it is to be flattened.
    pub fn add(&mut self, flat: bool) -> bool {
        if flat {
            (self.images, self.counted) = (2, 2);
            return false;
        }
        self.images += 1;
        self.counted += 1;
        let deep = self.counted > self.limit;
        if deep {
            self.counted = 2;
        }
        deep
    }

    /// Whether a chain has got so long that work on it should wait until it is shorter: what is done beside the work
    /// does not keep up with it.
    pub fn is_too_deep(&self) -> bool {
        self.images >= 2 * self.limit
    }
}

impl Store {
    /// The layers that are to be flattened so that no chain has more than `limit` images; those below others come first.
    pub fn too_deep(&self, limit: usize) -> Result<Vec<LayerKey>> {
        let tree = Tree::read(self)?;
        let mut depths: Vec<Option<Depth>> = vec![None; tree.layers.len()];
        let mut deep = Vec::new();
        for place in tree.order().0 {
            let layer = &tree.layers[place];
            let below = match (layer.record.parent(), tree.parent[place]) {
                (None, _) => Some(Depth::new(limit)),
                (Some(_), under) => under.and_then(|under| depths[under]),
            };
            // On a layer that is gone nothing can be used.
            let Some(mut depth) = below else { continue };
            if depth.add(layer.flat) {
                deep.push(layer.record.key);
            }
            depths[place] = Some(depth);
        }
        Ok(deep)
    }

    /// Gives a layer an image that lies right on its base. Nothing else of it changes, and nothing of other layers.
    ///
    /// It may be used, and built on, all the while. Errors: it is not there whole; `qemu-img` is missing or fails; a
    /// cancellation.
    pub fn flatten(&self, key: LayerKey, cancel: &Cancel) -> Result<Flattened> {
        let _lease = self.lease(&[key])?;
        // A lock of its own: the key's is wanted by whoever makes the layer anew, and this one is held for long.
        let Some(_own) = LockFile::try_take(&self.locks_dir().join(format!("{key}{FLAT}")))? else {
            return Ok(Flattened::Busy);
        };
        let chain = self.chain(key)?;
        let (Some(base), Some(layer)) = (chain.first(), chain.last()) else { return Ok(Flattened::NotNeeded) };
        if layer.flat || chain.len() <= 2 {
            return Ok(Flattened::NotNeeded);
        }
        let images = chain.iter().fold(0, |images, layer| if layer.flat { 2 } else { images + 1 });
        // All that could be in the flat image, and as much again for those who build meanwhile.
        let most: u64 = chain[1..].iter().map(|layer| layer.record.bytes).sum();
        if self.free_bytes()? / 2 < most {
            return Ok(Flattened::NoRoom);
        }

        let workspace = self.workspace()?;
        let folder = workspace.subfolder("flat")?;
        let scratch = self.scratch(folder, layer.record.material.clone(), &layer.record)?;
        let image = scratch.image();
        let failed = || format!("cannot flatten layer {}", key.short());
        // `qemu-img` opens all of it.
        self.image(layer).context(ErrorKind::Store, failed)?;
        rebase(base, &scratch.record().image_name(), self, cancel).context(ErrorKind::Store, failed)?;
        let expected = Some((base.record.image_name(), Some(base.record.format.name().to_owned())));
        if overlay::backing(&image).context(ErrorKind::Store, failed)? != expected {
            let source = Error::new(ErrorKind::Internal, "qemu-img did not put the image on its base");
            return Err(source).context(ErrorKind::Internal, failed);
        }
        fs::set_permissions(&image, Permissions::from_mode(0o400)).context(ErrorKind::Store, failed)?;
        durable::sync_file(&image).context(ErrorKind::Store, failed)?;
        durable::sync_dir(&self.images_dir()).context(ErrorKind::Store, failed)?;
        let digest = digest::of_file(&image).context(ErrorKind::Store, failed)?;
        let file = fs::metadata(&image).context(ErrorKind::Store, failed)?;
        let flat = FlatImage {
            length: file.len(),
            bytes: allocated_bytes(&image).context(ErrorKind::Store, failed)?,
            digest,
            modified: (file.mtime(), file.mtime_nsec()),
        };
        let bytes = flat.bytes;
        cancel.check()?;
        let placed = self.put_flat(layer, flat, &image).context(ErrorKind::Store, failed)?;
        Ok(if placed { Flattened::Done { images, bytes } } else { Flattened::Busy })
    }

    /// Puts a flat image in the place of the layer's, unless it is another layer by now or will be.
    fn put_flat(&self, layer: &Layer, flat: FlatImage, image: &std::path::Path) -> Result<bool> {
        let Some(_lock) = self.try_lock(layer.record.key)? else { return Ok(false) };
        let _gate = self.open_gate()?;
        let Lookup::Present(now) = self.lookup(layer.record.key) else { return Ok(false) };
        if now.flat || now.record.id != layer.record.id {
            return Ok(false);
        }
        let mut record = now.record;
        record.flat = Some(flat);
        let place = now.folder.join(record::FILE);
        let failed = || format!("cannot write {}", place.display());
        let before = fs::metadata(&place).and_then(|stat| stat.modified()).context(ErrorKind::Store, failed)?;
        temporary::replace_durably(&place, &record.to_json()).context(ErrorKind::Store, failed)?;
        // Where nothing else says when it was used, this does.
        let _ = fs::File::open(&place).and_then(|file| file.set_modified(before));
        fs::rename(image, &now.path).context(ErrorKind::Store, || format!("cannot replace {}", now.path.display()))?;
        let folder = self.images_dir();
        durable::sync_dir(&folder).context(ErrorKind::Store, || format!("cannot sync {}", folder.display()))?;
        Ok(true)
    }

    /// Bytes that are free on the disk of the store.
    pub(super) fn free_bytes(&self) -> Result<u64> {
        let disk = rustix::fs::statvfs(self.root()).context(ErrorKind::Store, || "cannot ask for the free space")?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

/// Moves `name`, an overlay on a layer, to the base of that.
///
/// `qemu-img rebase` finds the base in the chain, so it looks only at what lies above it, and writes what differs. It
/// works in the folder of the images and gets plain names, as the headers have them. (`qemu-img convert -B` would take
/// the base for what lies right under the image, and leave out all between.)
fn rebase(base: &Layer, name: &str, store: &Store, cancel: &Cancel) -> Result<()> {
    let images = store.images_dir();
    // What it flushes is not worth anything before the end, and then all is synced.
    let tool =
        Tool::new("qemu-img", "qemu-utils").confined().args(["rebase", "-q", "-t", "unsafe", "-f", "qcow2", "-F"]);
    let tool = tool.args([base.record.format.name(), "-b", &base.record.image_name(), name]).folder(&images);
    tool.run(cancel).map(drop)
}

#[cfg(test)]
mod tests;
