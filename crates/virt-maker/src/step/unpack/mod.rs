//! `unpack`: an archive of the host (tar, plain or compressed, or zip) into a folder of the guest.
//!
//! An archive is hostile until shown otherwise. Members whose names climb out (`..`, absolute) or that go through a link
//! of the same archive, links that lead out of the folder, and devices are refused with an error, and no layer is made.
//! Owners in the archive are those of another machine: everything belongs to root, or to `chown`. Folders that the guest has
//! stay as they are, and its own links to folders are followed. Files keep their times, their other names, and the attributes that
//! give nobody a right. With `dest: /` there is no folder to lead out of: links are what they are in any root.

mod pax;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use self::pax::Facts;
use super::support::{folders, host_file};
use super::support::owner::{Owner, keep};
use super::support::paths;
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::host::permit::HostPath;
use crate::host::tree::leads_out;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::{Attributes, Guest, Marks};
use crate::host::decompress::{Compression, SIGNATURE};
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "unpack",
    about: "Unpacks an archive of the host (tar, plain or compressed, or zip) into a folder of the guest.",
    arguments: arguments::<Arguments>,
    example: "unpack: {source: site.tar.gz, dest: /srv/www, strip: 1}",
    needs: &[],
    // 3: folders and links to folders that are there stay as they are; times, attributes and other names of files are kept.
    version: 3,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// A file of the host; what it is, is told by its first bytes.
    source: PathBuf,
    /// A folder in the guest, which is made.
    dest: String,
    /// How many leading folders of each name are left away; members with fewer are skipped.
    #[serde(default)]
    strip: usize,
    /// `user` or `user:group`, by name or number; root by default.
    chown: Option<String>,
    /// Keep set-user-id and set-group-id bits, and capabilities. Without it they are dropped: whoever runs such a file has the rights of its owner.
    #[serde(default)]
    setid: bool,
}

struct UnpackStep {
    source: HostPath,
    dest: String,
    strip: usize,
    setid: bool,
    owner: Option<Owner>,
}

/// What a link in a zip may say, and the largest file that is linked twice in a tar, in bytes.
const TARGET_MAX: u64 = 4096;
const LINKED_MAX: u64 = 1 << 30;
/// Times and attributes of so many files go with one call.
const MARKS_AT_ONCE: usize = 4096;
/// An attribute that gives rights, as set-id bits do, and those that are kept: labels are the business of the guest's own policy.
const CAPABILITY: &str = "security.capability";
const KEPT: [&str; 3] = ["user.", "system.posix_acl_", CAPABILITY];
/// Extended attributes by their names.
type Attributed = BTreeMap<String, Vec<u8>>;
/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let dest = match arguments.dest.trim_end_matches('/') {
        "" if arguments.dest.starts_with('/') => Some(String::new()),
        dest => keep(Some(paths::guest_path(dest, at("dest"))), &mut problems),
    };
    let owner = arguments.chown.as_deref().map(|text| Owner::parse(text, at("chown")));
    let owner = keep(owner, &mut problems);
    let source = keep(Some(at("source").host_path(&arguments.source)), &mut problems);
    let Arguments { strip, setid, .. } = arguments;
    match (source, dest) {
        (Some(source), Some(dest)) if problems.is_empty() => Ok(Box::new(UnpackStep { source, dest, strip, setid, owner })),
        _ => Err(problems),
    }
}

