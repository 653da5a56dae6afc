//! A step that works on the disk itself, with a program of the host: no session is open meanwhile.

use std::time::Instant;

use super::draft::{draft_on, outcome_of};
use super::log::StepLog;
use super::{Build, options};
use crate::error::Result;
use crate::event::Event;
use crate::import;
use crate::plan::StepNode;
use crate::step::{OnDisk, StepContext};
use crate::store::{Depth, KeyLock, Layer};

/// Runs a step on `parent`, and seals its layer.
pub(super) fn run(
    build: &Build<'_>,
    step: StepNode<'_>,
    runner: &dyn OnDisk,
    parent: &Layer,
    mut depth: Depth,
    lock: KeyLock,
) -> Result<()> {
    let StepNode { node, entry, key, .. } = step;
    build.settings.cancel.check()?;
    build.layer_started(node, None);
    let begin = Instant::now();
    let workspace = build.store.workspace()?;
    let draft = draft_on(build, &workspace, &step, &parent.record, lock)?;
    let log = StepLog::new(build.events);
    build.secrets(node.spec)?;
    log.begin(node.info.key, &draft.log(), &build.shared.values.forms())?;
    let cache_dir = build.store.cache_dir();
    let cancel = build.settings.cancel.limited(options::limit(&entry.options));
    let import = build.settings.import_context(&cache_dir, build.events);
    let import = import::ImportContext { cancel: &cancel, ..import };
    let context = StepContext {
        caches: &[],
        warn: &|text| build.events.warn(node.info.placed(text)),
        last: node.info.index == node.info.steps,
        output: log.sink(),
        cancel: &cancel,
        scratch: workspace.path(),
        fetch: &|url, digest| import::fetch_checked(url, digest, &import),
    };
    let ran = runner.run_on_disk(key, &draft.image(), &context);
    let elapsed = begin.elapsed();
    build.shared.spent.add("steps", elapsed);
    if let Err(error) = ran.and(log.end()) {
        let error = build.step_failed(error, None, &draft, &parent.record, &step, log.last_lines().into());
        return Err(build.explain_full_disk(error));
    }
    build.events.send(Event::StepFinished { key: node.info.key, elapsed });
    let deep = depth.add(false);
    let sealed = build.commit(draft, outcome_of(node, elapsed.as_secs_f64()), deep);
    sealed.map(drop).map_err(|error| build.explain_full_disk(error))
}
