//! Opening a session with the best engine that can open this guest.

use std::time::Instant;

use super::Build;
use super::log::StepLog;
use super::path::create_overlay;
use crate::engine::{Image, OpenRequest, Session};
use crate::error::{Context, ErrorKind, Result, chain};
use crate::event::Event;
use crate::store::{Draft, Layer, Workspace};

/// Opens a session on `parent` with `draft`'s overlay on top; returns it with the engine's name.
///
/// Where an engine says that it cannot open such a guest, and `auto` knows another one, that is tried.
pub(super) fn open(
    build: &mut Build<'_>,
    workspace: &Workspace,
    parent: &Layer,
    draft: &Draft,
    log: &StepLog,
) -> Result<(Box<dyn Session>, &'static str)> {
    let candidates = build.selector.candidates()?;
    let mut remaining = candidates.len();
    for candidate in candidates {
        remaining -= 1;
        let engine = candidate.engine.name();
        build.sessions += 1;
        let session = build.sessions;
        build.events.send(Event::EngineChosen { engine, reason: candidate.reason.clone() });
        build.events.send(Event::SessionStarted { session, engine, parent: parent.record.key });
        let begin = Instant::now();
        let work_dir = workspace.subfolder(&format!("session-{session}"))?;
        let opened = candidate.engine.open(OpenRequest {
            parent: &Image { path: parent.path.clone(), format: parent.record.format },
            overlay: &draft.image(),
            work_dir: &work_dir,
            network_env: &build.settings.network_env,
            output: log.sink(),
            events: build.events.clone(),
            cancel: build.settings.cancel.clone(),
        });
        build.spent.add("session", begin.elapsed());
        match opened {
            Ok(mut opened) => {
                let os = opened.guest().os().pretty_name.escape_debug().to_string();
                build.events.send(Event::SessionReady { session, os, elapsed: begin.elapsed() });
                return Ok((opened, engine));
            }
            Err(error) => {
                build.events.send(Event::SessionEnded { session });
                if error.kind() != ErrorKind::Unsupported || remaining == 0 {
                    return Err(error);
                }
                build.events.warn(format!("engine `{engine}` cannot open this guest: {}", chain(&error)));
                // A mount may have written to it before another one failed.
                let image = draft.image();
                std::fs::remove_file(&image)
                    .context(ErrorKind::Store, || format!("cannot remove {}", image.display()))?;
                create_overlay(draft, &parent.record)?;
            }
        }
    }
    unreachable!("the selector gives at least one engine or an error, and the last one returns")
}
