//! Pictures of a machine's screen that steps ask for: they lie beside the log, and go where it goes. Each is told when it lies where it
//! stays.

use std::fs;
use std::path::{Path, PathBuf};

use super::Build;
use crate::event::{Event, LayerInfo};
use crate::host::clock::now;
use crate::key::LayerKey;
use crate::machine::Pictures;
use crate::store::{Layer, Scratch};

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

/// Tells of those of a layer that is sealed.
pub(super) fn tell(build: &Build<'_>, layer: &Layer) {
    for path in layer.screenshots() {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        build.events.send(Event::Screenshot { key: layer.record.key, name, path });
    }
}

/// Moves them out of the workspace of a layer that comes to nothing, and tells where each is; those of a test lie where they stay.
pub(super) fn save(build: &Build<'_>, pictures: &Pictures, info: &LayerInfo) -> Vec<PathBuf> {
    let mut saved = Vec::new();
    for entry in fs::read_dir(&pictures.folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().and_then(|name| name.strip_prefix(&pictures.prefix));
        let Some(name) = name.filter(|name| name.ends_with(".png")) else { continue };
        let prefix = format!("{}-{}-{}-", now(), info.kind, info.key.short());
        let target = match pictures.prefix.is_empty() {
            true => build.store.logs_dir().join(format!("{prefix}{name}")),
            false => path.clone(),
        };
        if target == path || fs::rename(&path, &target).is_ok() {
            saved.push((name.to_owned(), target));
        }
    }
    saved.sort();
    for (name, path) in &saved {
        let name = name.trim_end_matches(".png").to_owned();
        build.events.send(Event::Screenshot { key: info.key, name, path: path.clone() });
    }
    saved.into_iter().map(|(_, path)| path).collect()
}
