//! Disk images: headers are read, checked and written here, before or instead of any other program.

pub mod boots;
mod content;
mod image;
pub mod inspect;
pub mod media;
pub mod overlay;
mod qcow2;
pub(crate) mod table;

use std::io;

pub use content::Content;
pub use image::{Below, Image};
pub use virt_maker_agent::protocol::Root;

use crate::event::Meter;
use crate::host::Cancel;

/// Formats of image files that the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// QEMU's copy-on-write format, version 3.
    Qcow2,
    /// The bytes of the disk.
    Raw,
}

impl ImageFormat {
    /// The name that qemu uses.
    pub fn name(self) -> &'static str {
        match self {
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Raw => "raw",
        }
    }
}

/// Largest disk that is taken, in bytes: 64 TiB.
pub const VIRTUAL_SIZE_MAX: u64 = 64 << 40;

/// Tells how much of a disk is written, and ends the writing when that is cancelled or would be more than any disk may have: a
/// few compressed bytes can unpack to that.
pub(crate) fn told_within_bounds<'a>(
    mut meter: Meter<'a>,
    cancel: &'a Cancel,
) -> impl FnMut(u64) -> io::Result<()> + 'a {
    move |done| {
        meter.at(done);
        if cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        if done > VIRTUAL_SIZE_MAX {
            return Err(io::Error::other("it unpacks to more than any disk may have"));
        }
        Ok(())
    }
}
