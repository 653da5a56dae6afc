//! Steps that are made again because somebody asked for it (`--force-from STEP`), with all that lies on them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::spec::{Spec, StepEntry};

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

    /// The numbers of the steps of a spec that are made again; 0 is its base. An error where a word means several.
    pub(super) fn of(&mut self, spec: &Spec) -> Result<BTreeSet<usize>> {
        let mut found = BTreeSet::new();
        for (place, wanted) in self.wanted.iter().enumerate() {
            let step = match wanted.rsplit_once(':') {
                Some((template, step)) if is_same(Path::new(template), &spec.template) => step,
                _ => wanted,
            };
            match &meant(step, spec)[..] {
                [] => continue,
                [number] => found.insert(*number),
                several => return Err(ambiguous(step, several, spec)),
            };
            self.met.insert(place);
        }
        Ok(found)
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

/// The numbers of the steps that a word means. Of a step that is made of others, that is the first of these: all above it
/// are made again in any case.
fn meant(word: &str, spec: &Spec) -> Vec<usize> {
    if let Ok(number) = word.parse::<usize>() {
        return (number <= spec.steps.len()).then_some(number).into_iter().collect();
    }
    let all = |fits: &dyn Fn(&StepEntry) -> bool| -> Vec<usize> {
        (1..).zip(&spec.steps).filter(|(_, step)| fits(step)).map(|(number, _)| number).collect()
    };
    let by_name = || all(&|step| step.options.running.name.as_deref() == Some(word));
    let by_summary = || all(&|step| step.runner.summary() == word);
    let by_kind = || {
        let mut used = BTreeSet::new();
        let mut found = all(&|step| step.kind.name == word && step.within.is_empty());
        for (number, step) in (1..).zip(&spec.steps) {
            let within = step.within.iter().find(|within| within.name == word);
            let place = within.map(|within| &within.position);
            if place.is_some_and(|place| used.insert((place.file.clone(), place.line, place.column))) {
                found.push(number);
            }
        }
        // What a step of the library is made of is meant where the template itself has none of that kind.
        if found.is_empty() {
            found = all(&|step| step.kind.name == word);
        }
        found.sort_unstable();
        found
    };
    let ways: [&dyn Fn() -> Vec<usize>; 3] = [&by_name, &by_summary, &by_kind];
    let found = ways.iter().map(|way| way()).find(|found| !found.is_empty());
    found.unwrap_or_else(|| (spec.import.kind.name == word).then_some(0).into_iter().collect())
}

/// Most steps that are listed.
const LISTED: usize = 20;

fn ambiguous(word: &str, numbers: &[usize], spec: &Spec) -> Error {
    let shown = |number: &usize| {
        let step = &spec.steps[number - 1];
        let place = step.within.first().map_or(&step.position, |within| &within.position);
        format!("{number} ({place})")
    };
    let mut steps: Vec<String> = numbers.iter().take(LISTED).map(shown).collect();
    if numbers.len() > LISTED {
        steps.push(format!("{} more", numbers.len() - LISTED));
    }
    let message = format!("`{}` means several steps: {}", word.escape_debug(), steps.join(", "));
    let hint = format!("say the number: `--force-from {}` makes that one and all that lies on it", numbers[0]);
    Error::new(ErrorKind::Template, message).with_hint(hint)
}
