//! How many sessions of an engine are open at once: what the user said, else what is good for the engine, and never more
//! than the host's memory holds.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::Engine;
use crate::error::Result;
use crate::host::{Cancel, memory};

/// How often a worker that waits for its turn asks whether the build is stopped.
const PAUSE: Duration = Duration::from_millis(50);

/// The sessions of one build.
pub(super) struct Slots {
    jobs: Option<NonZeroUsize>,
    cores: usize,
    open: Mutex<BTreeMap<&'static str, usize>>,
    freed: Condvar,
}

/// The right to one open session. Dropping it lets the next one go.
pub(super) struct Slot<'a> {
    slots: &'a Slots,
    engine: &'static str,
}

impl Slots {
    pub(super) fn new(jobs: Option<NonZeroUsize>, cores: usize) -> Slots {
        Slots { jobs, cores, open: Mutex::default(), freed: Condvar::new() }
    }

    /// Waits until one more session of `engine` may be opened.
    pub(super) fn take(&self, engine: &dyn Engine, cancel: &Cancel) -> Result<Slot<'_>> {
        self.take_one(engine.name(), engine.sessions_at_once(self.cores), engine.memory(), cancel)
    }

    /// Waits until one more machine may be booted, with this many CPUs and bytes of memory.
    pub(super) fn take_machine(&self, cpus: u32, memory: u64, cancel: &Cancel) -> Result<Slot<'_>> {
        self.take_one("machine", self.cores / (cpus as usize).max(1), memory, cancel)
    }

    fn take_one(&self, name: &'static str, at_once: usize, each: u64, cancel: &Cancel) -> Result<Slot<'_>> {
        let asked = self.jobs.map_or(at_once, NonZeroUsize::get);
        let most = asked.min(fitting(each, memory::total())).max(1);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            cancel.check()?;
            let count = open.entry(name).or_default();
            if *count < most {
                *count += 1;
                return Ok(Slot { slots: self, engine: name });
            }
            open = self.freed.wait_timeout(open, PAUSE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut open = self.slots.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(self.engine) {
            *count -= 1;
        }
        self.slots.freed.notify_all();
    }
}

/// How many sessions of `each` bytes fit into half of `total` bytes: the rest is for the page cache, which is what makes
/// steps fast, and for everybody else on the host.
fn fitting(each: u64, total: Option<u64>) -> usize {
    let Some(total) = total else { return usize::MAX };
    usize::try_from(total / 2 / each.max(1)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::engine::{OpenRequest, Session};

    /// An engine of which only the name and the needs are asked.
    struct Named(u64);

    impl Engine for Named {
        fn name(&self) -> &'static str {
            "named"
        }

        fn isolates(&self) -> bool {
            true
        }

        fn sessions_at_once(&self, cores: usize) -> usize {
            cores.div_ceil(2)
        }

        fn memory(&self) -> u64 {
            self.0
        }

        fn open(&self, _: OpenRequest<'_>) -> Result<Box<dyn Session>> {
            unreachable!("nobody opens it")
        }
    }

    fn most_at_once(slots: &Slots, engine: &Named) -> usize {
        let (open, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _slot = slots.take(engine, &Cancel::default()).unwrap();
                    most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(20));
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        most.into_inner()
    }

    #[test]
    fn the_user_then_the_engine_and_always_the_memory_say_how_many() {
        let jobs = NonZeroUsize::new(5);
        assert_eq!(most_at_once(&Slots::new(jobs, 2), &Named(1)), 5);
        assert_eq!(most_at_once(&Slots::new(None, 6), &Named(1)), 3);
        assert_eq!(most_at_once(&Slots::new(jobs, 2), &Named(u64::MAX)), 1);
    }

    #[test]
    fn half_of_the_memory_is_for_sessions() {
        assert_eq!(fitting(512, Some(4096)), 4);
        assert_eq!(fitting(512, Some(100)), 0);
        assert_eq!(fitting(512, None), usize::MAX);
    }

    #[test]
    fn who_waits_can_be_stopped() {
        let slots = Slots::new(NonZeroUsize::new(1), 1);
        let _one = slots.take(&Named(1), &Cancel::default()).unwrap();
        let cancel = Cancel::default();
        cancel.cancel();
        assert!(slots.take(&Named(1), &cancel).is_err());
    }
}
