//! Putting an artifact in place.
//!
//! The artifact is written under a temporary name beside its target and renamed. What is known of it then, and whether it
//! still is what was put there, is in [`super::record`].
//!
//! An artifact is as durable as a file that `cp` wrote: it is not synced, because for a large image the wait would be
//! longer than the build. Layers are synced, and the artifact can be made from them again at any time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::place::{self, Unaccepted, judged, may_replace, prepare_folder, put_in_place};
use super::record::{self, ExportRecord, From, Published, Stat};
use super::unfinished::Unfinished;
use super::{Export, ExportContext, ExportKind, Finish, beside, convert, shrink};
use crate::disk::{Image, ImageFormat};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::host::Script;
use crate::template;

/// Writes the artifact of `export` unless it is current. `records` is the store's folder of export records; `from`
/// says which layer the context is about; `force` writes it in any case; `finish` opens the guest, where
/// the export wants that.
///
/// What is noted beside an artifact is noted again where it is missing. An artifact whose `post_script` failed, or in which
/// something was found that may not be there, is not left in its place, and the next build makes it again.
pub fn publish(
    export: &dyn Export,
    kind: &ExportKind,
    from: From<'_>,
    records: &Path,
    force: bool,
    context: &ExportContext<'_>,
    finish: &mut Finish<'_>,
) -> Result<Published> {
    let From { layer, layer_id, template, variant } = from;
    judged(export)?;
    let target = export.common().target.path().to_owned();
    let place = record::place_of(records, &target);
    let wanted = |record: &ExportRecord| {
        // Its name says which artifact a record is of; what it says of another one counts nothing.
        record.target == target
            && record.pending.is_none()
            && record.layer == layer
            && record.layer_id == layer_id
            && record.kind == kind.name
            && record.kind_version == kind.version
            && record.arguments == export.arguments()
            && record.labels == context.labels
    };
    let (known, unread) = record::known(export, records, context.events);
    let before = known.clone().filter(|record| record.still_there(&target));
    let folder = prepare_folder(export, &target, before.as_ref().is_some_and(|record| record.kind == kind.name))?;
    let record = known.filter(|record| !force && wanted(record));
    let common = export.common();
    let (checksum, manifest) = (common.file.checksum, common.every.manifest);
    if let Some(record) = record
        && let Some(published) = record::current(&record, &place, context)?
        && (!manifest || beside::is_manifest(&target))
    {
        if checksum {
            beside::note_checksum(&published, &context.events.waits(context.cancel))?;
        }
        // They hold as long as the artifact does.
        record.warnings.iter().for_each(|warning| context.events.warn(warning.clone()));
        return Ok(published);
    }
    if !unread {
        may_replace(export, before.as_ref(), from, force, context.events)?;
    }
    let script = |script: &Option<template::Script>, when: &str| match script {
        Some(script) => run_script(script, when, &common.folder, &target, context),
        None => Ok(()),
    };
    let [before_it, after_it] = &common.scripts;
    script(before_it, "before")?;
    judged(export)?;
    let temporary = Unfinished::create(&folder, &target, context.cancel)?;
    let archive = convert::Removed(temporary.path.with_extension("plain"));
    let opened = common.needs_guest() || context.look || context.labels > 0;
    let mut finished = opened.then(|| finish(common, &archive.0)).transpose().map_err(|error| full(error, &folder))?;
    let found = finished.as_ref().map_or(&[][..], |finished| &finished.found);
    found.iter().for_each(|warning| context.events.warn(warning.clone()));
    if let Some(refusal) = finished.as_mut().and_then(|finished| finished.refused.take()) {
        // What lies there may be the same layer's, exported before this was looked for.
        if before.as_ref().is_some_and(|record| record.layer == layer && record.layer_id == layer_id) {
            place::withdraw(export, &place, &context.events.waits(context.cancel));
            let shown = target.display();
            context.events.warn(format!("{shown} is removed: it was exported from the same layer, and holds the same"));
        }
        return Err(refusal);
    }
    let overlay = finished.as_ref().map(|finished| &*finished.overlay);
    let tree = common.tree.then_some(&*archive.0);
    let context = &ExportContext { overlay, tree, ..*context };

    let shrunk = common.disk.shrink.then(|| shrink::shrink(temporary.path.with_extension("small"), context));
    let shrunk = shrunk.transpose().map_err(|error| full(error, &folder))?;
    let small = || match &shrunk {
        Some(shrunk) => Image::alone(&shrunk.disk.0, ImageFormat::Raw),
        None => (context.layer)(),
    };
    let smaller = shrunk.as_ref().map(|shrunk| ExportContext {
        layer: &small,
        virtual_size: shrunk.size,
        overlay: None,
        ..*context
    });
    let context = smaller.as_ref().unwrap_or(context);
    export.write(&temporary.path, context).map_err(|error| full(error, &folder))?;
    let failed = || format!("cannot put the artifact in place as {}", target.display());
    // A folder has the digest of the archive that it was unpacked from.
    let whole = tree.filter(|_| export.is_folder()).unwrap_or(&temporary.path);
    let digest = record::digest_of(whole, context)?.context(ErrorKind::Export, failed)?;
    context.cancel.check()?;
    let stat = Stat::of(&temporary.path).context(ErrorKind::Export, failed)?;
    let inodes = [&temporary.path, &target].into_iter().filter_map(|path| fs::symlink_metadata(path).ok());
    let mut pending: Vec<_> = inodes.map(|stat| (stat.dev(), stat.ino())).collect();
    // Another build may be about to put its own there: that one is no stranger's either, once this record has replaced its.
    pending.extend(record::read(&place, &Events::none()).and_then(|record| record.pending).unwrap_or_default());
    let pending = Some(pending);
    let record = ExportRecord {
        version: record::VERSION,
        target: target.clone(),
        layer,
        layer_id: layer_id.to_owned(),
        kind: kind.name.to_owned(),
        kind_version: kind.version,
        arguments: export.arguments(),
        labels: context.labels,
        digest,
        stat,
        template: Some(template.to_owned()),
        variant: Some(variant),
        pending,
        warnings: finished.as_ref().map_or_else(Vec::new, |finished| finished.found.clone()),
        boot: record::boot(),
    };
    let noted = || "cannot note what was exported";
    // Before it is in place: an artifact that nobody noted would be taken for somebody's file.
    record::write(&place, &record).context(ErrorKind::Store, noted)?;
    judged(export)?;
    let waits = context.events.waits(context.cancel);
    let mut unaccepted = Unaccepted { export, record: &place, waits, accepted: false };
    if let Err(error) = put_in_place(&temporary.path, &target) {
        // What was there before is there still.
        unaccepted.accepted = target.exists();
        return Err(error).context(ErrorKind::Export, failed);
    }
    let stat = Stat::of(&target).context(ErrorKind::Export, failed)?;
    let bytes = stat.size;
    let record = ExportRecord { stat, pending: None, ..record };
    let published = Published { path: target.clone(), bytes, digest, current: false };
    if checksum {
        beside::note_checksum(&published, &context.events.waits(context.cancel))?;
    }
    if manifest {
        let packages = finished.as_ref().map_or(&serde_json::Value::Null, |finished| &finished.packages);
        beside::write_manifest(&published, kind.name, context.layers, packages)?;
    }
    script(after_it, "after")?;
    record::write(&place, &record).context(ErrorKind::Store, noted)?;
    unaccepted.accepted = true;
    Ok(published)
}

/// Runs a script of the template on the host. It finds the artifact's path in `VIRT_MAKER_ARTIFACT`.
fn run_script(
    script: &template::Script,
    when: &str,
    folder: &Path,
    target: &Path,
    context: &ExportContext<'_>,
) -> Result<()> {
    let env = [("VIRT_MAKER_ARTIFACT", target.as_os_str())];
    let (shell, text) = script.run();
    let script = Script { text: &text, shell: &shell, folder, env: &env, scratch: context.scratch };
    let events = context.events.clone();
    let output = move |bytes: &[u8]| {
        let message = String::from_utf8_lossy(bytes).trim_end().escape_debug().to_string();
        events.send(Event::Trace { source: "export script", message });
    };
    script
        .run(context.cancel, Arc::new(output))
        .context(ErrorKind::Export, || format!("the script {when} the export failed"))
}

fn full(error: Error, folder: &Path) -> Error {
    if error.kind() != ErrorKind::HostFull {
        return error;
    }
    Error::new(ErrorKind::HostFull, format!("the disk that holds {} is full", folder.display())).with_source(error)
}