impl Step for UnpackStep {
    fn summary(&self) -> String {
        format!("{} <- {}", if self.dest.is_empty() { "/" } else { &self.dest }, super::first_line(&self.source.name()))
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let UnpackStep { source, dest, strip, setid, owner } = self;
        let mut arguments = json!({ "dest": dest, "strip": strip, "owner": owner });
        if *setid {
            arguments["setid"] = true.into();
        }
        Ok(StepKey { arguments, inputs: vec![host_file::input(source, "source", 0)?] })
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for UnpackStep {
    fn run(&self, key: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        paths::tell_if_hidden(guest, &format!("{}/.", self.dest), context)?;
        let owner = match &self.owner {
            Some(owner) => owner.resolve(guest)?,
            None => (0, 0),
        };
        if !self.dest.is_empty() && !paths::exists(guest, &self.dest)? {
            let attributes = Attributes { mode: Some(0o755), uid: Some(owner.0), gid: Some(owner.1) };
            guest.mkdir(&self.dest, attributes, true)?;
        }
        let mut into = Into { guest, step: self, owner, links: BTreeSet::new(), folders: BTreeMap::new(), marks: Vec::new(), of_folders: Vec::new(), dropped: 0 };
        let failed = || format!("cannot unpack {}", self.source.display());
        let mut file = self.source.open().context(ErrorKind::Template, failed)?;
        let mut head = Vec::new();
        (&mut file).take(SIGNATURE as u64).read_to_end(&mut head).context(ErrorKind::Template, failed)?;
        io::Seek::rewind(&mut file).context(ErrorKind::Template, failed)?;
        let unpacked = match head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
            true => from_zip(file, &mut into, context),
            false => from_tar(file, &head, &mut into, context),
        };
        unpacked.and_then(|()| into.finish()).map_err(|error| Error::new(error.kind(), failed()).with_source(error))?;
        if into.dropped > 0 {
            let count = into.dropped;
            (context.output)(format!("capabilities are left away, of this number of files: {count}; `setid: true` keeps them\n").as_bytes());
        }
        // The layer is not sealed after an error, so wrong bytes go nowhere.
        match host_file::input(&self.source, "source", 0)? == key.inputs[0] {
            true => Ok(()),
            false => Err(host_file::changed(&self.source)),
        }
    }
}

fn from_tar(file: File, head: &[u8], into: &mut Into<'_>, context: &StepContext<'_>) -> Result<()> {
    let damaged = || "it is damaged, or no archive that is known (tar, plain or compressed, or zip)";
    let reader = Compression::of(head).reader(BufReader::with_capacity(1 << 20, file));
    let mut archive = tar::Archive::new(reader.context(ErrorKind::Template, damaged)?);
    let entries = archive.entries().context(ErrorKind::Template, damaged)?;
    let mut any = false;
    for entry in entries {
        context.cancel.check()?;
        let mut entry = entry.context(ErrorKind::Template, damaged)?;
        any = true;
        let mode = entry.header().mode().unwrap_or(0o644) & 0o7777;
        let facts = Facts::of(&mut entry)?;
        let name = match &facts.name {
            Some(name) => text(name)?,
            None => text(&entry.path_bytes())?,
        };
        let target = match entry.link_name_bytes() {
            Some(target) => Some(text(&target)?),
            None => None,
        };
        match (entry.header().entry_type(), target) {
            (tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse, _) => {
                let Facts { modified, attributes, sparse, .. } = facts;
                match sparse {
                    Some(sparse) => into.file(&name, mode, &mut sparse.reader(&mut entry)?)?,
                    None => into.file(&name, mode, &mut entry)?,
                }
                into.mark(&name, modified, attributes)?;
            }
            (tar::EntryType::Directory, _) => {
                if into.folder(&name, mode)? {
                    into.mark_folder(&name, facts.modified, facts.attributes)?;
                }
            }
            (tar::EntryType::Symlink, Some(target)) => {
                into.symlink(&name, &target)?;
                into.mark(&name, facts.modified, Default::default())?;
            }
            (tar::EntryType::Link, Some(target)) => into.twin(&name, &target, mode)?,
            (tar::EntryType::XGlobalHeader, _) => {}
            _ => return Err(refused(&name, "is a device, or something else that is no file, folder or link")),
        }
    }
    if any { Ok(()) } else { Err(Error::new(ErrorKind::Template, "it is empty, or no archive that is known")) }
}

fn from_zip(file: File, into: &mut Into<'_>, context: &StepContext<'_>) -> Result<()> {
    let broken = |error: zip::result::ZipError| Error::new(ErrorKind::Template, "the zip cannot be read").with_source(error);
    let mut archive = zip::ZipArchive::new(file).map_err(broken)?;
    for index in 0..archive.len() {
        context.cancel.check()?;
        let mut entry = archive.by_index(index).map_err(broken)?;
        let name = entry.name().map_err(broken)?.into_owned();
        let mode = entry.unix_mode();
        let kind = mode.unwrap_or(0) & 0o170_000;
        let bits = mode.map(|mode| mode & 0o7777);
        // Written by programs of Windows, whose folders it separates.
        if name.contains('\\') {
            return Err(refused(&name, "has a name that leads out of the folder"));
        }
        if entry.is_dir() {
            into.folder(&name, bits.unwrap_or(0o755))?;
        } else if kind == 0o120_000 {
            let mut target = Vec::new();
            (&mut entry).take(TARGET_MAX).read_to_end(&mut target).context(ErrorKind::Template, || "a damaged link")?;
            into.symlink(&name, &text(&target)?)?;
        } else if kind == 0 || kind == 0o100_000 {
            into.file(&name, bits.unwrap_or(0o644), &mut entry)?;
        } else {
            return Err(refused(&name, "is a device, or something else that is no file, folder or link"));
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        let name = String::from_utf8_lossy(bytes).escape_debug().to_string();
        Error::new(ErrorKind::Template, format!("the name `{name}` in it is not UTF-8"))
    })
}

fn refused(name: &str, why: &str) -> Error {
    Error::new(ErrorKind::Template, format!("its member `{}` {why}", name.escape_debug()))
        .with_hint("archives may hold files, folders, and links that stay within the folder")
}

/// The folder that is unpacked into.
struct Into<'a> {
    guest: &'a mut dyn Guest,
    step: &'a UnpackStep,
    owner: (u32, u32),
    /// Links that came out of the archive: nothing goes through them.
    links: BTreeSet<String>,
    /// Folders that are known to be there, and whether they came out of the archive.
    folders: BTreeMap<String, bool>,
    /// Times and attributes that are still to be set.
    marks: Vec<Marks>,
    /// Those of folders, which change as long as something is put into them.
    of_folders: Vec<Marks>,
    /// How many files had rights that they do not get.
    dropped: usize,
}

