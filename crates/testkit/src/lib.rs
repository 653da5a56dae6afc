//! The test kit: small real guests, and the eyes of a stranger for what virt-maker makes of them.
//!
//! Development only; nothing here is part of the product. Everything panics with the whole story where something is
//! wrong, since a test has no other use for an error. Nothing here shares code with virt-maker, so that a mistake
//! there cannot hide itself here.

mod cache;
mod command;
mod image;
mod tiny;

pub use cache::cache_dir;
pub use command::{run, run_with_input};
pub use image::{Volume, Volumes, copy_image, fsck_clean, read_file_from_image};
pub use tiny::{Fs, Roots, TinyOptions, tiny_guest};
