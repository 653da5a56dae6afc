//! The one door between a template and the host: every path, variable and program that a template names passes here.
//!
//! # What must hold
//! - A runner gets at a file of the host by a [`HostPath`] and in no other way, and only [`Door`] makes one. The same is
//!   true of the target of an export ([`Output`]).
//! - Without the user's word a template reads below the folders of the templates that the user named, and nowhere else;
//!   it writes there and below the working folder. What [`Permission`] lists is asked of the user.
//! - Links are followed first and judged then: what counts is the place where a path really leads. It is opened by that
//!   place later, without following any link, so a link that was changed meanwhile leads nowhere.
//! - A user's folder is a tree like any other, but what is hidden in it (`~/.ssh`, `~/.config`) is not.
//! - A disk image or a CD may lie anywhere, if it is a regular file whose bytes say that it is one.
//! - No export replaces what any template of the same call reads.
//!
//! `docs/security.md` has the table of permissions for users; a test compares it with [`KINDS`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

/// Something that a user can allow, with `--allow` or in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// Start programs of the host that the template names.
    HostExec,
    /// Downloads by expressions.
    Net,
    /// Reach the host's own addresses.
    HostNetwork,
    /// Take packages that no key of a distribution vouches for.
    Unverified,
    /// Read files in this folder.
    Read(PathBuf),
    /// Write files in this folder.
    Write(PathBuf),
    /// Read this variable of the environment.
    Env(String),
}

/// A row of the table of permissions.
pub struct PermissionKind {
    /// How it is written.
    pub name: &'static str,
    /// What stands after its `=`.
    pub value: Option<&'static str>,
    /// What it allows.
    pub about: &'static str,
}

const fn kind(name: &'static str, value: Option<&'static str>, about: &'static str) -> PermissionKind {
    PermissionKind { name, value, about }
}

/// The table: every permission that there is.
pub const KINDS: &[PermissionKind] = &[
    kind("read", Some("DIR"), "read files of the host in this folder, besides those in the template's own folder"),
    kind("write", Some("DIR"), "write artifacts into this folder, besides the template's and the working folder"),
    kind("env", Some("NAME"), "read this variable of the environment, for a secret"),
    kind("host-exec", None, "start programs of the host: `local_run`, `ansible`, `exec:`, scripts of exports"),
    kind("net", None, "download by expressions: `download()`"),
    kind("host-network", None, "let steps and downloads reach the host's own addresses and link-local ones"),
    kind("unverified", None, "take packages from a mirror that no key of a distribution vouches for"),
];

impl Permission {
    /// Reads one as the command line has it; the error says what was expected.
    pub fn parse(text: &str) -> Result<Permission, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value).filter(|value| !value.is_empty())),
            None => (text, None),
        };
        match (name, value) {
            ("host-exec", None) if !text.contains('=') => Ok(Permission::HostExec),
            ("net", None) if !text.contains('=') => Ok(Permission::Net),
            ("host-network", None) if !text.contains('=') => Ok(Permission::HostNetwork),
            ("unverified", None) if !text.contains('=') => Ok(Permission::Unverified),
            ("read", Some(folder)) => Ok(Permission::Read(folder.into())),
            ("write", Some(folder)) => Ok(Permission::Write(folder.into())),
            ("env", Some(name)) if is_variable(name) => Ok(Permission::Env(name.to_owned())),
            _ => {
                let all: Vec<String> = KINDS.iter().map(|kind| format!("`{}`", kind.form())).collect();
                Err(format!("expected one of {}", all.join(", ")))
            }
        }
    }
}

impl PermissionKind {
    /// How it is written, with the name of its value: `read=DIR`.
    pub fn form(&self) -> String {
        match self.value {
            Some(value) => format!("{}={value}", self.name),
            None => self.name.to_owned(),
        }
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0', ' ', ','])
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Permission::HostExec => f.write_str("host-exec"),
            Permission::Net => f.write_str("net"),
            Permission::HostNetwork => f.write_str("host-network"),
            Permission::Unverified => f.write_str("unverified"),
            Permission::Read(folder) => write!(f, "read={}", folder.display()),
            Permission::Write(folder) => write!(f, "write={}", folder.display()),
            Permission::Env(name) => write!(f, "env={name}"),
        }
    }
}

