//! From a template file to a spec: typed and validated, all errors of a template at once.

use std::path::Path;

use super::{ExportEntry, ImportEntry, Spec, StepEntry};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, Result};
use crate::template::{self, Kind, Node};
use crate::{export, import, step};

/// Keys that a template may have.
const KEYS: [&str; 4] = ["name", "description", "params", "spec"];
/// Keys of templates that this version cannot follow yet. To ignore them would make another image than was meant.
const LATER: [&str; 10] =
    ["from", "to", "before", "after", "matrix", "define", "use", "secrets", "defaults", "include"];

/// Loads one template with parameters (name, text) from the command line.
pub fn load(path: &Path, parameters: &[(String, String)]) -> Result<Spec> {
    let node = template::parse(path)?;
    check_top(&node).map_err(Error::template)?;
    let node = template::render(&node, parameters).map_err(Error::template)?;
    let mut problems = Vec::new();
    let spec = resolve(path, &node, &mut problems);
    match spec {
        Some(spec) if problems.is_empty() => Ok(spec),
        _ => Err(Error::template(problems)),
    }
}

fn check_top(node: &Node) -> Result<(), Vec<Diagnostic>> {
    if !matches!(node.kind, Kind::Map(_)) {
        return Err(vec![node.diagnostic(format!("expected a mapping with `spec`, found {}", node.describe()))]);
    }
    let problems: Vec<_> = node.members().iter().filter_map(|(key, _)| unknown(key, &KEYS, &LATER)).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn unknown(key: &Node, known: &[&'static str], later: &[&'static str]) -> Option<Diagnostic> {
    let name = key.text().unwrap_or_default();
    if known.contains(&name) {
        return None;
    }
    if later.contains(&name) {
        return Some(key.diagnostic(format!("`{name}` is not supported by this version yet")));
    }
    Some(with_hint(key.diagnostic(format!("unknown key `{name}`")), name, known))
}

fn with_hint(mut diagnostic: Diagnostic, word: &str, known: &[&str]) -> Diagnostic {
    diagnostic.hint = Some(match template::closest(word, known.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("known are: {}", known.join(", ")),
    });
    diagnostic
}

fn resolve(path: &Path, template: &Node, problems: &mut Vec<Diagnostic>) -> Option<Spec> {
    let Some(spec) = template.get("spec") else {
        problems.push(template.diagnostic("the template has no `spec`"));
        return None;
    };
    if !matches!(spec.kind, Kind::Map(_)) {
        problems.push(spec.diagnostic(format!("expected a mapping with `import`, found {}", spec.describe())));
        return None;
    }
    for (key, _) in spec.members() {
        problems.extend(unknown(key, &["import", "steps", "export"], &[]));
    }
    let import = match spec.get("import") {
        None => {
            problems.push(spec.diagnostic("the spec has no `import`: every image starts from a base"));
            None
        }
        Some(node) => {
            let names: Vec<_> = import::KINDS.iter().map(|kind| kind.name).collect();
            runner(node, "import", &names, problems).and_then(|(key, arguments)| {
                let kind = *import::KINDS.iter().find(|kind| Some(kind.name) == key.text())?;
                let runner = parsed((kind.parse)(arguments), problems)?;
                Some(ImportEntry { kind, runner, position: key.position() })
            })
        }
    };
    let mut items = Vec::new();
    if let Some(node) = spec.get("steps") {
        flatten(node, &mut items, problems);
    }
    let names: Vec<_> = step::KINDS.iter().map(|kind| kind.name).collect();
    let mut steps = Vec::new();
    for item in items {
        steps.extend(runner(item, "step", &names, problems).and_then(|(key, arguments)| {
            let kind = *step::KINDS.iter().find(|kind| Some(kind.name) == key.text())?;
            let runner = parsed((kind.parse)(arguments), problems)?;
            Some(StepEntry { kind, runner, position: key.position() })
        }));
    }
    let names: Vec<_> = export::KINDS.iter().map(|kind| kind.name).collect();
    let wanted = match spec.get("export") {
        Some(Node { kind: Kind::List(items), .. }) => items.iter().collect(),
        Some(Node { kind: Kind::Null, .. }) | None => Vec::new(),
        Some(node) => vec![node],
    };
    let mut exports = Vec::new();
    for item in wanted {
        exports.extend(runner(item, "export", &names, problems).and_then(|(key, arguments)| {
            let kind = *export::KINDS.iter().find(|kind| Some(kind.name) == key.text())?;
            let runner = parsed((kind.parse)(arguments), problems)?;
            Some(ExportEntry { kind, runner, position: key.position() })
        }));
    }
    Some(Spec { template: path.to_owned(), import: import?, steps, exports })
}

fn parsed<T>(result: Result<T, Vec<Diagnostic>>, problems: &mut Vec<Diagnostic>) -> Option<T> {
    result.map_err(|found| problems.extend(found)).ok()
}

/// The one runner of an item, with its arguments.
fn runner<'a>(
    item: &'a Node,
    role: &str,
    names: &[&'static str],
    problems: &mut Vec<Diagnostic>,
) -> Option<(&'a Node, &'a Node)> {
    match item.members() {
        [(key, arguments)] => {
            let name = key.text().unwrap_or_default();
            if names.contains(&name) {
                return Some((key, arguments));
            }
            problems.push(with_hint(key.diagnostic(format!("unknown {role} `{name}`")), name, names));
        }
        [] => problems.push(item.diagnostic(format!("expected the name of one {role}, found {}", item.describe()))),
        [_, (second, _), ..] => {
            let message =
                format!("`{}`: one {role} has one runner; begin a new item", second.text().unwrap_or_default());
            problems.push(second.diagnostic(message));
        }
    }
    None
}

/// Items that are lists are spliced in, so a list of steps can be a parameter.
fn flatten<'a>(node: &'a Node, items: &mut Vec<&'a Node>, problems: &mut Vec<Diagnostic>) {
    match &node.kind {
        Kind::Null => {}
        Kind::List(list) => {
            for item in list {
                match item.kind {
                    Kind::List(_) => flatten(item, items, problems),
                    _ => items.push(item),
                }
            }
        }
        _ => problems.push(node.diagnostic(format!("expected a list of steps, found {}", node.describe()))),
    }
}
