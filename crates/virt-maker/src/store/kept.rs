//! Guests as failed steps left them (`--on-failure keep`): an overlay in `kept/` on the layer below the step.

use std::fs;
use std::path::{Path, PathBuf};

use super::record::ImageName;
use super::{Layer, Lease, Lookup, Store};
use crate::disk::overlay;
use crate::error::{Error, ErrorKind, Result};

/// What lies in each folder of `kept/`.
pub const OVERLAY: &str = "overlay.qcow2";

/// A guest that was kept.
#[derive(Debug)]
pub struct Kept {
    /// What the step did to the layer below it.
    pub overlay: PathBuf,
    /// That layer.
    pub parent: Layer,
}

impl Store {
    /// The guest that `name` means: the path of its overlay, as the build said it, or what names the step's layer
    /// ([`Store::find`]), while that is not there; the one that was kept last. `None` where none was kept. The layer below
    /// is leased.
    pub fn open_kept(&self, name: &str) -> Result<Option<(Kept, Lease)>> {
        let Some(overlay) = self.kept_overlay(name) else { return Ok(None) };
        let wrong = |what: &str| {
            let message = format!("the guest kept as {} cannot be opened: {what}", overlay.display());
            Error::new(ErrorKind::Template, message).with_hint("build its template again with --on-failure keep")
        };
        let header = overlay::backing(&overlay).map_err(|error| wrong(&error.to_string()))?;
        let below = header.and_then(|(name, _)| ImageName::parse(name.strip_prefix("../../images/")?));
        let below = below.ok_or_else(|| wrong("its header names no layer of the store"))?;
        let lease = self.lease(&[below.key])?;
        match self.lookup(below.key) {
            Lookup::Present(parent) if parent.record.id == below.id => {
                Ok(Some((Kept { overlay, parent: *parent }, lease)))
            }
            _ => Err(wrong(&format!("layer {} under it is not there any more", below.key.short()))),
        }
    }

    fn kept_overlay(&self, name: &str) -> Option<PathBuf> {
        let folder = self.kept_dir().canonicalize().ok()?;
        if let Ok(path) = Path::new(name).canonicalize()
            && path.parent().and_then(Path::parent) == Some(&*folder)
            && path.file_name().is_some_and(|name| name == OVERLAY)
        {
            return Some(path);
        }
        let key = self.find(name).ok().filter(|key| !self.layer_dir(*key).exists())?;
        let prefix = format!("{}-", key.short());
        let of_key = |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix));
        let entries = fs::read_dir(&folder).ok()?.flatten().filter(of_key);
        let overlays = entries.map(|entry| entry.path().join(OVERLAY));
        overlays.max_by_key(|path| fs::metadata(path).and_then(|stat| stat.modified()).ok())
    }
}
