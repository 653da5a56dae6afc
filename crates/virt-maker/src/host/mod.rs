//! The host: the only place that spawns programs, downloads, or renames durably.

mod cancel;
pub mod digest;
pub mod durable;
mod guard;
mod helper;
mod process;
mod terminal;

pub use cancel::Cancel;
pub use guard::Guard;
pub use helper::{CHANNEL_FD, Helper, HelperCommand};
pub use process::Tool;
pub use terminal::RawTerminal;
