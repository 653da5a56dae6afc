//! Waiting for a layer that somebody else makes.

use super::Build;
use crate::error::Result;
use crate::event::Event;
use crate::host::waiting::Waits;
use crate::key::LayerKey;
use crate::store::KeyLock;

impl Build<'_> {
    /// Takes the lock of a key, waiting for whoever has it, and says so once.
    pub(super) fn lock(&self, key: LayerKey) -> Result<KeyLock> {
        // It has an event of its own.
        let waits = Waits::new(&self.settings.cancel, |_| {});
        let (mut wait, mut said) = (waits.wait_for(String::new), false);
        loop {
            if let Some(lock) = self.store.try_lock(key)? {
                return Ok(lock);
            }
            if !said {
                self.events.send(Event::LayerAwaited { key, pid: self.store.lock_holder(key) });
                said = true;
            }
            wait.pause()?;
        }
    }
}