/// All that a user allowed; by default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// See [`Permission::HostExec`].
    pub host_exec: bool,
    /// See [`Permission::Net`].
    pub net: bool,
    /// See [`Permission::HostNetwork`].
    pub host_network: bool,
    /// See [`Permission::Unverified`].
    pub unverified: bool,
    /// See [`Permission::Read`]; absolute.
    pub read: Vec<PathBuf>,
    /// See [`Permission::Write`]; absolute.
    pub write: Vec<PathBuf>,
    /// See [`Permission::Env`].
    pub env: BTreeSet<String>,
}

impl Permissions {
    /// Adds one; a relative folder is one of `working_dir`.
    pub fn add(&mut self, permission: &Permission, working_dir: &Path) {
        match permission {
            Permission::HostExec => self.host_exec = true,
            Permission::Net => self.net = true,
            Permission::HostNetwork => self.host_network = true,
            Permission::Unverified => self.unverified = true,
            Permission::Read(folder) => self.read.push(working_dir.join(folder)),
            Permission::Write(folder) => self.write.push(working_dir.join(folder)),
            Permission::Env(name) => drop(self.env.insert(name.clone())),
        }
    }
}

/// What the door says to something that the user did not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One sentence.
    pub message: String,
    /// What to do about it, where something can be done.
    pub hint: Option<String>,
}

impl Refusal {
    fn new(message: String, permission: &Permission) -> Refusal {
        let word = permission.to_string();
        // As a shell takes it for one word.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./=-+:,@%".contains(&byte) || !byte.is_ascii();
        let word = if word.bytes().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) };
        Refusal { message, hint: Some(format!("allow it with --allow {word}")) }
    }
}

/// A path of the host that may be read. Where nothing lies there, reading says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPath {
    named: PathBuf,
    real: PathBuf,
}

impl HostPath {
    /// The path as the template means it: for names and messages.
    pub fn named(&self) -> &Path {
        &self.named
    }

    /// The place where it leads, without a link in it as it was when it passed the door. For programs that open it by
    /// themselves.
    pub fn real(&self) -> &Path {
        &self.real
    }

    /// For messages.
    pub fn display(&self) -> std::path::Display<'_> {
        self.named.display()
    }

    /// Its last part, as the template names it.
    pub fn name(&self) -> String {
        self.named.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// What lies below it under this relative name, which has no `..` in it. Links below it are not followed when it is
    /// opened.
    pub fn below(&self, name: impl AsRef<Path>) -> HostPath {
        let name = name.as_ref();
        if name.as_os_str().is_empty() {
            return self.clone();
        }
        let climbs = name.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir));
        // A name that leads out leads nowhere.
        let name = if climbs { Path::new("\u{0}") } else { name };
        HostPath { named: self.named.join(name), real: self.real.join(name) }
    }

    /// What lies there, links not followed.
    pub fn metadata(&self) -> io::Result<Metadata> {
        File::from(open(&self.real, OFlags::PATH)?).metadata()
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.metadata().is_ok_and(|stat| stat.is_file())
    }

    /// Whether it is a folder.
    pub fn is_dir(&self) -> bool {
        self.metadata().is_ok_and(|stat| stat.is_dir())
    }

    /// Opens a regular file for reading. Anything else (a pipe, a device) is an error, and is not waited for.
    pub fn open(&self) -> io::Result<File> {
        let file = File::from(open(&self.real, OFlags::RDONLY | OFlags::NONBLOCK)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(file)
    }

    /// All of a regular file that has at most `max` bytes.
    pub fn read(&self, max: u64) -> io::Result<Vec<u8>> {
        read_unlinked(&self.real, max)
    }

    /// The same as text.
    pub fn read_to_string(&self, max: u64) -> io::Result<String> {
        String::from_utf8(self.read(max)?).map_err(|_| io::Error::other("it is not UTF-8 text"))
    }
}

