//! The variables that an expression sees.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use minijinja::value::{Value, ValueKind};

use super::node::{Kind, Node, SourceFile, prints_as};
use super::value::to_value;
use crate::diagnostic::Position;

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
    /// The file in which its value was written, by which paths in it are meant.
    pub written: Option<Arc<SourceFile>>,
    /// Changing functions that had a part in it.
    pub volatile: Vec<&'static str>,
    /// Numbers in it that are written otherwise than they arrive (`1.10`), with what arrives.
    pub changed: Vec<(Node, String)>,
}

impl Scope {
    /// Sets a variable to what a node holds.
    pub(super) fn set(&mut self, name: &str, node: &Node) {
        let variable = Variable {
            value: to_value(node),
            position: Some(node.position()),
            written: Some(node.written().clone()),
            volatile: node.volatile(),
            changed: changed(node),
        };
        self.variables.insert(name.to_owned(), variable);
        self.context.take();
    }

    /// The same for something that comes from no file.
    pub(super) fn set_from_outside(&mut self, name: &str, node: &Node) {
        let variable = Variable {
            value: to_value(node),
            position: None,
            written: None,
            volatile: Vec::new(),
            changed: changed(node),
        };
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
}

/// Numbers below a node whose text is lost with their value: in the older format, all that is not written as numbers are
/// printed.
fn changed(node: &Node) -> Vec<(Node, String)> {
    let mut found = Vec::new();
    let mut nodes = vec![node];
    while let Some(node) = nodes.pop() {
        match &node.kind {
            Kind::Float { value, text } if node.written().format() < 2 && !prints_as(*value, text) => {
                found.push((node.clone(), Value::from(*value).to_string()));
            }
            Kind::List(items) => nodes.extend(items),
            Kind::Map(members) => nodes.extend(members.iter().map(|(_, value)| value)),
            _ => {}
        }
    }
    found
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
