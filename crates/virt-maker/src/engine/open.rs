//! Opening a guest with the best engine that can: the one way to do it, for a build, for a look into a layer or an image.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::select::{Candidate, EngineChoice, Selector};
use super::{CacheDisk, Image, LogSink, OpenRequest, Session};
use crate::error::Result;
use crate::event::Events;
use crate::host::{Cancel, url};

/// With what guests are opened.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Path of the agent.
    pub agent: PathBuf,
    /// A folder for what engines keep between sessions.
    pub engine_cache: PathBuf,
    /// Which engine.
    pub engine: EngineChoice,
    /// A kernel for engine `vm`, in place of the newest of the host.
    pub kernel: Option<PathBuf>,
    /// Variables for commands with a network: proxies.
    pub network_env: BTreeMap<String, String>,
    /// Whether they may reach the host's own addresses, too.
    pub host_network: bool,
}

/// Opens guests. May be used from any thread; which engines there are is looked for once.
pub struct Opener {
    selector: Selector,
    guest_env: BTreeMap<String, String>,
    less_is_given: bool,
    host_network: bool,
    events: Events,
    cancel: Cancel,
}

/// What a session is wanted for.
pub(crate) struct Wanted<'a> {
    /// The image that it begins on.
    pub(crate) parent: &'a Image,
    /// How many overlays there will be.
    pub(crate) overlays: usize,
    /// See [`OpenRequest::to_mend`].
    pub(crate) to_mend: bool,
    /// Whether one of its commands has a network.
    pub(crate) network: bool,
    /// Whether one of its commands has all rights in a machine of its own.
    pub(crate) privileged: bool,
    /// Takes what its commands say.
    pub(crate) output: LogSink,
    /// Takes what the engine says.
    pub(crate) events: &'a Events,
}

impl<'a> Wanted<'a> {
    /// To look at an image, or to mend it.
    pub(crate) fn to_look(parent: &'a Image, events: &'a Events) -> Wanted<'a> {
        let output: LogSink = std::sync::Arc::new(|_| {});
        Wanted { parent, overlays: 1, to_mend: true, network: false, privileged: false, output, events }
    }
}

/// Where a session works. Each attempt to open one gets a place of its own.
pub(crate) struct Place<T> {
    /// An empty overlay on the parent.
    pub(crate) overlay: PathBuf,
    /// A private folder (mode 0700), which the caller removes.
    pub(crate) work_dir: PathBuf,
    /// Disks with caches for its commands.
    pub(crate) caches: Vec<CacheDisk>,
    /// What is kept as long as the session is open; of an attempt that failed, it goes with that.
    pub(crate) with: T,
}

/// A session that is open.
pub(crate) struct Opened<T> {
    pub(crate) session: Box<dyn Session>,
    /// The engine's name.
    pub(crate) engine: &'static str,
    pub(crate) with: T,
}

impl Opener {
    /// Nothing is looked for yet. `events` takes what engines say, where nobody else is named for that.
    pub fn new(settings: EngineSettings, events: &Events, cancel: &Cancel) -> Opener {
        let EngineSettings { agent, engine_cache, engine, kernel, network_env, host_network } = settings;
        let (guest_env, less_is_given) = url::for_guests(&network_env);
        let selector = Selector::new(engine, agent, engine_cache, kernel);
        let (events, cancel) = (events.clone(), cancel.clone());
        Opener { selector, guest_env, less_is_given, host_network, events, cancel }
    }

    /// Takes what engines say.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Stops what is under way.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// The engines.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Variables that commands with a network get: proxies.
    pub(crate) fn guest_env(&self) -> &BTreeMap<String, String> {
        &self.guest_env
    }

    /// Whether guests get less of the proxies than there is: no users and passwords.
    pub fn less_is_given(&self) -> bool {
        self.less_is_given
    }

    /// Opens a guest with the best engine that can. Where one says that it cannot open such a guest, and `auto` knows another
    /// one, that is tried, at another `place`.
    pub(crate) fn open<T>(
        &self,
        wanted: &Wanted<'_>,
        mut place: impl FnMut(&Candidate) -> Result<Place<T>>,
    ) -> Result<Opened<T>> {
        self.selector.first_that_opens(wanted.privileged, wanted.events, |candidate| {
            let Place { overlay, work_dir, caches, with } = place(candidate)?;
            let session = candidate.engine.open(OpenRequest {
                parent: wanted.parent,
                overlay: &overlay,
                overlays: wanted.overlays,
                work_dir: &work_dir,
                caches: &caches,
                to_mend: wanted.to_mend,
                network_env: &self.guest_env,
                network: wanted.network,
                host_network: self.host_network,
                output: wanted.output.clone(),
                events: wanted.events.clone(),
                cancel: self.cancel.clone(),
            })?;
            Ok(Opened { session, engine: candidate.engine.name(), with })
        })
    }
}
