//! Specs: what a template becomes when everything in it is resolved: one import, a list of steps, exports.

mod load;

pub use load::load;

use std::path::PathBuf;

use crate::diagnostic::Position;
use crate::export::{Export, ExportKind};
use crate::import::{Import, ImportKind};
use crate::step::{Step, StepKind};

/// One image to make.
pub struct Spec {
    /// The template's file, as the user named it.
    pub template: PathBuf,
    /// The base.
    pub import: ImportEntry,
    /// What is done to it, in order.
    pub steps: Vec<StepEntry>,
    /// What is made of the result; may be empty.
    pub exports: Vec<ExportEntry>,
}

/// An import with its kind and its place.
pub struct ImportEntry {
    /// Its kind.
    pub kind: &'static ImportKind,
    /// The runner with its arguments.
    pub runner: Box<dyn Import>,
    /// Where it stands.
    pub position: Position,
}

/// A step with its kind and its place.
pub struct StepEntry {
    /// Its kind.
    pub kind: &'static StepKind,
    /// The runner with its arguments.
    pub runner: Box<dyn Step>,
    /// Where it stands.
    pub position: Position,
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
