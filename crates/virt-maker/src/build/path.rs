//! Building one path: from the deepest layer that is there to its tip.

use std::time::Instant;

use super::draft::draft_on;
use super::options::{self, Optioned};
use super::sealer::Sealer;
use super::session::{NewSession, Opened};
use super::{Build, base, disk_step, leaks, log::StepLog};
use crate::engine::{Session, WRONG_ROOT};

use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::guest::selinux;
use crate::host::escape::escape;
use crate::import;
use crate::key::LayerKey;
use crate::plan::{Part, Plan, PlanNode, usable};
use crate::step::StepContext;
use crate::store::{Depth, Draft, KeyLock, Layer, LayerRecord, Lookup, Workspace};

/// Makes what is missing of a path (indices of nodes, from the base) and returns its last layer.
pub(super) fn ensure(build: &Build<'_>, plan: &Plan, path: &[usize]) -> Result<Layer> {
    loop {
        build.settings.cancel.check()?;
        let Found { layer: parent, missing, depth, deep } = deepest(build, plan, path);
        // What is there may be the work of others, or a base: other branches on it may begin.
        let there = &path[..path.len() - missing.len()];
        there.iter().for_each(|node| build.shared.schedule.sealed(plan.nodes[*node].info.key));
        let Some(first) = missing.first() else {
            return parent.ok_or_else(|| Error::new(ErrorKind::Internal, "a path without layers"));
        };
        if build.flatten_before_work(&depth, &deep)? {
            continue;
        }
        let node = &plan.nodes[*first];
        let lock = build.lock(node.info.key)?;
        // Whoever had the lock may have made the layer in the meantime, or its parent may have been replaced.
        let again = deepest(build, plan, path);
        let id = |layer: &Option<Layer>| layer.as_ref().map(|layer| layer.record.id.clone());
        if again.missing.first() != Some(first) || id(&again.layer) != id(&parent) {
            continue;
        }
        match (&node.origin.1, parent) {
            (Part::Import(key), _) => {
                let entry = &build.specs[node.origin.0].import;
                if let Err(error) = base::make(build, node, entry, key, lock) {
                    let error = error.at(|| entry.place());
                    let message = crate::error::chain(&error);
                    build.events.send(Event::ImportFailed { key: node.info.key, message });
                    return Err(build.explain_full_disk(error));
                }
            }
            (Part::Step(..), Some(parent)) if disk_step::is_one(build, node) => {
                disk_step::run(build, plan, *first, parent, depth, lock)?;
            }
            (Part::Step(..), Some(parent)) => {
                run_session(build, plan, missing, parent, depth, lock)?;
            }
            (Part::Layer(_), _) => {
                let message = format!("the layer with the tag `{}` is not there any more", node.info.summary);
                return Err(Error::new(ErrorKind::Store, message));
            }
            (Part::Step(..), None) => return Err(Error::new(ErrorKind::Internal, "a step without a parent")),
        }
    }
}

/// What is there of a path.
struct Found<'p> {
    /// The deepest layer that is there and usable.
    layer: Option<Layer>,
    /// The nodes after it.
    missing: &'p [usize],
    /// How many images lie in its chain.
    depth: Depth,
    /// The layers that should be flat and are not.
    deep: Vec<LayerKey>,
}

fn deepest<'p>(build: &Build<'_>, plan: &Plan, path: &'p [usize]) -> Found<'p> {
    let depth = build.shared.flattener.depth();
    let mut found = Found { layer: None, missing: path, depth, deep: Vec::new() };
    for (place, index) in path.iter().enumerate() {
        let node = &plan.nodes[*index];
        let key = node.info.key;
        match usable(build.store, key, node.lies_on(found.layer.as_ref())) {
            Lookup::Present(layer) if build.shared.is_made(key) || taken(build, node, &layer) => {
                if node.is_given() {
                    // Its chain goes on below the path.
                    let below = build.store.chain(key).unwrap_or_default();
                    for layer in &below[..below.len().saturating_sub(1)] {
                        found.depth.add(layer.flat);
                    }
                }
                if found.depth.add(layer.flat) {
                    found.deep.push(key);
                }
                found.layer = Some(*layer);
                found.missing = &path[place + 1..];
            }
            _ => break,
        }
    }
    found
}

/// Whether a layer that was there before this build may be used by it.
fn taken(build: &Build<'_>, node: &PlanNode, layer: &Layer) -> bool {
    node.is_given() || !build.settings.force && node.policy.refuses(layer.record.created).is_none()
}

