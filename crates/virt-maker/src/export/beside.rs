//! What is written beside an artifact: a line in `SHA256SUMS`, a manifest.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Published;
use crate::error::{Context, ErrorKind, Result};
use crate::host::lock::Lock;
use crate::host::permit;
use crate::host::temporary::{self, Durability};
use crate::host::waiting::Waits;
use crate::key::Digest;

pub(super) const SUMS: &str = "SHA256SUMS";
/// Largest list of checksums, and largest manifest, in bytes.
const SUMS_MAX: u64 = 16 << 20;
const MANIFEST_MAX: u64 = 256 << 20;

/// Where the manifest of an artifact is.
pub(super) fn manifest_path(artifact: &Path) -> PathBuf {
    let mut name = artifact.as_os_str().to_owned();
    name.push(".manifest.json");
    PathBuf::from(name)
}

/// Whether the manifest of an artifact is there and whole: a power cut may have torn it.
pub(super) fn is_manifest(artifact: &Path) -> bool {
    let text = permit::read_unlinked(&manifest_path(artifact), MANIFEST_MAX);
    text.is_ok_and(|text| serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok())
}

/// Notes the digest of an artifact in the `SHA256SUMS` of its folder, in the form that `sha256sum --check` reads. Lines
/// of other files stay.
pub(super) fn note_checksum(published: &Published, waits: &Waits) -> Result<()> {
    change_checksums(&published.path, Some(published.digest), waits)
}

/// Takes the line of an artifact out of the `SHA256SUMS` of its folder.
pub(super) fn forget_checksum(artifact: &Path, waits: &Waits) -> Result<()> {
    change_checksums(artifact, None, waits)
}

/// The folder is locked meanwhile, so two builds do not lose each other's lines.
fn change_checksums(artifact: &Path, digest: Option<Digest>, waits: &Waits) -> Result<()> {
    let folder = artifact.parent().unwrap_or(Path::new("/"));
    let name = artifact.file_name().unwrap_or_default().to_string_lossy();
    let place = folder.join(SUMS);
    let failed = || format!("cannot note the checksum in {}", place.display());
    let lock = File::open(folder).context(ErrorKind::Export, failed)?;
    waits.lock(&lock, Lock::Exclusive, folder, ErrorKind::Export)?;
    // A link in its place may lead to anything, whose lines would be kept in a file for all to read.
    let read = permit::read_unlinked(&place, SUMS_MAX);
    let old = match read.and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::Error::other("it is no text"))) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).context(ErrorKind::Export, failed),
    };
    // What a power cut leaves of lines that were not on the disk yet.
    let is_torn = |line: &&str| line.contains('\0');
    let is_ours = |line: &&str| line.split_once(' ').is_some_and(|(_, rest)| rest.get(1..) == Some(&*name));
    let line = digest.map(|digest| format!("{digest}  {name}"));
    let mut lines: Vec<&str> = old.lines().filter(|line| !is_ours(line) && !is_torn(line)).collect();
    lines.extend(line.as_deref());
    lines.sort_by_key(|line| line.split_once(' ').map(|(_, rest)| rest.to_owned()));
    let new: String = lines.iter().map(|line| format!("{line}\n")).collect();
    if new == old {
        return Ok(());
    }
    replace(&place, new.as_bytes()).context(ErrorKind::Export, failed)
}

/// Writes the manifest of an artifact: what is known of its layers, with the artifact itself and the packages in it.
pub(super) fn write_manifest(published: &Published, kind: &str, layers: &Value, packages: &Value) -> Result<()> {
    let place = manifest_path(&published.path);
    let name = published.path.file_name().unwrap_or_default().to_string_lossy();
    let mut manifest = layers.clone();
    manifest["artifact"] = json!({ "name": name, "kind": kind, "bytes": published.bytes, "sha256": published.digest });
    manifest["packages"] = packages.clone();
    let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is serialisable");
    replace(&place, &text).context(ErrorKind::Export, || format!("cannot write {}", place.display()))
}

fn replace(place: &Path, bytes: &[u8]) -> io::Result<()> {
    temporary::replace_with(place, 0o666, Durability::None, |file| file.write_all(bytes))
}
