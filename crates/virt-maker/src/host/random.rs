//! Randomness, from the kernel's generator. Before that has entropy, at the very start of a machine, it waits.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Context, ErrorKind, Result};

/// Hexadecimal digits of an [`id`].
const ID_DIGITS: usize = 32;

/// This many random bytes, 256 at most.
pub fn bytes<const LENGTH: usize>() -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    let got = getrandom(&mut bytes, GetRandomFlags::empty())?;
    // Up to that many the kernel gives all or nothing.
    if got == LENGTH { Ok(bytes) } else { Err(io::Error::other("the system gives no random bytes")) }
}

/// 128 random bits as hexadecimal digits: a name that nobody else has.
pub fn id() -> Result<String> {
    id_io().context(ErrorKind::Host, || "the system gives no random bytes")
}

/// The same for what deals in errors of the system.
pub fn id_io() -> io::Result<String> {
    Ok(base16ct::lower::encode_string(&bytes::<{ ID_DIGITS / 2 }>()?))
}

/// Whether a text has the form of an [`id`].
pub fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_known_again_and_differ() {
        let (one, other) = (id().unwrap(), id_io().unwrap());
        assert!(is_id(&one) && is_id(&other) && one != other);
        assert!(!is_id(&one[1..]) && !is_id(&one.replace(|c: char| c.is_ascii_digit(), "A")) && !is_id(""));
        assert_ne!(bytes::<32>().unwrap(), [0; 32]);
    }
}
