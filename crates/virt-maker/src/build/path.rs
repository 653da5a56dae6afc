//! Building one path: from the deepest layer that is there to its tip.

use std::time::Instant;

use super::attempts::Attempts;
use super::draft::{draft_on, outcome_of};
use super::log::StepLog;
use super::options::{self, Optioned};
use super::sealer::Sealer;
use super::session::NewSession;
use super::{Build, base, boot_step, disk_step, leaks};
use crate::engine::{Session, WRONG_ROOT};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::guest::selinux;
use crate::host::escape::escape;
use crate::key::LayerKey;
use crate::plan::{NodeId, Path, PlanNode, StepNode, usable};
use crate::step::{Action, InGuest};
use crate::store::{Depth, Draft, KeyLock, Layer, LayerRecord, Lookup, Outcome, Workspace};

/// Makes what is missing of the path to a node and returns its layer.
pub(super) fn ensure(build: &Build<'_>, node: NodeId) -> Result<Layer> {
    let path = build.plan.path(build.specs, node);
    loop {
        build.settings.cancel.check()?;
        let found = look(build, &path);
        // What is there may be the work of others, or a base: other branches on it may begin.
        found.keys.iter().for_each(|key| build.shared.commits.schedule.sealed(*key));
        let Some(parent) = &found.last else {
            let lock = build.lock(path.base.info.key)?;
            // Whoever had the lock may have made it in the meantime.
            if look(build, &path).last.is_none() {
                base::ensure(build, path.base, lock)?;
            }
            continue;
        };
        let Some((first, others)) = path.steps[found.keys.len() - 1..].split_first() else {
            return Ok(parent.clone());
        };
        if build.flatten_before_work(&found.depth, &found.deep)? {
            continue;
        }
        let lock = build.lock(first.node.info.key)?;
        // As with a base; or the parent may have been replaced.
        let again = look(build, &path);
        if again.keys.len() != found.keys.len() || again.last.is_none_or(|last| last.record.id != parent.record.id) {
            continue;
        }
        match first.entry.runner.action() {
            Action::OnDisk(runner) => disk_step::run(build, *first, runner, parent, found.depth, lock)?,
            Action::Boot(boot) => boot_step::run(build, *first, boot, parent, found.depth, lock)?,
            Action::OnMachine(_) => return Err(outside(first)),
            Action::InGuest(runner) => {
                let begin = Walked { step: *first, runner };
                run_session(build, begin, others, parent, found.depth, lock)?;
            }
        }
    }
}

/// The loader refuses it; a program that embeds this may make a spec by itself.
fn outside(step: &StepNode<'_>) -> Error {
    let what = "a step that is done to a machine that runs stands outside of one that boots it";
    Error::new(ErrorKind::Template, what).at(|| step.entry.place())
}

/// What is there of a path, as far as it is usable.
struct Found {
    /// The keys of the layers that are there, from the base on.
    keys: Vec<LayerKey>,
    /// The deepest of these.
    last: Option<Layer>,
    /// How many images lie in its chain.
    depth: Depth,
    /// Those that should be flat and are not.
    deep: Vec<LayerKey>,
}

