//! Expressions: the engine that evaluates them, and values to and from nodes.
//!
//! A string that is one single `{{ expression }}` takes the expression's value with its type; any other string with an
//! expression in it becomes text, and a value where that text reads as one. Each is evaluated once: what it yields is
//! data. In text, values are written as Python writes them (`True`, `['a', 1]`), which is what older templates expect.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};

use super::functions::{self, Shared};
use super::literal::typed;
use super::node::{Kind, Node, Origin, SourceFile};
use super::parse::parse_text;
use super::scope::Scope;
use super::suggest;
use crate::diagnostic::Diagnostic;

/// Instructions that one expression may take, so that none runs for ever.
const FUEL: u64 = 1_000_000;
/// Text that all expressions of a template may make, in bytes.
const TEXT_MAX: usize = 64 << 20;
/// Lines, and characters of one line, of a text with expressions: the engine counts both with 16 bits.
const LINES: usize = 60_000;
/// Longest value that a message quotes, in characters.
const QUOTE: usize = 60;
/// Marks a template of the engine that is its own text; a name without it (`{% include 'x' %}`) finds nothing.
const OWN: char = '\u{1}';
/// The variable that holds the value of a whole expression.
const RESULT: &str = "__value";

/// Evaluates expressions.
pub(super) struct Engine {
    environment: Environment<'static>,
    pub(super) shared: Arc<Shared>,
    names: RefCell<HashMap<String, Arc<[String]>>>,
    made: Cell<usize>,
}

/// Why there is no value. Nothing is to be told where it follows from something that was told.
pub(super) type Failed = Option<Box<Diagnostic>>;

