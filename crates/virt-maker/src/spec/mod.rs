//! Specs: what a template becomes when everything in it is resolved: one import, a list of steps, exports.

mod catalogue;
mod entries;
mod guestless;
mod host;
mod load;
mod outputs;
mod registry;
mod schema;
mod secrets;

pub use catalogue::{Argument, Runner, arguments, runners};
pub use host::{HostAccess, load_options};
pub use load::{LoadedSpecs, load};
pub use outputs::check_outputs;
pub use registry::Registry;
pub use schema::{keys_schema, options_schema, schema};
pub use secrets::{Secret, SecretSource};

use std::path::PathBuf;

use crate::diagnostic::{Position, Within};
use crate::error::{Place, Result};
use crate::export::{Export, ExportKind};
use crate::host::url::shown_in;
use crate::import::{Import, ImportKind};
use crate::key::Digest;
use crate::step::{Step, StepKind};
use crate::template::{LoadOptions, StepOptions};

/// Loads templates with the runners of this library. All errors that can be found without a guest come at once.
pub fn load_all(paths: &[PathBuf], options: &LoadOptions) -> Result<LoadedSpecs> {
    Registry::default().load_all(paths, options)
}

/// One image to make.
pub struct Spec {
    /// The template's file, as the user named it.
    pub template: PathBuf,
    /// What people call it.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Its values of the template's `matrix`, as text.
    pub matrix: Vec<(String, String)>,
    /// Its parameters with the values that they had, for manifests.
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// Stands for the values by which images of one template differ.
    pub variant: Digest,
    /// What steps may read and what is never shown.
    pub secrets: Vec<Secret>,
    /// The base.
    pub import: ImportEntry,
    /// What is done to it, in order.
    pub steps: Vec<StepEntry>,
    /// What is looked at in the machine that it becomes, before anything is made of it.
    pub tests: Vec<TestEntry>,
    /// What is made of the result; may be empty.
    pub exports: Vec<ExportEntry>,
}

impl Spec {
    /// All steps: those within the import, those of the list and of tests, and after each those within it.
    pub fn every_step(&self) -> impl Iterator<Item = &StepEntry> {
        let of_tests = self.tests.iter().map(|test| &test.boot);
        let steps = self.steps.iter().chain(of_tests);
        self.import.inner.iter().chain(steps.flat_map(|step| std::iter::once(step).chain(&step.inner)))
    }
}

/// What is known of the release of a suite that an import takes its packages from ([`Import::release`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Release {
    /// Nothing: the base is the one that is there, or is made of what the mirror has.
    #[default]
    Any,
    /// A lock file says which one it is. It enters the key.
    Locked {
        /// Digest of its file.
        digest: Digest,
        /// Whether it is an error, and not only a warning, if the base has to be made and the mirror has another one.
        refuse: bool,
    },
    /// It was looked at just now. A base that was made of another one is made again, under the same key.
    Pulled(Digest),
}

/// An import with its kind and its place.
pub struct ImportEntry {
    /// Its kind.
    pub kind: &'static ImportKind,
    /// The runner with its arguments.
    pub runner: Box<dyn Import>,
    /// Where it stands.
    pub position: Position,
    /// Functions with changing values (`now()`, ...) that have a part in its arguments.
    pub volatile: Vec<&'static str>,
    /// The steps within it, of one that boots an installer.
    pub inner: Vec<StepEntry>,
    /// The release of the suite, where somebody asked for one. The loader knows none.
    pub release: Release,
}

/// A step with its kind and its place.
pub struct StepEntry {
    /// Its kind.
    pub kind: &'static StepKind,
    /// The runner with its arguments.
    pub runner: Box<dyn Step>,
    /// Where it stands.
    pub position: Position,
    /// How it runs.
    pub options: StepOptions,
    /// Functions with changing values (`now()`, ...) that have a part in its arguments.
    pub volatile: Vec<&'static str>,
    /// The steps made of others that it is a part of; the outermost, which stands in the template itself, is the first.
    pub within: Vec<Within>,
    /// The steps within it, of one that boots the guest.
    pub inner: Vec<StepEntry>,
}

/// A test: a step that boots the guest, whose layer is thrown away.
pub struct TestEntry {
    /// What people call it.
    pub name: String,
    /// The step.
    pub boot: StepEntry,
}

/// An export with its kind and its place.
pub struct ExportEntry {
    /// Its kind.
    pub kind: &'static ExportKind,
    /// The runner with its arguments.
    pub runner: Box<dyn Export>,
    /// Where it stands.
    pub position: Position,
}

impl ImportEntry {
    /// What an error about it says of it.
    pub fn place(&self) -> Place {
        let what = format!("import: {}: {}", self.kind.name, shown_in(&self.runner.summary()));
        Place { position: self.position.clone(), within: Vec::new(), what }
    }
}

impl StepEntry {
    /// What an error about it says of it.
    pub fn place(&self) -> Place {
        let summary = self.options.running.name.clone().unwrap_or_else(|| self.runner.summary());
        let what = format!("step: {}: {}", self.kind.name, shown_in(&summary));
        Place { position: self.position.clone(), within: self.within.clone(), what }
    }
}

impl ExportEntry {
    /// What an error about it says of it.
    pub fn place(&self) -> Place {
        let target = self.runner.common().target.named().display();
        let what = format!("export: {}: {target}", self.kind.name);
        Place { position: self.position.clone(), within: Vec::new(), what }
    }
}
