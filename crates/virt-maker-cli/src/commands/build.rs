//! `virt-maker build`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;

use virt_maker::build::{Settings, build};
use virt_maker::error::{Context, ErrorKind};
use virt_maker::event::{Event, Events};
use virt_maker::host::Cancel;
use virt_maker::import;
use virt_maker::spec::{self, Spec};
use virt_maker::store::Store;

use super::{cache, loading};
use crate::arguments::{Build, Failed, Progress};
use crate::error::Failure;
use crate::{environment, html, lock, report, settings, signals};

pub fn run(arguments: &Build) -> Result<(), Failure> {
    let terminal = std::io::stderr().is_terminal();
    if arguments.on_failure == Failed::Shell && !(terminal && std::io::stdin().is_terminal()) {
        return Err(Failure::Usage("--on-failure shell needs a terminal; --on-failure keep does not".into()));
    }
    let progress = match arguments.progress {
        Progress::Auto if terminal && !environment::plain_terminal() => Progress::Tty,
        Progress::Auto => Progress::Plain,
        asked => asked,
    };
    if let Some(report) = &arguments.report {
        html::Page::check(report)
            .context(ErrorKind::Host, || format!("cannot write the report {}", report.display()))
            .map_err(|error| error.with_hint("name a file in a folder that is there and can be written"))?;
    }
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let mut settings = Settings {
        store: settings::store(arguments.store.store.clone())?,
        owner: settings::owner()?,
        agent: environment::agent(),
        engine_cache: environment::cache_dir()?,
        engine: settings::engine(arguments.engine)?,
        kernel: settings::kernel(arguments.kernel.kernel.clone())?,
        force: arguments.force,
        again: arguments.force_from.clone(),
        force_export: arguments.force_export,
        jobs: jobs(arguments)?,
        max_depth: settings::max_depth(arguments.depth.max_depth, arguments.store.store.clone())?,
        fail_fast: arguments.fail_fast,
        on_failure: arguments.on_failure.into(),
        network_env: environment::proxies(),
        certificates: settings::certificates()?,
        host_network: loading::host_network(arguments.templates.allowed())?,
        secret_env: Default::default(),
        cancel,
    };
    let reporter = report::new(progress, environment::verbosity(arguments.verbose), arguments.report.clone());
    let sink = reporter.clone();
    let events = Events::new(move |event| sink.event(event));
    let paths: Vec<_> = arguments.templates.paths().cloned().collect();
    let mut options = loading::options(&arguments.templates, &events, &settings.cancel)?;
    if arguments.freeze {
        loading::freeze(&arguments.templates, &mut options)?;
    }
    let mut loaded = match spec::load_all(&paths, &options) {
        Ok(loaded) => loaded,
        Err(error) => {
            // A machine that reads the events must learn of this end too.
            let message = virt_maker::error::chain(&error);
            reporter.event(Event::BuildFailed { kind: error.kind(), message, images: Vec::new() });
            return Err(reporter.end().err().map_or(Failure::Library(error), Failure::Output));
        }
    };
    loading::warn(&loaded.notes, &events);
    settings.secret_env = environment::secrets(&loaded.specs);
    if let Err(failure) = sources(arguments, &mut loaded.specs, &settings, &events) {
        if let Failure::Library(error) = &failure {
            let message = virt_maker::error::chain(error);
            reporter.event(Event::BuildFailed { kind: error.kind(), message, images: Vec::new() });
        }
        reporter.end()?;
        return Err(failure);
    }
    let result = build(&loaded.specs, &settings, &events);
    let limits = settings::limits(&arguments.limits, arguments.store.store.clone())?;
    if !limits.is_empty() && !settings.cancel.is_cancelled() {
        let store = Store::open(&settings.store, &settings.owner)?.waiting(events.waits(&settings.cancel));
        cache::after_build(&store, &limits, &events, &settings.cancel);
    }
    // What is on the terminal is complete before an error is printed below it.
    let shown = reporter.end();
    result?;
    loading::record(&arguments.templates, &loaded.record)?;
    Ok(shown?)
}

/// A shell has the terminal for itself, so nothing else may be under way when a step fails.
fn jobs(arguments: &Build) -> Result<Option<NonZeroUsize>, Failure> {
    match (arguments.on_failure, arguments.jobs) {
        (Failed::Shell, Some(jobs)) if jobs != NonZeroUsize::MIN => {
            Err(Failure::Usage("--on-failure shell works on one image at a time: leave --jobs out, or say 1".into()))
        }
        (Failed::Shell, _) => Ok(Some(NonZeroUsize::MIN)),
        (_, jobs) => settings::jobs(jobs),
    }
}

/// What lock files, `--pull`, `--lock` and `--locked` want of sources whose content may change.
fn sources(arguments: &Build, specs: &mut [Spec], settings: &Settings, events: &Events) -> Result<(), Failure> {
    let wanted = lock::Wanted { pull: arguments.pull, lock: arguments.lock, locked: arguments.locked };
    let asked = wanted.pull || wanted.lock || wanted.locked;
    if !asked && specs.iter().all(|spec| spec.import.runner.release().is_none()) {
        return Ok(());
    }
    let cache_dir = Store::open(&settings.store, &settings.owner)?.cache_dir();
    let context = settings.import_context(&cache_dir, events);
    if arguments.pull {
        let named = specs.iter().filter_map(|spec| spec.import.runner.mutable_source());
        named.for_each(|source| import::forget(source, &context));
    }
    if arguments.lock {
        lock::write(specs, &context)?;
    }
    if arguments.locked {
        lock::check(specs, &context)?;
    }
    lock::releases(specs, wanted, &context)
}