/// Opens one session on `parent` and runs the steps of `missing` in it, as far as their locks can be had at once.
/// Returns after all that ran is sealed.
///
/// Ends also where the chain under the session has got too deep: the next one opens what was flattened meanwhile.
fn run_session(
    build: &Build<'_>,
    plan: &Plan,
    missing: &[usize],
    parent: Layer,
    depth: Depth,
    lock: KeyLock,
) -> Result<()> {
    let workspace = build.store.workspace()?;
    let first = draft_on(build.store, &workspace, &plan.nodes[missing[0]], &parent.record)?;
    let log = StepLog::new(build.events);
    let steps = missing.iter().filter_map(|index| match &plan.nodes[*index].origin {
        (spec, Part::Step(number, _)) => Some(&build.specs[*spec].steps[*number]),
        _ => None,
    });
    let network = steps.clone().any(|step| step.options.network.unwrap_or(step.kind.network));
    let privileged = steps.clone().any(|step| step.options.has_all_rights());
    let names = steps.flat_map(|step| step.options.mounts.iter().map(|mount| mount.cache.as_str())).collect();
    let wanted = NewSession {
        workspace: &workspace,
        parent: &parent,
        draft: &first,
        log: &log,
        overlays: missing.len(),
        network,
        privileged,
        caches: &names,
    };
    let opened = wanted.open(build).map_err(|error| match (error.kind(), &plan.nodes[missing[0]].origin) {
        // It is the import that names it.
        (ErrorKind::Guest, (spec, _)) if error.to_string().starts_with(WRONG_ROOT) => {
            error.at(|| build.specs[*spec].import.place())
        }
        // What is on the disk; anything else is no matter of the template.
        (ErrorKind::Guest | ErrorKind::Unsupported, (spec, Part::Step(number, _))) => {
            error.at(|| build.specs[*spec].steps[*number].place())
        }
        _ => error,
    });
    let Opened { session, engine, number, caches, slot } = opened?;
    let shared = build.shared;
    let sealer = Sealer::start(build.store, build.events, &shared.schedule, &shared.flattener, &shared.fresh);
    let walk = Walk { plan, workspace: &workspace, log: &log, sealer: &sealer, engine, session: number, depth };
    let ran = walk.run(build, missing, &parent.record, first, lock, session);
    drop((slot, caches));

    let begin = Instant::now();
    let all_sealed = sealer.finish();
    build.shared.spent.add("seal", begin.elapsed());
    build.events.send(Event::SessionEnded { session: number });
    // A seal that failed is the reason of whatever failed after it. The workspace still holds its space here, so a disk
    // that filled up is still full.
    all_sealed.and(ran).map_err(|error| build.explain_full_disk(error))
}

/// What stays the same while a session walks down a path.
struct Walk<'a> {
    plan: &'a Plan,
    workspace: &'a Workspace,
    log: &'a StepLog,
    sealer: &'a Sealer,
    engine: &'static str,
    session: u32,
    /// Of the chain that the session was opened on.
    depth: Depth,
}

