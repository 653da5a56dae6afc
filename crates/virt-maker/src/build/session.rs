//! Opening a session for steps or for an export, when it is its turn.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Build;
use super::caches::Caches;
use super::log::StepLog;
use super::slots::Slot;
use crate::engine::{Opened, Place, Session, Wanted};
use crate::error::Result;
use crate::event::{Event, Events};
use crate::store::{Layer, Scratch, Workspace};

/// A session that is to be opened.
pub(super) struct NewSession<'r> {
    /// Where its work folder is made.
    pub(super) workspace: &'r Workspace,
    /// The layer that it begins on.
    pub(super) parent: &'r Layer,
    /// The overlay on top of that.
    pub(super) scratch: &'r Scratch,
    /// Takes what the engine says.
    pub(super) log: &'r StepLog,
    /// How many overlays there will be.
    pub(super) overlays: usize,
    /// Whether one of its commands has a network.
    pub(super) network: bool,
    /// Whether one of its commands has all rights in a machine of its own.
    pub(super) privileged: bool,
    /// Whether something is on that overlay already, which stays.
    pub(super) goes_on: bool,
    /// Names of the caches that steps mount.
    pub(super) caches: &'r BTreeSet<&'r str>,
}

/// A session as its events tell of it: they hear that it has ended when this goes.
pub(super) struct Begun<'a> {
    events: Events,
    /// Its number within the build, from 1.
    pub(super) number: u32,
    begin: Instant,
    /// Kept until the session is gone.
    held: Option<(Caches, Slot<'a>)>,
}

impl Begun<'_> {
    /// Lets others have its caches and its turn. The session is gone; what it made may not be sealed yet.
    pub(super) fn free(&mut self) {
        self.held = None;
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.events.send(Event::SessionEnded { session: self.number });
    }
}

impl NewSession<'_> {
    /// Opens it with the best engine that can, when it is its turn. Whoever takes this apart in its order drops the session first,
    /// and then what it works on.
    pub(super) fn open<'a>(&self, build: &Build<'a>) -> Result<(Begun<'a>, &'static str, Box<dyn Session>)> {
        let image = build.store.image(self.parent)?;
        let wanted = Wanted {
            parent: &image,
            overlays: self.overlays,
            to_mend: false,
            network: self.network,
            privileged: self.privileged,
            output: self.log.sink(),
            events: build.events,
        };
        let cancel = &build.settings.cancel;
        let mut again = false;
        let opened = build.shared.opener.open(&wanted, |candidate| {
            if std::mem::replace(&mut again, true) && !self.goes_on {
                // A mount may have written to it before another one failed.
                self.scratch.create_again(&self.parent.record)?;
            }
            let engine = candidate.engine.name();
            let slot = build.shared.slots.take(&*candidate.engine, cancel)?;
            let isolates = candidate.engine.isolates();
            let caches = Caches::take(&build.store.cache_dir(), self.caches, isolates, cancel)?;
            let number = build.shared.sessions.fetch_add(1, Ordering::Relaxed) + 1;
            let work_dir = self.workspace.subfolder(&format!("session-{number}"))?;
            let why = if self.privileged { "a step is `privileged`; " } else { "" };
            build.events.send(Event::EngineChosen { engine, reason: format!("{why}{}", candidate.reason) });
            let parent = self.parent.record.key;
            build.events.send(Event::SessionStarted { session: number, engine, parent, worker: build.worker });
            let disks = caches.disks.clone();
            let (events, begin) = (build.events.clone(), Instant::now());
            let with = Begun { events, number, begin, held: Some((caches, slot)) };
            Ok(Place { overlay: self.scratch.image(), work_dir, caches: disks, with })
        });
        let Opened { mut session, engine, with } = opened?;
        let elapsed = with.begin.elapsed();
        build.shared.spent.add("session", elapsed);
        let os = session.guest().os().pretty_name.escape_debug().to_string();
        build.events.send(Event::SessionReady { session: with.number, os, elapsed });
        Ok((with, engine, session))
    }
}
