//! `download`: a disk image from a URL or a file, raw or qcow2, plain or compressed.
//!
//! The key covers the bytes that were fetched and nothing else, so two URLs with the same image are one base. With a
//! `checksum` the key is known without fetching; without one, a URL is fetched once and what it gave is remembered.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::host::decompress::{Compression, SIGNATURE};
use super::resize::{Resize, ResizeArguments};
use super::root::{self, Root};
use super::signed::{Checksums, SignedList};
use super::sources::Learned;
use super::{Import, ImportContext, ImportKey, ImportKind, Made, fetch, http, sources};
use crate::diagnostic::Diagnostic;
use crate::disk::{ImageFormat, told_within_bounds};
use crate::disk::inspect::{inspect, is_disk};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Meter;
use crate::host::checksum::{self, Checksum};
use crate::host::permit::HostPath;
use crate::host::url_path as decode;
use crate::host::digest::{Digesting, copy, copy_with_digest, write_sparse};
use crate::key::{Digest, HostInput};
use crate::template::{Kind, Node, arguments, from_node};

pub(super) static KIND: ImportKind = ImportKind {
    name: "download",
    about: "Takes a disk image from a URL (http, https, file) or a path: raw or qcow2, plain or compressed.",
    arguments: arguments::<Arguments>,
    example: "download: {url: 'https://example.org/debian-12.qcow2'}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// `http://`, `https://` or `file://`, or a path: a qcow2 or raw image, plain or compressed with gzip, bzip2, xz,
    /// zstd or lz4 (told by its bytes, not by its name).
    url: String,
    /// `sha256:` and 64 digits, or `sha512:` and 128, of the file as it is downloaded.
    checksum: Option<String>,
    /// A signed list of checksums in place of `checksum`: `{url: ..., signature: ..., gpg: keys.gpg}`.
    checksums: Option<Checksums>,
    /// The format, where it should not be told by the first bytes.
    format: Option<ImageFormat>,
    /// Which file system is the guest's root, where the disk has several.
    root: Option<Root>,
    /// Make the disk larger.
    #[schemars(with = "Option<ResizeArguments>")]
    #[expect(dead_code, reason = "read from the node, whose keys are names of partitions")]
    resize: Option<serde::de::IgnoredAny>,
}

pub(super) struct Download {
    root: Option<Root>,
    resize: Option<Resize>,
    source: Source,
    checksum: Option<Checksum>,
    /// With what stands for this download where sources are named.
    checksums: Option<(SignedList, String)>,
    format: Option<ImageFormat>,
    /// It is no disk, but a CD ([`of_cd`]).
    cd: bool,
}

/// How much of a compressed file is looked at to see whether it is a disk image, in bytes.
const IMAGE_HEAD: u64 = 1 << 20;

/// What to do about a wrong checksum.
const WRONG: &str = "the image changed, or was damaged on the way; compare with what its publisher says";

enum Source {
    File(HostPath),
    Url(String),
}

fn parse(node: &Node) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let source = read_source(arguments.url, at("url"), is_image, &mut problems);
    let checksum = read_checksum(arguments.checksum, at("checksum"), &mut problems);
    if let (Some(_), Some(checksums)) = (&arguments.checksums, node.get("checksum")) {
        problems.push(checksums.diagnostic("either `checksum` or `checksums`, not both"));
    }
    let checksums = arguments.checksums.and_then(|checksums| match checksums.checked(at("checksums")) {
        Ok(checksums) => {
            let name = match &source {
                Source::Url(url) => url.clone(),
                Source::File(path) => path.display().to_string(),
            };
            let source = checksums.source(&name);
            Some((checksums, source))
        }
        Err(found) => {
            problems.extend(found);
            None
        }
    });
    let format = arguments.format;
    let resize = read_resize(node, &mut problems);
    let root = arguments.root.map(|root| root.checked(node, &mut problems));
    let download = Download { root, source, checksum, checksums, format, resize, cd: false };
    if problems.is_empty() { Ok(Box::new(download)) } else { Err(problems) }
}

