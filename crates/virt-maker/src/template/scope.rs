//! Variables of expressions, and the parameters that define them.
//!
//! Parameters may use each other: they are resolved once, each after those that it uses. A circle is an error that
//! shows it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use minijinja::value::{Value, ValueKind};

use super::expression::{Engine, to_value};
use super::node::{Kind, Node};
use super::suggest;
use crate::diagnostic::{Diagnostic, Position};

/// Longest chain of parameters that use each other.
const CHAIN: usize = 200;

/// The variables that expressions see.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    variables: BTreeMap<String, Variable>,
    /// Parameters that could not be resolved; what was wrong with them was told.
    failed: BTreeSet<String>,
    context: RefCell<Option<Value>>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Variable {
    pub value: Value,
    /// Where it is set; nowhere in a file for one of the command line.
    pub position: Option<Position>,
    /// Changing functions that had a part in it.
    pub volatile: Vec<&'static str>,
}

impl Scope {
    /// Sets a variable to what a node holds.
    pub(super) fn set(&mut self, name: &str, node: &Node) {
        let variable = Variable { value: to_value(node), position: Some(node.position()), volatile: node.volatile() };
        self.variables.insert(name.to_owned(), variable);
        self.context.take();
    }

    /// The same for something that comes from no file.
    pub(super) fn set_from_outside(&mut self, name: &str, node: &Node) {
        let variable = Variable { value: to_value(node), position: None, volatile: Vec::new() };
        self.variables.insert(name.to_owned(), variable);
        self.context.take();
    }

    pub(super) fn fail(&mut self, name: &str) {
        self.failed.insert(name.to_owned());
    }

    pub(super) fn variable(&self, name: &str) -> Option<&Variable> {
        self.variables.get(name)
    }

    /// All names with their values.
    pub(super) fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        self.variables.iter().map(|(name, variable)| (name.clone(), json(&variable.value))).collect()
    }

    pub(super) fn has_failed(&self, name: &str) -> bool {
        self.failed.contains(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// All of it as one value of the engine.
    pub(super) fn context(&self) -> Value {
        let mut context = self.context.borrow_mut();
        let make =
            || Value::from_pairs(self.variables.iter().map(|(name, variable)| (name.as_str(), variable.value.clone())));
        context.get_or_insert_with(make).clone()
    }

    /// Resolves parameters into this scope; those that it has already stay as they are.
    pub(super) fn resolve(&mut self, engine: &Engine, declared: &[(Node, Node)], problems: &mut Vec<Diagnostic>) {
        let unset = |(name, value): &(Node, Node)| {
            let name = name.text()?;
            (!self.variables.contains_key(name)).then(|| (name.to_owned(), value.clone()))
        };
        let mut pending: BTreeMap<String, Node> = declared.iter().filter_map(unset).collect();
        while let Some(name) = pending.keys().next().cloned() {
            if let Err(Some(problem)) = self.resolve_one(engine, &name, &mut pending, &mut Vec::new()) {
                problems.push(problem);
            }
        }
    }

    /// Resolves what these expressions use, and nothing else: for keys that say how the template goes on.
    pub(super) fn resolve_for(
        &mut self,
        engine: &Engine,
        node: &Node,
        declared: &[(Node, Node)],
    ) -> Result<(), Diagnostic> {
        let mut pending: BTreeMap<String, Node> =
            declared.iter().filter_map(|(name, value)| Some((name.text()?.to_owned(), value.clone()))).collect();
        for name in self.variables.keys() {
            pending.remove(name);
        }
        for name in engine.names(node) {
            if let Err(Some(problem)) = self.resolve_one(engine, &name, &mut pending, &mut Vec::new()) {
                return Err(problem);
            }
        }
        Ok(())
    }

    /// Resolves one parameter after those that it uses; `path` is the way to it, to show a circle.
    fn resolve_one(
        &mut self,
        engine: &Engine,
        name: &str,
        pending: &mut BTreeMap<String, Node>,
        path: &mut Vec<String>,
    ) -> Result<(), Option<Diagnostic>> {
        let Some(node) = pending.get(name).cloned() else { return Ok(()) };
        if let Some(first) = path.iter().position(|other| other == name) {
            path.push(name.to_owned());
            let circle = path[first..].join(" -> ");
            for member in &path[first..] {
                pending.remove(member);
                self.fail(member);
            }
            return Err(Some(node.diagnostic(format!("parameters use each other in a circle: {circle}"))));
        }
        if path.len() >= CHAIN {
            return Err(Some(node.diagnostic(format!("parameters use each other in a chain of more than {CHAIN}"))));
        }
        path.push(name.to_owned());
        for used in engine.names(&node) {
            if let Err(problem) = self.resolve_one(engine, &used, pending, path) {
                pending.remove(name);
                self.fail(name);
                return Err(problem);
            }
        }
        path.pop();
        pending.remove(name);
        let mut problems = Vec::new();
        let rendered = engine.render(&node, self, &mut problems);
        match problems.into_iter().next() {
            Some(problem) => {
                self.fail(name);
                Err(Some(problem))
            }
            // What it uses has failed, and that was told.
            None if engine.names(&node).iter().any(|used| self.has_failed(used)) => {
                self.fail(name);
                Err(None)
            }
            None => {
                self.set(name, &rendered);
                Ok(())
            }
        }
    }
}

/// The same value for a document.
fn json(value: &Value) -> serde_json::Value {
    use serde_json::Value as Json;
    let items = |value: &Value| value.try_iter().into_iter().flatten().collect::<Vec<_>>();
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Json::Null,
        ValueKind::Bool => value.is_true().into(),
        ValueKind::Number => match (i64::try_from(value.clone()), f64::try_from(value.clone())) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) => number.into(),
            _ => value.to_string().into(),
        },
        ValueKind::Seq | ValueKind::Iterable => items(value).iter().map(json).collect(),
        ValueKind::Map => {
            let member = |key: &Value| (key.to_string(), value.get_item(key).map_or(Json::Null, |value| json(&value)));
            Json::Object(items(value).iter().map(member).collect())
        }
        _ => value.to_string().into(),
    }
}

/// The members of `params`, or an error where it is something else.
pub(super) fn declared(params: Option<&Node>) -> Result<&[(Node, Node)], Diagnostic> {
    match params {
        None | Some(Node { kind: Kind::Null, .. }) => Ok(&[]),
        Some(node) if matches!(node.kind, Kind::Map(_)) => Ok(node.members()),
        Some(node) => Err(node.diagnostic(format!("expected a mapping of parameters, found {}", node.describe()))),
    }
}

/// A parameter of the command line that no template knows.
pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a String> + Clone) -> Diagnostic {
    let meant = suggest::closest(name, known.map(String::as_str));
    Diagnostic {
        message: format!("the template has no parameter `{name}`"),
        position: None,
        source_line: None,
        hint: meant.map(|meant| format!("did you mean `{meant}`?")),
        notes: Vec::new(),
    }
}
