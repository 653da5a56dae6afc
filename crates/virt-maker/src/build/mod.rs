//! Builds: walks the plan, opens sessions, seals layers, exports.
//!
//! # How a spec is built
//! The nodes from its base to its tip form a path. The path is looked at again right before work, because another
//! process may have made some of it. For the maximal missing end of a path one session is opened on the deepest layer
//! that is there ([`path`]); its steps run one after another, and each overlay is sealed in the background
//! ([`sealer`]) while the next step runs. The build succeeds only after the last seal.
//!
//! # Concurrency
//! Work on a layer needs the lock of its key. Locks are taken from the base towards the tip. A process that finds a
//! lock taken waits and then uses the layer; if the holder dies, the waiter takes over.

mod base;
mod check;
mod failure;
mod finish;
mod leased;
mod log;
mod mask;
mod options;
mod path;
mod sealer;
mod session;
mod wait;

pub use check::check_image;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::engine::select::{EngineChoice, Selector};
use crate::error::Result;
use crate::event::{Event, Events};
use crate::export::{self, ExportContext, Published};
use crate::host::Cancel;
use crate::import::ImportContext;
use crate::key::LayerKey;
use crate::plan::{NodeState, Plan, PlanContext};
use crate::spec::Spec;
use crate::store::{Layer, Store};

/// What to do with a guest whose step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Throw its overlay away.
    #[default]
    Discard,
    /// Keep its overlay in the store's folder `kept/`.
    Keep,
    /// Open a shell in it on this process's terminal, then throw it away.
    Shell,
}

/// How to build.
#[derive(Clone)]
pub struct Settings {
    /// The store's folder.
    pub store: PathBuf,
    /// Path of the agent.
    pub agent: PathBuf,
    /// A folder for what engines keep between sessions (the appliance of libguestfs).
    pub engine_cache: PathBuf,
    /// Which engine.
    pub engine: EngineChoice,
    /// A kernel for engine `vm`, in place of the newest of the host.
    pub kernel: Option<PathBuf>,
    /// Make every layer again, and replace what is there.
    pub force: bool,
    /// Write every artifact again.
    pub force_export: bool,
    /// What to do when a step fails.
    pub on_failure: OnFailure,
    /// Variables for commands and tools with a network: proxies. No part of a key.
    pub network_env: BTreeMap<String, String>,
    /// Variables that hold secrets, as `secrets: {NAME: {env: VARIABLE}}` names them.
    pub secret_env: BTreeMap<String, String>,
    /// Set from elsewhere to stop.
    pub cancel: Cancel,
}

impl Settings {
    /// What imports may use; `cache_dir` is the store's.
    fn import_context<'a>(&'a self, cache_dir: &'a Path, events: &'a Events) -> ImportContext<'a> {
        ImportContext { cache_dir, events, cancel: &self.cancel, env: &self.network_env }
    }
}

/// What a build did.
#[derive(Debug)]
pub struct Summary {
    /// Layers that were made.
    pub built: usize,
    /// Layers that were there.
    pub cached: usize,
    /// Artifacts, in the order of specs and exports.
    pub artifacts: Vec<Published>,
}

/// What all parts of one build share.
struct Build<'a> {
    specs: &'a [Spec],
    settings: &'a Settings,
    events: &'a Events,
    store: Store,
    selector: Selector,
    /// Layers that this build made: with `force` these are good, and all others are not.
    fresh: HashSet<LayerKey>,
    sessions: u32,
    spent: Spent,
}

/// Builds all specs, in their order, and exports what they ask for.
///
/// Sends [`Event::BuildStarted`] first and [`Event::BuildFinished`] or [`Event::BuildFailed`] last. On error, layers
/// that were sealed stay, and nothing else does.
pub fn build(specs: &[Spec], settings: &Settings, events: &Events) -> Result<Summary> {
    let result = run(specs, settings, events);
    if let Err(error) = &result {
        let message = crate::error::chain(error);
        events.send(Event::BuildFailed { kind: error.kind(), message });
    }
    result
}

