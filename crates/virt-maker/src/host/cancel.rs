//! A request to stop, shared by all threads of a build, and the limit of time that a part of the work may have besides.
//!
//! Whoever waits looks at one thing, so a wait that a person can end is also one that a time limit ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// A flag that once set stays set. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    /// The flag of those who stop us too.
    above: Option<Arc<AtomicBool>>,
    limit: Option<Limit>,
}

/// The time that a step may take.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    until: Instant,
    seconds: u64,
}

impl Limit {
    /// This many seconds from now; none where no clock goes that far.
    pub fn seconds(seconds: u64) -> Option<Limit> {
        let until = Instant::now().checked_add(Duration::from_secs(seconds))?;
        Some(Limit { until, seconds })
    }

    /// What is left of it; nothing once it has passed.
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// An error of kind `Step` if it has passed.
    pub fn check(&self) -> Result<()> {
        if !self.left().is_zero() {
            return Ok(());
        }
        let message = format!("the step took longer than its timeout of {} s", self.seconds);
        Err(Error::new(ErrorKind::Step, message))
    }
}

impl Cancel {
    /// Asks everybody to stop. Safe in a signal handler.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::SeqCst);
    }

    /// A flag for a part of the work: set with this one, and alone without it. A part has no parts.
    pub fn part(&self) -> Cancel {
        Cancel { flag: Arc::default(), above: Some(self.flag.clone()), limit: None }
    }

    /// The same flag, for work that has to be over in time: it counts as set when the limit has passed.
    pub fn limited(&self, limit: Option<Limit>) -> Cancel {
        Cancel { limit, ..self.clone() }
    }

    /// Whether somebody asked, or the time is over.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
            || self.is_cancelled_above()
            || self.limit.is_some_and(|limit| limit.left().is_zero())
    }

    /// Whether somebody asked for all the work to stop, of which this is a part.
    pub fn is_cancelled_above(&self) -> bool {
        self.above.as_ref().is_some_and(|above| above.load(Ordering::SeqCst))
    }

    /// An error of kind `Cancelled` if somebody asked, and one of kind `Step` if the time is over.
    pub fn check(&self) -> Result<()> {
        if self.flag.load(Ordering::SeqCst) || self.is_cancelled_above() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped on request"));
        }
        self.limit.map_or(Ok(()), |limit| limit.check())
    }
}
