//! Parameters: what defines the variables of expressions.
//!
//! They may use each other: they are resolved once, each after those that it uses. A circle is an error that shows it.

use std::collections::BTreeMap;

use super::expression::Engine;
use super::node::{Kind, Node};
use super::scope::Scope;
use super::suggest;
use crate::diagnostic::Diagnostic;

/// Longest chain of parameters that use each other.
const CHAIN: usize = 200;

impl Scope {
    /// Resolves parameters into this scope; those that it has already stay as they are.
    pub(super) fn resolve(&mut self, engine: &Engine, declared: &[(Node, Node)], problems: &mut Vec<Diagnostic>) {
        let unset = |(name, value): &(Node, Node)| {
            let name = name.text()?;
            self.variable(name).is_none().then(|| (name.to_owned(), value.clone()))
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
        for name in self.names() {
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
