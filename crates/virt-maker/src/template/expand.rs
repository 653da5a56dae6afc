//! Steps as they stand in a template to a flat list: lists within lists, `for`, `include`, steps of one's own, `when`.
//!
//! Each text is rendered once, in the scope of the place where it stands. What an expression yields (a whole list of
//! steps, perhaps) is data: its structure is followed, its texts are not rendered again.

use std::path::PathBuf;
use std::sync::Arc;

use super::calls::Call;
use super::define::{Definition, Definitions};
use super::expression::{Engine, quote};
use super::inherit::take_in;
use super::library::library_step;
use super::mistakes;
use super::node::{Kind, Node};
use super::options::{OPTIONS, StepOptions, holds};
use super::parameters::declared;
use super::scope::Scope;
use super::suggest;
use crate::diagnostic::Diagnostic;

/// Deepest nesting of lists, loops, files and definitions.
const DEPTH: usize = 50;
/// Most steps of one spec.
const STEPS: usize = 10_000;
/// Steps of the program that other steps stand in, under this key of their arguments.
pub(crate) const STEPS_WITHIN: [&str; 1] = ["boot"];
/// The same of imports.
pub(crate) const IMPORTS_WITH_STEPS: [&str; 1] = ["isoboot"];
pub(super) const WITHIN: &str = "steps";
/// The name of a step that a program of the host makes.
pub(super) const EXEC: &str = "exec:";

/// Runs a program with a step's arguments as JSON; answers with what it printed and the digest of its file. The error is
/// a sentence.
pub type Exec = Arc<dyn Fn(&std::path::Path, &serde_json::Value) -> Result<(String, String), String> + Send + Sync>;

/// A step with everything in it resolved.
#[derive(Debug, Clone)]
pub struct ResolvedStep {
    /// The runner's name, at its place.
    pub runner: Node,
    /// Its arguments.
    pub arguments: Node,
    /// How it runs.
    pub options: StepOptions,
    /// `shell` stands right beside it.
    pub own_shell: bool,
    /// The uses of definitions and files that it comes from; the outermost first.
    pub calls: Vec<Arc<Call>>,
    /// The steps within it, of one that has some ([`STEPS_WITHIN`]).
    pub inner: Vec<ResolvedStep>,
}

impl ResolvedStep {
    /// The step as it could stand in a template.
    pub fn to_json(&self) -> serde_json::Value {
        let mut arguments = self.arguments.to_json_as_written();
        if !self.inner.is_empty() {
            let inner = self.inner.iter().map(ResolvedStep::to_json).collect();
            // Nothing but a mapping may have steps within it.
            if !arguments.is_object() {
                arguments = serde_json::json!({});
            }
            arguments[WITHIN] = serde_json::Value::Array(inner);
        }
        let runner = (self.runner.text().unwrap_or_default().to_owned(), arguments);
        let options = self.options.members().into_iter().map(|(name, value)| (name.to_owned(), value));
        serde_json::Value::Object(std::iter::once(runner).chain(options).collect())
    }
}

/// What expanding needs besides the nodes.
pub(super) struct Expander<'a> {
    pub engine: &'a Engine,
    pub definitions: Definitions,
    /// Names of kinds that the program itself has.
    pub builtin: &'a [&'static str],
    pub exec: Option<&'a Exec>,
    pub steps: Vec<ResolvedStep>,
    pub problems: Vec<Diagnostic>,
    /// An error about bounds was told; nothing more is done.
    pub stopped: bool,
}

/// What holds at one place of the list.
#[derive(Clone)]
struct At<'s> {
    scope: &'s Scope,
    options: StepOptions,
    /// `shell` stands right beside the runner.
    own_shell: bool,
    calls: Vec<Arc<Call>>,
    /// The node was rendered already.
    data: bool,
    depth: usize,
}

