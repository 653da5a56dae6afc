//! The host: the only place that spawns programs, downloads, or renames durably.

pub mod address;
mod cancel;
mod certificates;
pub mod checked;
pub mod checksum;
pub mod clock;
pub(crate) mod decompress;
pub mod digest;
pub mod durable;
mod emulation;
pub mod enclosed;
pub mod escape;
mod guard;
mod helper;
pub mod lock;
pub mod memory;
pub mod names;
pub mod own;
pub mod permit;
mod pipe;
mod process;
pub mod random;
pub mod rolling;
mod script;
mod stack;
pub mod subordinate;
mod supervisor;
pub mod temporary;
pub mod terminal;
pub mod tree;
pub mod units;
pub mod url;
pub mod user;
pub mod waiting;
pub mod walls;

pub use cancel::{Cancel, Limit};
pub use certificates::Certificates;
pub use emulation::no_kvm;
pub(crate) use emulation::{CPU as EMULATED_CPU, guestfs_settings};
pub use guard::{Deadline, Guard};
pub use helper::{CHANNEL_FD, Helper, HelperCommand};
pub use process::Tool;
pub use script::{Output, Script};
pub(crate) use stack::on_deep_stack;
pub use terminal::RawTerminal;
pub(crate) use url::path as url_path;
pub use virt_maker_agent::descriptors::close_on_exec;

/// Where a program is, by this process's search path; none where it is not.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "this is the path by which programs are started below")]
    let path = std::env::var_os("PATH")?;
    find_in(name, &path)
}

/// As [`find_program`], by another search path.
fn find_in(name: &str, path: impl AsRef<std::ffi::OsStr>) -> Option<std::path::PathBuf> {
    std::env::split_paths(path.as_ref()).map(|folder| folder.join(name)).find(|path| path.is_file())
}
