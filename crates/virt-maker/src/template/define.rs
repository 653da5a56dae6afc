//! Steps of one's own: `define` names a step that is made of others, with typed parameters; `use` takes in a file of
//! such definitions.

use std::collections::BTreeMap;

use super::expression::{Engine, quote};
use super::inherit::take_in;
use super::mistakes;
use super::node::{Kind, Node};
use super::options::OPTIONS;
use super::scope::Scope;
use super::suggest;
use super::truth::says;
use crate::diagnostic::Diagnostic;

/// Types that a parameter may have.
const TYPES: [&str; 7] = ["string", "integer", "number", "boolean", "list", "mapping", "any"];

/// What may stand in the place of a runner and is none.
const RESERVED: [&str; 4] = ["include", "for", "steps", "with"];

/// A step that is made of others.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Its name in `steps`.
    pub name: String,
    /// What it does, in a sentence.
    pub description: String,
    /// An example as it stands in a template.
    pub example: Option<String>,
    /// Its parameters, in the order of the file.
    pub params: Vec<Parameter>,
    /// The steps, not rendered.
    pub(super) steps: Node,
    /// Where it is defined.
    pub node: Node,
}

/// A parameter of a [`Definition`].
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// One of `string`, `integer`, `number`, `boolean`, `list`, `mapping`, `any`.
    pub kind: &'static str,
    /// What it is for.
    pub description: String,
    /// Its value where none is given; without one, it has to be given.
    pub default: Option<Node>,
}

/// Definitions by name.
#[derive(Debug, Clone, Default)]
pub struct Definitions(BTreeMap<String, Definition>);

impl Definitions {
    /// The definition of a name.
    pub fn get(&self, name: &str) -> Option<&Definition> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Definition> {
        self.0.values()
    }

    /// Adds the members of a `define`; one that is there already is replaced.
    pub(super) fn add(&mut self, node: &Node) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        match &node.kind {
            Kind::Null => {}
            Kind::Map(members) => {
                for (key, value) in members {
                    if let Some(definition) = read(key, value, &mut problems) {
                        self.0.insert(definition.name.clone(), definition);
                    }
                }
            }
            _ => {
                problems.push(node.diagnostic(format!("expected a mapping of definitions, found {}", node.describe())))
            }
        }
        problems
    }

    /// Adds the definitions that a file has, and those of the files that it uses; its own win.
    pub(super) fn take(
        &mut self,
        file: &Node,
        engine: &Engine,
        scope: &Scope,
        builtin: &[&'static str],
        problems: &mut Vec<Diagnostic>,
    ) {
        if let Some(rendered) = file.get("use").and_then(|node| engine.rendered(node, scope, problems)) {
            let names = match &rendered.kind {
                Kind::List(items) => items.iter().collect(),
                Kind::Null => Vec::new(),
                _ => vec![&rendered],
            };
            for name in names {
                match take_in(name, "use") {
                    Ok(library) => {
                        let unknown =
                            |(key, _): &(Node, Node)| unknown_key(key, &["description", "define", "use"], "a library");
                        problems.extend(library.members().iter().filter_map(unknown));
                        self.take(&library, engine, scope, builtin, problems);
                    }
                    Err(found) => problems.extend(found),
                }
            }
        }
        if let Some(node) = file.get("define") {
            for (key, _) in node.members() {
                let name = key.text().unwrap_or_default();
                if builtin.contains(&name) || RESERVED.contains(&name) || OPTIONS.contains(&name) {
                    problems.push(key.diagnostic(format!("`{name}` is the name of something that is built in")));
                }
            }
            problems.extend(self.add(node));
        }
    }
}

/// What is wrong with a key that is not one of `known`.
pub(super) fn unknown_key(key: &Node, known: &[&str], place: &str) -> Option<Diagnostic> {
    let name = key.text().unwrap_or_default();
    if known.contains(&name) {
        return None;
    }
    let mut problem = key.diagnostic(format!("{place} has no key `{}`", quote(name)));
    problem.hint = Some(suggest::hint(name, known.iter().copied()));
    Some(problem)
}

/// The keys of a mapping that are not among `known`.
fn unknown_keys(value: &Node, known: &[&str], place: &str) -> impl Iterator<Item = Diagnostic> {
    value.members().iter().filter_map(|(key, _)| unknown_key(key, known, place))
}

