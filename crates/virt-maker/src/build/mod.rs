//! Builds: walks the plan, opens sessions, seals layers, exports.
//!
//! # How a spec is built
//! The nodes from its base to its tip form a path. The path is looked at again right before work, because another
//! process may have made some of it. For the maximal missing end of a path one session is opened on the deepest layer
//! that is there ([`path`]); its steps run one after another, and each overlay is sealed in the background
//! ([`sealer`]) while the next step runs. The build succeeds only after the last seal.
//!
//! # Concurrency
//! All specs of a build are one tree. Workers (threads) take chains of missing layers and exports from one [`schedule`],
//! so branches run side by side, each in a session of its own, and a common prefix is made once; [`slots`] bounds how
//! many sessions are open. Work on a layer needs the lock of its key, also between workers. Locks are taken from the
//! base towards the tip. A process that finds a lock taken waits and then uses the layer; if the holder dies, the
//! waiter takes over. What fails ends the images that need it, and no other one, unless `fail_fast` is set.

mod attempts;
mod base;
mod boot_step;
mod caches;
mod check;
mod disk_step;
mod draft;
mod exports;
mod failure;
mod finish;
mod flatten;
mod forms;
mod hints;
mod iso_boot;
mod leaks;
mod leased;
mod log;
mod lone_machine;
mod manifest;
mod mask;
mod options;
mod path;
mod schedule;
mod screenshots;
mod sealer;
mod secrets;
mod seed;
mod session;
mod slots;
mod spent;
mod tests;
mod wait;
mod work;

pub use check::check_image;
pub use lone_machine::{Ended, LoneMachine, Subject, run_machine};

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use crate::engine::select::{EngineChoice, Selector};
use crate::engine::{EngineSettings, Opener};
use crate::error::{ErrorKind, Result};
use crate::event::{Event, Events, ImageName, ImageState};
use crate::export::Published;
use crate::host::{Cancel, Certificates};
use crate::import::ImportContext;
use crate::key::LayerKey;
use crate::plan::{NodeState, Plan, PlanContext, PlanNode, SpecId};
use crate::spec::Spec;
use crate::step::Action;
use crate::store::{Draft, Layer, Outcome, Owner, Store};
use flatten::Flattener;
use schedule::Schedule;
use sealer::{Commits, Fresh};
use secrets::Values;
use slots::Slots;
use spent::Spent;
use work::Results;

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

/// What is done with the tests of templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tests {
    /// They run before anything is exported, and one that fails stops the exports of its image.
    #[default]
    Run,
    /// They do not run, which is said.
    Skip,
    /// They run, and nothing is exported.
    Only,
}

/// How to build.
#[derive(Clone)]
pub struct Settings {
    /// The store's folder.
    pub store: PathBuf,
    /// Whose store it has to be.
    pub owner: Owner,
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
    /// Make these steps again, and what lies on them; see [`PlanContext::again`].
    pub again: Vec<String>,
    /// Write every artifact again.
    pub force_export: bool,
    /// What is done with tests.
    pub tests: Tests,
    /// How many images are worked on at once. `None`: as many as the host has CPUs, and as many sessions of an engine as
    /// are good for it ([`crate::engine::Engine::sessions_at_once`]).
    pub jobs: Option<NonZeroUsize>,
    /// How many images may lie in a chain before a layer is flattened; see [`crate::store::Depth`].
    pub max_depth: usize,
    /// Stop everything at the first failure. Else only the images that need what failed are given up.
    pub fail_fast: bool,
    /// What to do when a step fails.
    pub on_failure: OnFailure,
    /// Variables for commands and tools with a network: proxies. No part of a key.
    pub network_env: BTreeMap<String, String>,
    /// Whom downloads over https believe; nothing of it enters a guest. No part of a key.
    pub certificates: Certificates,
    /// Whether steps and downloads may reach the host's own addresses, too.
    pub host_network: bool,
    /// Variables that hold secrets, as `secrets: {NAME: {env: VARIABLE}}` names them.
    pub secret_env: BTreeMap<String, String>,
    /// Set from elsewhere to stop.
    pub cancel: Cancel,
}

impl Settings {
    /// What holds where nobody says otherwise; a program that embeds this changes what it likes. `agent` is the path of the agent,
    /// `engine_cache` a folder for what engines keep.
    pub fn new(store: PathBuf, owner: Owner, agent: PathBuf, engine_cache: PathBuf) -> Settings {
        Settings {
            store,
            owner,
            agent,
            engine_cache,
            engine: EngineChoice::default(),
            kernel: None,
            force: false,
            again: Vec::new(),
            force_export: false,
            tests: Tests::default(),
            jobs: None,
            max_depth: crate::store::Depth::DEFAULT,
            fail_fast: false,
            on_failure: OnFailure::default(),
            network_env: BTreeMap::new(),
            certificates: Certificates::default(),
            host_network: false,
            secret_env: BTreeMap::new(),
            cancel: Cancel::default(),
        }
    }

