//! Writing the artifacts of a spec.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use super::{Build, finish, manifest};
use crate::error::Result;
use crate::event::Event;
use crate::export::{self, ExportContext, Published};
use crate::guest::selinux;
use crate::plan::SpecId;
use crate::store::Layer;

impl Build<'_> {
    /// Writes some of what the spec asks for of the layer `tip`, one after another; skips what is there already.
    pub(super) fn export(&self, id: SpecId, entries: Range<usize>, tip: &Layer) -> Result<Vec<Published>> {
        let (specs, events, settings) = (self.specs, self.events, self.settings);
        let records = self.store.exports_dir();
        let layers = manifest::layers(self, id);
        let spec = id.of(specs);
        let image = || self.store.image(tip);
        let mut published = Vec::new();
        for entry in &spec.exports[entries] {
            let begin = Instant::now();
            let kind = entry.kind.name.to_owned();
            events.send(Event::ExportStarted {
                kind: kind.clone(),
                path: entry.runner.common().target.path().to_owned(),
                worker: self.worker,
            });
            let workspace = self.store.workspace()?;
            let context = ExportContext {
                layer: &image,
                key: tip.record.key,
                virtual_size: tip.record.virtual_size,
                overlay: None,
                tree: None,
                look: spec.every_step().any(|step| !step.options.shaping.secrets.is_empty()),
                labels: if tip.record.selinux == Some(true) { selinux::VERSION } else { 0 },
                uefi: tip.record.boots.as_ref().is_some_and(|boots| !boots.bios && boots.uefi.is_some()),
                scratch: workspace.path(),
                layers: &layers,
                events,
                cancel: &settings.cancel,
            };
            let template = std::path::absolute(&spec.template).unwrap_or_else(|_| spec.template.clone());
            let from = export::From {
                layer: tip.record.key,
                layer_id: &tip.record.id,
                template: &template,
                variant: spec.variant,
            };
            let mut finish = |wanted: &export::Common, tree: &Path| finish::finish(self, id, tip, wanted, tree);
            let done = export::publish(
                &*entry.runner,
                entry.kind,
                from,
                &records,
                settings.force_export,
                &context,
                &mut finish,
            );
            let done = done.map_err(|error| {
                let (path, message) = (entry.runner.common().target.path().to_owned(), crate::error::chain(&error));
                events.send(Event::ExportFailed { path, message });
                error.at(|| entry.place())
            })?;
            self.shared.spent.add("export", begin.elapsed());
            events.send(Event::ExportFinished {
                kind,
                path: done.path.clone(),
                bytes: done.bytes,
                digest: done.digest,
                current: done.current,
                elapsed: begin.elapsed(),
            });
            published.push(done);
        }
        Ok(published)
    }
}
