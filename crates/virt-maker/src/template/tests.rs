//! `tests` of a spec: what is looked at in the machine that an image becomes, before anything is exported.
//!
//! A test is a step `boot` with a name: what stands under `boot` and under `steps` is read as that step's arguments are.

use std::collections::BTreeMap;

use super::define::unknown_key;
use super::expand::{Expander, ResolvedStep, WITHIN};
use super::node::{Kind, Node};
use super::options::StepOptions;
use super::scope::Scope;

const KEYS: [&str; 3] = ["name", BOOT, WITHIN];
const BOOT: &str = "boot";

/// A test with everything in it resolved.
#[derive(Debug)]
pub struct ResolvedTest {
    /// What people call it.
    pub name: String,
    /// The step `boot` that it is.
    pub step: ResolvedStep,
}

impl ResolvedTest {
    /// The test as it could stand in a template.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let mut step = self.step.to_json();
        let mut boot = step.get_mut(BOOT).map(serde_json::Value::take).unwrap_or_default();
        let steps = boot.as_object_mut().and_then(|boot| boot.remove(WITHIN));
        let mut test = serde_json::json!({ "name": self.name });
        if boot.as_object().is_some_and(|boot| !boot.is_empty()) {
            test[BOOT] = boot;
        }
        if let Some(steps) = steps {
            test[WITHIN] = steps;
        }
        test
    }
}

/// The tests of a list. `options` are those for all steps; `data` says that the list was rendered already.
pub(super) fn tests(
    node: &Node,
    expander: &mut Expander<'_>,
    scope: &Scope,
    options: &StepOptions,
    data: bool,
) -> Vec<ResolvedTest> {
    let items = match &node.kind {
        Kind::Null => return Vec::new(),
        Kind::List(items) => items,
        _ => {
            let message = format!("expected a list of tests, found {}", node.describe());
            let hint = "each is an item of its own: `- {name: web, steps: [{expect: {port: 80}}]}`";
            expander.problems.push(node.diagnostic(message).or_hint(|| hint.to_owned()));
            return Vec::new();
        }
    };
    // Those of the steps within; a machine itself has none of its own.
    let mut shaping = StepOptions { shaping: options.shaping.clone(), ..StepOptions::default() };
    shaping.running.shell.clone_from(&options.running.shell);
    let (mut tests, mut named) = (Vec::new(), BTreeMap::new());
    for item in items {
        let Some(name) = name(item, expander, scope, data) else { continue };
        if let Some(other) = named.insert(name.clone(), item.line) {
            let message = format!("another test, in line {other}, is called `{}` too", name.escape_debug());
            expander.problems.push(item.diagnostic(message));
        }
        let outside = std::mem::take(&mut expander.steps);
        expander.expand(&as_boot(item), scope, &shaping, data);
        let made = std::mem::replace(&mut expander.steps, outside);
        tests.extend(made.into_iter().map(|step| ResolvedTest { name: name.clone(), step }));
    }
    tests
}

/// The name of a test, where its form is right.
fn name(item: &Node, expander: &mut Expander<'_>, scope: &Scope, data: bool) -> Option<String> {
    let Kind::Map(members) = &item.kind else {
        let message = format!("expected a test with a `name`, found {}", item.describe());
        expander.problems.push(item.diagnostic(message));
        return None;
    };
    let before = expander.problems.len();
    expander.problems.extend(members.iter().filter_map(|(key, _)| unknown_key(key, &KEYS, "a test")));
    if let Some((key, _)) =
        item.get(BOOT).and_then(|boot| boot.members().iter().find(|(key, _)| key.text() == Some(WITHIN)))
    {
        let message = "the steps of a test stand beside its `boot`, not in it";
        expander.problems.push(key.diagnostic(message));
    }
    let rendered = match item.get("name") {
        None => {
            expander.problems.push(item.diagnostic("the test has no `name`, by which reports call it"));
            None
        }
        Some(node) if data => Some(node.clone()),
        Some(node) => expander.engine.rendered(node, scope, &mut expander.problems),
    };
    let name = rendered.and_then(|node| match node.text().map(str::trim) {
        Some(text) if !text.is_empty() && !text.chars().any(char::is_control) => Some(text.to_owned()),
        _ => {
            let message = format!("expected a name in one line, found {}", node.describe());
            expander.problems.push(node.diagnostic(message));
            None
        }
    });
    name.filter(|_| expander.problems.len() == before)
}

/// A list of the one step that the test is.
fn as_boot(item: &Node) -> Node {
    let mut key = item.with(Kind::String(BOOT.to_owned()));
    let (mut arguments, mut at) = (Vec::new(), item.clone());
    for (name, value) in item.members() {
        match name.text() {
            Some(BOOT) => {
                key = name.clone();
                arguments.extend(value.members().iter().cloned());
                at = value.clone();
                if !matches!(value.kind, Kind::Map(_) | Kind::Null) {
                    // Said as of any other argument that is no mapping.
                    return item.with(Kind::List(vec![item.with(Kind::Map(vec![(name.clone(), value.clone())]))]));
                }
            }
            Some(WITHIN) => arguments.push((name.clone(), value.clone())),
            _ => {}
        }
    }
    let boot = at.with(Kind::Map(arguments));
    item.with(Kind::List(vec![item.with(Kind::Map(vec![(key, boot)]))]))
}
