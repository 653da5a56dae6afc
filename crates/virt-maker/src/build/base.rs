//! Making a base: running an import and sealing what it made.

use std::time::Instant;

use super::Build;
use crate::disk::{ImageFormat, overlay};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Event;
use crate::import::{self, ImportContext, ImportKey};
use crate::plan::PlanNode;
use crate::spec::{ImportEntry, Release};
use crate::store::{KeyLock, Layer};

/// Runs the import of `node` and seals its base. The caller has found it missing while holding `lock`.
pub(super) fn make(
    build: &Build<'_>,
    node: &PlanNode,
    entry: &ImportEntry,
    key: &ImportKey,
    lock: KeyLock,
) -> Result<Layer> {
    build.layer_started(node, None);
    let begin = Instant::now();
    let workspace = build.store.workspace()?;
    let folder = workspace.subfolder("base")?;
    let (image, log) = (folder.join("image"), folder.join("log.txt"));
    let cache_dir = build.store.cache_dir();
    let context = build.settings.import_context(&cache_dir, build.events);
    check_release(entry, &context)?;
    let made =
        entry.runner.make(key, &image, &log, &context).map_err(|error| build.keep_log(&log, &node.info, error))?;
    let failed = || format!("cannot read the base that `{}` made", entry.kind.name);
    let virtual_size = match made.format {
        ImageFormat::Qcow2 => overlay::virtual_size(&image)?,
        ImageFormat::Raw => std::fs::metadata(&image).context(ErrorKind::Store, failed)?.len(),
    };
    let mut draft = build.store.draft(folder, node.material.clone(), made.format, virtual_size)?;
    std::fs::rename(&image, draft.image()).context(ErrorKind::Store, failed)?;
    let elapsed = begin.elapsed();
    draft.set_digest(made.digest);
    draft.describe(node.info.summary.clone(), None, None, elapsed.as_secs_f64());
    build.shared.spent.add("import", elapsed);
    build.events.send(Event::StepFinished { key: node.info.key, elapsed });
    let layer = build.shared.spent.time("seal", || build.store.seal(draft))?;
    drop(lock);
    build.events.send(Event::LayerSealed { key: layer.record.key, bytes: layer.record.bytes });
    build.shared.made(layer.record.key);
    if let Release::Pulled(release) = entry.release {
        import::note_release(layer.record.key, release, &context);
    }
    Ok(layer)
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
