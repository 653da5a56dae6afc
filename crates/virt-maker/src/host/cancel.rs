//! A request to stop, shared by all threads of a build.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// A flag that once set stays set. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    /// The flag of those who stop us too.
    above: Option<Arc<AtomicBool>>,
}

impl Cancel {
    /// Asks everybody to stop. Safe in a signal handler.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::SeqCst);
    }

    /// A flag for a part of the work: set with this one, and alone without it. A part has no parts.
    pub fn part(&self) -> Cancel {
        Cancel { flag: Arc::default(), above: Some(self.flag.clone()) }
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::SeqCst) || self.is_cancelled_above()
    }

    /// Whether somebody asked for all the work to stop, of which this is a part.
    pub fn is_cancelled_above(&self) -> bool {
        self.above.as_ref().is_some_and(|above| above.load(Ordering::SeqCst))
    }

    /// An error of kind `Cancelled` if somebody asked.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::new(ErrorKind::Cancelled, "stopped on request")) } else { Ok(()) }
    }
}