impl Engine {
    pub(super) fn new(shared: Arc<Shared>) -> Engine {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.expect("the default delimiters are valid"));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _, value| {
            let mut text = String::new();
            python_text(value, &mut text, false);
            Ok(out.write_str(&text)?)
        });
        environment.set_fuel(Some(FUEL));
        // Each text is compiled once, however often it is evaluated.
        environment.set_loader(|name| Ok(name.strip_prefix(OWN).map(str::to_owned)));
        functions::add_to(&mut environment, &shared);
        Engine { environment, shared, names: RefCell::default(), made: Cell::new(0) }
    }

    /// Renders a node and all below it.
    pub(super) fn render(&self, node: &Node, scope: &Scope, problems: &mut Vec<Diagnostic>) -> Node {
        match &node.kind {
            Kind::String(text) => match self.string(text, node, scope) {
                Ok(node) => node,
                Err(problem) => {
                    problems.extend(problem.map(|problem| *problem));
                    node.with(Kind::Null)
                }
            },
            Kind::List(items) => {
                node.with(Kind::List(items.iter().map(|item| self.render(item, scope, problems)).collect()))
            }
            Kind::Map(members) => {
                let mut rendered: Vec<(Node, Node)> = Vec::with_capacity(members.len());
                for (key, value) in members {
                    let key = self.render(key, scope, problems);
                    let value = self.render(value, scope, problems);
                    if key.origin.is_some() && rendered.iter().any(|(other, _)| other.text() == key.text()) {
                        problems
                            .push(key.diagnostic(format!("`{}` stands here twice", key.text().unwrap_or_default())));
                    }
                    rendered.push((key, value));
                }
                node.with(Kind::Map(rendered))
            }
            _ => node.clone(),
        }
    }

    /// Renders one text.
    pub(super) fn string(&self, text: &str, node: &Node, scope: &Scope) -> Result<Node, Failed> {
        if !is_expression(text) {
            return Ok(typed(text.to_owned(), node));
        }
        check_length(text, node)?;
        let evaluated = match whole_expression(text) {
            Some(expression) => self.evaluate(text, expression, node, scope).map(|value| {
                // Blanks and line breaks around it belong to a text, and to nothing else.
                let scalar = matches!(value.kind(), ValueKind::String | ValueKind::Number);
                if !scalar || text.trim() == text {
                    return from_value(&value, node);
                }
                let (lead, tail) = (text.len() - text.trim_start().len(), text.trim_end().len());
                typed(format!("{}{value}{}", &text[..lead], &text[tail..]), node)
            }),
            None => self.text(text, node, scope).map(|text| typed(text, node)),
        };
        let mut made = evaluated?;
        made.origin = Some(Arc::new(self.origin(text, &made, scope)));
        Ok(made)
    }

    /// The value of a bare expression (`size == '4G'`), as `when` has it.
    pub(super) fn bare(&self, expression: &str, node: &Node, scope: &Scope) -> Result<Value, Failed> {
        check_length(expression, node)?;
        self.evaluate(&format!("{{{{ {expression} }}}}"), expression, node, scope)
    }

    fn evaluate(&self, text: &str, expression: &str, node: &Node, scope: &Scope) -> Result<Value, Failed> {
        self.begin(node);
        let source = format!("{OWN}{{% set {RESULT} = ({expression}) %}}");
        let run = || {
            let captured = self.environment.get_template(&source)?.render_captured(scope.context())?;
            match captured.state().lookup(RESULT) {
                Some(value) if !value.is_undefined() => Ok(value),
                _ => Err(minijinja::Error::from(ErrorKind::UndefinedError)),
            }
        };
        run().map_err(|error| self.diagnose(node, text, &error, scope))
    }

    fn text(&self, text: &str, node: &Node, scope: &Scope) -> Result<String, Failed> {
        self.begin(node);
        let run = || self.environment.get_template(&format!("{OWN}{text}"))?.render(scope.context());
        let made = run().map_err(|error| self.diagnose(node, text, &error, scope))?;
        self.made.set(self.made.get().saturating_add(made.len()));
        if self.made.get() > TEXT_MAX {
            let message = format!("the expressions of this template make more than {} MiB of text", TEXT_MAX >> 20);
            return Err(Some(Box::new(node.diagnostic(message))));
        }
        Ok(made)
    }

    fn begin(&self, node: &Node) {
        let mut state = self.shared.state();
        state.place = Some(node.clone());
        state.volatile.clear();
        state.failure = None;
    }

    fn origin(&self, text: &str, made: &Node, scope: &Scope) -> Origin {
        let mut volatile = std::mem::take(&mut self.shared.state().volatile);
        let mut parameters = Vec::new();
        for name in self.names_of(text).iter() {
            let Some(variable) = scope.variable(name) else { continue };
            volatile.extend(&variable.volatile);
            parameters.extend(variable.position.clone().map(|position| (name.clone(), position)));
        }
        volatile.sort_unstable();
        volatile.dedup();
        let value = match made.text() {
            Some(text) => text.to_owned(),
            None => made.to_json().to_string(),
        };
        Origin { expression: quote(text), value: quote(&value), parameters, volatile }
    }

    /// Names that an expression uses, sorted; functions are among them.
    fn names_of(&self, text: &str) -> Arc<[String]> {
        if let Some(names) = self.names.borrow().get(text) {
            return names.clone();
        }
        if too_long(text) {
            // Evaluating it says so.
            return Arc::new([]);
        }
        let template = self.environment.template_from_str(text);
        let names = template.map(|template| template.undeclared_variables(false)).unwrap_or_default();
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort();
        let names: Arc<[String]> = names.into();
        self.names.borrow_mut().insert(text.to_owned(), names.clone());
        names
    }

    /// Names that the expressions below a node use, in order.
    pub(super) fn names(&self, node: &Node) -> Vec<String> {
        let mut names = Vec::new();
        self.collect_names(node, &mut names);
        names.sort();
        names.dedup();
        names
    }

    fn collect_names(&self, node: &Node, names: &mut Vec<String>) {
        match &node.kind {
            Kind::String(text) if is_expression(text) => names.extend(self.names_of(text).iter().cloned()),
            Kind::List(items) => items.iter().for_each(|item| self.collect_names(item, names)),
            Kind::Map(members) => members.iter().for_each(|(key, value)| {
                self.collect_names(key, names);
                self.collect_names(value, names);
            }),
            _ => {}
        }
    }

    /// What an error of the expression language means here.
    fn diagnose(&self, node: &Node, text: &str, error: &minijinja::Error, scope: &Scope) -> Failed {
        let mut place = node.clone();
        place.origin = None;
        place_in(&mut place, text, error);
        if let Some((message, hint)) = self.shared.state().failure.take() {
            let mut diagnostic = place.diagnostic(message);
            diagnostic.hint = hint;
            return Some(Box::new(diagnostic));
        }
        let names = self.names_of(text);
        let unknown = |name: &&String| scope.variable(name).is_none() && !self.is_global(name);
        let mut unknown = names.iter().filter(unknown);
        let hinted = |message: String, hint: String| {
            let mut diagnostic = place.diagnostic(message);
            diagnostic.hint = Some(hint);
            Some(Box::new(diagnostic))
        };
        match error.kind() {
            ErrorKind::UndefinedError | ErrorKind::UnknownFunction => {
                if names.iter().any(|name| scope.has_failed(name)) {
                    return None;
                }
                let Some(name) = unknown.next() else {
                    return Some(Box::new(place.diagnostic("this expression uses something that is not defined")));
                };
                if error.kind() == ErrorKind::UnknownFunction {
                    return hinted(
                        format!("there is no function `{name}`"),
                        functions::unknown(name, &self.environment),
                    );
                }
                let hint = match suggest::closest(name, scope.names()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("define it under `params:` or give it with -p {name}=VALUE"),
                };
                hinted(format!("`{name}` is not defined"), hint)
            }
            ErrorKind::OutOfFuel => {
                Some(Box::new(place.diagnostic(format!("this expression takes more than {FUEL} instructions"))))
            }
            _ => {
                let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
                Some(Box::new(place.diagnostic(format!("this expression has an error: {}{detail}", error.kind()))))
            }
        }
    }

    fn is_global(&self, name: &str) -> bool {
        self.environment.globals().any(|(global, _)| global == name)
    }
}

