//! What a worker does, and what comes of the work of all.

use std::sync::{Mutex, PoisonError};

use super::schedule::{End, ErrorId, Part, Schedule, Task};
use super::{Build, image_name, path};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{ImageState, Outcome};
use crate::export::Published;
use crate::plan::SpecId;
use crate::store::Layer;

/// A spec, and the number of the first of some of its exports.
type Place = (SpecId, usize);

/// What the workers bring home.
#[derive(Default)]
pub(super) struct Results {
    artifacts: Mutex<Vec<(Place, Vec<Published>)>>,
    errors: Mutex<Vec<Error>>,
}

impl Results {
    pub(super) fn end(self) -> (Vec<Published>, Vec<Error>) {
        let mut artifacts = self.artifacts.into_inner().unwrap_or_else(PoisonError::into_inner);
        artifacts.sort_by_key(|(place, _)| *place);
        let errors = self.errors.into_inner().unwrap_or_else(PoisonError::into_inner);
        (artifacts.into_iter().flat_map(|(_, published)| published).collect(), errors)
    }
}

/// Stops the others if this worker panics: what it had taken would never be done, and they would wait for it.
struct StopOnPanic<'a>(&'a Schedule);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

impl Build<'_> {
    /// Does whatever is ready, until nothing is left.
    pub(super) fn work(&self, results: &Results) {
        let schedule = &self.shared.commits.schedule;
        let _guard = StopOnPanic(schedule);
        while let Some(task) = schedule.next() {
            let done = match &task {
                Task::Chain(end) => path::ensure(self, *end).map(|_| ()),
                Task::After(spec, Part::Test(number)) => {
                    self.spec_layer(*spec).and_then(|tip| self.test(*spec, *number, &tip))
                }
                Task::After(spec, Part::Exports(entries)) => self.spec_layer(*spec).and_then(|tip| {
                    let published = self.export(*spec, entries.clone(), &tip)?;
                    let mut artifacts = results.artifacts.lock().unwrap_or_else(PoisonError::into_inner);
                    artifacts.push(((*spec, entries.start), published));
                    Ok(())
                }),
            };
            let end = match done {
                Ok(()) => End::Made,
                Err(error) => self.note(error, results),
            };
            schedule.done(&task, end);
        }
    }

    /// Takes an error in; says how the task ended.
    fn note(&self, error: Error, results: &Results) -> End {
        let schedule = &self.shared.commits.schedule;
        if error.kind() == ErrorKind::Cancelled {
            // What a stopped build leaves undone has no error of its own.
            schedule.stop();
            return End::Stopped;
        }
        let mut errors = results.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.push(error);
        if self.settings.fail_fast {
            schedule.stop();
            self.settings.cancel.cancel();
        }
        End::Failed(ErrorId(errors.len() - 1))
    }

    /// The layer of a spec's tip. It was there a moment ago; where it is gone since, it is made again.
    fn spec_layer(&self, spec: SpecId) -> Result<Layer> {
        let tip = self.plan.tip(spec);
        match &self.plan[tip].layer {
            Some(layer) => Ok(layer.clone()),
            None => path::ensure(self, tip),
        }
    }

    /// What has become of each spec.
    pub(super) fn images(&self, errors: &[Error]) -> Vec<ImageState> {
        let fates = self.shared.commits.schedule.fates();
        let state = |id: SpecId| {
            let made = || self.plan.layers(id).iter().any(|node| self.shared.is_made(node.info.key));
            let (outcome, error) = match &fates[id] {
                Some(End::Made) if made() => (Outcome::Built, None),
                Some(End::Made) => (Outcome::Cached, None),
                Some(End::Failed(error)) => (Outcome::Failed, Some(crate::error::chain(error.of(errors)))),
                Some(End::Stopped) | None => (Outcome::Stopped, None),
            };
            ImageState { image: image_name(id.of(self.specs)), outcome, error }
        };
        SpecId::all(self.specs).map(state).collect()
    }

    /// The one error of a build that did not succeed.
    pub(super) fn failed(&self, errors: Vec<Error>) -> Error {
        let mut parts = Vec::new();
        if errors.is_empty() || self.settings.cancel.is_cancelled_above() {
            parts.push(Error::new(ErrorKind::Cancelled, "stopped on request"));
        }
        parts.extend(errors);
        let context = format!("{} errors", parts.len());
        Error::several(context, parts)
    }
}
