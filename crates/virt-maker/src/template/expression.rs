//! Expressions: the engine that evaluates them, and values to and from nodes.
//!
//! A string that is one single `{{ expression }}` takes the expression's value with its type; any other string with an
//! expression in it becomes text, and a value where that text reads as one. Each is evaluated once: what it yields is
//! data. In text, values are written as Python writes them (`True`, `['a', 1]`), which is what older templates expect.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};

use super::braces;
use super::functions::{self, Shared};
use super::literal::typed;
use super::node::{Kind, Node, Origin};
use super::scope::Scope;
use super::value::{Made, from_value, python_text};
use super::{suggest, truth};
use crate::diagnostic::Diagnostic;

/// Instructions that one expression may take, so that none runs for ever.
const FUEL: u64 = 1_000_000;
/// Lines, and characters of one line, of a text with expressions: the engine counts both with 16 bits.
const LINES: usize = 60_000;
/// What is in one `{{ }}` or `{% %}`, in bytes: a chain of operators takes a level of the stack for each, and time that
/// grows with the square of their number.
const EXPRESSION: usize = 8 << 10;
/// The same for all of one text.
const EXPRESSIONS: usize = 64 << 10;
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
    made: Made,
    /// How many texts had no value.
    failures: Cell<usize>,
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
        let share = shared.clone();
        environment.set_formatter(move |out, _, value| {
            let mut text = String::new();
            python_text(value, &mut text).map_err(|problem| share.fail(problem.to_string(), None))?;
            Ok(out.write_str(&text)?)
        });
        environment.set_fuel(Some(FUEL));
        // Each text is compiled once, however often it is evaluated.
        environment.set_loader(|name| Ok(name.strip_prefix(OWN).map(str::to_owned)));
        functions::add_to(&mut environment, &shared);
        environment.add_filter(truth::FILTER, truth::filter);
        Engine { environment, shared, names: RefCell::default(), made: Made::default(), failures: Cell::new(0) }
    }

    /// Renders a node and all below it.
    pub(super) fn render(&self, node: &Node, scope: &Scope, problems: &mut Vec<Diagnostic>) -> Node {
        match &node.kind {
            Kind::String(text) => match self.string(text, node, scope) {
                Ok(node) => node,
                Err(problem) => {
                    self.failures.set(self.failures.get() + 1);
                    problems.extend(problem.map(|problem| *problem));
                    node.with(Kind::Null)
                }
            },
            Kind::List(items) => {
                node.with(Kind::List(items.iter().map(|item| self.render(item, scope, problems)).collect()))
            }
            Kind::Map(members) => {
                let mut rendered: Vec<(Node, Node)> = Vec::with_capacity(members.len());
                // Names that stand in the file were compared when it was read.
                let mut made = false;
                for (key, value) in members {
                    let key = self.render(key, scope, problems);
                    let value = self.render(value, scope, problems);
                    made |= key.origin.is_some();
                    if made && rendered.iter().any(|(other, _)| other.text() == key.text()) {
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

    /// The same; nothing where a part of it has no value, whether that was told now or before.
    pub(super) fn rendered(&self, node: &Node, scope: &Scope, problems: &mut Vec<Diagnostic>) -> Option<Node> {
        let before = (problems.len(), self.failures.get());
        let rendered = self.render(node, scope, problems);
        ((problems.len(), self.failures.get()) == before).then_some(rendered)
    }

    /// Renders one text.
    pub(super) fn string(&self, text: &str, node: &Node, scope: &Scope) -> Result<Node, Failed> {
        if !is_expression(text, node) {
            return Ok(typed(text.to_owned(), node));
        }
        check_length(text, node)?;
        let evaluated = match whole_expression(text) {
            Some(expression) => self.evaluate(text, expression, node, scope).and_then(|value| {
                // Blanks and line breaks around it belong to a text, and to nothing else.
                let scalar = matches!(value.kind(), ValueKind::String | ValueKind::Number);
                if !scalar || text.trim() == text {
                    return from_value(&value, node, &self.made).map_err(|problem| told(node, problem.to_string()));
                }
                let (lead, tail) = (text.len() - text.trim_start().len(), text.trim_end().len());
                Ok(typed(format!("{}{value}{}", &text[..lead], &text[tail..]), node))
            }),
            None => self.text(text, node, scope).map(|text| typed(text, node)),
        };
        let mut made = evaluated?;
        made.origin = Some(Arc::new(self.origin(text, &made, scope)));
        self.warn(text, node, &made, scope);
        // `{{ file }}` and `{{ folder }}/name` are paths beside the file that says what `file` and `folder` are.
        let first = leading_name(text).and_then(|name| scope.variable(name));
        if let Some(written) = first.and_then(|variable| variable.written.as_ref()) {
            made.set_written(written);
        }
        Ok(made)
    }

    /// The value of a bare expression (`size == '4G'`), as `when` has it.
    pub(super) fn bare(&self, expression: &str, node: &Node, scope: &Scope) -> Result<Value, Failed> {
        check_length(expression, node)?;
        self.evaluate(&format!("{{{{ {expression} }}}}"), &truth::guarded(expression), node, scope)
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
        let source = format!("{OWN}{}", braces::for_engine(text, is_modern(node)));
        let run = || self.environment.get_template(&source)?.render(scope.context());
        let made = run().map_err(|error| self.diagnose(node, text, &error, scope))?;
        self.made.add(made.len()).map_err(|problem| told(node, problem.to_string()))?;
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
        for name in self.names_of(text, is_modern(made)).iter() {
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

    /// Says where the older format makes something else of a text than what stands there.
    fn warn(&self, text: &str, node: &Node, made: &Node, scope: &Scope) {
        if is_modern(node) {
            return;
        }
        for range in braces::eaten(text) {
            let mut place = Node { origin: None, ..node.clone() };
            place_at_line(&mut place, text, text[..range.start].matches('\n').count() + 1);
            let shown = quote(&text[range.start - 1..range.end]);
            let mut note = place.diagnostic(format!("Jinja takes this for a comment and leaves it out: `{shown}`"));
            note.hint = Some(
                "with `format: 2` at the file's begin it is text; or put it between {% raw %} and {% endraw %}".into(),
            );
            node.note(note);
        }
        for name in self.names_of(text, false).iter() {
            let Some(variable) = scope.variable(name) else { continue };
            for (place, given) in &variable.changed {
                let (Some(written), Some(arrived)) = (place.text(), made.text()) else { continue };
                if arrived.contains(given.as_str()) && !arrived.contains(written) {
                    let mut note = place.diagnostic(format!("`{}` arrives as `{given}`", quote(written)));
                    note.hint = Some("with `format: 2` at the file's begin it arrives as it was written".into());
                    node.note(note);
                }
            }
        }
    }

    /// What to do where a text of the template stands in the place of a number.
    fn text_for_number(&self, text: &str, node: &Node, scope: &Scope) -> Option<String> {
        let names = self.names_of(text, is_modern(node));
        let mut texts = names.iter().filter(|name| {
            let value = scope.variable(name).and_then(|variable| variable.value.as_str().map(str::to_owned));
            value.is_some_and(|value| value.trim().parse::<f64>().is_ok())
        });
        let name = texts.next()?;
        Some(format!("`{name}` is text; `{name} | int` and `{name} | float` are numbers"))
    }

    /// Names that an expression uses, sorted; functions are among them.
    fn names_of(&self, text: &str, modern: bool) -> Arc<[String]> {
        let text = &*braces::for_engine(text, modern);
        if let Some(names) = self.names.borrow().get(text) {
            return names.clone();
        }
        if too_long(text) || too_large(text) {
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
            Kind::String(text) if is_expression(text, node) => {
                names.extend(self.names_of(text, is_modern(node)).iter().cloned());
            }
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
        let names = self.names_of(text, is_modern(node));
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
                let mut problem = place.diagnostic(format!("this expression has an error: {}{detail}", error.kind()));
                problem.hint = match braces::foreign(text, is_modern(node)) {
                    Some(braces) => Some(raw_hint(braces)),
                    None if error.kind() == ErrorKind::InvalidOperation => self.text_for_number(text, node, scope),
                    None => None,
                };
                Some(Box::new(problem))
            }
        }
    }

    fn is_global(&self, name: &str) -> bool {
        self.environment.globals().any(|(global, _)| global == name)
    }
}

fn told(node: &Node, message: String) -> Failed {
    Some(Box::new(node.diagnostic(message)))
}

fn too_long(text: &str) -> bool {
    text.len() > LINES && (text.lines().count() > LINES || text.lines().any(|line| line.len() > LINES))
}

/// An error where a text is too long for the engine.
fn check_length(text: &str, node: &Node) -> Result<(), Failed> {
    if too_long(text) {
        let message = format!("a text with expressions may have {LINES} lines, and {LINES} bytes in a line");
        return Err(told(node, message));
    }
    if too_large(text) {
        let (one, all) = (EXPRESSION >> 10, EXPRESSIONS >> 10);
        return Err(told(node, format!("an expression may have {one} KiB, and all of a text {all} KiB")));
    }
    Ok(())
}

/// Whether there is too much in `{{ }}` and `{% %}`.
fn too_large(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() <= EXPRESSION {
        return false;
    }
    let (mut one, mut all, mut quote, mut inside, mut braces, mut at) = (0, 0, None, false, 0, 0);
    while at < bytes.len() {
        let pair = &bytes[at..(at + 2).min(bytes.len())];
        match (inside, quote) {
            (false, _) if matches!(pair, b"{{" | b"{%") => {
                (inside, braces, one) = (true, 0, 0);
                at += 1;
            }
            (false, _) => {}
            (true, Some(mark)) if bytes[at] == mark => quote = None,
            (true, Some(_)) if bytes[at] == b'\\' => at += 1,
            (true, None) if matches!(bytes[at], b'"' | b'\'') => quote = Some(bytes[at]),
            (true, None) if bytes[at] == b'{' => braces += 1,
            (true, None) if bytes[at] == b'}' && braces > 0 => braces -= 1,
            (true, None) if matches!(pair, b"}}" | b"%}") => inside = false,
            _ => {}
        }
        (one, all) = (one + usize::from(inside), all + usize::from(inside));
        if one > EXPRESSION || all > EXPRESSIONS {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether a text at this node has anything to evaluate.
pub(super) fn is_expression(text: &str, node: &Node) -> bool {
    braces::is_expression(text, is_modern(node))
}

/// Whether the text of a node means what it means from format 2 on.
fn is_modern(node: &Node) -> bool {
    node.source.format() >= 2
}

/// What to do about braces that are not Jinja's.
fn raw_hint(braces: &str) -> String {
    let shown = quote(braces);
    format!("where `{shown}` is meant for the shell or for another program: {{% raw %}}{shown}{{% endraw %}}")
}

/// The inside of a text that is one `{{ expression }}` and nothing else.
pub(super) fn whole_expression(text: &str) -> Option<&str> {
    let inside = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let inside = inside.strip_prefix('-').unwrap_or(inside);
    let inside = inside.strip_suffix('-').unwrap_or(inside);
    let simple = ["{{", "}}", "{%", "%}", "{#", "#}"].iter().all(|mark| !inside.contains(mark));
    (simple && !inside.trim().is_empty()).then_some(inside)
}

/// The variable with whose value a text begins: of `{{ name }}/more`, `name`.
fn leading_name(text: &str) -> Option<&str> {
    let inside = text.trim_start().strip_prefix("{{")?;
    let (name, _) = inside.strip_prefix('-').unwrap_or(inside).split_once("}}")?;
    let name = name.strip_suffix('-').unwrap_or(name).trim();
    let plain = |letter: char| letter.is_alphanumeric() || letter == '_';
    (!name.is_empty() && name.chars().all(plain)).then_some(name)
}

/// A text on one line, shortened.
pub(super) fn quote(text: &str) -> String {
    let mut characters = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = characters.by_ref().take(QUOTE).collect();
    if characters.next().is_some() { format!("{shown}…") } else { shown }
}

/// Moves a place to the line of the error, where the text has several.
fn place_in(place: &mut Node, text: &str, error: &minijinja::Error) {
    if let Some(line) = error.line() {
        place_at_line(place, text, line);
    }
}

/// Moves a place to a line of its text, from 1.
fn place_at_line(place: &mut Node, text: &str, line: usize) {
    let wanted = text.lines().nth(line.saturating_sub(1)).map(str::trim);
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return };
    let lines = place.source.text.lines().enumerate().skip(place.line.saturating_sub(1));
    let mut found = lines.filter_map(|(index, line)| Some((index, line, line.find(wanted)?)));
    if let Some((index, line, at)) = found.next() {
        (place.line, place.column) = (index + 1, line[..at].chars().count() + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::host::on_deep_stack;
    use crate::template::value::command_line_value;

    fn engine() -> Engine {
        Engine::new(Arc::new(Shared {
            door: Arc::default(),
            cache_dir: functions::CacheDir::new(Box::new(PathBuf::new)),
            fetch: None,
            frozen: None,
            state: Default::default(),
        }))
    }

    /// The engine goes down a level of the stack for each operator of a chain, and for each list in a list.
    #[test]
    fn nothing_is_nested_without_a_bound() {
        let place = command_line_value("x", "\"\"", 1);
        let message = |text: &str| {
            let problem = engine().string(text, &place, &Scope::default()).err()?;
            Some(problem.unwrap().message)
        };
        let lists = "{% set ns = namespace(x=1) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}";
        on_deep_stack(|| {
            for (begin, more) in
                [("", "-"), ("", "- "), ("", "not "), ("1", "+1"), ("l", ".a"), ("l", "[0]"), ("l", "|d")]
            {
                let _ = message(&format!("{{{{ {begin}{}1 }}}}", more.repeat((EXPRESSION - 20) / more.len())));
                let told = message(&format!("{{{{ {{1:{{2:3}}}}\n{begin}{}\n }}}}", more.repeat(9_000 / more.len())));
                assert!(told.as_deref().is_some_and(|told| told.contains("8 KiB")), "{told:?}");
            }
            assert!(message(&format!("{}\n{{{{ 1 }}}}", "-\n".repeat(EXPRESSION))).is_none());
            let _ = message(&format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}\n".repeat(EXPRESSIONS / 11)));
            let told = message(&format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}\n".repeat(8_000)));
            assert!(told.as_deref().is_some_and(|told| told.contains("64 KiB")), "{told:?}");
            for end in ["{{ ns.x }}", "{{ ns.x|tojson }}", "{{ ns.x|pprint }}"] {
                let told = message(&format!("{lists}{end}")).unwrap();
                assert!(told.contains("100 levels"), "{told}");
            }
            assert!(message(&format!("{lists}{{{{ ns.x|string|length }}}}")).is_none());
            let told = message("{{ (['text' * 10000] * 99999)|tojson|length }}").unwrap();
            assert!(told.contains("64 MiB"), "{told}");
            Ok(())
        })
        .unwrap();
    }

    /// The engine's repeated lists are lazy: only what is made of them shows their size.
    #[test]
    fn repeated_lists_are_bounded() {
        let place = command_line_value("x", "\"\"", 1);
        for text in [
            "{{ ['text' * 10000] * 99999 }}",
            "{{ enumerate([1] * 99999999) }}",
            "as text: {{ ['text' * 10000] * 99999 }}",
        ] {
            let problem = engine().string(text, &place, &Scope::default()).unwrap_err().unwrap();
            let most = if text.contains("enumerate") { "100000 items" } else { "64 MiB" };
            assert!(problem.message.contains(most), "{text}: {problem:?}");
        }
        assert!(engine().string("{{ ['text'] * 1000 }}", &place, &Scope::default()).is_ok());
    }

    /// The engine counts columns with 16 bits, and its errors count one further.
    #[test]
    fn texts_that_are_too_long_are_errors() {
        let place = command_line_value("x", "\"\"", 1);
        for text in [format!("{}{{{{ 1 + }}}}", "x".repeat(70_000)), format!("{}{{{{ 1", "\n".repeat(70_000))] {
            let problem = engine().string(&text, &place, &Scope::default()).unwrap_err().unwrap();
            assert!(problem.message.contains("60000 lines"), "{problem:?}");
            assert!(engine().bare(&text, &place, &Scope::default()).is_err());
        }
        let long = format!("{}{{{{ 1 }}}}", "x\n".repeat(50_000));
        assert!(engine().string(&long, &place, &Scope::default()).is_ok());
    }
}
