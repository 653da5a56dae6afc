//! A file of the host whose bytes go into the guest: digested for the key, and digested again on their way.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::{Attributes, Guest};
use crate::host::digest;
use crate::key::{Digest, HostInput};
use crate::template::Node;

/// A text in the template, or a file of the host.
#[derive(Debug, Clone)]
pub(in crate::step) enum Content {
    Text(String),
    Host(PathBuf),
}

impl Content {
    /// A file of the host by its path.
    pub(in crate::step) fn file(path: &str, node: &Node) -> Result<Content, Diagnostic> {
        let path = node.resolve(path);
        if path.is_file() {
            return Ok(Content::Host(path));
        }
        Err(node.diagnostic(format!("{} is not a file of the host", path.display())))
    }
}

/// A file as it enters a key.
pub(in crate::step) fn input(path: &Path, name: &str, mode: u32) -> Result<HostInput> {
    let failed = || format!("cannot read {}, which is taken into the guest", path.display());
    // Asked before it is opened: opening a pipe would wait for ever.
    if !fs::metadata(path).context(ErrorKind::Template, failed)?.is_file() {
        return Err(Error::new(ErrorKind::Template, format!("{} is not a regular file", path.display())));
    }
    let digest = digest::of_file(path).context(ErrorKind::Template, failed)?;
    Ok(HostInput { name: name.to_owned(), kind: "file".to_owned(), digest, mode })
}

/// The bytes of a small file, which have to be those of its key.
pub(in crate::step) fn read(path: &Path, input: &HostInput) -> Result<Vec<u8>> {
    let bytes = fs::read(path).context(ErrorKind::Template, || format!("cannot read {}", path.display()))?;
    if Digest::of(&bytes) == input.digest { Ok(bytes) } else { Err(changed(path)) }
}

/// Writes a file of the host into the guest; its bytes have to be those of its key.
pub(in crate::step) fn put(
    guest: &mut dyn Guest,
    path: &Path,
    dest: &str,
    input: &HostInput,
    attributes: Attributes,
) -> Result<()> {
    let file = File::open(path).context(ErrorKind::Template, || format!("cannot read {}", path.display()))?;
    let mut reader = Hashed::new(file);
    guest.write(dest, &mut reader, attributes)?;
    // The layer is not sealed after an error, so the wrong bytes go nowhere.
    if reader.digest() == input.digest { Ok(()) } else { Err(changed(path)) }
}

/// A file of the host is no longer what its key says.
pub(in crate::step) fn changed(path: &Path) -> Error {
    Error::new(ErrorKind::Template, format!("{} changed during the build", path.display())).with_hint("build again")
}

/// A reader that digests what passes.
pub(in crate::step) struct Hashed<R> {
    reader: R,
    hasher: Sha256,
}

impl<R: Read> Hashed<R> {
    pub(in crate::step) fn new(reader: R) -> Self {
        Hashed { reader, hasher: Sha256::new() }
    }

    /// The digest of what has passed.
    pub(in crate::step) fn digest(self) -> Digest {
        Digest::from_bytes(self.hasher.finalize().into())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
