//! Making a base: running an import and sealing what it made.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::draft::outcome_of;
use super::{Build, iso_boot, screenshots};
use crate::disk::{ImageFormat, overlay};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Event;
use crate::host::clock::now;
use crate::import::{self, ImportContext, ImportKey, Made};
use crate::key::KeyMaterial;
use crate::plan::{PlanNode, Work};
use crate::spec::{ImportEntry, Release};
use crate::store::{KeyLock, Layer, Outcome};

/// How old a base may be from which one of another size is made.
const LATELY: Duration = Duration::from_secs(86_400);

/// Makes the base of a path that is missing. The caller has found it missing while holding `lock`.
pub(super) fn ensure(build: &Build<'_>, node: &PlanNode, lock: KeyLock) -> Result<()> {
    let entry = &node.spec.of(build.specs).import;
    let Work::Import(key) = &node.work else {
        let message = format!("the layer with the tag `{}` is not there any more", node.info.summary);
        return Err(Error::new(ErrorKind::Store, message));
    };
    // Where the last screen of an installer's machine is kept, if something goes wrong in it.
    let kept = build.store.logs_dir().join(format!("{}-{}-{}", now(), entry.kind.name, node.info.key.short()));
    make(build, node, entry, key, lock, &kept).map(drop).map_err(|error| {
        let error = error.at(|| entry.place());
        let message = crate::error::chain(&error);
        let screen = Some(kept.with_extension("png")).filter(|path| path.exists());
        build.events.send(Event::ImportFailed { key: node.info.key, message, screen });
        build.explain_full_disk(error)
    })
}

/// Runs the import and seals its base.
fn make(
    build: &Build<'_>,
    node: &PlanNode,
    entry: &ImportEntry,
    key: &ImportKey,
    lock: KeyLock,
    kept: &Path,
) -> Result<Layer> {
    build.layer_started(node, None);
    let begin = Instant::now();
    let workspace = build.store.workspace()?;
    let folder = workspace.subfolder("base")?;
    let (image, log) = (folder.join("image"), folder.join("log.txt"));
    let cache_dir = build.store.cache_dir();
    let context = build.settings.import_context(&cache_dir, build.events);
    check_release(entry, &context)?;
    if let Some(installer) = entry.runner.installer() {
        let place = iso_boot::Place { image: &image, log: &log, kept, workspace: &workspace };
        let made = iso_boot::make(build, node, installer, key, place, &context);
        let made = made.map_err(|error| {
            screenshots::save(build, &screenshots::in_folder(build, &folder, node.info.key), &node.info);
            build.keep_log(&log, &node.info, error)
        })?;
        return seal(build, node, entry, lock, begin, folder, made);
    }
    let grown = sibling(build, node, entry, &context)
        .map_or(Ok(None), |sibling| entry.runner.make_from(&sibling, &image, &log, &context));
    let made = match grown {
        Ok(Some(made)) => Ok(made),
        Ok(None) => entry.runner.make(key, &image, &log, &context),
        Err(error) => Err(error),
    };
    let made = made.map_err(|error| build.keep_log(&log, &node.info, error))?;
    seal(build, node, entry, lock, begin, folder, made)
}

/// Seals the base that was made as `image` in this folder.
fn seal(
    build: &Build<'_>,
    node: &PlanNode,
    entry: &ImportEntry,
    lock: KeyLock,
    begin: Instant,
    folder: PathBuf,
    made: Made,
) -> Result<Layer> {
    let image = folder.join("image");
    let context_dir = build.store.cache_dir();
    let context = build.settings.import_context(&context_dir, build.events);
    let failed = || format!("cannot read the base that `{}` made", entry.kind.name);
    let virtual_size = match made.format {
        ImageFormat::Qcow2 => overlay::virtual_size(&image)?,
        ImageFormat::Raw => std::fs::metadata(&image).context(ErrorKind::Store, failed)?.len(),
    };
    let draft = build.store.scratch_base(folder, node.material.clone(), made.format, virtual_size)?.into_draft(lock);
    std::fs::rename(&image, draft.image()).context(ErrorKind::Store, failed)?;
    let elapsed = begin.elapsed();
    build.shared.spent.add("import", elapsed);
    build.events.send(Event::StepFinished { key: node.info.key, elapsed });
    let outcome = Outcome { digest: made.digest, ..outcome_of(node, elapsed.as_secs_f64()) };
    let layer = build.commit(draft, outcome, false)?;
    screenshots::tell(build, &layer);
    if let Release::Pulled(release) = entry.release {
        import::note_release(layer.record.key, release, &context);
    }
    Ok(layer)
}

/// The disk of a base that differs from this one in its size alone, is smaller, and was made lately. Whoever wants new packages
/// (`--force`, another release) gets none.
fn sibling(build: &Build<'_>, node: &PlanNode, entry: &ImportEntry, context: &ImportContext<'_>) -> Option<File> {
    let size = |material: &KeyMaterial| material.arguments.get("size").and_then(serde_json::Value::as_u64);
    let wanted = size(&node.material).filter(|_| !build.settings.force)?;
    let without_size = |material: &KeyMaterial| {
        let mut material = material.clone();
        material.arguments.as_object_mut().map(|arguments| arguments.remove("size"));
        material
    };
    let wanted_material = without_size(&node.material);
    let fits = |layer: &Layer| {
        let record = &layer.record;
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(record.created);
        let release = match entry.release {
            Release::Pulled(release) => import::noted_release(record.key, context) == Some(release),
            _ => true,
        };
        release
            && record.format == ImageFormat::Raw
            && made.elapsed().is_ok_and(|age| age < LATELY)
            && size(&record.material).is_some_and(|size| size < wanted)
            && without_size(&record.material) == wanted_material
    };
    let found = build.store.children(None).into_iter().filter(fits).max_by_key(|layer| layer.record.created)?;
    File::open(found.path).ok()
}

/// Whether the mirror has what the lock file says, where one does.
fn check_release(entry: &ImportEntry, context: &ImportContext<'_>) -> Result<()> {
    let (Release::Locked { digest, refuse }, Some(source)) = (entry.release, entry.runner.release()) else {
        return Ok(());
    };
    let message = match import::look_again(&source, context) {
        Ok(now) if now == digest => return Ok(()),
        Ok(now) => format!("{source} has sha256:{now}, and the lock file says sha256:{digest}"),
        Err(error) if refuse || error.kind() == ErrorKind::Cancelled => return Err(error),
        Err(error) => crate::error::chain(&error),
    };
    if refuse {
        let error = Error::new(ErrorKind::Base, message);
        return Err(error.with_hint("`virt-maker update` writes down what it has now"));
    }
    context.events.warn(message);
    Ok(())
}
