//! The one stream of typed events: the only way from the library to a person or a machine.
//!
//! Serialised, an event is one JSON object with a `type`; `docs/events.md` describes version [`VERSION`] of it.
//! Fields may be added within a version; a field that goes or changes its meaning makes a new one.

mod meter;
mod miss;
mod texts;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use meter::Meter;
pub use miss::{FieldChange, MissReason};

use crate::diagnostic::{Position, Within};
use crate::host::Cancel;
use crate::host::waiting::Waits;
use crate::key::{Digest, LayerKey};

/// The version of the serialised form.
pub const VERSION: u32 = 1;

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The first event of a build.
    BuildStarted {
        /// Templates, as named by the user.
        templates: Vec<PathBuf>,
        /// The store.
        store: PathBuf,
        /// All layers (bases and steps) of all specs, each once.
        layers: usize,
        /// How many of them are there already.
        cached: usize,
        /// The images, in the order of the templates.
        images: Vec<ImageName>,
        /// The tests that will be made of them.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tests: Vec<TestName>,
    },
    /// A layer that is there already. Comes for each, in plan order, before any work on its spec.
    LayerCached(LayerInfo),
    /// A layer that has to be made, and why. Comes for each, in plan order, after those that are there.
    LayerMissing {
        /// The layer.
        #[serde(flatten)]
        layer: LayerInfo,
        /// Why it is not there.
        miss: MissReason,
    },
    /// Which engine was taken, and why, in one line.
    EngineChosen {
        /// `chroot`, `vm`, `libguestfs`.
        engine: &'static str,
        /// A sentence for people.
        reason: String,
    },
    /// An engine is being opened on a layer. One per session.
    SessionStarted {
        /// Number of the session within this build, from 1.
        session: u32,
        /// The engine.
        engine: &'static str,
        /// The layer that it is opened on.
        parent: LayerKey,
        /// The worker that has it; workers of a build are numbered from 1.
        worker: u32,
    },
    /// The guest is mounted and steps can run.
    SessionReady {
        /// See `SessionStarted`.
        session: u32,
        /// What the guest calls itself, escaped.
        os: String,
        /// Since `SessionStarted`.
        #[serde(serialize_with = "seconds")]
        elapsed: Duration,
    },
    /// The session is closed and nothing of it is left.
    SessionEnded {
        /// See `SessionStarted`.
        session: u32,
    },
    /// Another process makes this layer; this one waits for it.
    LayerAwaited {
        /// The layer.
        key: LayerKey,
        /// The process that holds its lock, where known.
        pid: Option<u32>,
    },
    /// Work on a missing layer begins.
    LayerStarted {
        /// The layer.
        #[serde(flatten)]
        layer: LayerInfo,
        /// The session that its step runs in; none for an import.
        session: Option<u32>,
        /// See `SessionStarted`.
        worker: u32,
        /// The first of the images that need it: its place in the `images` of `BuildStarted`.
        image: usize,
    },
    /// A line or part of the output of the step that is under way. `text` is data of the guest, not yet escaped.
    Output {
        /// The layer in the making.
        key: LayerKey,
        /// Bytes as they came, UTF-8 or replaced.
        text: String,
    },
    /// How far a long operation is (download, copy, export).
    Progress {
        /// What it is, for people: `download`, `export qcow2`.
        what: String,
        /// Bytes done (or per mille, where `total` is 1000 and `unit` is `permille`).
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
        /// `bytes` or `permille`.
        unit: &'static str,
        /// The worker that does it, where one of a build does; see `SessionStarted`.
        #[serde(skip_serializing_if = "Option::is_none")]
        worker: Option<u32>,
    },
    /// What a long operation does now, where it has several parts: `bootstrap: installing the packages`.
    Stage {
        /// In words, for people.
        what: String,
        /// The worker that does it, where one of a build does; see `SessionStarted`.
        #[serde(skip_serializing_if = "Option::is_none")]
        worker: Option<u32>,
    },
    /// The last line of the serial console of a machine that boots, when that is another one than a moment ago.
    ConsoleLine {
        /// Data of the guest, escaped, without what colours it.
        text: String,
        /// The worker that boots it, where one of a build does; see `SessionStarted`.
        #[serde(skip_serializing_if = "Option::is_none")]
        worker: Option<u32>,
    },
    /// A machine has booted in which a layer is made, or a test runs.
    MachineBooted {
        /// The layer in the making, or the test.
        key: LayerKey,
        /// Whether a step had it restart; else it was started.
        restart: bool,
        /// From the start of the machine, or its reset, until the agent in it answered.
        #[serde(serialize_with = "seconds")]
        answered: Duration,
        /// The same, until the guest was seen to have booted.
        #[serde(serialize_with = "seconds")]
        elapsed: Duration,
        /// Who had started that agent.
        by: StartedBy,
        /// Where that time went, in order; where the guest restarted on its way, that of its last start.
        phases: Vec<BootPhase>,
    },
    /// A picture of the screen of a machine lies where it stays: one that a step asked for.
    Screenshot {
        /// The layer whose step asked for it, or the test.
        key: LayerKey,
        /// What the step calls it.
        name: String,
        /// The file, PNG.
        path: PathBuf,
    },
    /// The step is done; its overlay is being sealed in the background.
    StepFinished {
        /// The layer in the making.
        key: LayerKey,
        /// Time of the step, without sealing.
        #[serde(serialize_with = "seconds")]
        elapsed: Duration,
    },
    /// The layer is in the store for good.
    LayerSealed {
        /// The layer.
        key: LayerKey,
        /// Bytes that its overlay takes on the disk.
        bytes: u64,
    },
    /// A layer that lay deep in a chain of images has one that lies right on the base now; nothing else of it changed.
    LayerFlattened {
        /// The layer.
        key: LayerKey,
        /// How many images its chain had.
        images: usize,
        /// Bytes that its image takes on the disk now.
        bytes: u64,
        /// Time it took.
        #[serde(serialize_with = "seconds")]
        elapsed: Duration,
        /// Work on the chain waited for it; else it was done beside the work.
        waited: bool,
    },
    /// The step failed; the build of its spec ends with an error that says more.
    StepFailed {
        /// The layer that is not made.
        key: LayerKey,
        /// Where the log is, and the last lines.
        failure: crate::error::StepFailure,
    },
    /// An import failed; the error of the build says more.
    ImportFailed {
        /// The base that is not made.
        key: LayerKey,
        /// The error, sources included.
        message: String,
        /// The last screen of an installer's machine, PNG, where it was kept.
        #[serde(skip_serializing_if = "Option::is_none")]
        screen: Option<PathBuf>,
    },
    /// An exporter begins.
    ExportStarted {
        /// Its name.
        kind: String,
        /// The target.
        path: PathBuf,
        /// See `SessionStarted`.
        worker: u32,
    },
    /// An artifact is in place.
    ExportFinished {
        /// Name of the exporter.
        kind: String,
        /// The target.
        path: PathBuf,
        /// Size of the file in bytes.
        bytes: u64,
        /// SHA-256 of the file.
        digest: Digest,
        /// It was there already, from this layer with these arguments, unchanged.
        current: bool,
        /// Time it took.
        #[serde(serialize_with = "seconds")]
        elapsed: Duration,
    },
    /// An artifact could not be written; the error of the build says more.
    ExportFailed {
        /// The target.
        path: PathBuf,
        /// The error, sources included.
        message: String,
    },
    /// An image is booted to be tested.
    TestStarted {
        /// The test.
        key: LayerKey,
        /// The layer that is tested.
        layer: LayerKey,
        /// What the test is called.
        name: String,
        /// Place of the image in the `images` of `BuildStarted`.
        image: usize,
        /// See `SessionStarted`.
        worker: u32,
    },
    /// A test has ended, or its verdict was there.
    TestFinished {
        /// See `TestStarted`.
        key: LayerKey,
        /// See `TestStarted`.
        layer: LayerKey,
        /// See `TestStarted`.
        name: String,
        /// See `TestStarted`.
        image: usize,
        /// How it ended.
        outcome: TestOutcome,
        /// Seconds that it took, when it ran.
        seconds: f64,
        /// Why it failed, sources included.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// Something that a person should know and that does not end the build.
    Warning {
        /// A sentence.
        message: String,
    },
    /// Detail for `-v` and logs: traces of engines and tools.
    Trace {
        /// Who says it: `libguestfs`, `qemu`, `agent`.
        source: &'static str,
        /// A line.
        message: String,
    },
    /// After a build for which limits of the store are set: what was collected.
    StoreCollected {
        /// Layers that went.
        layers: usize,
        /// Bytes that they took.
        bytes: u64,
        /// Limits that are passed all the same, since the rest is in use or kept: `max_size`, `min_free`.
        unmet: Vec<String>,
    },
    /// The last event of a build that succeeded: all is sealed and exported.
    BuildFinished {
        /// Layers that were made.
        built: usize,
        /// Layers that were there.
        cached: usize,
        /// The whole time.
        #[serde(serialize_with = "seconds")]
        elapsed: Duration,
        /// Where the time of all workers went: pairs of a name (`session`, `steps`, `seal`, `export`, ...) and seconds.
        spent: Vec<(String, f64)>,
        /// What has become of each image, in the order of the templates.
        images: Vec<ImageState>,
    },
    /// The last event of a build that failed.
    BuildFailed {
        /// Kind of the error.
        kind: crate::error::ErrorKind,
        /// Its sentence, sources included.
        message: String,
        /// What has become of each image; empty where none was begun.
        images: Vec<ImageState>,
    },
}

