//! Signed lists of checksums: what a publisher says that a file of theirs is.
//!
//! A list is signed in itself (`gpg --clearsign`) or by a file beside it. `gpgv` verifies, with the keys of one file and
//! with no others; of a list that is signed in itself only the signed text counts. How lists are read: [`lists`].

use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ImportContext, fetch, http, lists, sources};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::checksum::Checksum;
use crate::host::permit::HostPath;
use crate::host::{Tool, random, url_path};
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
    /// Checks them: the files among them are those that the template may read.
    pub(super) fn checked(self, node: &Node) -> Result<SignedList, Vec<Diagnostic>> {
        let at = |name: &str| node.get(name).unwrap_or(node);
        let mut problems = Vec::new();
        let mut place = |name: &str, text: String| {
            let wrong = || at(name).diagnostic("expected a URL with http, https or file, or a path");
            let found = match text.split_once("://") {
                Some(("http" | "https", rest)) if !rest.is_empty() => Ok(Place::Url(text)),
                Some(("file", path)) => {
                    url_path(path).ok_or_else(wrong).and_then(|path| at(name).host_path(path)).map(Place::File)
                }
                None if !text.is_empty() => at(name).host_path(&text).map(Place::File),
                _ => Err(wrong()),
            };
            found.map_err(|problem| problems.push(problem)).ok()
        };
        let list = place("url", self.url.clone());
        let signature = self.signature.map(|signature| place("signature", signature));
        let keys = at("gpg").host_path(&self.gpg).map_err(|problem| problems.push(problem)).ok();
        // Not the URL alone by which the list is named in lock files of before.
        let named = match &list {
            Some(Place::File(path)) if !self.url.contains("://") => path.named().to_string_lossy().into_owned(),
            _ => self.url,
        };
        match (list, keys) {
            (Some(list), Some(keys)) if problems.is_empty() => {
                Ok(SignedList { list, signature: signature.flatten(), keys, named })
            }
            _ => Err(problems),
        }
    }
}

/// A signed list whose files passed the door.
#[derive(Debug, Clone)]
pub(super) struct SignedList {
    list: Place,
    signature: Option<Place>,
    keys: HostPath,
    /// How the list is named in lock files.
    named: String,
}

/// Where a small file is.
#[derive(Debug, Clone)]
enum Place {
    Url(String),
    File(HostPath),
}

impl Place {
    /// For messages.
    fn shown(&self) -> String {
        match self {
            Place::Url(url) => http::shown(url),
            Place::File(path) => path.display().to_string(),
        }
    }
}

impl SignedList {
    /// What stands for a download of `image` by this list, where sources are named.
    pub(super) fn source(&self, image: &str) -> String {
        format!("{SCHEME}{image} by {}", self.named)
    }

    /// What the list was remembered to say of `source`: only while the keys that may sign it are the same.
    pub(super) fn remembered(&self, source: &str, context: &ImportContext<'_>) -> Result<Option<Digest>> {
        let known = sources::of_url(&keys_of(source), context);
        if known.is_none() || known != Some(self.witness()?) {
            return Ok(None);
        }
        Ok(sources::of_url(source, context))
    }

    /// Remembers what the list says of `source`, and by which keys.
    pub(super) fn remember(&self, source: &str, digest: Digest, context: &ImportContext<'_>) -> Result<()> {
        sources::note_url(&keys_of(source), self.witness()?, context);
        sources::note_url(source, digest, context);
        Ok(())
    }

    /// Stands for the keys, and for the place of the signature.
    fn witness(&self) -> Result<Digest> {
        let signature = self.signature.as_ref().map(Place::shown);
        let keys = Digest::of(&self.read_keys()?);
        Ok(Digest::of(serde_json::json!([keys, signature]).to_string().as_bytes()))
    }

    fn read_keys(&self) -> Result<Vec<u8>> {
        self.keys.read(MAX).context(ErrorKind::Template, || format!("cannot read the keys in {}", self.keys.display()))
    }

    /// The checksum that the list has for a file of this name. Fetches the list, and verifies it.
    pub(super) fn checksum_of(&self, name: &str, context: &ImportContext<'_>) -> Result<Checksum> {
        let list = get(&self.list, context)?;
        let signature = self.signature.as_ref().map(|place| get(place, context)).transpose()?;
        let text = self.verify(&list, signature.as_deref(), context)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let failed = |what: String| Error::new(ErrorKind::Base, format!("{} {what}", self.list.shown()));
        let shown = name.escape_debug();
        match lists::checksum_of(&text, name) {
            Ok(Some(checksum)) => Ok(checksum),
            Ok(None) => Err(failed(format!("has no SHA-256 or SHA-512 of `{shown}`"))
                .with_hint("it is looked for by the last part of the image's URL")),
            Err((one, other)) => Err(failed(format!("says two things of `{shown}`: {one} and {other}"))
                .with_hint("name the file by the end of its path, as the list does, or give its `checksum`")),
        }
    }

    /// The text that is signed.
    fn verify(&self, list: &[u8], signature: Option<&[u8]>, context: &ImportContext<'_>) -> Result<Vec<u8>> {
        let failed = || "cannot verify the signature of a list of checksums";
        let folder = Folder::new(context.cache_dir).context(ErrorKind::Store, failed)?;
        let path = |name: &str| folder.0.join(name);
        let keyring = path("keys");
        fs::write(&keyring, binary_keys(self.read_keys()?, context)?).context(ErrorKind::Store, failed)?;
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
                let message = format!("{} is not signed by a key of {}", self.list.shown(), self.keys.display());
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

/// What stands for the keys by which `source` was verified.
fn keys_of(source: &str) -> String {
    format!("keys of {source}")
}

/// A small file from a URL or a path.
fn get(place: &Place, context: &ImportContext<'_>) -> Result<Vec<u8>> {
    let failed = || format!("cannot read {}", place.shown());
    let url = match place {
        Place::File(path) => return path.read(MAX).context(ErrorKind::Base, failed),
        Place::Url(url) => url,
    };
    let read = |path: &Path| -> Result<Vec<u8>> {
        let length = fs::metadata(path).context(ErrorKind::Base, failed)?.len();
        if length > MAX {
            return Err(Error::new(ErrorKind::Base, format!("{}: a list of {length} bytes", place.shown())));
        }
        fs::read(path).context(ErrorKind::Base, failed)
    };
    // What an earlier process left of an older list must not be continued.
    fetch::forget(url, context);
    let fetched = fetch::fetch(url, context)?;
    let bytes = read(fetched.path());
    fetched.discard();
    bytes
}

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(below: &Path) -> std::io::Result<Folder> {
        let folder = below.join(format!("verify-{}", random::id_io()?));
        fs::create_dir_all(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
