//! Sealing, and who hears of it.
//!
//! The layers of a session are sealed in the background: the next step does not wait for the disk, the build's success does.
//! One thread of a session seals in the order in which layers were made, so a layer in the store never lacks its parent. After a
//! seal that failed, no later one is tried.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::flatten::Flattener;
use super::schedule::Schedule;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::key::LayerKey;
use crate::store::{Draft, Layer, Outcome, Store};

/// What every layer that is made goes through.
#[derive(Clone)]
pub(super) struct Commits {
    pub(super) store: Store,
    pub(super) schedule: Arc<Schedule>,
    pub(super) flattener: Arc<Flattener>,
    /// The layers that this build made: with `force` these are good, and all others are not.
    pub(super) fresh: Fresh,
}

/// Keys of the layers that a build made. Each is in it before anybody is told that it is there.
#[derive(Clone, Default)]
pub(super) struct Fresh(Arc<Mutex<HashSet<LayerKey>>>);

impl Fresh {
    pub(super) fn keys(&self) -> MutexGuard<'_, HashSet<LayerKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Commits {
    /// Makes a draft a layer, and tells all who wait for it; `deep` where it is to be flattened.
    pub(super) fn commit(&self, draft: Draft, outcome: Outcome, deep: bool, events: &Events) -> Result<Layer> {
        let layer = draft.commit(&self.store, outcome, |layer| {
            let key = layer.record.key;
            events.send(Event::LayerSealed { key, bytes: layer.record.bytes });
            // Another worker that gets the lock now must know that it was made just now, and is not one of before.
            self.fresh.keys().insert(key);
        })?;
        self.schedule.sealed(layer.record.key);
        if deep {
            self.flattener.ask(layer.record.key);
        }
        Ok(layer)
    }
}

/// A draft that is complete; whether it is to be flattened.
type Job = (Draft, Outcome, bool);

/// A queue of drafts and the thread that seals them.
pub(super) struct Sealer {
    queue: Option<Sender<Job>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Sealer {
    pub(super) fn start(commits: &Commits, events: &Events) -> Sealer {
        let (queue, jobs) = channel();
        let (commits, events) = (commits.clone(), events.clone());
        let thread = std::thread::spawn(move || seal_all(&jobs, &commits, &events));
        Sealer { queue: Some(queue), thread: Some(thread) }
    }

    /// Hands over a draft; see [`Commits::commit`]. An error means that an earlier seal failed; [`Sealer::finish`] says why.
    pub(super) fn seal(&self, draft: Draft, outcome: Outcome, deep: bool) -> Result<()> {
        let queue = self.queue.as_ref().expect("the queue is there until the sealer is finished");
        queue.send((draft, outcome, deep)).map_err(|_| Error::new(ErrorKind::Store, "a layer could not be sealed"))
    }

    /// Waits for all seals; the error is that of the one that failed.
    pub(super) fn finish(mut self) -> Result<()> {
        drop(self.queue.take());
        let thread = self.thread.take().expect("a sealer is finished once");
        let panicked = |_| Err(Error::new(ErrorKind::Internal, "the thread that seals layers panicked"));
        thread.join().unwrap_or_else(panicked)
    }
}

fn seal_all(jobs: &Receiver<Job>, commits: &Commits, events: &Events) -> Result<()> {
    for (draft, outcome, deep) in jobs {
        // Returning drops the queue's end, and with it all drafts and locks that are in it.
        commits.commit(draft, outcome, deep, events)?;
    }
    Ok(())
}