impl Expander<'_> {
    /// Expands a list of steps.
    /// `data` says that the list was rendered already.
    pub(super) fn expand(&mut self, node: &Node, scope: &Scope, options: &StepOptions, data: bool) {
        self.list(node, &At { scope, options: options.clone(), own_shell: false, calls: Vec::new(), data, depth: 0 });
    }

    /// An import without the steps within it, and those. `data` as for [`Expander::expand`].
    pub(super) fn import(
        &mut self,
        node: &Node,
        scope: &Scope,
        options: &StepOptions,
        data: bool,
    ) -> (Node, Vec<ResolvedStep>) {
        let [(key, value)] = node.members() else { return (node.clone(), Vec::new()) };
        if !key.text().is_some_and(|name| IMPORTS_WITH_STEPS.contains(&name)) {
            return (node.clone(), Vec::new());
        }
        let at = At { scope, options: options.clone(), own_shell: false, calls: Vec::new(), data, depth: 0 };
        let (value, steps) = self.with_steps(value, &at);
        (node.with(Kind::Map(vec![(key.clone(), value)])), steps)
    }

    fn list(&mut self, node: &Node, at: &At<'_>) {
        if self.stopped {
            return;
        }
        if at.depth > DEPTH {
            self.stop(node.diagnostic(format!("steps are nested deeper than {DEPTH} levels")));
            return;
        }
        let at = At { depth: at.depth + 1, ..at.clone() };
        match &node.kind {
            Kind::Null => {}
            Kind::List(items) => items.iter().for_each(|item| match item.kind {
                // What an expression gave may hold nothing; a `-` alone was forgotten.
                Kind::Null if !at.data => self.empty(item),
                _ => self.list(item, &at),
            }),
            Kind::Map(_) if at.depth > 1 => self.item(node, &at),
            Kind::String(text) if !at.data => match self.engine.string(text, node, at.scope) {
                // One level only: what it gave is no expression again.
                Ok(rendered) if rendered.origin.is_some() => self.list(&rendered, &At { data: true, ..at }),
                Ok(_) => self.no_step(node),
                Err(problem) => self.problems.extend(problem.map(|problem| *problem)),
            },
            _ if at.depth == 1 => {
                let message = format!("expected a list of steps, found {}", node.describe());
                let hint = "each step is an item of its own, which begins with `- `: `- run: ...`";
                self.problems.push(node.diagnostic(message).or_hint(|| hint.to_owned()));
            }
            _ => self.no_step(node),
        }
    }

    /// An item with nothing in it. Older templates may have them.
    fn empty(&mut self, item: &Node) {
        let problem = item.diagnostic("a step is missing: this item is empty");
        let problem = problem.or_hint(|| "write a step behind its `-`, or remove it".into());
        match item.source.format() {
            1 => item.note(problem),
            _ => self.problems.push(problem),
        }
    }

    /// Something in the place of a step.
    fn no_step(&mut self, node: &Node) {
        let message = format!("expected the name of one step with its arguments, found {}", node.describe());
        let hint = mistakes::no_step(node, |name| self.is_step(name));
        self.problems.push(node.diagnostic(message).or_hint(|| hint));
    }

    /// Whether a word names a step.
    fn is_step(&self, name: &str) -> bool {
        self.builtin.contains(&name) || self.definitions.get(name).is_some() || library_step(name).is_some()
    }

    /// A second runner in one item, or what is taken for one.
    fn two_runners(&mut self, second: &Node) {
        let name = quote(second.text().unwrap_or_default());
        let hint = match super::closest(&name, OPTIONS) {
            _ if self.is_step(&name) => format!("begin a new item: `- {name}: ...`"),
            Some(meant) => format!("did you mean the option `{meant}`?"),
            None => {
                let here = suggest::others(&name).next().map(|here| format!(" (it is called `{here}` there)"));
                format!(
                    "an argument of the step stands below its name, one level deeper{}; what may stand beside it is: {}",
                    here.unwrap_or_default(),
                    OPTIONS.join(", ")
                )
            }
        };
        let problem = second.diagnostic(format!("`{name}`: one step has one runner"));
        self.problems.push(problem.or_hint(|| hint));
    }

    fn stop(&mut self, problem: Diagnostic) {
        self.problems.push(problem);
        self.stopped = true;
    }

    fn render(&mut self, node: &Node, at: &At<'_>) -> Option<Node> {
        if at.data {
            return Some(node.clone());
        }
        self.engine.rendered(node, at.scope, &mut self.problems)
    }

    fn item(&mut self, node: &Node, at: &At<'_>) {
        // Before anything is rendered: what stands beside it may use its variable.
        if let Some((key, value)) = node.members().iter().find(|(key, _)| key.text() == Some("for")) {
            return self.each(node, key, value, at);
        }
        let mut members = Vec::with_capacity(node.members().len());
        for (key, value) in node.members() {
            let Some(key) = self.render(key, at) else { return };
            members.push((key, value));
        }
        if let Some((_, value)) = members.iter().find(|(key, _)| key.text() == Some("when"))
            && !holds(value, at.data, self.engine, at.scope, &mut self.problems)
        {
            return;
        }
        let before = self.problems.len();
        let mut own = StepOptions::default();
        let mut rest = Vec::new();
        for (key, value) in &members {
            let name = key.text().unwrap_or_default();
            if !OPTIONS.contains(&name) {
                rest.push((key, *value));
            } else if name != "when"
                && let Some(value) = self.render(value, at)
                && let Err(problem) = own.set(name, &value)
            {
                self.problems.push(problem);
            }
        }
        if self.problems.len() > before {
            return;
        }
        let own_shell = own.running.shell.is_some();
        let at = At { options: at.options.around(own), own_shell, ..at.clone() };
        match &rest[..] {
            [(key, value)] if key.text() == Some("steps") => self.list(value, &At { depth: at.depth.max(1), ..at }),
            [(key, value)] if key.text() == Some("include") => self.include(key, value, None, &at),
            [(one, first), (other, second)] => match (one.text(), other.text()) {
                (Some("include"), Some("with")) => self.include(one, first, Some(second), &at),
                (Some("with"), Some("include")) => self.include(other, second, Some(first), &at),
                _ => self.two_runners(other),
            },
            [(key, value)] => self.runner(key, value, &at),
            [] => self.no_step(node),
            [_, (second, _), ..] => self.two_runners(second),
        }
    }

    /// `for: {name: list}`: the rest of the item once for each.
    fn each(&mut self, node: &Node, key: &Node, value: &Node, at: &At<'_>) {
        let Some(over) = self.render(value, at) else { return };
        let (name, list) = match over.members() {
            [(name, list)] => (name, list),
            _ => {
                let message = format!(
                    "expected one variable with its list, such as `{{user: [a, b]}}`, found {}",
                    over.describe()
                );
                self.problems.push(over.diagnostic(message));
                return;
            }
        };
        let Kind::List(items) = &list.kind else {
            let mut problem = list.diagnostic(format!("expected a list to go over, found {}", list.describe()));
            problem.hint = mistakes::no_list(list);
            return self.problems.push(problem);
        };
        if at.data {
            self.problems.push(
                key.diagnostic("`for` cannot come out of an expression: its texts would have to be rendered again"),
            );
            return;
        }
        let members = node.members().iter().filter(|(key, _)| key.text() != Some("for")).cloned().collect();
        let body = node.with(Kind::Map(members));
        for item in items {
            let mut scope = at.scope.clone();
            scope.set(name.text().unwrap_or_default(), item);
            self.list(&body, &At { scope: &scope, ..at.clone() });
        }
    }

    /// `include: FILE` with `with: {parameters}`: the steps of another file.
    fn include(&mut self, key: &Node, value: &Node, with: Option<&Node>, at: &At<'_>) {
        let Some(value) = self.render(value, at) else { return };
        let with = match with {
            Some(with) => match self.render(with, at) {
                Some(with) => with,
                None => return,
            },
            None => key.with(Kind::Null),
        };
        let file = match take_in(&value, "include") {
            Ok(file) => file,
            Err(problems) => return self.problems.extend(problems),
        };
        let steps = file.get("steps").or_else(|| file.get("spec")?.get("steps"));
        let Some(steps) = steps else {
            return self.problems.push(value.diagnostic(format!("{} has no `steps`", file.source.path.display())));
        };
        let known = ["name", "description", "params", "spec", "steps", "define", "use"];
        for (key, _) in file.members() {
            let name = key.text().unwrap_or_default();
            if !known.contains(&name) {
                let problem = key.diagnostic(format!("a file that is included has no `{}`", quote(name)));
                return self.problems.push(problem);
            }
        }
        let params = match declared(file.get("params")) {
            Ok(params) => params,
            Err(problem) => return self.problems.push(problem),
        };
        let mut scope = Scope::default();
        let before = self.problems.len();
        match &with.kind {
            Kind::Null => {}
            Kind::Map(members) => {
                let used = self.engine.names(steps);
                for (key, value) in members {
                    let name = key.text().unwrap_or_default().to_owned();
                    if params.iter().any(|(key, _)| key.text() == Some(&name)) || used.contains(&name) {
                        scope.set(&name, value);
                    } else {
                        let mut problem =
                            key.diagnostic(format!("{} has no parameter `{name}`", file.source.path.display()));
                        problem.hint = super::closest(&name, params.iter().filter_map(|(key, _)| key.text()))
                            .map(|meant| format!("did you mean `{meant}`?"));
                        self.problems.push(problem);
                    }
                }
            }
            _ => self
                .problems
                .push(with.diagnostic(format!("expected a mapping of parameters, found {}", with.describe()))),
        }
        scope.resolve(self.engine, params, &mut self.problems);
        if self.problems.len() > before {
            return;
        }
        // What it defines is known in it and not outside.
        let outside = self.definitions.clone();
        self.definitions.take(&file, self.engine, &scope, self.builtin, &mut self.problems);
        let call = Call::of_file(&file, &value, &with);
        self.called(call, steps, &At { scope: &scope, data: false, ..at.clone() });
        self.definitions = outside;
    }

    fn runner(&mut self, key: &Node, value: &Node, at: &At<'_>) {
        let name = key.text().unwrap_or_default();
        let own = self.definitions.get(name).cloned();
        let has_steps = own.is_none() && self.builtin.contains(&name) && STEPS_WITHIN.contains(&name);
        let (value, inner) = match has_steps {
            true => self.with_steps(value, at),
            false => (value.clone(), Vec::new()),
        };
        let Some(arguments) = self.render(&value, at) else { return };
        if let Some(program) = name.strip_prefix(EXEC) {
            return self.run_program(key, program, &arguments, at);
        }
        let own = own.or_else(|| if self.builtin.contains(&name) { None } else { library_step(name).cloned() });
        match own {
            Some(definition) => self.defined(key, &definition, &arguments, at),
            None => {
                if self.steps.len() >= STEPS {
                    return self.stop(key.diagnostic(format!("the template has more than {STEPS} steps")));
                }
                let (options, own_shell, calls) = (at.options.clone(), at.own_shell, at.calls.clone());
                self.steps.push(ResolvedStep { runner: key.clone(), arguments, options, own_shell, calls, inner });
            }
        }
    }

    /// The arguments of a step without the steps within it, and those: they are expanded as others are, with the options that shape
    /// the step that they are in.
    fn with_steps(&mut self, value: &Node, at: &At<'_>) -> (Node, Vec<ResolvedStep>) {
        let Kind::Map(members) = &value.kind else { return (value.clone(), Vec::new()) };
        let is_steps = |(key, _): &&(Node, Node)| key.text() == Some(WITHIN);
        let Some((_, steps)) = members.iter().find(is_steps) else { return (value.clone(), Vec::new()) };
        let rest = members.iter().filter(|member| !is_steps(member)).cloned().collect();
        let mut options = StepOptions { shaping: at.options.shaping.clone(), ..StepOptions::default() };
        options.running.shell.clone_from(&at.options.running.shell);
        let outside = std::mem::take(&mut self.steps);
        self.list(steps, &At { options, own_shell: false, depth: 0, ..at.clone() });
        let inner = std::mem::replace(&mut self.steps, outside);
        (value.with(Kind::Map(rest)), inner)
    }

    fn defined(&mut self, key: &Node, definition: &Definition, arguments: &Node, at: &At<'_>) {
        let way: Vec<_> = at.calls.iter().filter(|call| call.is_step()).map(|call| call.name.as_str()).collect();
        if way.iter().filter(|name| **name == definition.name).count() > 2 {
            let message = format!("`{}` is made of itself: {}", definition.name, way.join(" -> "));
            return self.stop(key.diagnostic(message));
        }
        let Some(scope) = definition.bind(key, arguments, self.engine, &mut self.problems) else { return };
        let call = Call::of_step(definition, key, arguments);
        self.called(call, &definition.steps, &At { scope: &scope, data: false, ..at.clone() });
    }

    /// The steps of a definition or a file that is used; what is wrong with them is said of the place that is to blame.
    fn called(&mut self, call: Call, steps: &Node, at: &At<'_>) {
        let call = Arc::new(call);
        let mut calls = at.calls.clone();
        calls.push(call.clone());
        let before = self.problems.len();
        self.list(steps, &At { calls, ..at.clone() });
        self.problems[before..].iter_mut().for_each(|problem| call.blame(problem));
    }

    /// `exec:PROGRAM`: a program of the host that answers with a list of steps.
    fn run_program(&mut self, key: &Node, program: &str, arguments: &Node, at: &At<'_>) {
        if let Err(refusal) = self.engine.shared.door.program(&quote(key.text().unwrap_or_default())) {
            return self.problems.push(key.refused(refusal));
        }
        let Some(exec) = self.exec else {
            return self.problems.push(key.diagnostic("programs cannot be run here"));
        };
        // What may start any program may start this one.
        let path: PathBuf = key.absolute(program);
        let (answer, digest) = match exec(&path, &arguments.to_json()) {
            Ok(answered) => answered,
            Err(problem) => return self.problems.push(key.diagnostic(problem)),
        };
        let source = super::node::SourceFile {
            path: Arc::new(PathBuf::from(format!("the answer of {program}"))),
            folder: key.source.folder.clone(),
            text: answer,
            via: Some(super::node::Via { key: "exec", node: Box::new(key.clone()) }),
            files: key.source.files.clone(),
            format: key.source.format.clone(),
        };
        let steps = match super::parse::parse_text(&Arc::new(source)) {
            Ok(steps) if matches!(steps.kind, Kind::List(_)) => steps,
            Ok(steps) => {
                let message = format!("`{program}` has to answer with a list of steps, found {}", steps.describe());
                return self.problems.push(steps.diagnostic(message));
            }
            Err(problem) => return self.problems.push(problem),
        };
        let mut options = at.options.clone();
        options.shaping.made_by.insert(format!("{EXEC}{program}"), digest);
        self.list(&steps, &At { options, data: true, ..at.clone() });
    }
}
