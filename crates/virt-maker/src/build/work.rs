//! What a worker does, and what comes of the work of all.

use std::sync::{Mutex, PoisonError};

use super::schedule::{Fate, Schedule, Task};
use super::{Build, image_name, path};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{ImageState, Outcome};
use crate::export::Published;
use crate::plan::Plan;
use crate::spec::Spec;
use crate::store::Layer;

/// The numbers of a spec, and of the first of some of its exports.
type Place = (usize, usize);

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
    pub(super) fn work(&self, plan: &Plan, results: &Results) {
        let _guard = StopOnPanic(&self.shared.schedule);
        while let Some(task) = self.shared.schedule.next() {
            let done = match &task {
                Task::Chain(path) => path::ensure(self, plan, path).map(|_| ()),
                Task::Export(spec, entries) => self.spec_layer(plan, *spec).and_then(|tip| {
                    let published = self.export(plan, *spec, entries.clone(), &tip)?;
                    let mut artifacts = results.artifacts.lock().unwrap_or_else(PoisonError::into_inner);
                    artifacts.push(((*spec, entries.start), published));
                    Ok(())
                }),
            };
            let failed = done.err().map(|error| self.note(error, results));
            self.shared.schedule.done(&task, failed);
        }
    }

    /// Takes an error in and gives its number.
    fn note(&self, error: Error, results: &Results) -> usize {
        if error.kind() == ErrorKind::Cancelled {
            // What a stopped build leaves undone has no error of its own.
            self.shared.schedule.stop();
            return usize::MAX;
        }
        let mut errors = results.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.push(error);
        if self.settings.fail_fast {
            self.shared.schedule.stop();
            self.settings.cancel.cancel();
        }
        errors.len() - 1
    }

    /// The layer of a spec's tip. It was there a moment ago; where it is gone since, it is made again.
    fn spec_layer(&self, plan: &Plan, index: usize) -> Result<Layer> {
        match &plan.nodes[plan.tips[index]].layer {
            Some(layer) => Ok(layer.clone()),
            None => path::ensure(self, plan, &plan.path(index)),
        }
    }

    /// What has become of each spec.
    pub(super) fn images(&self, plan: &Plan, errors: &[Error]) -> Vec<ImageState> {
        let fates = self.shared.schedule.fates();
        let state = |(index, spec): (usize, &Spec)| {
            let error = match fates[index] {
                Some(Fate::Failed(number)) => errors.get(number).map(|error| crate::error::chain(error)),
                _ => None,
            };
            let made = || plan.path(index).iter().any(|node| self.shared.is_made(plan.nodes[*node].info.key));
            let outcome = match fates[index] {
                Some(Fate::Made) if made() => Outcome::Built,
                Some(Fate::Made) => Outcome::Cached,
                Some(Fate::Failed(_)) if error.is_some() => Outcome::Failed,
                _ => Outcome::Stopped,
            };
            ImageState { image: image_name(spec), outcome, error }
        };
        self.specs.iter().enumerate().map(state).collect()
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
