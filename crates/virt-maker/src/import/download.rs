//! `download`: a disk image from a URL or a file, raw or qcow2, plain or compressed.
//!
//! The key covers the bytes that were fetched and nothing else, so two URLs with the same image are one base. With a
//! `checksum` the key is known without fetching; without one, a URL is fetched once and what it gave is remembered.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use super::decompress::{Compression, SIGNATURE};
use super::{Import, ImportContext, ImportKey, ImportKind, fetch, sources};
use crate::diagnostic::Diagnostic;
use crate::disk::ImageFormat;
use crate::disk::inspect::{VIRTUAL_SIZE_MAX, inspect};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Event;
use crate::host::digest::{Digesting, write_sparse};
use crate::key::{Digest, HostInput};
use crate::template::{Node, from_node};

pub(super) static KIND: ImportKind = ImportKind {
    name: "download",
    about: "Takes a disk image from a URL (http, https, file) or a path: raw or qcow2, plain or compressed.",
    version: 1,
    parse,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    url: String,
    checksum: Option<String>,
    format: Option<ImageFormat>,
}

struct Download {
    source: Source,
    checksum: Option<Digest>,
    format: Option<ImageFormat>,
}

enum Source {
    File(PathBuf),
    Url(String),
}

fn parse(node: &Node) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let source = match arguments.url.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() => Source::Url(arguments.url),
        Some(("file", path)) => Source::File(node.resolve(path)),
        None if !arguments.url.is_empty() => Source::File(node.resolve(&arguments.url)),
        _ => {
            problems.push(at("url").diagnostic("expected a URL with http, https or file, or the path of a file"));
            Source::Url(String::new())
        }
    };
    let checksum = arguments.checksum.and_then(|text| {
        let digest = text.strip_prefix("sha256:").and_then(Digest::parse);
        if digest.is_none() {
            problems.push(at("checksum").diagnostic("expected `sha256:` and 64 hexadecimal digits"));
        }
        digest
    });
    let format = arguments.format;
    if problems.is_empty() { Ok(Box::new(Download { source, checksum, format })) } else { Err(problems) }
}

impl Import for Download {
    fn summary(&self) -> String {
        self.name()
    }

    fn key_inputs(&self, context: &ImportContext<'_>) -> Result<ImportKey> {
        let (digest, fetched) = match (&self.source, self.checksum) {
            (_, Some(digest)) => (digest, None),
            (Source::File(path), None) => {
                (sources::of_file(context.cache_dir, path).context(ErrorKind::Base, || self.cannot_read())?, None)
            }
            (Source::Url(url), None) => match sources::of_url(context.cache_dir, url) {
                Some(digest) => (digest, None),
                None => {
                    let path = fetch::fetch(url, context)?;
                    let digest = crate::host::digest::of_file(&path).context(ErrorKind::Base, || self.cannot_read())?;
                    sources::note_url(context.cache_dir, url, digest);
                    (digest, Some(path))
                }
            },
        };
        let input = HostInput { name: "image".into(), kind: "file".into(), digest, mode: 0 };
        let format = self.format.map(ImageFormat::name);
        Ok(ImportKey { arguments: json!({ "format": format }), inputs: vec![input], fetched })
    }

    fn make(&self, key: &ImportKey, target: &Path, _log: &Path, context: &ImportContext<'_>) -> Result<ImageFormat> {
        let wanted = key.inputs.first().map(|input| input.digest);
        let (path, fetched) = match (&self.source, &key.fetched) {
            (Source::File(path), _) => (path.clone(), false),
            (Source::Url(_), Some(path)) if path.exists() => (path.clone(), true),
            (Source::Url(url), _) => (fetch::fetch(url, context)?, true),
        };
        let made = self.unpack(&path, target, context);
        if fetched {
            // Its content is in the base now, or it is wrong.
            let _ = fs::remove_file(&path);
        }
        let found = made?;
        if Some(found) != wanted {
            return Err(self.wrong_digest(wanted, found));
        }
        Ok(inspect(target, self.format, &self.name())?.format)
    }
}

impl Download {
    fn name(&self) -> String {
        match &self.source {
            Source::File(path) => path.display().to_string(),
            Source::Url(url) => url.clone(),
        }
    }

    fn cannot_read(&self) -> String {
        format!("cannot read {}", self.name())
    }

    /// Writes the content of `path` to `target` and returns the digest of `path`.
    fn unpack(&self, path: &Path, target: &Path, context: &ImportContext<'_>) -> Result<Digest> {
        let failed = || self.cannot_read();
        let mut file = File::open(path).context(ErrorKind::Base, failed)?;
        let stat = file.metadata().context(ErrorKind::Base, failed)?;
        if !stat.is_file() {
            return Err(Error::new(ErrorKind::Base, format!("{} is not a file", self.name())));
        }
        let mut head = Vec::new();
        (&mut file).take(SIGNATURE as u64).read_to_end(&mut head).context(ErrorKind::Base, failed)?;
        file.rewind().context(ErrorKind::Base, failed)?;
        let out = File::create_new(target).context(ErrorKind::Store, || format!("cannot write {}", target.display()))?;
        let compression = Compression::of(&head);
        let total = (compression == Compression::None).then_some(stat.len());
        let mut progress = |done| {
            context.events.send(Event::Progress { what: "copy".into(), done, total, unit: "bytes" });
            if context.cancel.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if done > VIRTUAL_SIZE_MAX {
                return Err(io::Error::other("it unpacks to more than any disk may have"));
            }
            Ok(())
        };
        let mut digesting = Digesting::new(file);
        let written = if compression == Compression::None {
            write_sparse(&mut digesting, &out, &mut progress)
        } else {
            let buffered = BufReader::with_capacity(1 << 20, &mut digesting);
            compression.reader(buffered).and_then(|mut reader| write_sparse(&mut reader, &out, &mut progress))
        };
        if let Err(error) = written {
            context.cancel.check()?;
            return Err(error).context(ErrorKind::Base, || format!("cannot unpack {}", self.name()));
        }
        digesting.finish().context(ErrorKind::Base, failed)
    }

    fn wrong_digest(&self, wanted: Option<Digest>, found: Digest) -> Error {
        let wanted = wanted.map(|digest| digest.to_string()).unwrap_or_default();
        if self.checksum.is_some() {
            let message = format!("{}: wrong checksum: expected sha256:{wanted}, found sha256:{found}", self.name());
            return Error::new(ErrorKind::Base, message)
                .with_hint("the image changed, or was damaged on the way; compare with what its publisher says");
        }
        Error::new(ErrorKind::Base, format!("{} changed during the build", self.name())).with_hint("build again")
    }
}
