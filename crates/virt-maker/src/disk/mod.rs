//! Disk images: headers are read, checked and written here, before or instead of any other program.

mod image;
pub mod inspect;
pub mod overlay;
mod qcow2;
pub(crate) mod table;

pub use image::{Below, Image};

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