    /// With what guests are opened.
    pub fn engines(&self) -> EngineSettings {
        EngineSettings {
            agent: self.agent.clone(),
            engine_cache: self.engine_cache.clone(),
            engine: self.engine,
            kernel: self.kernel.clone(),
            network_env: self.network_env.clone(),
            host_network: self.host_network,
        }
    }

    /// What imports may use; `cache_dir` is the store's.
    pub fn import_context<'a>(&'a self, cache_dir: &'a Path, events: &'a Events) -> ImportContext<'a> {
        let Settings { network_env: env, certificates, host_network, cancel, .. } = self;
        ImportContext { cache_dir, events, cancel, env, certificates, host_network: *host_network }
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

/// A build, as one of its workers sees it.
struct Build<'a> {
    specs: &'a [Spec],
    plan: &'a Plan,
    settings: &'a Settings,
    events: &'a Events,
    store: &'a Store,
    shared: &'a Shared,
    /// Number of the worker, from 1.
    worker: u32,
}

/// What the workers of one build share.
struct Shared {
    opener: Opener,
    slots: Slots,
    commits: Commits,
    sessions: AtomicU32,
    spent: Spent,
    values: Arc<Values>,
}

impl Shared {
    fn is_made(&self, key: LayerKey) -> bool {
        self.commits.fresh.keys().contains(&key)
    }
}

/// Builds all specs and exports what they ask for; see the module's text for what runs at once.
///
/// Sends [`Event::BuildStarted`] first and [`Event::BuildFinished`] or [`Event::BuildFailed`] last. On error, layers
/// that were sealed stay, artifacts of other images too, and nothing else does. Several failures come as one error with
/// [`crate::error::Error::parts`].
pub fn build(specs: &[Spec], settings: &Settings, events: &Events) -> Result<Summary> {
    let mut images = Vec::new();
    // Stops this build at its first failure, and not those who share the caller's flag.
    let settings = Settings { cancel: settings.cancel.part(), ..settings.clone() };
    crate::engine::kvm::heed(&settings.engine_cache);
    let values = Arc::new(Values::new(&settings.network_env));
    let events = &values.masked(events);
    let result = run(specs, &settings, events, &values, &mut images).map_err(|error| values.hidden(error));
    if let Err(error) = &result {
        let message = crate::error::chain(error);
        events.send(Event::BuildFailed { kind: error.kind(), message, images });
    }
    result
}

