//! Parameters and expressions.
//!
//! Every string of a template, keys included, is a Jinja expression source and is rendered once. A string that is one
//! single `{{ expression }}` takes the expression's value with its type, so a parameter can be a list; any other
//! string stays text, and becomes an integer where it reads as one. Parameters may use each other: they are resolved
//! once, in the order of their dependencies.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, UndefinedBehavior};

use super::node::{Kind, Node, SourceFile};
use super::parse::parse_text;
use super::suggest;
use crate::diagnostic::Diagnostic;

/// Instructions that one expression may take, so that none runs for ever.
const FUEL: u64 = 1_000_000;

/// Renders a template with its `params` and those of the command line (name, text), and returns it without `params`.
pub fn render(template: &Node, command_line: &[(String, String)]) -> Result<Node, Vec<Diagnostic>> {
    let mut renderer = Renderer::new();
    let mut problems = Vec::new();
    let declared = match template.get("params") {
        None => &[],
        Some(params) if matches!(params.kind, Kind::Map(_)) => params.members(),
        Some(params) if matches!(params.kind, Kind::Null) => &[],
        Some(params) => {
            return Err(vec![params.diagnostic(format!("expected a mapping, found {}", params.describe()))]);
        }
    };
    let mut pending: BTreeMap<String, Node> =
        declared.iter().filter_map(|(name, value)| Some((name.text()?.to_owned(), value.clone()))).collect();
    let used = renderer.names(template);
    for (name, text) in command_line {
        if !pending.contains_key(name) && !used.contains(name) {
            problems.push(unknown_parameter(name, pending.keys().chain(&used)));
            continue;
        }
        pending.remove(name);
        let value = command_line_value(name, text);
        renderer.values.insert(name.clone(), to_value(&value));
    }
    while let Some(name) = pending.keys().next().cloned() {
        if let Err(problem) = renderer.resolve(&name, &mut pending, &mut Vec::new()) {
            problems.push(problem);
        }
    }
    let members = template.members().iter().filter(|(key, _)| key.text() != Some("params"));
    let rest = match &template.kind {
        Kind::Map(_) => template.with(Kind::Map(members.cloned().collect())),
        _ => template.clone(),
    };
    let rendered = renderer.node(&rest, &mut problems);
    if problems.is_empty() { Ok(rendered) } else { Err(problems) }
}

struct Renderer {
    environment: Environment<'static>,
    values: BTreeMap<String, Value>,
    failed: Vec<String>,
}

impl Renderer {
    fn new() -> Renderer {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.expect("the default delimiters are valid"));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        Renderer { environment, values: BTreeMap::new(), failed: Vec::new() }
    }

    /// Resolves one parameter after those that it uses; `path` is the way to it, to show a cycle.
    fn resolve(
        &mut self,
        name: &str,
        pending: &mut BTreeMap<String, Node>,
        path: &mut Vec<String>,
    ) -> Result<(), Diagnostic> {
        let Some(node) = pending.get(name).cloned() else { return Ok(()) };
        path.push(name.to_owned());
        if let Some(first) = path[..path.len() - 1].iter().position(|other| other == name) {
            let cycle = path[first..].join(" -> ");
            for member in &path[first..] {
                pending.remove(member);
            }
            return Err(node.diagnostic(format!("parameters use each other in a circle: {cycle}")));
        }
        for used in self.names(&node) {
            if let Err(problem) = self.resolve(&used, pending, path) {
                pending.remove(name);
                self.failed.push(name.to_owned());
                return Err(problem);
            }
        }
        path.pop();
        pending.remove(name);
        let mut problems = Vec::new();
        let rendered = self.node(&node, &mut problems);
        match problems.into_iter().next() {
            Some(problem) => {
                self.failed.push(name.to_owned());
                Err(problem)
            }
            None => {
                self.values.insert(name.to_owned(), to_value(&rendered));
                Ok(())
            }
        }
    }

    /// Names that the expressions below a node use, in order.
    fn names(&self, node: &Node) -> Vec<String> {
        let mut names = Vec::new();
        self.collect_names(node, &mut names);
        names.sort();
        names.dedup();
        names
    }

    fn collect_names(&self, node: &Node, names: &mut Vec<String>) {
        match &node.kind {
            Kind::String(text) if is_expression(text) => {
                if let Ok(template) = self.environment.template_from_str(text) {
                    names.extend(template.undeclared_variables(false));
                }
            }
            Kind::List(items) => items.iter().for_each(|item| self.collect_names(item, names)),
            Kind::Map(members) => members.iter().for_each(|(key, value)| {
                self.collect_names(key, names);
                self.collect_names(value, names);
            }),
            _ => {}
        }
    }

    fn node(&self, node: &Node, problems: &mut Vec<Diagnostic>) -> Node {
        match &node.kind {
            Kind::String(text) => match self.string(text, node) {
                Ok(kind) => node.with(kind),
                Err(error) => {
                    problems.extend(self.diagnose(node, text, &error));
                    node.with(Kind::Null)
                }
            },
            Kind::List(items) => node.with(Kind::List(items.iter().map(|item| self.node(item, problems)).collect())),
            Kind::Map(members) => {
                let render = |(key, value): &(Node, Node)| (self.node(key, problems), self.node(value, problems));
                node.with(Kind::Map(members.iter().map(render).collect()))
            }
            _ => node.clone(),
        }
    }

    fn string(&self, text: &str, node: &Node) -> Result<Kind, minijinja::Error> {
        if !is_expression(text) {
            return Ok(typed(text.to_owned()));
        }
        if let Some(expression) = whole_expression(text)
            && let Ok(compiled) = self.environment.compile_expression(expression)
        {
            let value = compiled.eval(&self.values)?;
            if value.is_undefined() {
                return Err(minijinja::Error::from(minijinja::ErrorKind::UndefinedError));
            }
            return Ok(from_value(&value, node));
        }
        self.environment.render_str(text, &self.values).map(typed)
    }

    /// What an error of the expression language means here; nothing where it follows from one that was told.
    fn diagnose(&self, node: &Node, text: &str, error: &minijinja::Error) -> Option<Diagnostic> {
        let place = place_of(node, text, error);
        let unknown = self.environment.template_from_str(text).ok().and_then(|template| {
            let names = template.undeclared_variables(false);
            names.into_iter().find(|name| !self.values.contains_key(name) && !self.is_global(name))
        });
        match unknown {
            Some(name) if self.failed.contains(&name) => None,
            Some(name) if error.kind() == minijinja::ErrorKind::UndefinedError => {
                let mut diagnostic = place.diagnostic(format!("`{name}` is not defined"));
                diagnostic.hint = Some(match suggest::closest(&name, self.values.keys().map(String::as_str)) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("define it under `params:` or give it with -p {name}=VALUE"),
                });
                Some(diagnostic)
            }
            _ => {
                let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
                Some(place.diagnostic(format!("this expression has an error: {}{detail}", error.kind())))
            }
        }
    }

    fn is_global(&self, name: &str) -> bool {
        self.environment.globals().any(|(global, _)| global == name)
    }
}

