//! The images of layers, for those who open them with qemu: the one way from a layer to an [`Image`].
//!
//! A header may name only the image of the layer's parent, in the making that the layer's record says, or, where the layer
//! was flattened, that of its base. Of an image whose record was replaced meanwhile (`--force`; the image is kept as long
//! as a lease wants it) only the form can be judged: it names another image of the store.

use super::record::{self, ImageName};
use super::{Layer, LayerRecord, Store};
use crate::disk::{Below, Image, ImageFormat, overlay};
use crate::error::Result;
use crate::host::own;
use crate::key::LayerKey;

/// The argument of an import that says which file system of its disk is the root: a [`virt_maker_agent::protocol::Root`].
pub const ROOT: &str = "root";
/// Layers below one another that are followed.
const DEPTH_MAX: usize = 100_000;

impl Store {
    /// The image of a layer, with the whole chain below it: each header was read and compared with its record.
    pub fn image(&self, layer: &Layer) -> Result<Image> {
        let mut top = Some(&layer.record);
        let mut base = layer.record.key;
        let image = Image::chained(&layer.path, layer.record.format, |name, below| {
            let named = ImageName::parse(name).ok_or("its name is not that of an image of the store")?;
            base = named.key;
            let below = below_of(below)?;
            match top.take() {
                Some(record) => self.judge_header(record, below.as_ref()),
                None => match self.record_of(named.key).filter(|record| record.id == named.id) {
                    Some(record) => self.judge_header(&record, below.as_ref()),
                    None => Ok(()),
                },
            }
        })?;
        // What the import said of its disk holds for all that lies on it.
        let base = if base == layer.record.key { Some(layer.record.clone()) } else { self.record_of(base) };
        let root = base.and_then(|base| base.material.arguments.get(ROOT).cloned());
        Ok(image.with_root(root.and_then(|root| serde_json::from_value(root).ok())))
    }

    /// The same for the header of this image alone.
    pub(super) fn check_header(&self, layer: &Layer) -> std::result::Result<(), String> {
        let below = match layer.record.format {
            ImageFormat::Raw => None,
            ImageFormat::Qcow2 => overlay::backing(&layer.path).map_err(|error| error.to_string())?,
        };
        let below = below.map(|(name, format)| {
            let named = ImageName::parse(&name).filter(|named| format.as_deref() == Some(named.format.name()));
            named.ok_or_else(|| format!("its header names `{}` below it", name.escape_debug()))
        });
        self.judge_header(&layer.record, below.transpose()?.as_ref())
    }

    /// Whether a header is the one of a record. Somebody may have flattened the layer since the record was read: then the one
    /// that is there now says so, for it changes before the image does.
    fn judge_header(&self, record: &LayerRecord, below: Option<&ImageName>) -> std::result::Result<(), String> {
        self.judge_by(record, below).or_else(|problem| {
            let now = self.record_of(record.key).filter(|now| now.id == record.id);
            now.map_or(Err(problem), |now| self.judge_by(&now, below))
        })
    }

    fn judge_by(&self, record: &LayerRecord, below: Option<&ImageName>) -> std::result::Result<(), String> {
        let is = |named: &ImageName, key: LayerKey, id: Option<&str>| named.key == key && Some(&*named.id) == id;
        match (below, record.parent()) {
            (None, None) => Ok(()),
            (Some(named), Some(parent)) if is(named, parent, record.parent_id.as_deref()) => Ok(()),
            (Some(named), Some(_)) if record.flat.is_some() => {
                let base = self.base_of(record).ok_or("its base is not known")?;
                match is(named, base.key, Some(&base.id)) {
                    true => Ok(()),
                    false => Err(format!("its header names {named} below it, and not its base")),
                }
            }
            (Some(named), _) => Err(format!("its header names {named} below it, and its record another one")),
            (None, Some(_)) => Err("its header names nothing below it, and its record has a parent".into()),
        }
    }

    /// The record of the base below a layer.
    fn base_of(&self, record: &LayerRecord) -> Option<LayerRecord> {
        let mut at = self.record_of(record.parent()?)?;
        for _ in 0..DEPTH_MAX {
            match at.parent() {
                None => return Some(at),
                Some(parent) => at = self.record_of(parent)?,
            }
        }
        None
    }

    /// The record that is there under a key, whatever its image is like.
    pub(super) fn record_of(&self, key: LayerKey) -> Option<LayerRecord> {
        let text = own::read(&self.layer_dir(key).join(record::FILE)).ok()?;
        LayerRecord::parse(&text).ok().filter(|record| record.key == key)
    }
}

/// The image that a header names: one of the store, in the format that its name says.
fn below_of(below: Below<'_>) -> std::result::Result<Option<ImageName>, String> {
    let Some((name, format)) = below else { return Ok(None) };
    match ImageName::parse(name).filter(|named| named.format == format) {
        Some(named) => Ok(Some(named)),
        None => Err(format!("its header names `{}` below it, which is no image of the store", name.escape_debug())),
    }
}