fn look(build: &Build<'_>, path: &Path<'_>) -> Found {
    let depth = build.shared.commits.flattener.depth();
    let mut found = Found { keys: Vec::new(), last: None, depth, deep: Vec::new() };
    for node in std::iter::once(path.base).chain(path.steps.iter().map(|step| step.node)) {
        let key = node.info.key;
        match usable(build.store, key, node.lies_on(found.last.as_ref())) {
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
                found.keys.push(key);
                found.last = Some(*layer);
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

/// A step that a session has come to, with what runs it there.
#[derive(Clone, Copy)]
struct Walked<'a> {
    step: StepNode<'a>,
    runner: &'a dyn InGuest,
}

impl Walked<'_> {
    fn has_all_rights(&self) -> bool {
        self.step.entry.options.has_all_rights()
    }
}

/// Opens one session on `parent` and runs the step `first` and those after it in it, as far as their locks can be had at once.
/// Returns after all that ran is sealed.
///
/// Ends also where the chain under the session has got too deep: the next one opens what was flattened meanwhile.
fn run_session(
    build: &Build<'_>,
    first: Walked<'_>,
    others: &[StepNode<'_>],
    parent: &Layer,
    depth: Depth,
    lock: KeyLock,
) -> Result<()> {
    let workspace = build.store.workspace()?;
    let draft = draft_on(build, &workspace, &first.step, &parent.record, lock)?;
    let log = StepLog::new(build.events);
    let steps = || std::iter::once(&first.step).chain(others).map(|step| step.entry);
    let names = steps().flat_map(|step| step.options.shaping.mounts.iter().map(|mount| mount.cache.as_str())).collect();
    let wanted = NewSession {
        workspace: &workspace,
        parent,
        scratch: &draft,
        log: &log,
        overlays: 1 + others.len(),
        network: steps().any(|step| step.options.shaping.network.unwrap_or(step.kind.network)),
        privileged: steps().any(|step| step.options.has_all_rights()),
        goes_on: false,
        caches: &names,
    };
    let opened = wanted.open(build).map_err(|error| match error.kind() {
        // It is the import that names it.
        ErrorKind::Guest if error.to_string().starts_with(WRONG_ROOT) => {
            error.at(|| first.step.node.spec.of(build.specs).import.place())
        }
        // What is on the disk; anything else is no matter of the template.
        ErrorKind::Guest | ErrorKind::Unsupported => error.at(|| first.step.entry.place()),
        _ => error,
    });
    let (mut begun, engine, session) = opened?;
    let sealer = Sealer::start(&build.shared.commits, build.events);
    let walk = Walk { build, workspace: &workspace, log: &log, sealer: &sealer, engine, session: begun.number };
    let ran = walk.run(first, others, &parent.record, depth, draft, session);
    begun.free();

    let begin = Instant::now();
    let all_sealed = sealer.finish();
    build.shared.spent.add("seal", begin.elapsed());
    drop(begun);
    // A seal that failed is the reason of whatever failed after it. The workspace still holds its space here, so a disk
    // that filled up is still full.
    all_sealed.and(ran).map_err(|error| build.explain_full_disk(error))
}

/// What stays the same while a session walks down a path.
struct Walk<'a> {
    build: &'a Build<'a>,
    workspace: &'a Workspace,
    log: &'a StepLog,
    sealer: &'a Sealer,
    engine: &'static str,
    session: u32,
}

impl Walk<'_> {
    /// Runs steps until the path ends or somebody else makes the next layer; `depth` is that of the chain that the session was
    /// opened on. The session is gone when this returns.
    fn run<'p>(
        &self,
        first: Walked<'p>,
        others: &[StepNode<'p>],
        parent: &LayerRecord,
        mut depth: Depth,
        mut draft: Draft,
        mut session: Box<dyn Session>,
    ) -> Result<()> {
        let build = self.build;
        let (mut here, mut others) = (first, others.iter());
        let mut parent = parent.clone();
        loop {
            let node = here.step.node;
            let begin = Instant::now();
            let ran = self.step(here, &draft, &mut *session);
            let elapsed = begin.elapsed();
            build.shared.spent.add("steps", elapsed);
            if let Err(error) = ran {
                let lines = self.log.last_lines();
                return Err(build.step_failed(error, Some(session), &draft, &parent, &here.step, lines.into()));
            }
            build.events.send(Event::StepFinished { key: node.info.key, elapsed });
            self.tell_of_fstab(build, node, &mut *session)?;
            let outcome = Outcome {
                engine: Some(self.engine.to_owned()),
                selinux: self.has_selinux(&mut *session)?,
                ..outcome_of(node, elapsed.as_secs_f64())
            };

            let begin = Instant::now();
            let deep = depth.add(false);
            let Some((next, lock)) = self.next(&here, others.next(), &depth)? else {
                session.finish()?;
                build.shared.spent.add("session", begin.elapsed());
                return self.sealer.seal(draft, outcome, deep);
            };
            let above = draft_on(build, self.workspace, &next.step, draft.record(), lock)?;
            session.checkpoint(&above.image())?;
            build.shared.spent.add("checkpoint", begin.elapsed());
            parent = draft.record().clone();
            self.sealer.seal(std::mem::replace(&mut draft, above), outcome, deep)?;
            here = next;
        }
    }

    /// The step after one, where this session may go on with it.
    fn next<'p>(
        &self,
        here: &Walked<'_>,
        next: Option<&StepNode<'p>>,
        depth: &Depth,
    ) -> Result<Option<(Walked<'p>, KeyLock)>> {
        let Some(step) = next.copied().filter(|_| !depth.is_too_deep()) else { return Ok(None) };
        // No session may be open for one that works on the disk, so this one ends.
        let Action::InGuest(runner) = step.entry.runner.action() else { return Ok(None) };
        let next = Walked { step, runner };
        // What a step with all rights did to its machine is not for steps without.
        if here.has_all_rights() && !next.has_all_rights() {
            return Ok(None);
        }
        let lock = self.build.store.try_lock(step.node.info.key)?;
        Ok(lock.map(|lock| (next, lock)))
    }

    /// Whether the guest loads an SELinux policy when it boots, where that can be told.
    fn has_selinux(&self, session: &mut dyn Session) -> Result<Option<bool>> {
        match selinux::policy(session.guest()) {
            Ok(policy) => Ok(Some(policy.is_some())),
            // Such as a link that leads nowhere: no reason to give up what the step has done.
            Err(error) => {
                self.build.settings.cancel.check()?;
                let message = crate::error::chain(&error);
                let events = self.build.events;
                events.warn(format!("whether the guest has SELinux is not known, so nothing labels it: {message}"));
                Ok(None)
            }
        }
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

    fn step(&self, here: Walked<'_>, draft: &Draft, session: &mut dyn Session) -> Result<()> {
        let Walked { step: StepNode { node, entry, key, .. }, runner } = here;
        let build = self.build;
        build.settings.cancel.check()?;
        build.layer_started(node, Some(self.session));
        let secrets = options::named(&build.secrets(node.spec)?, entry);
        self.log.begin(node.info.key, &draft.log(), &build.shared.values.forms())?;
        let last = node.info.index == node.info.steps;
        let attempts = Attempts { build, workspace: self.workspace, log: self.log, node, entry, last };
        let failed =
            |number, of| format!("attempt {number} of {of} of step {} (`{}`) failed", node.info.index, node.info.kind);
        let ran = attempts.run(failed, |context, limit| {
            let mut guest = Optioned::new(session.guest(), &entry.options, &secrets, limit);
            runner.run(key, &mut guest, context)
        });
        let logged = self.log.end();
        ran.and(logged)?;
        leaks::note(build, draft, &secrets)
    }
}
