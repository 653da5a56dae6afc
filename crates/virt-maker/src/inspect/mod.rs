//! Looking into layers: their files, what differs between two, a shell in one.
//!
//! A layer is opened as a build opens it: with an engine's session, on an overlay that is thrown away. So it works for
//! every guest and on every engine that builds, nothing of the layer changes, and no name of the guest is resolved on the
//! host. The layer is leased as long as it is open.

mod diff;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use verify::{Bad, Verified, verify};

pub use diff::{Change, Changed, Difference, Facts, diff};

use crate::disk::ImageFormat;
use crate::disk::overlay::{self, Backing};
use crate::engine::select::{EngineChoice, Selector};
use crate::engine::{OpenRequest, Session};
use crate::error::{Context, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::guest::Guest;
use crate::host::{Cancel, random};
use crate::key::{KeyMaterial, LayerKey};
use crate::store::{Draft, Kept, Layer, Lease, Store, Workspace};

/// With what layers are opened.
#[derive(Clone)]
pub struct Opener {
    /// Path of the agent.
    pub agent: PathBuf,
    /// A folder for what engines keep between sessions.
    pub engine_cache: PathBuf,
    /// Which engine.
    pub engine: EngineChoice,
    /// A kernel for engine `vm`, in place of the newest of the host.
    pub kernel: Option<PathBuf>,
    /// Variables for commands with a network: proxies.
    pub network_env: std::collections::BTreeMap<String, String>,
    /// Whether they may reach the host's own addresses, too.
    pub host_network: bool,
    /// Warnings and traces.
    pub events: Events,
    /// Set from elsewhere to stop.
    pub cancel: Cancel,
}

/// A layer that is open, on an overlay of its own.
pub struct Inside {
    // In this order: the session ends before its overlay and its folder go, and the lease is the last.
    session: Box<dyn Session>,
    engine: &'static str,
    draft: Draft,
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
        match look {
            Look::Layer(layer, lease) => Inside::open_on(store, layer, lease, opener, None),
            Look::Kept(kept, lease) => Inside::open_on(store, kept.parent, lease, opener, Some(&kept.overlay)),
        }
    }

    fn open_on(store: &Store, layer: Layer, lease: Lease, opener: &Opener, changed: Option<&Path>) -> Result<Inside> {
        let unique = random::id()?;
        // What is done in it is no work of a template, so its key is one that nothing else has.
        let material = KeyMaterial {
            role: "step".into(),
            kind: "shell".into(),
            kind_version: 1,
            arguments: serde_json::json!({ "unique": unique }),
            inputs: Vec::new(),
            parent: Some(layer.record.key),
            options: serde_json::Map::new(),
        };
        let selector =
            Selector::new(opener.engine, opener.agent.clone(), opener.engine_cache.clone(), opener.kernel.clone());
        let image = store.image(&layer)?;
        let (workspace, draft, session, engine) = selector.first_that_opens(&opener.events, |candidate| {
            let workspace = store.workspace()?;
            let draft = store.draft(
                workspace.subfolder("draft")?,
                material.clone(),
                ImageFormat::Qcow2,
                layer.record.virtual_size,
            )?;
            let name = layer.record.image_name();
            match changed {
                None => {
                    let backing = Backing { name: &name, format: layer.record.format };
                    overlay::create(&draft.image(), layer.record.virtual_size, backing)?;
                }
                Some(changed) => {
                    let copied = crate::host::own::reader(changed).and_then(|mut from| {
                        let mut to = fs::File::create_new(draft.image())?;
                        std::io::copy(&mut from, &mut to)
                    });
                    copied.context(ErrorKind::Store, || format!("cannot copy {}", changed.display()))?;
                    overlay::set_backing_name(&draft.image(), &name)?;
                }
            }
            let work_dir = workspace.subfolder("session")?;
            let session = candidate.engine.open(OpenRequest {
                parent: &image,
                overlay: &draft.image(),
                overlays: 1,
                work_dir: &work_dir,
                to_mend: true,
                network_env: &crate::host::url::for_guests(&opener.network_env).0,
                network: false,
                host_network: opener.host_network,
                caches: &[],
                output: Arc::new(|_| {}),
                events: opener.events.clone(),
                cancel: opener.cancel.clone(),
            })?;
            Ok((workspace, draft, session, candidate.engine.name()))
        })?;
        Ok(Inside { session, engine, draft, layer, workspace, _lease: lease })
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
        let Inside { mut session, engine, mut draft, layer, workspace, _lease } = self;
        for news in session.guest().fstab_news()? {
            events.warn(crate::host::escape::escape(&news));
        }
        session.finish()?;
        let key = draft.key();
        // From before it is sealed until it has its name, it is nobody's.
        let _own = store.lease(&[key])?;
        let lock = store.try_lock(key)?;
        draft.describe(
            format!("a shell, kept as {tag}"),
            Some(layer.record.id.clone()),
            Some(engine.to_owned()),
            begin.elapsed().as_secs_f64(),
        );
        let sealed = store.seal(draft).context(ErrorKind::Store, || "what was changed cannot be kept")?;
        store.tag(key, tag)?;
        events.send(Event::LayerSealed { key, bytes: sealed.record.bytes });
        drop((lock, workspace));
        Ok(key)
    }
}
