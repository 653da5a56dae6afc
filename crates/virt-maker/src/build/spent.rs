//! Where the time of a build went, summed over its workers.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Sums of time by name.
#[derive(Debug, Default)]
pub(super) struct Spent(Mutex<Vec<(&'static str, Duration)>>);

impl Spent {
    pub(super) fn time<T>(&self, what: &'static str, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let done = work();
        self.add(what, begin.elapsed());
        done
    }

    pub(super) fn add(&self, what: &'static str, time: Duration) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match parts.iter_mut().find(|(name, _)| *name == what) {
            Some((_, sum)) => *sum += time,
            None => parts.push((what, time)),
        }
    }

    pub(super) fn list(&self) -> Vec<(String, f64)> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().map(|(name, time)| ((*name).to_owned(), time.as_secs_f64())).collect()
    }
}
