//! A file of the host whose bytes go into the guest: digested for the key, and digested again on their way.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::{Attributes, Guest};
use crate::host::digest;
use crate::host::permit::HostPath;
use crate::key::{Digest, HostInput};
use crate::template::Node;

/// Largest file that is read as a whole, in bytes.
const SMALL: u64 = 64 << 20;

/// A text in the template, or a file of the host.
#[derive(Debug, Clone)]
pub(in crate::step) enum Content {
    Text(String),
    Host(HostPath),
}

impl Content {
    /// A file of the host by its path.
    pub(in crate::step) fn file(path: &str, node: &Node) -> Result<Content, Diagnostic> {
        let path = node.host_path(path)?;
        if path.is_file() {
            return Ok(Content::Host(path));
        }
        Err(node.diagnostic(format!("{} is not a file of the host", path.display())))
    }
}

/// A file as it enters a key.
pub(in crate::step) fn input(path: &HostPath, name: &str, mode: u32) -> Result<HostInput> {
    let failed = || format!("cannot read {}, which is taken into the guest", path.display());
    let file = path.open().context(ErrorKind::Template, failed)?;
    let digest = digest::of_open_file(&file).context(ErrorKind::Template, failed)?;
    Ok(HostInput { name: name.to_owned(), kind: "file".to_owned(), digest, mode })
}

/// The bytes of a small file, which have to be those of its key.
pub(in crate::step) fn read(path: &HostPath, input: &HostInput) -> Result<Vec<u8>> {
    let bytes = path.read(SMALL).context(ErrorKind::Template, || format!("cannot read {}", path.display()))?;
    if Digest::of(&bytes) == input.digest { Ok(bytes) } else { Err(changed(path)) }
}

/// Writes a file of the host into the guest; its bytes have to be those of its key.
pub(in crate::step) fn put(
    guest: &mut dyn Guest,
    path: &HostPath,
    dest: &str,
    input: &HostInput,
    attributes: Attributes,
) -> Result<()> {
    let file = path.open().context(ErrorKind::Template, || format!("cannot read {}", path.display()))?;
    let mut reader = Hashed::new(file);
    guest.write(dest, &mut reader, attributes)?;
    // The layer is not sealed after an error, so the wrong bytes go nowhere.
    if reader.digest() == input.digest { Ok(()) } else { Err(changed(path)) }
}

/// A file of the host is no longer what its key says.
pub(in crate::step) fn changed(path: &HostPath) -> Error {
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
