//! Imports: where a base comes from, one file per kind. Adding one works as for steps.

mod fetch;
mod forward;
mod http;
mod lists;
mod mkfs;
mod relay;
mod resize;
mod root;
pub(crate) use isoboot::keystrokes;
pub use isoboot::{Drives, InstallerFirmware, Isoboot, Until};
pub(crate) use root::wrong as wrong_root;
mod signed;
mod sources;

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::disk::ImageFormat;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Events;
use crate::host::checksum::{Checking, Checksum};
use crate::host::temporary::{self, Durability};
use crate::host::{Cancel, Certificates, digest};
use crate::key::{Digest, HostInput, LayerKey};
use crate::template::RunnerKind;

/// The table: declares the module of each kind and lists what it is.
macro_rules! imports {
    ($($name:ident),* $(,)?) => {
        $(mod $name;)*
        /// Every kind of import.
        pub static KINDS: &[&ImportKind] = &[$(&$name::KIND),*];
    };
}

imports! {
    blank,
    bootstrap,
    disk,
    download,
    isoboot,
    layer,
    rootfs,
    virt_builder,
}

/// A kind of import.
pub type ImportKind = RunnerKind<dyn Import>;

/// What an import may use of the host.
pub struct ImportContext<'a> {
    /// A folder of the store that stays between builds, for partial downloads and for what was learned about sources
    /// (URL to digest; file identity to digest). Safe to remove at any time.
    pub cache_dir: &'a Path,
    /// Progress and warnings.
    pub events: &'a Events,
    /// Asked regularly.
    pub cancel: &'a Cancel,
    /// Variables for programs and downloads that use the network: `http_proxy`, `https_proxy`, `no_proxy`.
    pub env: &'a std::collections::BTreeMap<String, String>,
    /// Whom downloads over https believe.
    pub certificates: &'a Certificates,
    /// Whether downloads may reach the host's own addresses, too.
    pub host_network: bool,
}

/// One import of a spec.
pub trait Import: Send + Sync {
    /// One line for people.
    fn summary(&self) -> String;