fn run(specs: &[Spec], settings: &Settings, events: &Events) -> Result<Summary> {
    let begin = Instant::now();
    let store = Store::open(&settings.store)?;
    let mut spent = Spent::default();
    let cache_dir = store.cache_dir();
    let import = settings.import_context(&cache_dir, events);
    let context =
        PlanContext { store: &store, import, force: settings.force, explain: false, events, cancel: &settings.cancel };
    // Leased before anything relies on what is there, so that nobody collects it while this build runs.
    let (plan, _lease) = spent.time("plan", || leased::plan(specs, &context))?;
    events.send(Event::BuildStarted {
        templates: specs.iter().map(|spec| spec.template.clone()).collect(),
        store: store.root().to_owned(),
        layers: plan.nodes.len(),
        cached: plan.hits(),
    });
    for node in plan.nodes.iter().filter(|node| node.state == NodeState::Hit) {
        events.send(Event::LayerCached(node.info.clone()));
    }

    let selector =
        Selector::new(settings.engine, settings.agent.clone(), settings.engine_cache.clone(), settings.kernel.clone());
    let mut build = Build { specs, settings, events, store, selector, fresh: HashSet::new(), sessions: 0, spent };
    let mut artifacts = Vec::new();
    for index in 0..specs.len() {
        let tip = build.spec_layer(&plan, index)?;
        artifacts.append(&mut build.export(&plan, index, &tip)?);
    }
    let built = build.fresh.len();
    let cached = plan.nodes.len() - built;
    let elapsed = begin.elapsed();
    events.send(Event::BuildFinished { built, cached, elapsed, spent: build.spent.list() });
    Ok(Summary { built, cached, artifacts })
}

impl Build<'_> {
    /// The layer of a spec's tip, made where it is missing.
    fn spec_layer(&mut self, plan: &Plan, index: usize) -> Result<Layer> {
        let tip = &plan.nodes[plan.tips[index]];
        match &tip.layer {
            Some(layer) => Ok(layer.clone()),
            None => path::ensure(self, plan, &plan.path(index)),
        }
    }

    fn export(&mut self, plan: &Plan, index: usize, tip: &Layer) -> Result<Vec<Published>> {
        let (specs, events, settings) = (self.specs, self.events, self.settings);
        let records = self.store.exports_dir();
        let layers = finish::layers(self, plan, index);
        let mut published = Vec::new();
        for entry in &specs[index].exports {
            let begin = Instant::now();
            let kind = entry.kind.name.to_owned();
            events.send(Event::ExportStarted { kind: kind.clone(), path: entry.runner.target() });
            let workspace = self.store.workspace()?;
            let context = ExportContext {
                layer: &tip.path,
                format: tip.record.format,
                virtual_size: tip.record.virtual_size,
                overlay: None,
                scratch: workspace.path(),
                layers: &layers,
                events,
                cancel: &settings.cancel,
            };
            let from = export::From { layer: tip.record.key, layer_id: &tip.record.id };
            let mut finish = |extras: &export::Extras| finish::finish(self, tip, extras);
            let done = export::publish(
                &*entry.runner,
                entry.kind,
                from,
                &records,
                settings.force_export,
                &context,
                &mut finish,
            )?;
            self.spent.add("export", begin.elapsed());
            events.send(Event::ExportFinished {
                kind,
                path: done.path.clone(),
                bytes: done.bytes,
                digest: done.digest,
                current: done.current,
                elapsed: begin.elapsed(),
            });
            published.push(done);
        }
        Ok(published)
    }
}

/// Where time went.
#[derive(Debug, Default)]
struct Spent(Vec<(&'static str, Duration)>);

impl Spent {
    fn time<T>(&mut self, what: &'static str, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let done = work();
        self.add(what, begin.elapsed());
        done
    }

    fn add(&mut self, what: &'static str, time: Duration) {
        match self.0.iter_mut().find(|(name, _)| *name == what) {
            Some((_, sum)) => *sum += time,
            None => self.0.push((what, time)),
        }
    }

    fn list(&self) -> Vec<(String, f64)> {
        self.0.iter().map(|(name, time)| ((*name).to_owned(), time.as_secs_f64())).collect()
    }
}