/// Opens a path in which no part is a link.
fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Old kernels, and containers that know no `openat2`: the last part at least is none.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => Ok(rustix::fs::open(path, flags, Mode::empty())?),
        opened => Ok(opened?),
    }
}

/// Where an export may write: a path that passed the door.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Output {
    named: PathBuf,
    real: PathBuf,
}

impl Output {
    /// The place that was judged: there is no link on the way to it, as long as [`Output::check`] says so.
    pub fn path(&self) -> &Path {
        &self.real
    }

    /// The path, absolute, as the template means it.
    pub fn named(&self) -> &Path {
        &self.named
    }

    /// A file beside it, such as a list of checksums, by its plain name.
    pub fn beside(&self, name: &str) -> Output {
        Output { named: self.named.with_file_name(name), real: self.real.with_file_name(name) }
    }

    /// An error where the way to it has become another one since it was judged: what an export wrote meanwhile is a guest's,
    /// and may hold links.
    pub fn check(&self) -> Result<(), Refusal> {
        let folder = |path: &Path| path.parent().map(Path::to_owned).and_then(lead);
        let judged = self.real.parent().map(Path::to_owned);
        if judged.is_some() && folder(&self.real) == judged && folder(&self.named) == judged {
            return Ok(());
        }
        let message = format!("{} leads to another place now than when it was judged", shown(&self.named));
        Err(Refusal { message, hint: Some("something on the way to it has become a link; name another path".into()) })
    }
}

/// Reads a regular file of at most `max` bytes, without waiting for a pipe. Its path may lead through links.
pub fn read_regular(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    read_all(File::from(rustix::fs::open(path, flags, Mode::empty())?), max)
}

/// The same without following any link.
pub fn read_unlinked(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_all(File::from(open(path, OFlags::RDONLY | OFlags::NONBLOCK)?), max)
}

/// The same where only the last part may be no link: the way to it is the user's.
pub fn read_unlinked_name(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    read_all(File::from(rustix::fs::open(path, flags, Mode::empty())?), max)
}

/// How much room a file of `length` bytes takes, of which at most `max` are wanted. With it, a file is read by two calls of
/// the system and not by one for each time that a buffer grows.
pub fn room_for(length: u64, max: u64) -> usize {
    length.min(max) as usize + 64
}

fn read_all(file: File, max: u64) -> io::Result<Vec<u8>> {
    let stat = file.metadata()?;
    if !stat.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::with_capacity(room_for(stat.len(), max));
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > max {
        true => Err(io::Error::other(format!("it has more than {max} bytes"))),
        false => Ok(bytes),
    }
}

/// The door for the templates of one call. Everything that is not allowed by it is not.
#[derive(Debug, Default)]
pub struct Door {
    permissions: Permissions,
    /// Folders of the templates that the user named, and what else templates may read; links followed.
    trees: Vec<PathBuf>,
    /// Folders that may be written to; links followed.
    outputs: Vec<PathBuf>,
    /// Where templates keep what they downloaded; links followed.
    downloads: Vec<PathBuf>,
    /// Folders of users, links followed.
    homes: Vec<PathBuf>,
    /// The places that templates read, each with how it is named.
    read: Mutex<BTreeMap<PathBuf, PathBuf>>,
}

/// The folders that a [`Door`] knows.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Templates that the user named.
    pub templates: Vec<PathBuf>,
    /// The working folder.
    pub working_dir: Option<PathBuf>,
    /// Folders of ours where these templates may keep what they downloaded.
    pub downloads: Vec<PathBuf>,
    /// The user's own folder, and those of other users.
    pub homes: Vec<PathBuf>,
}

