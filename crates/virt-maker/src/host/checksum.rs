//! Checksums as publishers give them: SHA-256 or SHA-512, by the number of their digits.
//!
//! Keys know SHA-256 alone ([`Digest`]); a SHA-512 says which bytes are meant, whose SHA-256 is found when they are there.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256, Sha512};

use crate::key::Digest;

/// What a file has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256.
    Sha256(Digest),
    /// SHA-512, as 128 hexadecimal digits in small letters.
    Sha512(String),
}

/// What a template may say, for messages.
pub const EXPECTED: &str = "expected `sha256:` and 64 hexadecimal digits, or `sha512:` and 128";

impl Checksum {
    /// `sha256:DIGITS` or `sha512:DIGITS`.
    pub fn parse(text: &str) -> Option<Checksum> {
        let (name, digits) = text.trim().split_once(':')?;
        let found = Checksum::of_digits(digits.trim())?;
        let right = match &found {
            Checksum::Sha256(_) => "sha256",
            Checksum::Sha512(_) => "sha512",
        };
        name.eq_ignore_ascii_case(right).then_some(found)
    }

    /// Digits without a name.
    pub fn of_digits(digits: &str) -> Option<Checksum> {
        let digits = digits.to_ascii_lowercase();
        match digits.len() {
            64 => Digest::parse(&digits).map(Checksum::Sha256),
            128 if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => Some(Checksum::Sha512(digits)),
            _ => None,
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Checksum::Sha256(digest) => write!(f, "sha256:{digest}"),
            Checksum::Sha512(digits) => write!(f, "sha512:{digits}"),
        }
    }
}

/// A reader that knows, at its end, whether what passed has a checksum.
pub struct Checking<R> {
    reader: R,
    wanted: Checksum,
    sha256: Sha256,
    /// Only where it is asked for.
    sha512: Option<Sha512>,
}

impl<R: Read> Checking<R> {
    /// Of what `reader` yields.
    pub fn new(reader: R, wanted: &Checksum) -> Checking<R> {
        let sha512 = matches!(wanted, Checksum::Sha512(_)).then(Sha512::new);
        Checking { reader, wanted: wanted.clone(), sha256: Sha256::new(), sha512 }
    }

    /// The SHA-256 of what passed, and its checksum where that is another one than was wanted.
    pub fn finish(self) -> (Digest, Result<(), Checksum>) {
        let digest = Digest::from_bytes(self.sha256.finalize().into());
        let found = match self.sha512 {
            Some(hasher) => Checksum::Sha512(base16ct::lower::encode_string(&hasher.finalize())),
            None => Checksum::Sha256(digest),
        };
        (digest, if found == self.wanted { Ok(()) } else { Err(found) })
    }

    /// The same, after reading all that is left.
    pub fn read_all(mut self) -> io::Result<(Digest, Result<(), Checksum>)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.finish())
    }
}

impl<R: Read> Read for Checking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.sha256.update(&buffer[..count]);
        if let Some(hasher) = &mut self.sha512 {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_and_checked() {
        let (sha256, sha512) = (
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
            "e7c22b994c59d9cf2b48e549b1e24666636045930d3da7c1acb299d1c3b7f931f94aae41edda2c2b207a36e10f8bcb8d45223e54878f5b316e7ce3b6bc019629",
        );
        for text in
            [format!("sha256:{sha256}"), format!("sha512:{sha512}"), format!("SHA512:{}", sha512.to_uppercase())]
        {
            let wanted = Checksum::parse(&text).unwrap();
            assert_eq!(wanted.to_string(), text.to_lowercase());
            let (digest, right) = Checking::new(&b"hello\n"[..], &wanted).read_all().unwrap();
            assert_eq!((digest.to_string().as_str(), right), (sha256, Ok(())));
            assert!(Checking::new(&b"hello"[..], &wanted).read_all().unwrap().1.is_err());
        }
        for text in ["", sha256, "sha256:12", &format!("sha512:{sha256}"), &format!("sha256:{sha512}"), "md5:12"] {
            assert_eq!(Checksum::parse(text), None, "{text}");
        }
    }
}
