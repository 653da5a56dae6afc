//! Opening a session with the best engine that can open this guest.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Build;
use super::caches::Caches;
use super::draft::create_overlay;
use super::log::StepLog;
use super::slots::Slot;
use crate::engine::select::Candidate;
use crate::engine::{OpenRequest, Session};
use crate::error::{Context, ErrorKind, Result};
use crate::event::Event;
use crate::store::{Draft, Layer, Workspace};

/// An open session.
pub(super) struct Opened<'a> {
    pub(super) session: Box<dyn Session>,
    /// The engine's name.
    pub(super) engine: &'static str,
    /// Its number within the build, from 1.
    pub(super) number: u32,
    /// Kept until the session is gone, by whoever takes it out of here too.
    pub(super) caches: Caches,
    /// As the caches.
    pub(super) slot: Slot<'a>,
}

/// A session that is to be opened.
pub(super) struct NewSession<'r> {
    /// Where its work folder is made.
    pub(super) workspace: &'r Workspace,
    /// The layer that it begins on.
    pub(super) parent: &'r Layer,
    /// Whose overlay is on top of that.
    pub(super) draft: &'r Draft,
    /// Takes what the engine says.
    pub(super) log: &'r StepLog,
    /// So many overlays there will be.
    pub(super) overlays: usize,
    /// Whether one of its commands has a network.
    pub(super) network: bool,
    /// Whether one of its commands has all rights in a machine of its own.
    pub(super) privileged: bool,
    /// Names of the caches that steps mount.
    pub(super) caches: &'r BTreeSet<&'r str>,
}

impl NewSession<'_> {
    /// Opens it with the best engine that can, when it is its turn.
    ///
    /// Where an engine says that it cannot open such a guest, and `auto` knows another one, that is tried.
    pub(super) fn open<'a>(&self, build: &Build<'a>) -> Result<Opened<'a>> {
        let mut again = false;
        let attempt = |candidate: &Candidate| {
            if std::mem::replace(&mut again, true) {
                // A mount may have written to it before another one failed.
                let image = self.draft.image();
                std::fs::remove_file(&image)
                    .context(ErrorKind::Store, || format!("cannot remove {}", image.display()))?;
                create_overlay(self.draft, &self.parent.record)?;
            }
            self.open_with(candidate, build)
        };
        match self.privileged {
            true => build.shared.selector.first_with_all_rights(build.events, attempt),
            false => build.shared.selector.first_that_opens(build.events, attempt),
        }
    }

    fn open_with<'a>(&self, candidate: &Candidate, build: &Build<'a>) -> Result<Opened<'a>> {
        let engine = candidate.engine.name();
        let slot = build.shared.slots.take(&*candidate.engine, &build.settings.cancel)?;
        let caches =
            Caches::take(&build.store.cache_dir(), self.caches, candidate.engine.isolates(), &build.settings.cancel)?;
        let session = build.shared.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let why = if self.privileged { "a step is `privileged`; " } else { "" };
        build.events.send(Event::EngineChosen { engine, reason: format!("{why}{}", candidate.reason) });
        build.events.send(Event::SessionStarted {
            session,
            engine,
            parent: self.parent.record.key,
            worker: build.worker,
        });
        let begin = Instant::now();
        let work_dir = self.workspace.subfolder(&format!("session-{session}"))?;
        let image = build.store.image(self.parent)?;
        let opened = candidate.engine.open(OpenRequest {
            parent: &image,
            overlay: &self.draft.image(),
            overlays: self.overlays,
            work_dir: &work_dir,
            caches: &caches.disks,
            to_mend: false,
            network_env: &build.shared.guest_env,
            network: self.network,
            host_network: build.settings.host_network,
            output: self.log.sink(),
            events: build.events.clone(),
            cancel: build.settings.cancel.clone(),
        });
        build.shared.spent.add("session", begin.elapsed());
        match opened {
            Ok(mut opened) => {
                let os = opened.guest().os().pretty_name.escape_debug().to_string();
                build.events.send(Event::SessionReady { session, os, elapsed: begin.elapsed() });
                Ok(Opened { session: opened, engine, number: session, caches, slot })
            }
            Err(error) => {
                build.events.send(Event::SessionEnded { session });
                Err(error)
            }
        }
    }
}
