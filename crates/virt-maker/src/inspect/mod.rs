//! Looking into layers: their files, what differs between two, a shell in one.
//!
//! A layer is opened as a build opens it: with an engine's session, on an overlay that is thrown away. So it works for
//! every guest and on every engine that builds, nothing of the layer changes, and no name of the guest is resolved on the
//! host. The layer is leased as long as it is open.

mod diff;
mod verify;

use std::fs;
use std::path::Path;
use std::time::Instant;

pub use verify::{Bad, Verified, verify};

pub use diff::{Change, Changed, Difference, Facts, diff};

use crate::disk::overlay;
use crate::engine::{Opened, Opener, Place, Session, Wanted};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::guest::Guest;
use crate::host::random;
use crate::key::{KeyMaterial, LayerKey};
use crate::store::{Kept, Layer, Lease, Outcome, Scratch, Store, Workspace};

/// A layer that is open, on an overlay of its own.
pub struct Inside {
    // In this order: the session ends before its overlay and its folder go, and the lease is the last.
    session: Box<dyn Session>,
    engine: &'static str,
    scratch: Scratch,
    layer: Layer,
    workspace: Workspace,
    _lease: Lease,
}

/// What can be looked into. It is leased.
pub enum Look {
    /// A layer.
    Layer(Layer, Lease),
    /// The guest as a failed step left it, of which a copy is opened.
    Kept(Kept, Lease),
}

impl Look {
    /// What `name` means: see [`Store::open_kept`] and [`Store::open_layer`].
    pub fn find(store: &Store, name: &str) -> Result<Look> {
        Ok(match store.open_kept(name)? {
            Some((kept, lease)) => Look::Kept(kept, lease),
            None => {
                let (layer, lease) = store.open_layer(name)?;
                Look::Layer(layer, lease)
            }
        })
    }

    /// What tells it from others: the key of a layer, the path of a kept overlay.
    pub fn id(&self) -> String {
        match self {
            Look::Layer(layer, _) => layer.record.key.to_string(),
            Look::Kept(kept, _) => kept.overlay.display().to_string(),
        }
    }
}

impl Inside {
    /// Opens it.
    pub fn open(store: &Store, look: Look, opener: &Opener) -> Result<Inside> {
        let (layer, lease, changed) = match look {
            Look::Layer(layer, lease) => (layer, lease, None),
            Look::Kept(kept, lease) => (kept.parent, lease, Some(kept.overlay)),
        };
        let material = by_hand("shell", &layer)?;
        let image = store.image(&layer)?;
        let opened = opener.open(&Wanted::to_look(&image, opener.events()), |_| {
            let workspace = store.workspace()?;
            let scratch = store.scratch(workspace.subfolder("draft")?, material.clone(), &layer.record)?;
            if let Some(changed) = &changed {
                copy_over(changed, &scratch, &layer)?;
            }
            let work_dir = workspace.subfolder("session")?;
            Ok(Place { overlay: scratch.image(), work_dir, caches: Vec::new(), with: (workspace, scratch) })
        });
        let Opened { session, engine, with: (workspace, scratch) } = opened?;
        Ok(Inside { session, engine, scratch, layer, workspace, _lease: lease })
    }

    /// The guest.
    pub fn guest(&mut self) -> &mut dyn Guest {
        self.session.guest()
    }

    /// The layer.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Ends the session and throws away what was changed in it.
    pub fn close(self) {
        // The session's helpers are killed: there is nothing to be written out for anybody.
        drop(self);
    }

    /// A shell in the guest on this process's terminal, until the user leaves it.
    pub fn shell(&mut self) -> Result<()> {
        self.session.shell(false)
    }

    /// Seals what was changed as a layer of its own, on the layer that was opened, and gives it the name `tag`.
    pub fn keep(self, store: &Store, begin: Instant, tag: &str, events: &Events) -> Result<LayerKey> {
        let Inside { mut session, engine, scratch, layer: _, workspace, _lease } = self;
        for news in session.guest().fstab_news()? {
            events.warn(crate::host::escape::escape(&news));
        }
        session.finish()?;
        let outcome = Outcome {
            summary: format!("a shell, kept as {tag}"),
            engine: Some(engine.to_owned()),
            seconds: begin.elapsed().as_secs_f64(),
            ..Outcome::default()
        };
        let key = keep(store, scratch, outcome, tag, events)?;
        drop(workspace);
        Ok(key)
    }
}

/// The description of what a person does by hand on a layer. It is no work of a template, so its key is one that nothing else has.
pub(crate) fn by_hand(kind: &str, layer: &Layer) -> Result<KeyMaterial> {
    Ok(KeyMaterial {
        role: "step".into(),
        kind: kind.into(),
        kind_version: 1,
        arguments: serde_json::json!({ "unique": random::id()? }),
        inputs: Vec::new(),
        parent: Some(layer.record.key),
        options: serde_json::Map::new(),
    })
}

/// Seals an overlay that a person has worked on, and gives it the name `tag`.
pub(crate) fn keep(store: &Store, scratch: Scratch, outcome: Outcome, tag: &str, events: &Events) -> Result<LayerKey> {
    let key = scratch.record().key;
    // From before it is sealed until it has its name, it is nobody's.
    let _own = store.lease(&[key])?;
    let Some(lock) = store.try_lock(key)? else {
        return Err(Error::new(ErrorKind::Store, format!("somebody else makes layer {}", key.short())));
    };
    let sealed = scratch.into_draft(lock).commit(store, outcome, |_| {});
    let sealed = sealed.context(ErrorKind::Store, || "what was changed cannot be kept")?;
    store.tag(key, tag)?;
    events.send(Event::LayerSealed { key, bytes: sealed.record.bytes });
    Ok(key)
}

/// Puts what a failed step left in the place of an empty overlay on the same layer.
pub(crate) fn copy_over(changed: &Path, scratch: &Scratch, layer: &Layer) -> Result<()> {
    let copied = crate::host::own::reader(changed).and_then(|mut from| {
        let mut to = fs::File::create(scratch.image())?;
        std::io::copy(&mut from, &mut to)
    });
    copied.context(ErrorKind::Store, || format!("cannot copy {}", changed.display()))?;
    overlay::set_backing_name(&scratch.image(), &layer.record.image_name())
}
