//! A step that works on the disk itself, with a program of the host: no session is open meanwhile.

use std::time::Instant;

use super::Build;
use super::draft::draft_on;
use super::log::StepLog;
use super::options;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::import;
use crate::plan::{Part, Plan, PlanNode};
use crate::step::StepContext;
use crate::store::{Depth, KeyLock, Layer};

/// Whether a node is such a step.
pub(super) fn is_one(build: &Build<'_>, node: &PlanNode) -> bool {
    build.step_of(node).is_some_and(|step| step.runner.works_on_disk())
}

/// Runs the step of a node on `parent`, and seals its layer.
pub(super) fn run(
    build: &Build<'_>,
    plan: &Plan,
    index: usize,
    parent: Layer,
    mut depth: Depth,
    lock: KeyLock,
) -> Result<()> {
    let node = &plan.nodes[index];
    let (spec, Part::Step(number, key)) = &node.origin else {
        return Err(Error::new(ErrorKind::Internal, "an import in the place of a step"));
    };
    let step = &build.specs[*spec].steps[*number];
    build.settings.cancel.check()?;
    build.layer_started(node, None);
    let begin = Instant::now();
    let workspace = build.store.workspace()?;
    let mut draft = draft_on(build.store, &workspace, node, &parent.record)?;
    let log = StepLog::new(build.events);
    build.secrets(*spec)?;
    log.begin(node.info.key, &draft.log(), &build.shared.values.forms())?;
    let cache_dir = build.store.cache_dir();
    let cancel = build.settings.cancel.limited(options::limit(&step.options));
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
    let ran = step.runner.run_on_disk(key, &draft.image(), &context);
    let elapsed = begin.elapsed();
    build.shared.spent.add("steps", elapsed);
    if let Err(error) = ran.and(log.end()) {
        let error = build.step_failed(error, None, &draft, &parent.record, node, log.last_lines());
        return Err(build.explain_full_disk(error));
    }
    build.events.send(Event::StepFinished { key: node.info.key, elapsed });
    draft.set_within(node.info.within.iter().map(|within| within.name.clone()).collect());
    draft.describe(node.info.summary.clone(), Some(parent.record.id.clone()), None, elapsed.as_secs_f64());
    let layer =
        build.shared.spent.time("seal", || build.store.seal(draft)).map_err(|error| build.explain_full_disk(error))?;
    drop(lock);
    build.events.send(Event::LayerSealed { key: layer.record.key, bytes: layer.record.bytes });
    build.shared.made(layer.record.key);
    if depth.add(false) {
        build.shared.flattener.ask(layer.record.key);
    }
    Ok(())
}
