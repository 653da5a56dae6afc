//! The host: the only place that spawns programs, downloads, or renames durably.

pub mod address;
mod cancel;
mod certificates;
pub mod checked;
pub mod checksum;
pub(crate) mod decompress;
pub mod digest;
pub mod durable;
mod emulation;
pub mod enclosed;
pub mod escape;
mod guard;
mod helper;
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
pub mod url;
pub mod user;
pub mod waiting;
pub mod walls;

pub use cancel::{Cancel, Limit};
pub use certificates::Certificates;
pub(crate) use emulation::guestfs_settings;
pub use emulation::no_kvm;
pub use guard::Guard;
pub use helper::{CHANNEL_FD, Helper, HelperCommand};
pub use process::Tool;
pub use script::{Output, Script};
pub(crate) use stack::on_deep_stack;
pub use terminal::RawTerminal;
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

/// A path as a URL writes it, with `%20` for a blank.
pub(crate) fn url_path(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                ((digit(high)? * 16 + digit(low)?) as u8, tail)
            }
            (b'%', _) => return None,
            (byte, tail) => (*byte, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}
