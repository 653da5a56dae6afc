//! Flattening what a build makes too deep ([`crate::store::Depth`]), beside the work.
//!
//! A layer that is one too deep is flattened by a thread of low priority while the build goes on. Nobody waits for it: what
//! is not done when the build is done is given up, and asked for again by the next build on such a chain. Only where a
//! chain is twice as deep as it should be, because nothing of that was ever finished, or one session made it so, work on
//! it waits until one layer is flat. So there is a bound, and what is opened never has more than twice the images.

use std::collections::HashSet;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Build;
use crate::error::{Result, chain};
use crate::event::{Event, Events};
use crate::host::Cancel;
use crate::key::LayerKey;
use crate::store::{Depth, Flattened, Store};

/// How often it is tried again while somebody else flattens the layer.
const PAUSE: Duration = Duration::from_millis(20);

/// Flattens the layers of one build. Its thread is started when there is something to do.
pub(super) struct Flattener {
    store: Store,
    events: Events,
    limit: usize,
    cancel: Cancel,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked: HashSet<LayerKey>,
    worker: Option<(Sender<LayerKey>, JoinHandle<()>)>,
}

impl Flattener {
    /// `limit`: how many images a chain may have.
    pub(super) fn new(store: &Store, events: &Events, limit: usize) -> Flattener {
        Flattener {
            store: store.clone(),
            events: events.clone(),
            limit,
            cancel: Cancel::default(),
            state: Mutex::default(),
        }
    }

    /// Before the base of a chain.
    pub(super) fn depth(&self) -> Depth {
        Depth::new(self.limit)
    }

    /// Has a layer flattened beside the work, once.
    pub(super) fn ask(&self, key: LayerKey) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.cancel.is_cancelled() || !state.asked.insert(key) {
            return;
        }
        let (queue, _) = state.worker.get_or_insert_with(|| {
            let (queue, todo) = channel();
            let (store, events, cancel) = (self.store.clone(), self.events.clone(), self.cancel.clone());
            let work = move || {
                // Of this thread, and of the programs that it starts.
                let _ = rustix::process::nice(19);
                todo.iter().for_each(|key| {
                    flatten(&store, key, false, &events, &cancel);
                });
            };
            (queue, std::thread::spawn(work))
        });
        // A thread that is gone has panicked, which its join says.
        let _ = queue.send(key);
    }

    /// Gives up what is not done.
    pub(super) fn stop(&self) {
        self.cancel.cancel();
        let worker = self.state.lock().unwrap_or_else(PoisonError::into_inner).worker.take();
        if let Some((queue, thread)) = worker {
            drop(queue);
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Flattens one layer; says whether its chain is shorter now. A build does not fail because that cannot be done.
fn flatten(store: &Store, key: LayerKey, waited: bool, events: &Events, cancel: &Cancel) -> Option<Flattened> {
    let begin = Instant::now();
    match store.flatten(key, cancel) {
        Ok(found) => {
            if let Flattened::Done { images, bytes } = found {
                events.send(Event::LayerFlattened { key, images, bytes, elapsed: begin.elapsed(), waited });
            } else if found == Flattened::NoRoom {
                let short = key.short();
                let message = format!("layer {short} is not flattened: the disk of the store has not enough room");
                events.send(Event::Trace { source: "store", message });
            }
            Some(found)
        }
        Err(_) if cancel.is_cancelled() => None,
        Err(error) => {
            events.warn(format!("its chain of images stays as long as it is: {}", chain(&error)));
            None
        }
    }
}

impl Build<'_> {
    /// Before work on the chain of this depth, whose `deep` layers are to be flattened: asks for them, and where the chain is
    /// too deep to work on, flattens the last of them first. Says whether the chain is another one now.
    pub(super) fn flatten_before_work(&self, depth: &Depth, deep: &[LayerKey]) -> Result<bool> {
        let flattener = &self.shared.commits.flattener;
        let last = deep.last().filter(|_| depth.is_too_deep());
        deep.iter().filter(|key| Some(*key) != last).for_each(|key| flattener.ask(*key));
        let Some(last) = last else { return Ok(false) };
        loop {
            self.settings.cancel.check()?;
            match flatten(self.store, *last, true, self.events, &self.settings.cancel) {
                Some(Flattened::Busy) => std::thread::sleep(PAUSE),
                Some(Flattened::Done { .. }) => return Ok(true),
                // Somebody else was faster, or it cannot be done: the work goes on with what there is.
                _ => return Ok(false),
            }
        }
    }
}