impl Door {
    /// A door for these permissions and places. Places that are not there open nothing.
    pub fn new(permissions: Permissions, places: &Places) -> Door {
        let folder = |template: &PathBuf| Some(std::path::absolute(template).ok()?.parent()?.to_owned());
        // Hundreds of templates lie in a few folders.
        let folders: BTreeSet<PathBuf> = places.templates.iter().filter_map(folder).collect();
        let mut trees: Vec<PathBuf> = folders.into_iter().filter_map(real).collect();
        let downloads: BTreeSet<&PathBuf> = places.downloads.iter().collect();
        let downloads: Vec<PathBuf> = downloads.into_iter().cloned().filter_map(lead).collect();
        let mut outputs = trees.clone();
        // Who works at the root of everything has not said that a template may write anywhere.
        let working_dir = places.working_dir.clone().and_then(real).filter(|folder| folder.parent().is_some());
        outputs.extend(working_dir);
        trees.extend(downloads.iter().cloned());
        let homes = places.homes.iter().cloned().filter_map(real).filter(|home| home.parent().is_some()).collect();
        Door { permissions, trees, outputs, downloads, homes, read: Mutex::default() }
    }

    /// What the user allowed.
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// Lets a template read `path`, an absolute one.
    pub fn read(&self, path: &Path) -> Result<HostPath, Refusal> {
        let found = self.lead(path)?;
        let allowed: Vec<PathBuf> = self.permissions.read.iter().cloned().filter_map(lead).collect();
        if !self.in_trees(&self.trees, &found.real) && !self.in_trees(&allowed, &found.real) {
            let folder = if found.is_dir() { &found.real } else { found.real.parent().unwrap_or(&found.real) };
            // With the word for a folder, what is hidden in a home stays closed: the place itself has to be named.
            let folder = if self.in_trees(&[folder.to_owned()], &found.real) { folder } else { &found.real };
            let linked = self.trees.iter().any(|tree| path.starts_with(tree)) && path != found.real;
            let place = if linked { format!("it leads to {},", shown(&found.real)) } else { "it is".to_owned() };
            let message = format!("a template may not read {}: {place} outside of the template's folder", shown(path));
            return Err(Refusal::new(message, &Permission::Read(folder.to_owned())));
        }
        self.note(&found);
        Ok(found)
    }

    /// Lets a template take `path` for its base, wherever it lies, if `is_image` says of its bytes that they are a disk
    /// image; anything else is read as [`Door::read`] has it.
    pub fn read_image(&self, path: &Path, is_image: impl FnOnce(&HostPath) -> bool) -> Result<HostPath, Refusal> {
        self.read(path).or_else(|refusal| {
            let found = self.lead(path)?;
            if !found.is_file() || !is_image(&found) {
                return Err(refusal);
            }
            self.note(&found);
            Ok(found)
        })
    }

    /// Lets an export write `path`, an absolute one.
    pub fn write(&self, path: &Path) -> Result<Output, Refusal> {
        let folder = path.parent().unwrap_or(path);
        // A link in the place of the artifact is replaced and not followed.
        let found = self.lead(folder)?;
        let name = path.file_name().unwrap_or(OsStr::new(""));
        let output = Output { named: path.to_owned(), real: found.real.join(name) };
        let allowed = self.permissions.write.iter().filter_map(|folder| lead(folder.clone()));
        if allowed.into_iter().any(|folder| found.real.starts_with(folder)) {
            return Ok(output);
        }
        let ask = |why: &str| {
            let message = format!("a template may not write {}: {why}", shown(path));
            Refusal::new(message, &Permission::Write(folder.to_owned()))
        };
        if !self.in_trees(&self.outputs, &found.real) {
            return Err(ask("it is outside of the template's and the working folder"));
        }
        // Hidden files are read by shells, editors and version control without anybody's asking for them.
        let tree =
            self.outputs.iter().filter(|tree| found.real.starts_with(tree)).max_by_key(|tree| tree.as_os_str().len());
        let below = tree.and_then(|tree| found.real.strip_prefix(tree).ok()).unwrap_or(Path::new(""));
        if below.iter().chain([name]).any(is_hidden) {
            return Err(ask("it is hidden, or lies in a hidden folder"));
        }
        Ok(output)
    }