fn read(key: &Node, value: &Node, problems: &mut Vec<Diagnostic>) -> Option<Definition> {
    let name = key.text().unwrap_or_default().to_owned();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic())
        || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    {
        problems
            .push(key.diagnostic(format!("`{}` cannot name a step: letters, digits, `_`, `-` and `.`", quote(&name))));
        return None;
    }
    if !matches!(value.kind, Kind::Map(_)) {
        problems.push(value.diagnostic(format!("expected a mapping with `steps`, found {}", value.describe())));
        return None;
    }
    let known = ["description", "example", "params", "steps"];
    problems.extend(unknown_keys(value, &known, "a definition"));
    let text = |name: &str| value.get(name).and_then(Node::text).map(str::to_owned);
    let mut params = Vec::new();
    match value.get("params") {
        None | Some(Node { kind: Kind::Null, .. }) => {}
        Some(node) if matches!(node.kind, Kind::Map(_)) => {
            params.extend(node.members().iter().filter_map(|(key, value)| parameter(key, value, problems)));
        }
        Some(node) => {
            problems.push(node.diagnostic(format!("expected a mapping of parameters, found {}", node.describe())))
        }
    }
    let Some(steps) = value.get("steps") else {
        problems.push(key.diagnostic(format!("the definition of `{name}` has no `steps`")));
        return None;
    };
    Some(Definition {
        name,
        description: text("description").unwrap_or_default(),
        example: text("example"),
        params,
        steps: steps.clone(),
        node: key.clone(),
    })
}

/// A parameter: a mapping with its type, or just its default.
fn parameter(key: &Node, value: &Node, problems: &mut Vec<Diagnostic>) -> Option<Parameter> {
    let name = key.text().unwrap_or_default().to_owned();
    let full = value.get("type").is_some() || value.get("description").is_some();
    if !full {
        let default = (!matches!(value.kind, Kind::Null)).then(|| value.clone());
        return Some(Parameter { name, kind: "any", description: String::new(), default });
    }
    let known = ["type", "description", "default"];
    problems.extend(unknown_keys(value, &known, "a parameter"));
    let kind = match value.get("type") {
        None => "any",
        Some(node) => {
            let wanted = node.text().unwrap_or_default();
            match TYPES.iter().find(|kind| **kind == wanted) {
                Some(kind) => *kind,
                None => {
                    let mut problem = node.diagnostic(format!("`{}` is not a type", quote(wanted)));
                    problem.hint = Some(suggest::hint(wanted, TYPES));
                    problems.push(problem);
                    return None;
                }
            }
        }
    };
    let description = value.get("description").and_then(Node::text).unwrap_or_default().to_owned();
    Some(Parameter { name, kind, description, default: value.get("default").cloned() })
}

impl Definition {
    /// Its definition as it stands in its file.
    pub fn source_text(&self) -> String {
        let lines: Vec<&str> = self.node.source.text.lines().skip(self.node.line.saturating_sub(1)).collect();
        let indent = |line: &str| line.len() - line.trim_start().len();
        let own = lines.first().map_or(0, |line| indent(line));
        let belongs = |(index, line): &(usize, &&str)| *index == 0 || line.trim().is_empty() || indent(line) > own;
        let text: Vec<&str> =
            lines.iter().enumerate().take_while(belongs).map(|(_, line)| line.get(own..).unwrap_or("")).collect();
        text.join("\n").trim_end().to_owned()
    }

    /// What helps where its arguments are wrong.
    fn as_in(&self) -> Option<String> {
        self.example.as_deref().and_then(mistakes::as_in)
    }

    /// What a parameter is for, and an example of all.
    fn about(&self, parameter: &Parameter) -> String {
        let about = parameter.description.trim_end_matches('.');
        let about = if about.is_empty() { String::new() } else { format!("`{}`: {about}", parameter.name) };
        match (self.as_in(), about.is_empty()) {
            (Some(example), true) => example,
            (Some(example), false) => format!("{about}; {example}"),
            (None, true) => format!("`{}` is defined with the type `{}`", parameter.name, parameter.kind),
            (None, false) => about,
        }
    }