fn is_expression(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

/// The inside of a text that is one `{{ expression }}` and nothing else.
fn whole_expression(text: &str) -> Option<&str> {
    let inside = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let inside = inside.strip_prefix('-').unwrap_or(inside);
    let inside = inside.strip_suffix('-').unwrap_or(inside);
    (!inside.contains("{{") && !inside.contains("}}") && !inside.contains("{%")).then_some(inside)
}

/// A text, or the integer that it reads as; places that want text get it as it was written.
fn typed(text: String) -> Kind {
    let digits = text.strip_prefix('-').unwrap_or(&text);
    let integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(value) if integer => Kind::Integer { value, text },
        _ => Kind::String(text),
    }
}

/// Where in the file the error of an expression is: its own line, where the text has several.
fn place_of(node: &Node, text: &str, error: &minijinja::Error) -> Node {
    let mut place = node.clone();
    let wanted = error.line().and_then(|line| text.lines().nth(line.saturating_sub(1))).map(str::trim);
    let lines = node.source.text.lines().enumerate().skip(node.line.saturating_sub(1));
    if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty())
        && let Some((index, line)) = lines.into_iter().find(|(_, line)| line.contains(wanted))
    {
        place.line = index + 1;
        place.column = line.find(wanted).map_or(1, |at| line[..at].chars().count() + 1);
    }
    place
}

fn unknown_parameter<'a>(name: &str, known: impl Iterator<Item = &'a String> + Clone) -> Diagnostic {
    let meant = suggest::closest(name, known.map(String::as_str));
    Diagnostic {
        message: format!("the template has no parameter `{name}`"),
        position: None,
        source_line: None,
        hint: meant.map(|meant| format!("did you mean `{meant}`?")),
    }
}

/// A value of the command line: JSON where it is JSON, text otherwise.
fn command_line_value(name: &str, text: &str) -> Node {
    let source = SourceFile {
        path: Arc::new(PathBuf::from(format!("-p {name}"))),
        folder: PathBuf::new(),
        text: text.to_owned(),
    };
    let source = Arc::new(source);
    if serde_json::from_str::<serde_json::Value>(text).is_ok()
        && let Ok(node) = parse_text(&source)
    {
        return node;
    }
    Node { kind: Kind::String(text.to_owned()), line: 1, column: 1, source }
}

fn to_value(node: &Node) -> Value {
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
            Value::from_iter(members.iter().map(member))
        }
    }
}

/// The value of an expression, all of it at the expression's place.
fn from_value(value: &Value, place: &Node) -> Kind {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Kind::Null,
        ValueKind::Bool => Kind::Bool(value.is_true()),
        ValueKind::Number => match i64::try_from(value.clone()) {
            Ok(integer) if value.is_integer() => Kind::Integer { value: integer, text: integer.to_string() },
            _ => Kind::Float { value: f64::try_from(value.clone()).unwrap_or(f64::NAN), text: value.to_string() },
        },
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().into_iter().flatten();
            Kind::List(items.map(|item| place.with(from_value(&item, place))).collect())
        }
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let member = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                (place.with(Kind::String(key.to_string())), place.with(from_value(&item, place)))
            };
            Kind::Map(keys.map(member).collect())
        }
        _ => typed(value.to_string()),
    }
}