impl Walk<'_> {
    /// Runs steps until the path ends or somebody else makes the next layer. The session is gone when this returns.
    fn run(
        &self,
        build: &Build<'_>,
        missing: &[usize],
        parent: &LayerRecord,
        mut draft: Draft,
        mut lock: KeyLock,
        mut session: Box<dyn Session>,
    ) -> Result<()> {
        let mut parent = parent.clone();
        let mut depth = self.depth;
        let all_rights = |node| build.step_of(node).is_some_and(|step| step.options.has_all_rights());
        for (place, index) in missing.iter().enumerate() {
            let node = &self.plan.nodes[*index];
            let begin = Instant::now();
            let ran = self.step(build, node, &draft, &mut *session);
            let elapsed = begin.elapsed();
            build.shared.spent.add("steps", elapsed);
            if let Err(error) = ran {
                let lines = self.log.last_lines();
                return Err(build.step_failed(error, Some(session), &draft, &parent, node, lines));
            }
            build.events.send(Event::StepFinished { key: node.info.key, elapsed });
            self.tell_of_fstab(build, node, &mut *session)?;
            match selinux::policy(session.guest()) {
                Ok(policy) => draft.set_selinux(policy.is_some()),
                // Such as a link that leads nowhere: no reason to give up what the step has done.
                Err(error) => {
                    build.settings.cancel.check()?;
                    let message = crate::error::chain(&error);
                    build
                        .events
                        .warn(format!("whether the guest has SELinux is not known, so nothing labels it: {message}"));
                }
            }
            draft.set_within(node.info.within.iter().map(|within| within.name.clone()).collect());
            draft.describe(
                node.info.summary.clone(),
                Some(parent.id.clone()),
                Some(self.engine.to_owned()),
                elapsed.as_secs_f64(),
            );

            let begin = Instant::now();
            let deep = depth.add(false);
            let next = match missing.get(place + 1) {
                Some(_) if depth.is_too_deep() => None,
                // What a step with all rights did to its machine is not for steps without.
                Some(index) if all_rights(node) && !all_rights(&self.plan.nodes[*index]) => None,
                // No session may be open for it, so this one ends.
                Some(index) if disk_step::is_one(build, &self.plan.nodes[*index]) => None,
                Some(index) => build.store.try_lock(self.plan.nodes[*index].info.key)?.map(|lock| (*index, lock)),
                None => None,
            };
            let Some((index, next_lock)) = next else {
                session.finish()?;
                build.shared.spent.add("session", begin.elapsed());
                return self.sealer.seal(draft, lock, deep);
            };
            let next = draft_on(build.store, self.workspace, &self.plan.nodes[index], draft.record())?;
            session.checkpoint(&next.image())?;
            build.shared.spent.add("checkpoint", begin.elapsed());
            parent = draft.record().clone();
            self.sealer.seal(std::mem::replace(&mut draft, next), std::mem::replace(&mut lock, next_lock), deep)?;
        }
        Ok(())
    }

    /// Disks that are not there, named by an fstab that the step has written, are told with the step's place: the guest may
    /// have them where it will run, or wait for them at its boot.
    fn tell_of_fstab(&self, build: &Build<'_>, node: &PlanNode, session: &mut dyn Session) -> Result<()> {
        match session.guest().fstab_news() {
            Ok(news) => news.iter().for_each(|one| build.events.warn(node.info.placed(&escape(one)))),
            // Such as one that cannot be read: no reason to give up what the step has done.
            Err(error) => {
                build.settings.cancel.check()?;
                build.events.warn(node.info.placed(&crate::error::chain(&error)));
            }
        }
        Ok(())
    }

    fn step(&self, build: &Build<'_>, node: &PlanNode, draft: &Draft, session: &mut dyn Session) -> Result<()> {
        build.settings.cancel.check()?;
        let Part::Step(number, key) = &node.origin.1 else {
            return Err(Error::new(ErrorKind::Internal, "an import in the place of a step"));
        };
        build.layer_started(node, Some(self.session));
        let spec = &build.specs[node.origin.0];
        let step = &spec.steps[*number];
        let secrets = options::named(&build.secrets(node.origin.0)?, step);
        self.log.begin(node.info.key, &draft.log(), &build.shared.values.forms())?;
        let cache_dir = build.store.cache_dir();
        let caches: Vec<String> = step.options.mounts.iter().map(|mount| mount.cache.clone()).collect();
        let attempts = step.options.retries.unwrap_or(0) + 1;
        let mut ran = Ok(());
        for attempt in 1..=attempts {
            let limit = options::limit(&step.options);
            let cancel = build.settings.cancel.limited(limit);
            let import = build.settings.import_context(&cache_dir, build.events);
            let import = import::ImportContext { cancel: &cancel, ..import };
            let context = StepContext {
                caches: &caches,
                warn: &|text| build.events.warn(node.info.placed(text)),
                last: node.info.index == node.info.steps,
                output: self.log.sink(),
                cancel: &cancel,
                scratch: self.workspace.path(),
                fetch: &|url, digest| import::fetch_checked(url, digest, &import),
            };
            let mut guest = Optioned::new(session.guest(), &step.options, &secrets, limit);
            ran = step.runner.run(key, &mut guest, &context);
            match &ran {
                // What a cancelled build, a full disk or a broken engine does is no better the next time.
                Err(error) if error.kind() == ErrorKind::Step && attempt < attempts => {
                    let message = crate::error::chain(error);
                    build.events.warn(format!(
                        "attempt {attempt} of {attempts} of step {} (`{}`) failed: {message}",
                        node.info.index, node.info.kind
                    ));
                }
                _ => break,
            }
        }
        let logged = self.log.end();
        ran.and(logged)?;
        leaks::note(build, draft, &secrets)
    }
}