    /// Lets a template keep what it downloads at `path`, an absolute one: in its own folder for that, or as an artifact.
    pub fn keep(&self, path: &Path) -> Result<Output, Refusal> {
        let folder = path.parent().unwrap_or(path);
        let real = self.lead(folder)?.real;
        match self.downloads.iter().any(|downloads| real.starts_with(downloads)) {
            true => Ok(Output { named: path.to_owned(), real: real.join(path.file_name().unwrap_or_default()) }),
            false => self.write(path),
        }
    }

    /// Lets a template read a variable of the environment.
    pub fn variable(&self, name: &str) -> Result<(), Refusal> {
        if self.permissions.env.contains(name) {
            return Ok(());
        }
        let message = format!("a template may not read the variable `{}` of the environment", name.escape_debug());
        Err(Refusal::new(message, &Permission::Env(name.to_owned())))
    }

    /// Lets a template start programs of the host; `what` is what would.
    pub fn program(&self, what: &str) -> Result<(), Refusal> {
        if self.permissions.host_exec {
            return Ok(());
        }
        Err(Refusal::new(format!("`{}` runs a program on this host", what.escape_debug()), &Permission::HostExec))
    }

    /// Lets a template take packages that no key vouches for; `what` is where they come from.
    pub fn unverified(&self, what: &str) -> Result<(), Refusal> {
        if self.permissions.unverified {
            return Ok(());
        }
        let message = format!("no key of a distribution vouches for {what}");
        Err(Refusal::new(message, &Permission::Unverified))
    }

    /// What template input an artifact in this place would replace, by the name that a template gives it. A folder that
    /// is read is an input as a whole where something lies in the artifact's place already.
    pub fn replaces(&self, output: &Output) -> Option<PathBuf> {
        let target = output.path().to_owned();
        let there = target.symlink_metadata().is_ok();
        let read = self.seen();
        let found = read.iter().find(|(place, _)| **place == target || there && target.starts_with(place));
        found.map(|(_, named)| named.clone())
    }

    fn note(&self, found: &HostPath) {
        self.seen().insert(found.real.clone(), found.named.clone());
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<PathBuf, PathBuf>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a path leads.
    fn lead(&self, path: &Path) -> Result<HostPath, Refusal> {
        match lead(path.to_owned()) {
            Some(real) => Ok(HostPath { named: path.to_owned(), real }),
            None => {
                let message = format!("{} leads nowhere that could be judged", shown(path));
                Err(Refusal { message, hint: Some("name the place itself, without `..`".into()) })
            }
        }
    }

    /// Whether a place lies in one of these trees, and is nothing hidden of the user's own.
    fn in_trees(&self, trees: &[PathBuf], place: &Path) -> bool {
        let hidden = self.homes.iter().find_map(|home| {
            let below = place.strip_prefix(home).ok()?;
            below.iter().next().filter(|first| is_hidden(first)).map(|first| home.join(first))
        });
        let counts = |tree: &PathBuf| match &hidden {
            // The template itself lies in there.
            Some(hidden) => tree.starts_with(hidden),
            None => true,
        };
        trees.iter().any(|tree| place.starts_with(tree) && counts(tree))
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

/// A place that is there, links followed.
fn real(path: PathBuf) -> Option<PathBuf> {
    path.canonicalize().ok()
}

/// A place, links followed as far as it is there; what is not there has no links in it, and no `..` may stand in that part.
fn lead(path: PathBuf) -> Option<PathBuf> {
    let (part, real) = path.ancestors().find_map(|part| match part.canonicalize() {
        Ok(real) => Some(Some((part, real))),
        // A link to nowhere: what it names can come to be.
        Err(_) if part.symlink_metadata().is_ok_and(|stat| stat.is_symlink()) => Some(None),
        Err(_) => None,
    })??;
    let rest = path.strip_prefix(part).ok()?;
    if rest.as_os_str().is_empty() {
        return Some(real);
    }
    let plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
    plain.then(|| real.join(rest))
}

#[cfg(test)]
mod tests;
