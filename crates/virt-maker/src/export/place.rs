//! The place of an artifact: what may keep it from being put there, and putting it there.
//!
//! What can be known of a place is looked at twice: before a build does anything ([`ready`]), so that nobody waits for an
//! image that has nowhere to go, and right before the artifact is written, since all may be another way by then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::record::{self, ExportRecord, From, Stat};
use super::unfinished::remove;
use super::{Export, ExportKind, beside};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Events;
use crate::host::permit::Output;
use crate::host::waiting::Waits;

/// What a look before the build knows.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// The store's folder of export records; without it nobody knows what was exported before.
    pub records: Option<&'a Path>,
    /// A file that is there and was not exported with this store is replaced.
    pub force: bool,
}

/// An error where the artifact cannot be put in its place as things are. Nothing is changed. `promised` says whether a folder
/// that is not there will be, since something of the same build may make it.
pub fn ready(export: &dyn Export, kind: &ExportKind, look: Look<'_>, promised: &dyn Fn(&Path) -> bool) -> Result<()> {
    judged(export)?;
    let target = export.common().target.path();
    let known = look.records.map(|records| record::known(export, records, &Events::none()));
    let before = known.as_ref().and_then(|(record, _)| record.as_ref()).filter(|record| record.still_there(target));
    // Without records a folder that is there counts as ours.
    let ours = known.is_none() || before.is_some_and(|record| record.kind == kind.name);
    let folder = target.parent().unwrap_or(Path::new("/"));
    if !export.common().file.create_dir && !folder.exists() && promised(folder) {
        return Ok(());
    }
    check(export, target, ours)?;
    match known {
        Some((_, unread)) if !unread && !look.force => {
            strangers(export, before).map_or(Ok(()), |path| Err(taken(path)))
        }
        _ => Ok(()),
    }
}

/// An error where the artifact's path leads elsewhere than when it was judged.
pub(super) fn judged(export: &dyn Export) -> Result<()> {
    export.common().target.check().map_err(|refusal| {
        let error = Error::new(ErrorKind::Export, refusal.message);
        refusal.hint.into_iter().fold(error, Error::with_hint)
    })
}

/// Makes the folder where that is wanted. `ours` says whether a folder in the artifact's place is one that this export made.
pub(super) fn prepare_folder(export: &dyn Export, target: &Path, ours: bool) -> Result<PathBuf> {
    check(export, target, ours)?;
    let folder = target.parent().unwrap_or(Path::new("/")).to_owned();
    if export.common().file.create_dir {
        fs::create_dir_all(&folder).context(ErrorKind::Export, || format!("cannot make {}", folder.display()))?;
    }
    Ok(folder)
}

