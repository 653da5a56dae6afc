//! Pictures of a machine's screen that steps ask for: they lie beside the log, and go where it goes.

use std::fs;
use std::path::Path;

use super::Build;
use crate::event::LayerInfo;
use crate::host::clock::now;
use crate::key::LayerKey;
use crate::machine::Pictures;
use crate::store::Scratch;

/// Where those of a layer in the making go, or of a test, which makes none.
pub(super) fn of(build: &Build<'_>, draft: &Scratch) -> Pictures {
    let material = &draft.record().material;
    if material.role == "test" {
        let prefix = format!("{}-test-{}-", now(), draft.record().key.short());
        return Pictures { prefix, ..Pictures::in_folder(build.store.logs_dir()) };
    }
    let log = draft.log();
    in_folder(build, log.parent().unwrap_or(&log), draft.record().key)
}

/// The same of one in whose folder they go.
pub(super) fn in_folder(build: &Build<'_>, folder: &Path, key: LayerKey) -> Pictures {
    Pictures { folder: folder.to_owned(), later: build.store.layer_dir(key), prefix: String::new() }
}

/// Moves them out of the workspace of a layer that comes to nothing, and says where each is.
pub(super) fn save(build: &Build<'_>, draft: &Scratch, info: &LayerInfo) {
    save_from(build, &of(build, draft).folder, info);
}

/// The same of those in a folder.
pub(super) fn save_from(build: &Build<'_>, folder: &Path, info: &LayerInfo) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str().filter(|name| name.ends_with(".png")) else { continue };
        let target = build.store.logs_dir().join(format!("{}-{}-{}-{name}", now(), info.kind, info.key.short()));
        if fs::rename(&path, &target).is_ok() {
            build.events.warn(format!("the screenshot is {}", target.display()));
        }
    }
}
