//! How far a long operation is.

use std::time::{Duration, Instant};

use super::{Event, Events};

/// Sends [`Event::Progress`] about one long operation, a few times a second and no oftener.
pub struct Meter<'a> {
    events: &'a Events,
    what: String,
    unit: &'static str,
    total: Option<u64>,
    last: Option<Instant>,
}

impl<'a> Meter<'a> {
    /// How long it is silent.
    const PAUSE: Duration = Duration::from_millis(100);

    /// About `what`, in bytes.
    pub fn bytes(events: &'a Events, what: impl Into<String>, total: Option<u64>) -> Self {
        Meter { events, what: what.into(), unit: "bytes", total, last: None }
    }

    /// About `what`, of which only the part done is known.
    pub fn permille(events: &'a Events, what: impl Into<String>) -> Self {
        Meter { events, what: what.into(), unit: "permille", total: Some(1000), last: None }
    }

    /// Says how much is done. The first call and the one with the total are always sent.
    pub fn at(&mut self, done: u64) {
        if self.total != Some(done) && self.last.is_some_and(|last| last.elapsed() < Self::PAUSE) {
            return;
        }
        self.last = Some(Instant::now());
        let (what, total, unit) = (self.what.clone(), self.total, self.unit);
        self.events.send(Event::Progress { what, done, total, unit, worker: None });
    }
}