impl Into<'_> {
    fn attributes(&self, mode: u32) -> Attributes {
        let mode = if self.step.setid { mode } else { mode & !SET_ID };
        Attributes { mode: Some(mode), uid: Some(self.owner.0), gid: Some(self.owner.1) }
    }

    /// The name below the folder, with its leading parts left away; `None` where nothing is left.
    fn place(&self, name: &str) -> Result<Option<String>> {
        let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if name.starts_with('/') || parts.contains(&"..") || name.contains('\0') {
            return Err(refused(name, "has a name that leads out of the folder"));
        }
        if parts.len() <= self.step.strip {
            return Ok(None);
        }
        let parts = &parts[self.step.strip..];
        for depth in 1..parts.len() {
            if self.links.contains(&parts[..depth].join("/")) {
                return Err(refused(name, "goes through a link of the archive"));
            }
        }
        Ok(Some(parts.join("/")))
    }

    fn path(&self, place: &str) -> String {
        format!("{}/{place}", self.step.dest)
    }

    /// Makes the folders above a place, as many as are missing.
    fn above(&mut self, place: &str) -> Result<()> {
        let Some((folder, _)) = place.rsplit_once('/') else { return Ok(()) };
        if self.folders.contains_key(folder) {
            return Ok(());
        }
        self.above(folder)?;
        let path = self.path(folder);
        let new = self.guest.stat(&path)?.is_none();
        if new {
            let attributes = self.attributes(0o755);
            self.guest.mkdir(&path, attributes, false)?;
        }
        self.folders.insert(folder.to_owned(), new);
        Ok(())
    }

    /// Gives whether it came out of the archive.
    fn folder(&mut self, name: &str, mode: u32) -> Result<bool> {
        let Some(place) = self.place(name)? else { return Ok(false) };
        self.above(&place)?;
        let (path, attributes) = (self.path(&place), self.attributes(mode));
        if self.links.remove(&place) {
            self.guest.remove(&path)?;
        }
        let new = match self.folders.get(&place) {
            Some(new) => *new,
            None => !folders::is_there(self.guest, &path)?,
        };
        match (new, self.folders.contains_key(&place)) {
            (true, true) => self.guest.set_attributes(&path, attributes)?,
            (true, false) => folders::make(self.guest, &path, attributes)?,
            (false, _) => {}
        }
        self.folders.insert(place, new);
        Ok(new)
    }

    fn file(&mut self, name: &str, mode: u32, content: &mut dyn Read) -> Result<()> {
        let Some(place) = self.place(name)? else { return Ok(()) };
        self.above(&place)?;
        self.links.remove(&place);
        let (path, attributes) = (self.path(&place), self.attributes(mode));
        self.guest.write(&path, content, attributes)
    }

    fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        let Some(place) = self.place(name)? else { return Ok(()) };
        if !self.step.dest.is_empty() && leads_out(&place, target) {
            return Err(refused(name, &format!("links to `{}`, outside of the folder", target.escape_debug())));
        }
        self.above(&place)?;
        let path = self.path(&place);
        self.guest.symlink(target, &path)?;
        let owner = Attributes { mode: None, uid: Some(self.owner.0), gid: Some(self.owner.1) };
        self.guest.set_attributes(&path, owner)?;
        self.links.insert(place);
        Ok(())
    }

    /// A second name of a member; a copy of it where the two are on different file systems.
    fn twin(&mut self, name: &str, target: &str, mode: u32) -> Result<()> {
        let (Some(place), Some(source)) = (self.place(name)?, self.place(target)?) else { return Ok(()) };
        if self.links.contains(&source) {
            return Err(refused(name, "is another name of a symbolic link"));
        }
        self.above(&place)?;
        self.links.remove(&place);
        match self.guest.hard_link(&self.path(&source), &self.path(&place)) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let content = self.guest.read(&self.path(&source), LINKED_MAX)?;
                self.file(name, mode, &mut &*content)
            }
            linked => linked,
        }
    }

    fn marks_of(&mut self, name: &str, modified: Option<(i64, u32)>, attributes: Attributed) -> Result<Option<Marks>> {
        let Some(place) = self.place(name)? else { return Ok(None) };
        let mut attributes = attributes;
        let setid = self.step.setid;
        let before = attributes.len();
        attributes.retain(|name, _| setid || name != CAPABILITY);
        self.dropped += before - attributes.len();
        attributes.retain(|name, _| KEPT.iter().any(|kept| name.starts_with(kept)));
        Ok(Some(Marks { path: self.path(&place), modified, attributes }))
    }

    fn mark(&mut self, name: &str, modified: Option<(i64, u32)>, attributes: Attributed) -> Result<()> {
        let marks = self.marks_of(name, modified, attributes)?;
        self.marks.extend(marks);
        if self.marks.len() < MARKS_AT_ONCE { Ok(()) } else { self.guest.set_marks(&std::mem::take(&mut self.marks)) }
    }

    fn mark_folder(&mut self, name: &str, modified: Option<(i64, u32)>, attributes: Attributed) -> Result<()> {
        let marks = self.marks_of(name, modified, attributes)?;
        self.of_folders.extend(marks);
        Ok(())
    }

    /// Sets what is left to be set, folders last.
    fn finish(&mut self) -> Result<()> {
        self.marks.append(&mut self.of_folders);
        self.guest.set_marks(&std::mem::take(&mut self.marks))
    }
}
