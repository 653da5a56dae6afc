//! What is wrong with templates, put together from all stages and combinations: each error once, in the order of files
//! and lines.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Note, Position};

/// Most places that one error tells of besides its own, where it came up in several ways.
const NOTES: usize = 8;

/// Errors of one template, which may have several combinations.
#[derive(Default)]
pub(crate) struct Problems {
    found: Vec<Found>,
    /// Where an error is in `found`, by its message and its place.
    index: HashMap<(String, Option<Place>), usize>,
}

/// File, line and column.
type Place = (Arc<PathBuf>, usize, usize);

struct Found {
    diagnostic: Diagnostic,
    /// The first combination that has it; empty where there is no matrix.
    first: String,
    /// The last one, so that each is counted once.
    last: String,
    /// How many have it.
    count: usize,
}

fn place(position: &Position) -> Place {
    (position.file.clone(), position.line, position.column)
}

impl Problems {
    /// Adds what is wrong in one combination.
    pub(crate) fn add(&mut self, combination: &str, diagnostics: Vec<Diagnostic>) {
        for diagnostic in diagnostics {
            let key = (diagnostic.message.clone(), diagnostic.position.as_ref().map(place));
            let Some(index) = self.index.get(&key) else {
                self.index.insert(key, self.found.len());
                let (first, last) = (combination.to_owned(), combination.to_owned());
                self.found.push(Found { diagnostic, first, last, count: 1 });
                continue;
            };
            let found = &mut self.found[*index];
            if found.last != combination {
                found.last = combination.to_owned();
                found.count += 1;
            } else if found.count == 1 {
                // The same text is wrong in another use: of a definition, of a file that comes in twice.
                let notes = &mut found.diagnostic.notes;
                for note in diagnostic.notes.into_iter().filter(|note| note.position.is_some()) {
                    if notes.len() < NOTES && !notes.contains(&note) {
                        notes.push(note);
                    }
                }
            }
        }
    }

    /// All of them; each with the combination that it is about, where it is not wrong in all `of` them.
    pub(crate) fn finish(self, of: usize) -> Vec<Diagnostic> {
        let told = |found: Found| {
            let Found { mut diagnostic, first, count, .. } = found;
            let message = match count {
                _ if first.is_empty() || (count == of && of > 1) => None,
                1 => Some(format!("in the combination {first}")),
                _ => Some(format!("in {count} of {of} combinations, {first} is one")),
            };
            diagnostic.notes.extend(message.map(|message| Note { message, position: None }));
            diagnostic
        };
        self.found.into_iter().map(told).collect()
    }
}

/// Each error once; first those without a place, then file by file, in the order in which the files were met, and by line
/// and column.
pub(crate) fn in_order(problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut once = Problems::default();
    once.add("", problems);
    let mut problems = once.finish(0);
    let mut files: HashMap<Arc<PathBuf>, usize> = HashMap::new();
    for position in problems.iter().filter_map(|problem| problem.position.as_ref()) {
        let next = files.len();
        files.entry(position.file.clone()).or_insert(next);
    }
    problems.sort_by_key(|problem| {
        problem.position.as_ref().map(|position| (files[&position.file], position.line, position.column))
    });
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str, file: &str, line: usize) -> Diagnostic {
        Diagnostic {
            message: message.into(),
            position: Some(Position { file: Arc::new(file.into()), line, column: 1 }),
            source_line: None,
            hint: None,
            notes: Vec::new(),
        }
    }

    fn shown(problems: &[Diagnostic]) -> Vec<String> {
        let place = |problem: &Diagnostic| problem.position.as_ref().map_or(String::new(), |place| place.to_string());
        problems.iter().map(|problem| format!("{} {}", problem.message, place(problem))).collect()
    }

    #[test]
    fn errors_come_in_the_order_of_the_files() {
        let mut all = vec![problem("b", "x", 9), problem("c", "a", 2), problem("d", "x", 3), problem("b", "x", 9)];
        all.push(Diagnostic { position: None, ..problem("e", "", 0) });
        assert_eq!(shown(&in_order(all)), ["e ", "d x:3:1", "b x:9:1", "c a:2:1"]);
    }

    #[test]
    fn an_error_of_several_combinations_is_one() {
        let mut problems = Problems::default();
        problems.add("a=1", vec![problem("all", "x", 1), problem("some", "x", 2), problem("one", "x", 3)]);
        problems.add("a=2", vec![problem("all", "x", 1), problem("some", "x", 2), problem("some", "x", 2)]);
        problems.add("a=3", vec![problem("all", "x", 1)]);
        let notes = |problem: &Diagnostic| problem.notes.iter().map(|note| note.message.clone()).collect::<Vec<_>>();
        let found: Vec<_> = problems.finish(3).iter().map(notes).collect();
        assert_eq!(
            found,
            [vec![], vec!["in 2 of 3 combinations, a=1 is one".to_owned()], vec!["in the combination a=1".to_owned()]]
        );
    }

    #[test]
    fn the_uses_of_what_is_wrong_are_told() {
        let with = |line| {
            let position = problem("", "x", line).position;
            Diagnostic { notes: vec![Note { message: "used here".into(), position }], ..problem("wrong", "x", 1) }
        };
        let found = in_order(vec![with(5), with(6), with(6)]);
        assert_eq!((found.len(), found[0].notes.len()), (1, 2));
    }
}