/// Who has started our agent in a machine, which runs the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum StartedBy {
    /// The guest's init, as a service of ours.
    #[serde(rename = "agent")]
    Init,
    /// The guest's qemu-guest-agent.
    #[serde(rename = "qemu-guest-agent")]
    GuestAgent,
    /// The guest's SSH server, over which it is spoken to.
    #[serde(rename = "ssh")]
    Ssh,
}

impl StartedBy {
    /// For people, behind a time; nothing where it is as always.
    pub fn told(self) -> &'static str {
        match self {
            StartedBy::Init => "",
            StartedBy::GuestAgent => ", its agent started by qemu-guest-agent",
            StartedBy::Ssh => ", its agent started over SSH",
        }
    }
}

/// A part of a boot. One whose end is not known is one with the next, as in `initramfs+services`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BootPhase {
    /// `firmware`, `loader`, `kernel`, `initramfs`, `services`, or several of them with `+` between.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
}

impl BootPhase {
    /// Phases for people, in one line: `firmware 0.9 s, kernel 3.0 s`.
    pub fn line(phases: &[BootPhase]) -> String {
        let text = |phase: &BootPhase| format!("{} {:.1} s", phase.name, phase.seconds);
        phases.iter().map(text).collect::<Vec<_>>().join(", ")
    }
}

