//! How the agent's own work fails: always as a [`Failure`] that goes to the host as it is.

use std::fmt::Display;

use rustix::io::Errno;
use virt_maker_agent::protocol::{Failure, FailureKind};

/// What the agent's work gives.
pub type Result<T> = std::result::Result<T, Failure>;

/// A failure of a kind.
pub fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into() }
}

/// A failure that only the system's refusal explains.
pub fn refused(message: impl Into<String>) -> Failure {
    failure(FailureKind::System, message)
}

/// The system refused `what` (`"mount /dev/loop0"`, to be read after "cannot").
pub fn cannot(what: impl Display, error: impl Into<std::io::Error>) -> Failure {
    let error = error.into();
    let kind = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => FailureKind::GuestFull,
        Some(Errno::NOENT) => FailureKind::NotFound,
        Some(Errno::EXIST | Errno::NOTDIR | Errno::ISDIR | Errno::NOTEMPTY) => FailureKind::Obstructed,
        Some(Errno::LOOP | Errno::NAMETOOLONG | Errno::ROFS) => FailureKind::Obstructed,
        _ => FailureKind::System,
    };
    let reason = match kind {
        FailureKind::GuestFull => "the guest's file system is full".to_string(),
        _ => describe(&error),
    };
    failure(kind, format!("cannot {what}: {reason}"))
}

/// As [`cannot`], for what is not in the guest's file system: the kinds that speak of the guest would mislead.
pub fn system(what: impl Display, error: impl Into<std::io::Error>) -> Failure {
    refused(format!("cannot {what}: {}", describe(&error.into())))
}

/// An error's text without the number that Rust appends.
fn describe(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(at) => text[..at].to_ascii_lowercase(),
        None => text,
    }
}