    /// The kind that stands in its key, where that is not its own: two words for one thing make one base.
    fn keyed_as(&self, own: &'static ImportKind) -> &'static ImportKind {
        own
    }

    /// The template whose result this is. The loader then takes that template's import and steps in its place.
    fn template(&self) -> Option<&Base> {
        None
    }

    /// The tag of a layer in the store that is the base as it lies there. The planner then asks nothing else of the import.
    fn tag(&self) -> Option<&str> {
        None
    }

    /// The place that its bytes come from, where what is there may be something else tomorrow: a URL without a checksum.
    fn mutable_source(&self) -> Option<&str> {
        None
    }

    /// The source that its packages come from, where what is there changes with time and is known by one file: that of
    /// a suite ([`look_again`]).
    fn release(&self) -> Option<String> {
        None
    }

    /// The installer that makes it, where one is booted. Nobody asks [`Import::make`] then.
    fn installer(&self) -> Option<&Isoboot> {
        None
    }

    /// Whether a guest is on what it makes: something that steps can work in.
    fn has_guest(&self) -> bool {
        true
    }

    /// An error where it is plain already, without fetching or reading much, that nothing can be made here and now.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// What enters the key. May have to fetch, to know a digest; what was learned is kept in `cache_dir`, so that the
    /// next call answers from a stat.
    fn key_inputs(&self, context: &ImportContext<'_>) -> Result<ImportKey>;

    /// Makes the base image at `target` (a path that does not exist yet, on the store's file system) and says what it
    /// is. The bytes are those of `key`, or it is an error. The header was checked in Rust ([`crate::disk`]).
    /// Output of tools goes to `log`.
    fn make(&self, key: &ImportKey, target: &Path, log: &Path, context: &ImportContext<'_>) -> Result<Made>;

    /// The same from the raw disk of a base whose arguments differ from its own in `size` alone, and that is smaller. `None`
    /// where there is no such way; then nothing is at `target`.
    fn make_from(
        &self,
        _sibling: &File,
        _target: &Path,
        _log: &Path,
        _context: &ImportContext<'_>,
    ) -> Result<Option<Made>> {
        Ok(None)
    }
}

/// A template whose result is the base of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Its file.
    pub template: PathBuf,
    /// Its parameters: name, and value as JSON.
    pub parameters: Vec<(String, String)>,
}

/// A base that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// The format of its file.
    pub format: ImageFormat,
    /// SHA-256 of its file, where that is known from making it.
    pub digest: Option<Digest>,
}

impl From<ImageFormat> for Made {
    fn from(format: ImageFormat) -> Made {
        Made { format, digest: None }
    }
}

/// The digest of what a mutable source ([`Import::mutable_source`], [`Import::release`]) has now, whatever it had before.
pub fn look_again(source: &str, context: &ImportContext<'_>) -> Result<Digest> {
    if source.starts_with(bootstrap::release::SCHEME) {
        return bootstrap::release::look(source, context);
    }
    if source.starts_with(signed::SCHEME) {
        let message = format!("{source} is looked at by the template that names its keys");
        return Err(Error::new(ErrorKind::Base, message).with_hint("`virt-maker build --pull --lock` looks again"));
    }
    download::look_again(source, context)
}

/// Notes which release the base with this key was made of.
pub fn note_release(base: LayerKey, release: Digest, context: &ImportContext<'_>) {
    sources::note_url(&release_of(base), release, context);
}

/// Which release the base with this key was made of, where that was noted.
pub(crate) fn noted_release(base: LayerKey, context: &ImportContext<'_>) -> Option<Digest> {
    sources::of_url(&release_of(base), context)
}

fn release_of(base: LayerKey) -> String {
    format!("release of {base}")
}

/// Forgets what a mutable source had, so that the next look at it is a new one.
pub fn forget(source: &str, context: &ImportContext<'_>) {
    download::forget(source, context);
}

/// Downloads a URL to a path that does not exist yet, for `download()` in templates. An error leaves nothing there.
pub fn download(url: &str, target: &Path, context: &ImportContext<'_>) -> Result<()> {
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err(Error::new(ErrorKind::Template, "expected a URL with http or https"));
    }
    let fetched = fetch::fetch(url, context)?;
    let failed = || format!("cannot write {}", target.display());
    let folder = target.parent().unwrap_or(target);
    std::fs::create_dir_all(folder).context(ErrorKind::Host, failed)?;
    let mut from = File::open(fetched.path()).context(ErrorKind::Host, failed)?;
    // Nothing is known of it later but that it is there, so it is there whole: also after a power cut.
    temporary::replace_with(target, 0o666, Durability::Synced, |file| std::io::copy(&mut from, file).map(drop))
        .context(ErrorKind::Host, failed)?;
    fetched.discard();
    Ok(())
}

/// The SHA-256 of a file that was opened just now, and whether it has the checksum that is wanted: that of it where it has another one.
fn checked(file: &File, wanted: &Checksum) -> std::io::Result<(Digest, std::result::Result<(), Checksum>)> {
    match wanted {
        Checksum::Sha256(wanted) => {
            let found = digest::of_open_file(file)?;
            Ok((found, if found == *wanted { Ok(()) } else { Err(Checksum::Sha256(found)) }))
        }
        Checksum::Sha512(_) => Checking::new(file, wanted).read_all(),
    }
}

/// What enters the key of an import.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportKey {
    /// Arguments that shape the base.
    pub arguments: serde_json::Value,
    /// Digests of what is taken from the host or the network.
    pub inputs: Vec<HostInput>,
    /// Where the fetched bytes lie already, if anywhere.
    pub fetched: Option<PathBuf>,
}

/// Fetches a URL (http, https) whose bytes have to have this checksum, for a step. The file is open at its start;
/// nothing of it is left when it is closed, but what an attempt that broke off had fetched is kept for the next one.
pub fn fetch_checked(url: &str, wanted: &Checksum, context: &ImportContext<'_>) -> Result<File> {
    let failed = || format!("cannot read {}", http::shown(url));
    let wrong = |found: Checksum| {
        let message = format!("{}: wrong checksum: expected {wanted}, found {found}", http::shown(url));
        Error::new(ErrorKind::Template, message).with_hint("compare with what its publisher says")
    };
    loop {
        let fetched = fetch::fetch(url, context)?;
        let (_, checked) =
            File::open(fetched.path()).and_then(|file| checked(&file, wanted)).context(ErrorKind::Host, failed)?;
        let fresh = fetched.fresh;
        let file = File::open(fetched.path()).context(ErrorKind::Host, failed)?;
        fetched.discard();
        match checked {
            Ok(()) => return Ok(file),
            Err(found) if fresh => return Err(wrong(found)),
            // What an earlier run left may be older than what the server has now.
            Err(_) => {}
        }
    }
}
