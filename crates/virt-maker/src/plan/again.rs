//! Steps that are made again because somebody asked for it (`--force-from STEP`), with all that lies on them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::spec::Spec;

/// What was asked for, and what of it meant something.
pub(super) struct Again<'a> {
    wanted: &'a [String],
    met: BTreeSet<usize>,
}

impl<'a> Again<'a> {
    /// Of words as [`super::PlanContext::again`] has them.
    pub(super) fn new(wanted: &'a [String]) -> Again<'a> {
        Again { wanted, met: BTreeSet::new() }
    }

    /// The numbers of the steps of a spec that are made again; 0 is its base.
    pub(super) fn of(&mut self, spec: &Spec) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        for (place, wanted) in self.wanted.iter().enumerate() {
            let step = match wanted.rsplit_once(':') {
                Some((template, step)) if is_same(Path::new(template), &spec.template) => step,
                _ => wanted,
            };
            if let Some(number) = number_of(step, spec) {
                found.insert(number);
                self.met.insert(place);
            }
        }
        found
    }

    /// An error where a word means no step of any spec.
    pub(super) fn check(&self) -> Result<()> {
        let Some(place) = (0..self.wanted.len()).find(|place| !self.met.contains(place)) else { return Ok(()) };
        let message = format!("`{}` means no step of these templates", self.wanted[place].escape_debug());
        Err(Error::new(ErrorKind::Template, message).with_hint(
            "a step is meant by its number (0 is the base), its name or its kind, with TEMPLATE: before it in one template only",
        ))
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// The first step that a word means: all above it are made again in any case.
fn number_of(word: &str, spec: &Spec) -> Option<usize> {
    if let Ok(number) = word.parse::<usize>() {
        return (number <= spec.steps.len()).then_some(number);
    }
    let by_name = spec.steps.iter().position(|step| step.options.name.as_deref() == Some(word));
    let by_summary = || spec.steps.iter().position(|step| step.runner.summary() == word);
    let by_kind = || {
        spec.steps
            .iter()
            .position(|step| step.kind.name == word || step.within.iter().any(|within| within.name == word))
    };
    let step = by_name.or_else(by_summary).or_else(by_kind).map(|step| step + 1);
    step.or_else(|| (spec.import.kind.name == word).then_some(0))
}
