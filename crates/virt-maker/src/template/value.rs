//! Values of the expression language to and from nodes, and as text.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use minijinja::value::{Value, ValueKind};

use super::literal::typed;
use super::node::{Kind, Node, SourceFile};
use super::parse::parse_text;

/// What all expressions of a template may make, in bytes.
const MADE_MAX: usize = 64 << 20;
/// What a value counts besides its text, in bytes: a list may be repeated without any.
const VALUE: usize = 64;

/// How deep a value may be nested.
const DEPTH: usize = 100;

/// An expression makes more than it may.
#[derive(Debug)]
pub(super) enum Excess {
    /// All expressions together make too much.
    Bytes,
    /// A value is nested too deeply.
    Depth,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Excess::Bytes => write!(f, "the expressions of this template make more than {} MiB", MADE_MAX >> 20),
            Excess::Depth => write!(f, "a value is nested deeper than {DEPTH} levels"),
        }
    }
}

/// What the expressions of a template have made so far.
#[derive(Default)]
pub(super) struct Made(Cell<usize>);

impl Made {
    /// Counts so many bytes more.
    pub fn add(&self, bytes: usize) -> Result<(), Excess> {
        self.0.set(self.0.get().saturating_add(bytes));
        if self.0.get() > MADE_MAX { Err(Excess::Bytes) } else { Ok(()) }
    }
}

/// An error where a value is more than all expressions may make, or nested too deeply.
pub(super) fn check_extent(value: &Value) -> Result<(), Excess> {
    extent(value, &Made::default(), 0)
}

fn extent(value: &Value, made: &Made, depth: usize) -> Result<(), Excess> {
    if depth > DEPTH {
        return Err(Excess::Depth);
    }
    made.add(VALUE + value.as_str().map_or(0, str::len))?;
    let is_map = value.kind() == ValueKind::Map;
    if !is_map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Ok(());
    }
    for item in value.try_iter().into_iter().flatten() {
        extent(&item, made, depth + 1)?;
        if is_map {
            extent(&value.get_item(&item).unwrap_or_default(), made, depth + 1)?;
        }
    }
    Ok(())
}

/// A value of the command line for a template of this format: JSON where it is JSON, text otherwise.
pub(super) fn command_line_value(name: &str, text: &str, format: u8) -> Node {
    let source = Arc::new(SourceFile {
        path: Arc::new(PathBuf::from(format!("-p {name}"))),
        folder: PathBuf::new(),
        text: text.to_owned(),
        via: None,
        files: Arc::default(),
        format: format.into(),
    });
    if serde_json::from_str::<serde_json::Value>(text).is_ok()
        && let Ok(node) = parse_text(&source)
    {
        return node;
    }
    Node::new(Kind::String(text.to_owned()), 1, 1, source)
}

/// A node as a value of the engine.
pub(super) fn to_value(node: &Node) -> Value {
    match &node.kind {
        Kind::Null => Value::from(()),
        Kind::Bool(value) => Value::from(*value),
        // `0644` stays text in an expression, so that it arrives as it was written.
        Kind::Integer { value, text } if value.to_string() == *text => Value::from(*value),
        Kind::Integer { text, .. } => Value::from(text.as_str()),
        // So does `1.10` in a template of format 2.
        Kind::Float { value, text } if node.is_written_otherwise(*value, text) => Value::from(text.as_str()),
        Kind::Float { value, .. } => Value::from(*value),
        Kind::String(text) => Value::from(text.as_str()),
        Kind::List(items) => Value::from(items.iter().map(to_value).collect::<Vec<_>>()),
        Kind::Map(members) => {
            let member = |(key, value): &(Node, Node)| (key.text().unwrap_or_default().to_owned(), to_value(value));
            Value::from_pairs(members.iter().map(member))
        }
    }
}

/// The value of an expression, all of it at the expression's place.
///
/// The engine's lists are lazy, so their size is seen only here.
pub(super) fn from_value(value: &Value, place: &Node, made: &Made) -> Result<Node, Excess> {
    nested_value(value, place, made, 0)
}

fn nested_value(value: &Value, place: &Node, made: &Made, depth: usize) -> Result<Node, Excess> {
    if depth > DEPTH {
        return Err(Excess::Depth);
    }
    made.add(VALUE)?;
    let text = |text: String| made.add(text.len()).map(|()| text);
    let kind = match value.kind() {
        ValueKind::Undefined | ValueKind::None => Kind::Null,
        ValueKind::Bool => Kind::Bool(value.is_true()),
        ValueKind::Number => match i64::try_from(value.clone()) {
            Ok(integer) if value.is_integer() => Kind::Integer { value: integer, text: integer.to_string() },
            _ => Kind::Float { value: f64::try_from(value.clone()).unwrap_or(f64::NAN), text: value.to_string() },
        },
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().into_iter().flatten();
            Kind::List(items.map(|item| nested_value(&item, place, made, depth + 1)).collect::<Result<_, _>>()?)
        }
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let member = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                Ok((place.with(Kind::String(text(key.to_string())?)), nested_value(&item, place, made, depth + 1)?))
            };
            Kind::Map(keys.map(member).collect::<Result<_, _>>()?)
        }
        _ => return Ok(typed(text(value.to_string())?, place)),
    };
    Ok(place.with(kind))
}

/// A value in text, as Python's `str` has it.
pub(super) fn python_text(value: &Value, out: &mut String) -> Result<(), Excess> {
    nested_text(value, out, 0)
}

/// The same, or its `repr` within another one, so deep in it.
fn nested_text(value: &Value, out: &mut String, depth: usize) -> Result<(), Excess> {
    if out.len() > MADE_MAX {
        return Err(Excess::Bytes);
    }
    if depth > DEPTH {
        return Err(Excess::Depth);
    }
    match value.kind() {
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::None => out.push_str("None"),
        ValueKind::String if depth > 0 => {
            let text = value.as_str().unwrap_or_default();
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            out.push(quote);
            for character in text.chars() {
                match character {
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    '\\' => out.push_str("\\\\"),
                    _ if character == quote => out.extend(['\\', quote]),
                    other if other.is_control() => {
                        let _ = write!(out, "\\x{:02x}", other as u32);
                    }
                    other => out.push(other),
                }
            }
            out.push(quote);
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                nested_text(&item, out, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                nested_text(&key, out, depth + 1)?;
                out.push_str(": ");
                nested_text(&value.get_item(&key).unwrap_or_default(), out, depth + 1)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}
