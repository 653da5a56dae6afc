//! `virt-maker build`, and `virt-maker test`, which does the same and exports nothing.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use virt_maker::build::{Settings, Tests, build};
use virt_maker::error::{Context, Error, ErrorKind};
use virt_maker::event::{Event, Events};
use virt_maker::host::Cancel;
use virt_maker::import;
use virt_maker::spec::{self, LoadedSpecs, Spec};
use virt_maker::store::Store;

use super::{cache, loading};
use crate::arguments::{Build, Failed, Progress, Test};
use crate::error::Failure;
use crate::{environment, html, lock, report, settings, signals};

pub fn run(arguments: &Build) -> Result<(), Failure> {
    let tests = if arguments.no_tests { Tests::Skip } else { Tests::Run };
    make(arguments, tests, None)
}

pub fn test(arguments: &Test) -> Result<(), Failure> {
    let Test { build, junit } = arguments;
    if build.no_tests || build.force_export {
        let option = if build.no_tests { "--no-tests" } else { "--force-export" };
        return Err(Failure::Usage(format!("`test` runs tests and exports nothing: leave {option} out")));
    }
    if let Some(junit) = junit {
        writable(junit, "the verdicts")?;
    }
    make(build, Tests::Only, junit.as_ref())
}

fn writable(file: &Path, what: &str) -> Result<(), Failure> {
    let done =
        html::Page::check(file).context(ErrorKind::Host, || format!("cannot write {what} to {}", file.display()));
    Ok(done.map_err(|error| error.with_hint("name a file in a folder that is there and can be written"))?)
}

fn make(arguments: &Build, tests: Tests, junit: Option<&PathBuf>) -> Result<(), Failure> {
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
        writable(report, "the report")?;
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
        tests,
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
    let files = report::Files { timeline: arguments.report.clone(), junit: junit.cloned() };
    let reporter = report::new(progress, environment::verbosity(arguments.verbose), files);
    let sink = reporter.clone();
    let events = Events::new(move |event| sink.event(event));
    let paths: Vec<_> = arguments.templates.paths().cloned().collect();
    let mut options = loading::options(&arguments.templates, &events, &settings.cancel)?;
    if arguments.freeze {
        loading::freeze(&arguments.templates, &mut options)?;
    }
    let loaded = spec::load_all(&paths, &options).and_then(|loaded| match tests {
        Tests::Only => with_tests(loaded, &events),
        Tests::Run | Tests::Skip => Ok(loaded),
    });
    let mut loaded = match loaded {
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
    let began = std::time::SystemTime::now();
    let result = build(&loaded.specs, &settings, &events);
    let limits = settings::limits(&arguments.limits, arguments.store.store.clone())?;
    if !limits.is_empty() && !settings.cancel.is_cancelled() {
        let store = Store::open(&settings.store, &settings.owner)?.waiting(events.waits(&settings.cancel));
        cache::after_build(&store, &limits, began, &events, &settings.cancel);
    }
    // What is on the terminal is complete before an error is printed below it.
    let shown = reporter.end();
    result?;
    loading::record(&arguments.templates, &loaded.record)?;
    Ok(shown?)
}

/// The specs that have tests. One that has none is said, and not made.
fn with_tests(mut loaded: LoadedSpecs, events: &Events) -> Result<LoadedSpecs, Error> {
    let count = loaded.specs.len();
    let without = |template: &Path| format!("{} has no `tests`", template.display());
    if let Some(first) = loaded.specs.first()
        && loaded.specs.iter().all(|spec| spec.tests.is_empty())
    {
        let message = match count {
            1 => without(&first.template),
            _ => "none of these templates has `tests`".to_owned(),
        };
        let hint = "write them beside `steps`: `tests: [{name: web, steps: [{expect: {port: 80}}]}]`";
        return Err(Error::new(ErrorKind::Template, message).with_hint(hint));
    }
    loaded.specs.retain(|spec| {
        let tested = !spec.tests.is_empty();
        if !tested {
            events.warn(without(&spec.template));
        }
        tested
    });
    Ok(loaded)
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
