//! Signed lists of checksums: what a publisher says that a file of theirs is.
//!
//! A list is signed in itself (`gpg --clearsign`) or by a file beside it. `gpgv` verifies, with the keys of one file and
//! with no others; of a list that is signed in itself only the signed text counts. Lines of `sha256sum` and of BSD's
//! `sha256` are known.

use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ImportContext, fetch, http, text};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::Tool;
use crate::key::Digest;
use crate::template::Node;

/// What the sources of downloads with such a list begin with, where what they gave is remembered.
pub(super) const SCHEME: &str = "signed:";
/// Lists and signatures are not longer.
const MAX: u64 = 16 << 20;

/// A signed list of checksums.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Checksums {
    /// The list: a URL with http, https or file, or a path.
    url: String,
    /// Where its signature is; without it the list has to be signed in itself.
    signature: Option<String>,
    /// A file with the keys that may sign it, as `gpg --export` writes them, armored or not.
    gpg: PathBuf,
}

impl Checksums {
    /// Checks them and makes their paths absolute.
    pub(super) fn checked(mut self, node: &Node) -> Result<Checksums, Vec<Diagnostic>> {
        let at = |name: &str| node.get(name).unwrap_or(node);
        let mut problems = Vec::new();
        for (name, place) in [("url", Some(&mut self.url)), ("signature", self.signature.as_mut())] {
            match place {
                Some(place) if place.is_empty() => problems.push(at(name).diagnostic("expected a URL or a path")),
                Some(place) if !place.contains("://") => *place = node.resolve(&*place).to_string_lossy().into_owned(),
                _ => {}
            }
        }
        self.gpg = node.resolve(&self.gpg);
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    /// What stands for a download of `image` by this list, where sources are named.
    pub(super) fn source(&self, image: &str) -> String {
        format!("{SCHEME}{image} by {}", self.url)
    }

    /// The digest that the list has for a file of this name. Fetches the list, and verifies it.
    pub(super) fn digest_of(&self, name: &str, context: &ImportContext<'_>) -> Result<Digest> {
        let list = get(&self.url, context)?;
        let signature = self.signature.as_ref().map(|url| get(url, context)).transpose()?;
        let text = self.verify(&list, signature.as_deref(), context)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().find_map(|line| digest_in(line, name)).ok_or_else(|| {
            let message = format!("{} has no SHA-256 of `{}`", http::shown(&self.url), name.escape_debug());
            Error::new(ErrorKind::Base, message).with_hint("it is looked for by the last part of the image's URL")
        })
    }

    /// The text that is signed.
    fn verify(&self, list: &[u8], signature: Option<&[u8]>, context: &ImportContext<'_>) -> Result<Vec<u8>> {
        let failed = || "cannot verify the signature of a list of checksums";
        let folder = Folder::new(context.cache_dir).context(ErrorKind::Store, failed)?;
        let path = |name: &str| folder.0.join(name);
        let keys = fs::read(&self.gpg)
            .context(ErrorKind::Template, || format!("cannot read the keys in {}", self.gpg.display()))?;
        let keyring = path("keys");
        fs::write(&keyring, binary_keys(keys, context)?).context(ErrorKind::Store, failed)?;
        fs::write(path("list"), list).context(ErrorKind::Store, failed)?;
        let mut gpgv = Tool::new("gpgv", "gpgv").env("GNUPGHOME", &folder.0).arg("--keyring").arg(&keyring);
        let text = path("text");
        gpgv = match signature {
            Some(signature) => {
                fs::write(path("signature"), signature).context(ErrorKind::Store, failed)?;
                gpgv.arg(path("signature")).arg(path("list"))
            }
            None => gpgv.arg("--output").arg(&text).arg(path("list")),
        };
        gpgv.run(context.cancel).map_err(|error| match error.hint() {
            // It is the program that is missing.
            Some(_) => error,
            None => {
                let url = http::shown(&self.url);
                let message = format!("{url} is not signed by a key of {}", self.gpg.display());
                Error::new(ErrorKind::Base, message).with_source(error)
            }
        })?;
        if signature.is_some() { Ok(list.to_vec()) } else { fs::read(text).context(ErrorKind::Store, failed) }
    }
}

/// `gpgv` takes keys as they are and not as text.
fn binary_keys(keys: Vec<u8>, context: &ImportContext<'_>) -> Result<Vec<u8>> {
    if !keys.starts_with(b"-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        return Ok(keys);
    }
    Tool::new("gpg", "gpg").args(["--batch", "--dearmor"]).input(keys).run(context.cancel)
}

/// A small file from a URL or a path.
fn get(url: &str, context: &ImportContext<'_>) -> Result<Vec<u8>> {
    let failed = || format!("cannot read {}", http::shown(url));
    let read = |path: &Path| -> Result<Vec<u8>> {
        let length = fs::metadata(path).context(ErrorKind::Base, failed)?.len();
        if length > MAX {
            return Err(Error::new(ErrorKind::Base, format!("{}: a list of {length} bytes", http::shown(url))));
        }
        fs::read(path).context(ErrorKind::Base, failed)
    };
    if let Some(path) = url.strip_prefix("file://") {
        return read(Path::new(&text::decode(path).unwrap_or_default()));
    }
    if !url.contains("://") {
        return read(Path::new(url));
    }
    // What an earlier process left of an older list must not be continued.
    fetch::forget(url, context);
    let fetched = fetch::fetch(url, context)?;
    let bytes = read(fetched.path());
    fetched.discard();
    bytes
}

/// The digest in a line of a list, if it is about this file: `DIGEST  NAME`, `DIGEST *NAME`, `SHA256 (NAME) = DIGEST`.
fn digest_in(line: &str, name: &str) -> Option<Digest> {
    let line = line.trim_end();
    if let Some(rest) = line.strip_prefix("SHA256 (") {
        let (found, digest) = rest.rsplit_once(") = ")?;
        return if found == name { Digest::parse(digest) } else { None };
    }
    let (digest, rest) = line.split_once(' ')?;
    let found = rest.strip_prefix([' ', '*'])?;
    if found.strip_prefix("./").unwrap_or(found) == name { Digest::parse(digest) } else { None }
}

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(below: &Path) -> std::io::Result<Folder> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = below.join(format!("verify-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_lists_are_read() {
        let digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        for line in [format!("{digest}  a b.img"), format!("{digest} *a b.img"), format!("SHA256 (a b.img) = {digest}")]
        {
            assert_eq!(digest_in(&line, "a b.img").unwrap().to_string(), digest, "{line}");
            assert_eq!(digest_in(&line, "b.img"), None, "{line}");
        }
        for line in ["", "Hash: SHA256", "123  a", "SHA512 (a) = 12"] {
            assert_eq!(digest_in(line, "a"), None, "{line}");
        }
    }
}