fn run(
    specs: &[Spec],
    settings: &Settings,
    events: &Events,
    values: &Arc<Values>,
    images: &mut Vec<ImageState>,
) -> Result<Summary> {
    let begin = Instant::now();
    let store = Store::open(&settings.store, &settings.owner)?.waiting(events.waits(&settings.cancel));
    if settings.tests != Tests::Only {
        let look = crate::export::Look { records: Some(&store.exports_dir()), force: settings.force_export };
        crate::spec::check_outputs(specs, look)?;
    }
    let spent = Spent::default();
    let cache_dir = store.cache_dir();
    let import = settings.import_context(&cache_dir, events);
    let context = PlanContext {
        store: &store,
        import,
        force: settings.force,
        again: &settings.again,
        explain: true,
        events,
        cancel: &settings.cancel,
    };
    // Leased before anything relies on what is there, so that nobody collects it while this build runs.
    let (plan, _lease) = spent.time("plan", || leased::plan(specs, &context))?;
    events.send(Event::BuildStarted {
        templates: specs.iter().map(|spec| spec.template.clone()).collect(),
        store: store.root().to_owned(),
        layers: plan.nodes().len(),
        cached: plan.hits(),
        images: specs.iter().map(image_name).collect(),
        tests: tests::names(&plan, specs, settings.tests),
    });
    for node in plan.nodes().iter().filter(|node| node.state == NodeState::Hit) {
        events.send(Event::LayerCached(node.info.clone()));
    }
    for node in plan.nodes() {
        if let NodeState::Miss { reason } = &node.state {
            events.send(Event::LayerMissing { layer: node.info.clone(), miss: reason.clone() });
        }
    }

    // All at once and before anything is done. Exports read theirs when they find that there is something to do.
    let to_run = |node: &PlanNode| node.layer.is_none() && node.parent().is_some();
    let needed = SpecId::all(specs).filter(|id| plan.layers(*id).into_iter().any(to_run));
    values.read(needed.map(|id| (id, id.of(specs))), &settings.secret_env)?;

    let opener = Opener::new(settings.engines(), events, &settings.cancel);
    check_engines(specs, &plan, opener.selector())?;
    tests::check(specs, &plan, &store, settings)?;
    if opener.less_is_given() && plan.nodes().iter().any(to_run) {
        events.warn("the user and password of the proxy are not given to guests: their commands ask it without");
    }

    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let alone = |spec: &Spec| -> Vec<bool> {
        let exports = spec.exports.iter().enumerate();
        exports.map(|(at, entry)| entry.runner.runs_on_host() || spec.export_waits_for_folder(at)).collect()
    };
    tests::say_what_is_left_out(specs, settings.tests, events);
    let stages = |spec: &Spec| {
        let tests = if settings.tests == Tests::Skip { 0 } else { spec.tests.len() };
        schedule::stages(tests, &if settings.tests == Tests::Only { Vec::new() } else { alone(spec) })
    };
    let stages: Vec<_> = specs.iter().map(stages).collect();
    let side_by_side = stages.iter().flatten().map(Vec::len).max().unwrap_or(1);
    let commits = Commits {
        store: store.clone(),
        schedule: Arc::new(Schedule::new(&plan, stages.into())),
        flattener: Arc::new(Flattener::new(&store, events, settings.max_depth)),
        fresh: Fresh::default(),
    };
    let slots = Slots::new(settings.jobs, cores);
    let shared = Shared { opener, slots, commits, sessions: AtomicU32::new(0), spent, values: Arc::clone(values) };
    let results = Results::default();
    let workers = settings.jobs.map_or(cores, NonZeroUsize::get).min(specs.len().max(side_by_side)).max(1);
    let streams: Vec<Events> = (1..=workers as u32).map(|number| events.of_worker(number)).collect();
    let worker = |number: u32| {
        let events = &streams[number as usize - 1];
        Build { specs, plan: &plan, settings, events, store: &store, shared: &shared, worker: number }
    };
    std::thread::scope(|scope| {
        for number in 2..=workers as u32 {
            let (build, results) = (worker(number), &results);
            scope.spawn(move || build.work(results));
        }
        worker(1).work(&results);
    });
    shared.commits.flattener.stop();
    let (artifacts, errors) = results.end();
    *images = worker(1).images(&errors);
    if !errors.is_empty() || settings.cancel.is_cancelled() {
        return Err(worker(1).failed(errors));
    }
    let built = shared.commits.fresh.keys().len();
    let cached = plan.nodes().len() - built;
    let (elapsed, spent) = (begin.elapsed(), shared.spent.list());
    events.send(Event::BuildFinished { built, cached, elapsed, spent, images: images.clone() });
    Ok(Summary { built, cached, artifacts })
}

/// What no engine here can do is told before anything is done: a base that is made anew takes the layers on it along.
fn check_engines(specs: &[Spec], plan: &Plan, selector: &Selector) -> Result<()> {
    let missing = plan.ids().filter(|id| plan[*id].layer.is_none());
    let steps = missing.filter_map(|id| Some(plan.step(specs, id)?.entry));
    for step in steps.filter(|step| !matches!(step.runner.action(), Action::OnDisk(_))) {
        if let Action::Boot(boot) = step.runner.action() {
            boot_step::check_host(boot).map_err(|error| error.at(|| step.place()))?;
        }
        let found = match step.options.has_all_rights() {
            true => selector.with_all_rights(),
            false => selector.candidates(),
        };
        found.map(drop).map_err(|error| match error.kind() {
            ErrorKind::Unsupported => error.at(|| step.place()),
            _ => error,
        })?;
    }
    Ok(())
}

impl Build<'_> {
    /// The values of a spec's secrets, by their names.
    fn secrets(&self, spec: SpecId) -> Result<crate::guest::Secrets> {
        self.shared.values.of_spec(spec, spec.of(self.specs), &self.settings.secret_env)
    }

    fn layer_started(&self, node: &PlanNode, session: Option<u32>) {
        self.events.send(Event::LayerStarted {
            layer: node.info.clone(),
            session,
            worker: self.worker,
            image: node.spec.number(),
        });
    }

    /// Seals a draft while its worker waits; see [`Commits::commit`].
    fn commit(&self, draft: Draft, outcome: Outcome, deep: bool) -> Result<Layer> {
        self.shared.spent.time("seal", || self.shared.commits.commit(draft, outcome, deep, self.events))
    }
}

fn image_name(spec: &Spec) -> ImageName {
    ImageName { template: spec.template.clone(), matrix: spec.matrix.clone() }
}