/// Where bytes come from: a URL, or a path of a file of which `is_image` says that it may be taken from anywhere on the host.
fn read_source(
    url: String,
    at: &Node,
    is_image: fn(&HostPath) -> bool,
    problems: &mut Vec<Diagnostic>,
) -> Source {
    let file = |path: &str, problems: &mut Vec<Diagnostic>| match at.host_image(path, is_image) {
        Ok(path) => Source::File(path),
        Err(problem) => {
            problems.push(problem);
            Source::Url(String::new())
        }
    };
    match url.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() => Source::Url(url),
        Some(("file", path)) if !path.is_empty() => match decode(path.strip_prefix("localhost").unwrap_or(path)) {
            Some(path) => file(&path, problems),
            None => {
                problems.push(at.diagnostic("expected two hexadecimal digits after each `%` of the URL"));
                Source::Url(String::new())
            }
        },
        None if !url.is_empty() => file(&url, problems),
        _ => {
            problems.push(at.diagnostic("expected a URL with http, https or file, or the path of a file"));
            Source::Url(String::new())
        }
    }
}

fn read_checksum(text: Option<String>, at: &Node, problems: &mut Vec<Diagnostic>) -> Option<Checksum> {
    let checksum = Checksum::parse(&text?);
    if checksum.is_none() {
        problems.push(at.diagnostic(checksum::EXPECTED));
    }
    checksum
}

/// A CD, for import `isoboot`: a file of the host or a URL, by its content, plain or compressed.
pub(super) fn of_cd(
    (url, at): (String, &Node),
    (checksum, at_checksum): (Option<String>, &Node),
    problems: &mut Vec<Diagnostic>,
) -> Download {
    let source = read_source(url, at, is_cd, problems);
    let checksum = read_checksum(checksum, at_checksum, problems);
    Download { root: None, source, checksum, checksums: None, format: None, resize: None, cd: true }
}

/// Whether a file says that it is a CD: ISO 9660, or UDF, which begins as that does (ECMA-119, 8.1; ECMA-167, 2/9.1).
fn is_cd(path: &HostPath) -> bool {
    path.open().is_ok_and(|file| has_cd(&file))
}

fn has_cd(file: &File) -> bool {
    let mut name = [0; 5];
    file.read_exact_at(&mut name, 16 * 2048 + 1).is_ok() && matches!(&name, b"CD001" | b"BEA01")
}

