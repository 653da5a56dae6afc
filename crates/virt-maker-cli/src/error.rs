//! Why a command ended, and its exit code. `docs/exit-codes.md` lists the codes; [`crate::error_text`] says it to a person.

use virt_maker::error::{Error, ErrorKind};

/// Wrong arguments.
pub const USAGE: u8 = 2;
/// Whoever reads standard output went away.
pub const BROKEN_PIPE: u8 = 3;
/// Why a command ended.
#[derive(Debug)]
pub enum Failure {
    /// An error of the library.
    Library(Error),
    /// Arguments that cannot go together, in a sentence.
    Usage(String),
    /// Standard output cannot be written.
    Output(std::io::Error),
    /// The report is printed already; only the code is left.
    Code(u8),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Library(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Output(error)
    }
}

impl Failure {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => USAGE,
            Failure::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => BROKEN_PIPE,
            Failure::Output(_) => 5,
            Failure::Code(code) => *code,
            Failure::Library(error) => match error.kind() {
                ErrorKind::Template | ErrorKind::Base | ErrorKind::Guest | ErrorKind::Export => 1,
                ErrorKind::Step => 4,
                ErrorKind::Host | ErrorKind::HostFull | ErrorKind::Unsupported => 5,
                ErrorKind::Store => 6,
                ErrorKind::Cancelled => 130,
                _ => 70,
            },
        }
    }
}
