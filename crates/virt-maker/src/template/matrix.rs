//! `matrix`: one spec for each combination of values.
//!
//! `exclude` takes combinations out, `include` adds to them: an entry whose values fit combinations that are there adds
//! its other values to these, else it is a combination of its own. `-p` with the name of an axis keeps what has that value.

use super::expression::quote;
use super::node::{Kind, Node};
use super::value::command_line_value;
use crate::diagnostic::Diagnostic;

/// Most combinations.
const COMBINATIONS: usize = 10_000;

/// The values of one spec, by the names of the axes.
pub(super) type Combination = Vec<(String, Node)>;

/// All combinations of a rendered `matrix`, narrowed by the command line (name, text).
pub(super) fn combinations(
    node: &Node,
    command_line: &[(String, String)],
) -> Result<Vec<Combination>, Vec<Diagnostic>> {
    let Kind::Map(members) = &node.kind else {
        return Err(vec![node.diagnostic(format!("expected a mapping of names to lists, found {}", node.describe()))]);
    };
    let mut problems = Vec::new();
    let mut axes: Vec<(&str, &[Node])> = Vec::new();
    for (key, value) in members {
        let name = key.text().unwrap_or_default();
        match &value.kind {
            _ if name == "include" || name == "exclude" => {}
            Kind::List(items) if !items.is_empty() => axes.push((name, items)),
            _ => problems
                .push(value.diagnostic(format!("expected a list of values for `{name}`, found {}", empty(value)))),
        }
    }
    let entries = |name: &str, problems: &mut Vec<Diagnostic>| -> Vec<Node> {
        let Some(value) = node.get(name) else { return Vec::new() };
        let Kind::List(items) = &value.kind else {
            problems.push(value.diagnostic(format!("expected a list of mappings, found {}", value.describe())));
            return Vec::new();
        };
        for item in items.iter().filter(|item| item.members().is_empty()) {
            problems.push(item.diagnostic(format!("expected a mapping of names to values, found {}", empty(item))));
        }
        items.clone()
    };
    let (includes, excludes) = (entries("include", &mut problems), entries("exclude", &mut problems));
    for (key, _) in excludes.iter().flat_map(Node::members) {
        let name = key.text().unwrap_or_default();
        if axes.iter().all(|(axis, _)| *axis != name) {
            problems.push(key.diagnostic(format!("the matrix has no `{}`", quote(name))));
        }
    }
    let count = axes.iter().try_fold(1usize, |count, (_, items)| count.checked_mul(items.len()));
    if count.is_none_or(|count| count > COMBINATIONS) {
        problems.push(node.diagnostic(format!("the matrix has more than {COMBINATIONS} combinations")));
    }
    if !problems.is_empty() {
        return Err(problems);
    }

    let mut found: Vec<Combination> = vec![Vec::new()];
    for (name, items) in &axes {
        let with = |combination: &Combination| -> Vec<Combination> {
            let one = |item: &Node| combination.iter().cloned().chain([((*name).to_owned(), item.clone())]).collect();
            items.iter().map(one).collect()
        };
        found = found.iter().flat_map(with).collect();
    }
    if axes.is_empty() {
        found.clear();
    }
    found.retain(|combination| !excludes.iter().any(|entry| fits(combination, entry, false)));
    let made = found.len();
    for entry in &includes {
        let values =
            || entry.members().iter().map(|(key, value)| (key.text().unwrap_or_default().to_owned(), value.clone()));
        let mut added = false;
        for combination in found[..made].iter_mut().filter(|combination| fits(combination, entry, true)) {
            let new: Vec<_> = values().filter(|(name, _)| combination.iter().all(|(other, _)| other != name)).collect();
            added |= !new.is_empty();
            combination.extend(new);
        }
        if !added {
            found.push(values().collect());
        }
    }
    if found.len() > COMBINATIONS {
        return Err(vec![node.diagnostic(format!("the matrix has more than {COMBINATIONS} combinations"))]);
    }
    for (name, text) in command_line {
        let wanted = command_line_value(name, text, node.source.format());
        if !found.iter().any(|combination| combination.iter().any(|(axis, _)| axis == name)) {
            continue;
        }
        let mut values: Vec<String> =
            found.iter().flatten().filter(|(axis, _)| axis == name).map(|(_, value)| shown(value)).collect();
        found.retain(|combination| combination.iter().any(|(axis, value)| axis == name && same(value, &wanted)));
        if found.is_empty() {
            values.dedup();
            values.truncate(20);
            let mut problem = node.diagnostic(format!("-p {name}={text}: the matrix has no such value"));
            problem.hint = Some(format!("it has: {}", values.join(", ")));
            return Err(vec![problem]);
        }
    }
    if found.is_empty() {
        return Err(vec![node.diagnostic("the matrix has no combination")]);
    }
    Ok(found)
}

fn empty(node: &Node) -> &'static str {
    match &node.kind {
        Kind::List(items) if items.is_empty() => "an empty list",
        Kind::Map(members) if members.is_empty() => "an empty mapping",
        _ => node.describe(),
    }
}

fn shown(node: &Node) -> String {
    node.text().map_or_else(|| node.to_json().to_string(), str::to_owned)
}

fn same(one: &Node, other: &Node) -> bool {
    shown(one) == shown(other)
}

/// Whether a combination has the values of an entry; with `partly`, names that it does not have do not count, but one
/// has to fit.
fn fits(combination: &Combination, entry: &Node, partly: bool) -> bool {
    let mut common = 0;
    for (key, value) in entry.members() {
        match combination.iter().find(|(name, _)| Some(name.as_str()) == key.text()) {
            Some((_, other)) if same(other, value) => common += 1,
            Some(_) => return false,
            None if partly => {}
            None => return false,
        }
    }
    common > 0
}

/// A combination for people: `role=web size=4G`.
pub(super) fn title(combination: &Combination) -> String {
    combination.iter().map(|(name, value)| format!("{name}={}", quote(&shown(value)))).collect::<Vec<_>>().join(" ")
}