/// Which image of a build.
#[derive(Debug, Clone, Serialize)]
pub struct ImageName {
    /// Its template, as named by the user.
    pub template: PathBuf,
    /// Its values of the template's matrix.
    #[serde(serialize_with = "pairs", skip_serializing_if = "Vec::is_empty")]
    pub matrix: Vec<(String, String)>,
}

/// A test of an image.
#[derive(Debug, Clone, Serialize)]
pub struct TestName {
    /// Place of the image in the `images` of `BuildStarted`.
    pub image: usize,
    /// What the test is called.
    pub name: String,
}

/// What has become of one image of a build.
#[derive(Debug, Clone, Serialize)]
pub struct ImageState {
    /// Which one.
    #[serde(flatten)]
    pub image: ImageName,
    /// How it ended.
    pub outcome: Outcome,
    /// The error that ended it, sources included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How an image ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All its layers were there before.
    Cached,
    /// At least one of its layers was made.
    Built,
    /// An error ended it.
    Failed,
    /// The build was stopped before it was complete.
    Stopped,
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TestOutcome {
    /// All held.
    Passed,
    /// This layer had passed it before.
    Cached,
    /// Something did not hold, or the guest did not boot.
    Failed,
}

fn pairs<S: serde::Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// A layer, for people and machines.
#[derive(Debug, Clone, Serialize)]
pub struct LayerInfo {
    /// Its key.
    pub key: LayerKey,
    /// `import` or `step`.
    pub role: &'static str,
    /// Name of the runner.
    pub kind: String,
    /// One line that says what it does, from the template, without secrets.
    pub summary: String,
    /// Place of the step in its spec, from 1; 0 for the import.
    pub index: usize,
    /// Number of steps of its spec.
    pub steps: usize,
    /// Where it stands in the template.
    pub position: Option<Position>,
    /// Functions with changing values (`now()`, ...) that have a part in it, so that its key is another one each time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volatile: Vec<&'static str>,
    /// The steps made of others that it is a part of; the outermost, which stands in the template itself, is the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<Within>,
}

impl LayerInfo {
    /// Where its author wrote it: the place of the outermost step that it is a part of.
    pub fn place(&self) -> Option<&Position> {
        self.within.first().map(|within| &within.position).or(self.position.as_ref())
    }

    /// The same before a sentence: `web.yml:3:5: `; nothing where it has no place.
    pub fn placed(&self, sentence: &str) -> String {
        self.place().map_or_else(|| sentence.to_owned(), |place| format!("{place}: {sentence}"))
    }

    /// The steps that it is a part of, for people: `team › admin`; empty for one that is a part of none.
    pub fn part_of(&self) -> String {
        self.within.iter().map(|within| within.name.as_str()).collect::<Vec<_>>().join(" › ")
    }
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// Where events go. Cheap to clone; may be called from any thread; must not block for long.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Sends every event to `sink`.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Events(Arc::new(sink))
    }

    /// Drops every event.
    pub fn none() -> Self {
        Events::new(|_| {})
    }

    /// A stream into this one for the worker of this number, whose progress bears it.
    pub fn of_worker(&self, number: u32) -> Self {
        let whole = self.clone();
        Events::new(move |mut event| {
            if let Event::Progress { worker, .. } | Event::Stage { worker, .. } | Event::ConsoleLine { worker, .. } =
                &mut event
            {
                *worker = Some(number);
            }
            whole.send(event);
        })
    }

    /// Sends one event.
    pub fn send(&self, event: Event) {
        (self.0)(event);
    }

    /// Waits that end when this is cancelled, and whose sentences are warnings.
    pub fn waits(&self, cancel: &Cancel) -> Waits {
        let events = self.clone();
        Waits::new(cancel, move |text| events.warn(text))
    }

    /// Says what is done now.
    pub fn stage(&self, what: impl Into<String>) {
        self.send(Event::Stage { what: what.into(), worker: None });
    }

    /// Sends a warning.
    pub fn warn(&self, message: impl Into<String>) {
        self.send(Event::Warning { message: message.into() });
    }
}
