//! Waiting for a layer that somebody else makes.

use std::time::Duration;

use super::Build;
use crate::error::Result;
use crate::event::Event;
use crate::key::LayerKey;
use crate::store::KeyLock;

/// How often a lock is tried. A lock that is waited for is not asked for in the kernel's queue, because a wait there
/// could not be cancelled.
const PAUSE: Duration = Duration::from_millis(20);

impl Build<'_> {
    /// Takes the lock of a key, waiting for whoever has it, and says so once.
    pub(super) fn lock(&self, key: LayerKey) -> Result<KeyLock> {
        let mut said = false;
        loop {
            if let Some(lock) = self.store.try_lock(key)? {
                return Ok(lock);
            }
            if !said {
                self.events.send(Event::LayerAwaited { key, pid: self.store.lock_holder(key) });
                said = true;
            }
            self.settings.cancel.check()?;
            std::thread::sleep(PAUSE);
        }
    }
}
