//! Sealing in the background: the next step does not wait for the disk, the build's success does.
//!
//! One thread of a session seals in the order in which layers were made, so a layer in the store never lacks its parent. After a
//! seal that failed, no later one is tried.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::Fresh;
use super::flatten::Flattener;
use super::schedule::Schedule;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::store::{Draft, KeyLock, Store};

/// A queue of drafts and the thread that seals them.
pub(super) struct Sealer {
    queue: Option<Sender<(Draft, KeyLock, bool)>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Sealer {
    /// Each layer is noted in `fresh` and told to `schedule` as soon as it is sealed, and to `flattener` where it lies too deep.
    pub(super) fn start(
        store: &Store,
        events: &Events,
        schedule: &Arc<Schedule>,
        flattener: &Arc<Flattener>,
        fresh: &Fresh,
    ) -> Sealer {
        let (queue, drafts) = channel();
        let (store, events) = (store.clone(), events.clone());
        let (schedule, flattener, fresh) = (schedule.clone(), flattener.clone(), fresh.clone());
        let thread = std::thread::spawn(move || seal_all(&drafts, &store, &events, &schedule, &flattener, &fresh));
        Sealer { queue: Some(queue), thread: Some(thread) }
    }

    /// Hands over a draft that is complete, with the lock of its key, which is let go after the seal; `deep` where its layer is
    /// to be flattened. An error means that an earlier seal failed; [`Sealer::finish`] says why.
    pub(super) fn seal(&self, draft: Draft, lock: KeyLock, deep: bool) -> Result<()> {
        let queue = self.queue.as_ref().expect("the queue is there until the sealer is finished");
        queue.send((draft, lock, deep)).map_err(|_| Error::new(ErrorKind::Store, "a layer could not be sealed"))
    }

    /// Waits for all seals; the error is that of the one that failed.
    pub(super) fn finish(mut self) -> Result<()> {
        drop(self.queue.take());
        let thread = self.thread.take().expect("a sealer is finished once");
        let panicked = |_| Err(Error::new(ErrorKind::Internal, "the thread that seals layers panicked"));
        thread.join().unwrap_or_else(panicked)
    }
}

fn seal_all(
    drafts: &Receiver<(Draft, KeyLock, bool)>,
    store: &Store,
    events: &Events,
    schedule: &Schedule,
    flattener: &Flattener,
    fresh: &Fresh,
) -> Result<()> {
    for (draft, lock, deep) in drafts {
        match store.seal(draft) {
            Ok(layer) => {
                events.send(Event::LayerSealed { key: layer.record.key, bytes: layer.record.bytes });
                // Another worker that comes for it now must know that it was made just now, and is not one of before.
                fresh.add(layer.record.key);
                // Only the lock keeps others from the key, so it goes before anybody is sent there.
                drop(lock);
                schedule.sealed(layer.record.key);
                if deep {
                    flattener.ask(layer.record.key);
                }
            }
            // Returning drops the queue's end, and with it all drafts and locks that are in it.
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