/// Whether the bytes of a file say that it is a disk image, plain or compressed: only such a file may be taken from
/// anywhere on the host.
pub(super) fn is_image(path: &HostPath) -> bool {
    let looked = || -> io::Result<bool> {
        let mut file = path.open()?;
        let mut head = [0; SIGNATURE];
        let compression = match file.read_exact_at(&mut head, 0) {
            Ok(()) => Compression::of(&head),
            Err(_) => return Ok(false),
        };
        if compression == Compression::None {
            return Ok(is_disk(&file));
        }
        // A sparse file in memory, with as much of the content as a file system's mark may be away from its begin.
        let begin = File::from(rustix::fs::memfd_create("begin", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.rewind()?;
        let mut content = compression.reader(BufReader::with_capacity(1 << 20, file))?.take(IMAGE_HEAD);
        io::copy(&mut content, &mut &begin)?;
        Ok(is_disk(&begin))
    };
    looked().unwrap_or(false)
}

/// A file of the host, for import `disk`.
pub(super) fn of_file(
    node: &Node,
    path: HostPath,
    format: Option<ImageFormat>,
    root: Option<Root>,
) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let resize = read_resize(node, &mut problems);
    let source = Source::File(path);
    let root = root.map(|root| root.checked(node, &mut problems));
    let download = Download { root, source, checksum: None, checksums: None, format, resize, cd: false };
    if problems.is_empty() { Ok(Box::new(download)) } else { Err(problems) }
}

fn read_resize(node: &Node, problems: &mut Vec<Diagnostic>) -> Option<Resize> {
    match node.get("resize").filter(|node| !matches!(node.kind, Kind::Null)).map(Resize::read)? {
        Ok(resize) => Some(resize),
        Err(found) => {
            problems.extend(found);
            None
        }
    }
}

impl Import for Download {
    /// `disk` takes a file by its content, and so does this: the same bytes are the same base, whichever word brought them.
    fn keyed_as(&self, _: &'static ImportKind) -> &'static ImportKind {
        &KIND
    }

    fn summary(&self) -> String {
        self.name()
    }

    fn mutable_source(&self) -> Option<&str> {
        match (&self.source, &self.checksums) {
            (_, Some((_, source))) => Some(source),
            (Source::Url(url), None) if self.checksum.is_none() => Some(url),
            _ => None,
        }
    }

    fn key_inputs(&self, context: &ImportContext<'_>) -> Result<ImportKey> {
        let (digest, fetched) = match (&self.source, &self.checksum) {
            (_, Some(checksum)) => self.digest_of(checksum, context)?,
            _ if self.checksums.is_some() => self.signed_digest(context)?,
            (Source::File(path), None) => {
                let digest = sources::of_file(path.real(), context);
                context.cancel.check()?;
                (digest.context(ErrorKind::Base, || self.cannot_read())?, None)
            }
            (Source::Url(url), None) => match sources::of_url(url, context) {
                Some(digest) => (digest, None),
                None => {
                    let fetched = fetch::fetch(url, context)?;
                    let digest = crate::host::digest::of_file(fetched.path());
                    let digest = digest.context(ErrorKind::Base, || self.cannot_read())?;
                    sources::note_url(url, digest, context);
                    (digest, Some(fetched.path().to_owned()))
                }
            },
        };
        let input = HostInput { name: "image".into(), kind: "file".into(), digest, mode: 0 };
        // Whatever says which bytes are wanted, the digest of these is the input.
        let Download { root, resize, source: _, checksum: _, checksums: _, format, cd: _ } = self;
        let mut arguments = json!({ "format": format.map(ImageFormat::name) });
        if let Some(resize) = resize {
            arguments["resize"] = resize.key();
        }
        if let Some(root) = root {
            arguments[root::NAME] = root.key();
        }
        Ok(ImportKey { arguments, inputs: vec![input], fetched })
    }

    fn check(&self) -> Result<()> {
        match &self.source {
            Source::File(path) => path.metadata().context(ErrorKind::Base, || self.cannot_read()).map(drop),
            Source::Url(_) => Ok(()),
        }
    }

    fn make(&self, key: &ImportKey, target: &Path, log: &Path, context: &ImportContext<'_>) -> Result<Made> {
        let wanted = key.inputs.first().map(|input| input.digest);
        let made = match &self.source {
            Source::File(path) => self.make_from_file(path, wanted, target, context),
            Source::Url(url) => self.make_from_url(url, wanted, target, context),
        };
        let made = match (made, &self.resize) {
            (Ok(made), Some(resize)) => resize.apply(target, made.format, log, context).map(Made::from),
            (made, _) => made,
        };
        if made.is_err() {
            let _ = fs::remove_file(target);
        }
        made
    }
}

/// The digest of what a URL gives now, whatever it gave before.
pub(super) fn look_again(url: &str, context: &ImportContext<'_>) -> Result<Digest> {
    forget(url, context);
    let import = Download {
        root: None,
        source: Source::Url(url.to_owned()),
        checksum: None,
        checksums: None,
        format: None,
        resize: None,
        cd: false,
    };
    let key = import.key_inputs(context)?;
    let input = key.inputs.first().ok_or_else(|| Error::new(ErrorKind::Internal, "a download without a digest"))?;
    Ok(input.digest)
}

/// Forgets what a URL gave, so that it is fetched again.
pub(super) fn forget(url: &str, context: &ImportContext<'_>) {
    sources::forget_url(url, context);
    fetch::forget(url, context);
}

impl Download {
    pub(super) fn name(&self) -> String {
        match &self.source {
            Source::File(path) => path.display().to_string(),
            Source::Url(url) => http::shown(url),
        }
    }

    /// What the signed list says of this file, which is remembered until somebody asks to look again.
    fn signed_digest(&self, context: &ImportContext<'_>) -> Result<(Digest, Option<PathBuf>)> {
        let Some((checksums, source)) = &self.checksums else {
            return Err(Error::new(ErrorKind::Internal, "a download without a list of checksums"));
        };
        if let Some(digest) = checksums.remembered(source, context)? {
            return Ok((digest, None));
        }
        let name = match &self.source {
            Source::File(path) => path.name(),
            Source::Url(url) => {
                let path = url.split(['?', '#']).next().unwrap_or_default();
                let last = path.rsplit('/').next().unwrap_or_default();
                decode(last).unwrap_or_else(|| last.to_owned())
            }
        };
        let checksum = checksums.checksum_of(&name, context)?;
        let (digest, fetched) = self.digest_of(&checksum, context)?;
        checksums.remember(source, digest, context)?;
        Ok((digest, fetched))
    }

    /// The SHA-256 of the bytes with a checksum, and where they lie if they had to be fetched to know it. What was found
    /// once is remembered: the checksum says which bytes they are.
    fn digest_of(&self, checksum: &Checksum, context: &ImportContext<'_>) -> Result<(Digest, Option<PathBuf>)> {
        if let Checksum::Sha256(digest) = checksum {
            return Ok((*digest, None));
        }
        let name = checksum.to_string();
        if let Some(digest) = sources::of_url(&name, context) {
            return Ok((digest, None));
        }
        let wrong = |found: Checksum| {
            let message = format!("{}: wrong checksum: expected {checksum}, found {found}", self.name());
            Error::new(ErrorKind::Base, message).with_hint(WRONG)
        };
        loop {
            let failed = || self.cannot_read();
            let (file, fetched) = match &self.source {
                Source::File(path) => (path.open(), None),
                Source::Url(url) => {
                    let fetched = fetch::fetch(url, context)?;
                    (File::open(fetched.path()), Some(fetched))
                }
            };
            let (digest, checked) =
                file.and_then(|file| super::checked(&file, checksum)).context(ErrorKind::Base, failed)?;
            context.cancel.check()?;
            match (checked, fetched) {
                (Ok(()), fetched) => {
                    sources::note_url(&name, digest, context);
                    return Ok((digest, fetched.map(|fetched| fetched.path().to_owned())));
                }
                (Err(found), None) => return Err(wrong(found)),
                (Err(found), Some(fetched)) => {
                    let fresh = fetched.fresh;
                    fetched.discard();
                    // What an earlier run left may be older than what the server has now.
                    if fresh {
                        return Err(wrong(found));
                    }
                }
            }
        }
    }

    fn cannot_read(&self) -> String {
        format!("cannot read {}", self.name())
    }

    fn make_from_file(
        &self,
        path: &HostPath,
        wanted: Option<Digest>,
        target: &Path,
        context: &ImportContext<'_>,
    ) -> Result<Made> {
        let mut file = path.open().context(ErrorKind::Base, || self.cannot_read())?;
        let learned = Learned::of(path.real(), &file, context);
        self.take(&mut file, learned, wanted, target, context)
    }

    fn make_from_url(
        &self,
        url: &str,
        wanted: Option<Digest>,
        target: &Path,
        context: &ImportContext<'_>,
    ) -> Result<Made> {
        loop {
            let mut fetched = fetch::fetch(url, context)?;
            let taken = self.take(&mut fetched.file, None, wanted, target, context);
            match &taken {
                Ok(_) => fetched.discard(),
                // Neither is the download's fault.
                Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::HostFull) => {}
                Err(_) => {
                    let fresh = fetched.fresh;
                    fetched.discard();
                    let _ = fs::remove_file(target);
                    if !fresh {
                        // What an earlier run left may be damaged, or older than what the server has now.
                        continue;
                    }
                    // The next build asks the server again, and may have another key.
                    match (&self.checksum, &self.checksums) {
                        (None, Some((_, source))) => sources::forget_url(source, context),
                        (None, None) => sources::forget_url(url, context),
                        (Some(_), _) => {}
                    }
                }
            }
            return taken;
        }
    }

    /// Makes `target` from `file`, whose digest has to be `wanted`.
    fn take(
        &self,
        file: &mut File,
        learned: Option<Learned>,
        wanted: Option<Digest>,
        target: &Path,
        context: &ImportContext<'_>,
    ) -> Result<Made> {
        let (found, unpacked) = self.unpack(file, learned, target, context)?;
        // A wrong digest says more than what unpacking the wrong bytes led to.
        if Some(found) != wanted {
            return Err(self.wrong_digest(wanted, found));
        }
        let digest = unpacked?.then_some(found);
        if self.cd {
            if !File::open(target).is_ok_and(|file| has_cd(&file)) {
                return Err(Error::new(ErrorKind::Base, format!("{} is no image of a CD", self.name())));
            }
            return Ok(Made { format: ImageFormat::Raw, digest });
        }
        Ok(Made { format: inspect(target, self.format, &self.name())?.format, digest })
    }

    /// Writes the content of `file` to `target`. Returns the digest of `file`, and an error where that content was not
    /// whole, else whether it is the file as it stands.
    fn unpack(
        &self,
        file: &mut File,
        learned: Option<Learned>,
        target: &Path,
        context: &ImportContext<'_>,
    ) -> Result<(Digest, Result<bool>)> {
        let failed = || self.cannot_read();
        let length = file.metadata().context(ErrorKind::Base, failed)?.len();
        let mut head = [0; SIGNATURE];
        let known = SIGNATURE.min(usize::try_from(length).unwrap_or(SIGNATURE));
        file.read_exact_at(&mut head[..known], 0).context(ErrorKind::Base, failed)?;
        file.rewind().context(ErrorKind::Base, failed)?;
        let out = File::options().read(true).write(true).create_new(true).open(target);
        let out = out.context(ErrorKind::Store, || format!("cannot write {}", target.display()))?;
        let compression = Compression::of(&head[..known]);
        let plain = compression == Compression::None;
        let meter = Meter::bytes(context.events, if plain { "copy" } else { "unpack" }, plain.then_some(length));
        let mut progress = told_within_bounds(meter, context.cancel);
        if plain {
            // To digest it once more takes longer than to copy it.
            if let Some(learned) = learned {
                let copied = copy(file, &out, &mut progress);
                context.cancel.check()?;
                copied.context(ErrorKind::Base, || format!("cannot copy {}", self.name()))?;
                if let Some(digest) = learned.still(file) {
                    return Ok((digest, Ok(true)));
                }
                out.set_len(0).context(ErrorKind::Store, || format!("cannot write {}", target.display()))?;
            }
            let digest = copy_with_digest(file, &out, &mut progress);
            context.cancel.check()?;
            return Ok((digest.context(ErrorKind::Base, || format!("cannot copy {}", self.name()))?, Ok(true)));
        }
        let mut digesting = Digesting::new(file);
        let buffered = BufReader::with_capacity(1 << 20, &mut digesting);
        let written = compression.reader(buffered).and_then(|mut reader| write_sparse(&mut reader, &out, &mut progress));
        context.cancel.check()?;
        let written = written.map(|_| false).context(ErrorKind::Base, || format!("cannot unpack {}", self.name()));
        match written {
            Err(error) if error.kind() == ErrorKind::HostFull => Err(error),
            written => Ok((digesting.finish().context(ErrorKind::Base, failed)?, written)),
        }
    }

    fn wrong_digest(&self, wanted: Option<Digest>, found: Digest) -> Error {
        let wanted = wanted.map(|digest| digest.to_string()).unwrap_or_default();
        if self.checksum.is_some() || self.checksums.is_some() {
            let message = format!("{}: wrong checksum: expected sha256:{wanted}, found sha256:{found}", self.name());
            return Error::new(ErrorKind::Base, message)
                .with_hint(WRONG);
        }
        let message = format!("{} is no longer what it was when its digest was taken", self.name());
        Error::new(ErrorKind::Base, message).with_hint("build again to take what is there now")
    }
}