    /// The scope of its steps: its parameters, from the rendered arguments of one use.
    ///
    /// A value that is no mapping goes to the one parameter that has to be given, or to the only one.
    pub(super) fn bind(
        &self,
        call: &Node,
        arguments: &Node,
        engine: &Engine,
        problems: &mut Vec<Diagnostic>,
    ) -> Option<Scope> {
        let required: Vec<_> = self.params.iter().filter(|parameter| parameter.default.is_none()).collect();
        let main = match (&required[..], &self.params[..]) {
            ([only], _) => Some(*only),
            (_, [only]) => Some(only),
            _ => None,
        };
        let mut scope = Scope::default();
        let before = problems.len();
        let mut given: Vec<(&Parameter, &Node)> = Vec::new();
        match (&arguments.kind, main) {
            (Kind::Null, _) => {}
            (Kind::Map(members), main)
                if main.is_none_or(|main| {
                    main.kind != "mapping" || members.iter().any(|(key, _)| key.text() == Some(&main.name))
                }) =>
            {
                for (key, value) in members {
                    let name = key.text().unwrap_or_default();
                    match self.params.iter().find(|parameter| parameter.name == name) {
                        Some(parameter) => given.push((parameter, value)),
                        None => {
                            let mut problem =
                                key.diagnostic(format!("`{}` has no parameter `{}`", self.name, quote(name)));
                            problem.hint = Some(match self.params.is_empty() {
                                true => "it takes no arguments".into(),
                                false => {
                                    suggest::hint(name, self.params.iter().map(|parameter| parameter.name.as_str()))
                                }
                            });
                            problems.push(problem);
                        }
                    }
                }
            }
            (_, Some(main)) => given.push((main, arguments)),
            (_, None) => {
                let found = arguments.describe();
                let mut problem = arguments
                    .diagnostic(format!("expected a mapping of the arguments of `{}`, found {found}", self.name));
                problem.hint = self.as_in();
                problems.push(problem);
            }
        }
        for (parameter, value) in &given {
            match typed(parameter, value) {
                Ok(value) => scope.set(&parameter.name, &value),
                Err(problem) => problems.push(problem.or_hint(|| self.about(parameter))),
            }
        }
        for parameter in &required {
            if given.iter().all(|(other, _)| other.name != parameter.name) && problems.len() == before {
                let message = format!("`{}` needs the argument `{}`", self.name, parameter.name);
                problems.push(Diagnostic { hint: self.as_in(), ..call.diagnostic(message) });
            }
        }
        if problems.len() > before {
            return None;
        }
        let defaults: Vec<(Node, Node)> = self
            .params
            .iter()
            .filter_map(|parameter| {
                let default = parameter.default.clone()?;
                Some((default.with(Kind::String(parameter.name.clone())), default))
            })
            .collect();
        scope.resolve(engine, &defaults, problems);
        (problems.len() == before).then_some(scope)
    }
}

/// A value as its parameter's type wants it.
fn typed(parameter: &Parameter, value: &Node) -> Result<Node, Diagnostic> {
    let fits = match (parameter.kind, &value.kind) {
        ("any", _) => true,
        ("string", _) => {
            return match value.text() {
                Some(text) => Ok(Node { literal: None, ..value.with(Kind::String(text.to_owned())) }),
                None => Err(wrong(parameter, value)),
            };
        }
        ("integer", Kind::Integer { .. }) => true,
        // Text that a number is written in, as `-p` and quotes have it from format 2 on.
        ("integer", Kind::String(text)) => {
            let kind = text.trim().parse().ok().map(|number| Kind::Integer { value: number, text: text.clone() });
            return kind.map(|kind| value.with(kind)).ok_or_else(|| wrong(parameter, value));
        }
        ("number", Kind::String(text)) => {
            let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            let kind = number.map(|number| Kind::Float { value: number, text: text.clone() });
            return kind.map(|kind| value.with(kind)).ok_or_else(|| wrong(parameter, value));
        }
        ("number", Kind::Integer { .. } | Kind::Float { .. }) => true,
        ("boolean", Kind::Bool(_)) => true,
        ("boolean", Kind::String(text)) if says(text) == Some(true) => {
            return Ok(value.with(Kind::Bool(true)));
        }
        ("boolean", Kind::String(text)) if says(text) == Some(false) => {
            return Ok(value.with(Kind::Bool(false)));
        }
        ("list", Kind::List(_)) => true,
        ("mapping", Kind::Map(_)) => true,
        _ => false,
    };
    if fits { Ok(value.clone()) } else { Err(wrong(parameter, value)) }
}

fn wrong(parameter: &Parameter, value: &Node) -> Diagnostic {
    let article = if parameter.kind == "integer" { "an" } else { "a" };
    let found = value.describe();
    let mut problem = value.diagnostic(format!("`{}` is {article} {}, found {found}", parameter.name, parameter.kind));
    if parameter.kind == "list" {
        problem.hint = mistakes::no_list(value);
    }
    problem
}