/// An error where there is no folder for the artifact, none that can be written to, or something in its place that no
/// artifact replaces.
fn check(export: &dyn Export, target: &Path, ours: bool) -> Result<()> {
    let folder = target.parent().unwrap_or(Path::new("/"));
    match fs::metadata(folder) {
        Ok(stat) if stat.is_dir() => writable(folder)?,
        Ok(_) => {
            let message = format!("{} is a file; the artifact wants it to be a folder", folder.display());
            return Err(Error::new(ErrorKind::Export, message));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !export.common().file.create_dir => {
            let message = format!("the folder {} of the artifact does not exist", folder.display());
            return Err(Error::new(ErrorKind::Export, message).with_hint("make it, or say `create_dir: true`"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The folder that the missing ones are made in.
            let above = folder.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
            let stat = fs::metadata(above).context(ErrorKind::Export, || format!("cannot use {}", above.display()))?;
            if !stat.is_dir() {
                let message = format!("{} is a file; the artifact wants it to be a folder", above.display());
                return Err(Error::new(ErrorKind::Export, message));
            }
            writable(above)?;
        }
        Err(error) => return Err(error).context(ErrorKind::Export, || format!("cannot use {}", folder.display())),
    }
    let wrong = |what: &str| {
        let message = format!("{} is there and {what}, so no artifact replaces it", target.display());
        Err(Error::new(ErrorKind::Export, message).with_hint("name another path"))
    };
    match fs::symlink_metadata(target) {
        // Somebody's folder with something in it is not removed; one that this export made is.
        Ok(stat) if export.is_folder() && stat.is_dir() => {
            let full = fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some());
            if full && !ours { wrong("not made by this export") } else { Ok(()) }
        }
        Ok(_) if export.is_folder() => wrong("no folder"),
        Ok(_) if fs::metadata(target).is_ok_and(|stat| !stat.is_file()) => wrong("no regular file"),
        _ => Ok(()),
    }
}

/// An error where this process may not make a file in a folder: the file system may be read-only, too.
fn writable(folder: &Path) -> Result<()> {
    let right =
        rustix::fs::accessat(rustix::fs::CWD, folder, Access::WRITE_OK | Access::EXEC_OK, rustix::fs::AtFlags::EACCESS);
    right.map_err(|error| {
        Error::new(ErrorKind::Export, format!("no artifact can be written in {}", folder.display()))
            .with_source(io::Error::from(error))
            .with_hint("name a path in a folder that you may write to")
    })
}

/// The file of somebody's that lies where the artifact, or what is written beside it, belongs. `known` is what was exported to
/// this place before.
fn strangers(export: &dyn Export, known: Option<&ExportRecord>) -> Option<PathBuf> {
    let common = export.common();
    let outputs = common.outputs();
    let mut outputs = outputs.iter().map(Output::path).filter(|output| {
        // Lines are added to it, and those of other files stay.
        let shared = *output != common.target.path() && output.file_name().is_some_and(|name| name == beside::SUMS);
        // An empty folder is nobody's work.
        let empty = || fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
        known.is_none() && !shared && output.symlink_metadata().is_ok() && !empty()
    });
    outputs.next().map(Path::to_owned)
}

fn taken(path: PathBuf) -> Error {
    let message =
        format!("{} is there and was not exported with this store, so no artifact replaces it", path.display());
    Error::new(ErrorKind::Export, message)
        .with_hint("name another path, remove the file, or replace it with --force-export")
}

/// An error where a file of somebody's is in the place of the artifact, or of what is written beside it. `known` is what
/// was exported to this place before. What is replaced without being asked for is told.
pub(super) fn may_replace(
    export: &dyn Export,
    known: Option<&ExportRecord>,
    from: From<'_>,
    force: bool,
    events: &Events,
) -> Result<()> {
    if let Some(path) = strangers(export, known) {
        if !force {
            return Err(taken(path));
        }
        let shown = path.display();
        events.warn(format!("{shown} was not exported with this store; it is replaced, as --force-export says"));
    }
    if let Some(record @ ExportRecord { template: Some(template), variant: Some(variant), target, .. }) = known
        && target.symlink_metadata().is_ok()
    {
        let shown = target.display();
        let touched =
            Stat::of(target).is_ok_and(|now| (now.size, now.modified) != (record.stat.size, record.stat.modified));
        if touched && record.pending.is_none() {
            events.warn(format!("{shown} is replaced: it was changed since it was exported"));
        }
        if template != from.template {
            events.warn(format!("{shown} is replaced: it was exported by {}", template.display()));
        } else if *variant != from.variant {
            events.warn(format!("{shown} is replaced: it was exported by this template with other values"));
        }
    }
    Ok(())
}

/// Gives an artifact its name. A folder changes places with the one that is there, which is removed then.
pub(super) fn put_in_place(temporary: &Path, target: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if !temporary.is_dir() || !target.exists() {
        return fs::rename(temporary, target);
    }
    renameat_with(CWD, temporary, CWD, target, RenameFlags::EXCHANGE)?;
    fs::remove_dir_all(temporary)
}

/// Takes an artifact away again, with what was written beside it, unless it was accepted. What was refused is not there for
/// somebody who only looks whether the file is.
pub(super) struct Unaccepted<'a> {
    pub export: &'a dyn Export,
    /// The record that says that it is not known to be good. It goes last: a process that is killed leaves it, and the next build
    /// makes the artifact again.
    pub record: &'a Path,
    /// How it waits for others who write beside it.
    pub waits: Waits,
    pub accepted: bool,
}

impl Drop for Unaccepted<'_> {
    fn drop(&mut self) {
        if !self.accepted {
            withdraw(self.export, self.record, &self.waits);
        }
    }
}

/// Removes an artifact that was exported, what lies beside it, and its record.
pub(super) fn withdraw(export: &dyn Export, record: &Path, waits: &Waits) {
    let common = export.common();
    remove(common.target.path());
    if common.every.manifest {
        let _ = fs::remove_file(beside::manifest_path(common.target.path()));
    }
    if common.file.checksum {
        let _ = beside::forget_checksum(common.target.path(), waits);
    }
    if common.target.path().symlink_metadata().is_err() {
        let _ = fs::remove_file(record);
    }
}