fn too_long(text: &str) -> bool {
    text.len() > LINES && (text.lines().count() > LINES || text.lines().any(|line| line.len() > LINES))
}

/// An error where a text is too long for the engine.
fn check_length(text: &str, node: &Node) -> Result<(), Failed> {
    if too_long(text) {
        let message = format!("a text with expressions may have {LINES} lines, and {LINES} bytes in a line");
        return Err(Some(Box::new(node.diagnostic(message))));
    }
    Ok(())
}

/// Whether a text has anything to evaluate.
pub(super) fn is_expression(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

/// The inside of a text that is one `{{ expression }}` and nothing else.
fn whole_expression(text: &str) -> Option<&str> {
    let inside = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let inside = inside.strip_prefix('-').unwrap_or(inside);
    let inside = inside.strip_suffix('-').unwrap_or(inside);
    let simple = ["{{", "}}", "{%", "%}", "{#", "#}"].iter().all(|mark| !inside.contains(mark));
    (simple && !inside.trim().is_empty()).then_some(inside)
}

/// A text on one line, shortened.
pub(super) fn quote(text: &str) -> String {
    let mut characters = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = characters.by_ref().take(QUOTE).collect();
    if characters.next().is_some() { format!("{shown}…") } else { shown }
}

/// Moves a place to the line of the error, where the text has several.
fn place_in(place: &mut Node, text: &str, error: &minijinja::Error) {
    let wanted = error.line().and_then(|line| text.lines().nth(line.saturating_sub(1))).map(str::trim);
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return };
    let lines = place.source.text.lines().enumerate().skip(place.line.saturating_sub(1));
    let mut found = lines.filter_map(|(index, line)| Some((index, line, line.find(wanted)?)));
    if let Some((index, line, at)) = found.next() {
        (place.line, place.column) = (index + 1, line[..at].chars().count() + 1);
    }
}

/// A value of the command line: JSON where it is JSON, text otherwise.
pub(super) fn command_line_value(name: &str, text: &str) -> Node {
    let source = Arc::new(SourceFile {
        path: Arc::new(PathBuf::from(format!("-p {name}"))),
        folder: PathBuf::new(),
        text: text.to_owned(),
        via: None,
        files: Arc::default(),
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
pub(super) fn from_value(value: &Value, place: &Node) -> Node {
    let kind = match value.kind() {
        ValueKind::Undefined | ValueKind::None => Kind::Null,
        ValueKind::Bool => Kind::Bool(value.is_true()),
        ValueKind::Number => match i64::try_from(value.clone()) {
            Ok(integer) if value.is_integer() => Kind::Integer { value: integer, text: integer.to_string() },
            _ => Kind::Float { value: f64::try_from(value.clone()).unwrap_or(f64::NAN), text: value.to_string() },
        },
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().into_iter().flatten();
            Kind::List(items.map(|item| from_value(&item, place)).collect())
        }
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let member = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                (place.with(Kind::String(key.to_string())), from_value(&item, place))
            };
            Kind::Map(keys.map(member).collect())
        }
        _ => return typed(value.to_string(), place),
    };
    place.with(kind)
}

/// A value in text, as Python's `str` has it, or its `repr` within another one.
fn python_text(value: &Value, out: &mut String, inside: bool) {
    match value.kind() {
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::None => out.push_str("None"),
        ValueKind::String if inside => {
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
        ValueKind::Seq => {
            out.push('[');
            for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                python_text(&item, out, true);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                python_text(&key, out, true);
                out.push_str(": ");
                python_text(&value.get_item(&key).unwrap_or_default(), out, true);
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::functions::Rights;

    fn engine() -> Engine {
        Engine::new(Arc::new(Shared {
            rights: Rights::default(),
            cache_dir: PathBuf::new(),
            fetch: None,
            root: PathBuf::new(),
            frozen: None,
            state: Default::default(),
        }))
    }

    /// The engine counts columns with 16 bits, and its errors count one further.
    #[test]
    fn texts_that_are_too_long_are_errors() {
        let place = command_line_value("x", "\"\"");
        for text in [format!("{}{{{{ 1 + }}}}", "x".repeat(70_000)), format!("{}{{{{ 1", "\n".repeat(70_000))] {
            let problem = engine().string(&text, &place, &Scope::default()).unwrap_err().unwrap();
            assert!(problem.message.contains("60000 lines"), "{problem:?}");
            assert!(engine().bare(&text, &place, &Scope::default()).is_err());
        }
        let long = format!("{}{{{{ 1 }}}}", "x\n".repeat(50_000));
        assert!(engine().string(&long, &place, &Scope::default()).is_ok());
    }
}
