//! Reports: the one stream of events, for a terminal, a log, or a machine.
//!
//! Progress goes to standard error, JSON to standard output. A report never ends a build: what cannot be written is
//! remembered and returned by [`Reporter::end`].

mod json;
mod junit;
mod plain;
mod screen;
mod timeline;
mod tty;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use virt_maker::event::{Event, Events};
use virt_maker::host::Cancel;
use virt_maker::host::waiting::Waits;

use crate::arguments::Progress;
use crate::text::harmless;

/// One way to show events.
trait Report: Send {
    /// Shows one event.
    fn event(&mut self, event: &Event) -> io::Result<()>;

    /// Leaves the terminal as it should be, and writes what is written at the end.
    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A report that any thread may send to. Cheap to clone.
#[derive(Clone)]
pub struct Reporter(Arc<Mutex<State>>);

struct State {
    report: Box<dyn Report>,
    /// Warnings that a person was told: each is told once a build, however many images it is about. `None` for machines.
    told: Option<HashSet<String>>,
    failed: Option<io::Error>,
}

/// What is written into files besides, at the end.
#[derive(Default)]
pub struct Files {
    /// A page with the timeline.
    pub timeline: Option<PathBuf>,
    /// The verdicts of tests, for CI.
    pub junit: Option<PathBuf>,
}

/// The report that was asked for, and the files that were; `verbose` counts the `-v`.
pub fn new(progress: Progress, verbose: u8, files: Files) -> Reporter {
    let report: Box<dyn Report> = match progress {
        Progress::Tty => Box::new(tty::Tty::new(verbose, crate::environment::colours())),
        Progress::Json => Box::new(json::Json::new(io::stdout())),
        Progress::Quiet => Box::new(Quiet),
        Progress::Plain | Progress::Auto => Box::new(plain::Plain::new(io::stderr(), verbose)),
    };
    let report = match files.timeline {
        Some(file) => Box::new(Both(report, Box::new(timeline::Timeline::new(file)))),
        None => report,
    };
    let report: Box<dyn Report> = match files.junit {
        Some(file) => Box::new(Both(report, Box::new(junit::Junit::new(file)))),
        None => report,
    };
    let told = (progress != Progress::Json).then(HashSet::new);
    Reporter(Arc::new(Mutex::new(State { report, told, failed: None })))
}

/// Two reports of one build.
struct Both(Box<dyn Report>, Box<dyn Report>);

impl Report for Both {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        let first = self.0.event(event);
        self.1.event(event).and(first)
    }

    fn end(&mut self) -> io::Result<()> {
        let first = self.0.end();
        self.1.end().and(first)
    }
}

impl Reporter {
    /// Shows one event.
    pub fn event(&self, event: Event) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Event::Warning { message }, Some(told)) = (&event, &mut state.told)
            && !told.insert(message.clone())
        {
            return;
        }
        if state.failed.is_none()
            && let Err(error) = state.report.event(&event)
        {
            state.failed = Some(error);
        }
    }

    /// Ends the report; an error is one that came up on the way.
    pub fn end(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = state.report.end();
        state.failed.take().map_or(ended, Err)
    }
}

/// Shows nothing; errors are printed by whoever gets them.
struct Quiet;

impl Report for Quiet {
    fn event(&mut self, _: &Event) -> io::Result<()> {
        Ok(())
    }
}

/// Waits of commands that have no other report, which end when this is cancelled.
pub fn waits(cancel: &Cancel) -> Waits {
    Events::new(warnings_only).waits(cancel)
}

/// For commands without a report: warnings to standard error.
pub fn warnings_only(event: Event) {
    if let Event::Warning { message } = event {
        eprintln!("warning: {}", harmless(&message));
    }
}
