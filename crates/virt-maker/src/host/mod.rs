//! The host: the only place that spawns programs, downloads, or renames durably.

mod cancel;

pub use cancel::Cancel;
