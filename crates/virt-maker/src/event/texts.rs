//! The words of an event that may hold what somebody said: programs, servers, guests.

use super::{Event, FieldChange, LayerInfo, MissReason};

impl Event {
    /// Hands each of them to `change`. Names that are ours, paths and numbers are none.
    pub(crate) fn texts(&mut self, change: &mut dyn FnMut(&mut String)) {
        match self {
            Event::LayerCached(layer) | Event::LayerStarted { layer, .. } => summary(layer, change),
            Event::LayerMissing { layer, miss } => {
                summary(layer, change);
                match miss {
                    MissReason::Changed { changes, .. } => changes.iter_mut().for_each(|one| values(one, change)),
                    MissReason::Collected { why: text, .. } | MissReason::Damaged { problem: text } => change(text),
                    MissReason::ParentMissing
                    | MissReason::NeverMade
                    | MissReason::Forced
                    | MissReason::AlwaysRun
                    | MissReason::Expired { .. } => {}
                }
            }
            Event::EngineChosen { reason: text, .. }
            | Event::SessionReady { os: text, .. }
            | Event::Output { text, .. }
            | Event::Progress { what: text, .. }
            | Event::Stage { what: text, .. }
            | Event::ConsoleLine { text, .. }
            | Event::ImportFailed { message: text, .. }
            | Event::ExportFailed { message: text, .. }
            | Event::Warning { message: text }
            | Event::Trace { message: text, .. } => change(text),
            Event::TestStarted { name, .. } => change(name),
            Event::TestFinished { name, message, .. } => std::iter::once(name).chain(message).for_each(change),
            Event::StepFailed { failure, .. } => failure.texts(change),
            Event::BuildFinished { images, .. } => images.iter_mut().filter_map(|i| i.error.as_mut()).for_each(change),
            Event::BuildFailed { message, images, .. } => {
                change(message);
                images.iter_mut().filter_map(|image| image.error.as_mut()).for_each(change);
            }
            Event::BuildStarted { tests, .. } => tests.iter_mut().for_each(|test| change(&mut test.name)),
            Event::SessionStarted { .. }
            | Event::SessionEnded { .. }
            | Event::LayerAwaited { .. }
            | Event::MachineBooted { .. }
            | Event::Screenshot { .. }
            | Event::StepFinished { .. }
            | Event::LayerSealed { .. }
            | Event::LayerFlattened { .. }
            | Event::ExportStarted { .. }
            | Event::ExportFinished { .. }
            | Event::StoreCollected { .. } => {}
        }
    }
}

fn summary(layer: &mut LayerInfo, change: &mut dyn FnMut(&mut String)) {
    change(&mut layer.summary);
}

fn values(changed: &mut FieldChange, change: &mut dyn FnMut(&mut String)) {
    changed.old.iter_mut().chain(&mut changed.new).for_each(change);
}
