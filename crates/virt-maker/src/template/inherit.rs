//! `from` and `to`: templates on top of each other.
//!
//! `from: F` puts F under a template: what F has and the template lacks is added; mappings merge member by member;
//! F's items come first in lists; for everything else the template wins. `to: F` puts F on top: its items come last,
//! its values win. A file that comes in may have a `from` or `to` of its own, which then is the template's. All `from`
//! are followed first, then `to`, until none is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::expression::Engine;
use super::files::Files;
use super::node::{Kind, Node, Via};
use super::parameters::declared;
use super::parse::parse_file;
use super::scope::Scope;
use crate::diagnostic::Diagnostic;
use crate::error::Error;

/// Most files that one template takes in by `from` and `to`.
const FILES: usize = 100;

/// Reads the file that `node` names for its key `key`.
pub(super) fn take_in(node: &Node, key: &'static str) -> Result<Node, Vec<Diagnostic>> {
    let Some(name) = node.text().filter(|name| !name.trim().is_empty()) else {
        return Err(vec![node.diagnostic(format!("expected the path of a file, found {}", node.describe()))]);
    };
    let path = node.host_path(name).map_err(|problem| vec![problem])?;
    if let Some(circle) = circle(node, path.named()) {
        return Err(vec![node.diagnostic(format!("templates take each other in, in a circle: {circle}"))]);
    }
    // Messages name it as the file that holds it does: relative to where the user is.
    let beside = node.source.path.parent().unwrap_or(Path::new("")).join(name);
    let shown = if path.named() == node.source.folder.join(name) { beside } else { PathBuf::from(name) };
    let via = Via { key, node: Box::new(node.clone()) };
    let files: &Arc<Files> = &node.source.files;
    parse_file(&path, &shown, via, files).map_err(|error| problems_of(&error, node))
}

/// What is wrong with a file that `node` names, at that place where it has none of its own.
fn problems_of(error: &Error, node: &Node) -> Vec<Diagnostic> {
    match error.diagnostics() {
        [] => vec![node.diagnostic(crate::error::chain(error))],
        problems => problems.to_vec(),
    }
}

/// The way back to `path` from a node whose file was taken in by it, for a message.
fn circle(node: &Node, path: &Path) -> Option<String> {
    let real = path.canonicalize().ok()?;
    let mut way = vec![path.display().to_string()];
    let mut source = &node.source;
    loop {
        let file = source.folder.join(source.path.file_name()?);
        way.push(source.path.display().to_string());
        if file.canonicalize().ok()? == real {
            way[0] = way[way.len() - 1].clone();
            way.reverse();
            return Some(way.join(" -> "));
        }
        source = &source.via.as_ref()?.node.source;
    }
}

/// Follows `from` and `to` until none is left. `scope` has the parameters of the command line, which may have a part in
/// the names of files.
pub(super) fn follow(mut template: Node, engine: &Engine, scope: &Scope) -> Result<Node, Vec<Diagnostic>> {
    for _ in 0..FILES {
        let next = ["from", "to"].into_iter().find(|key| template.get(key).is_some());
        let Some(key) = next else { return Ok(template) };
        let named = remove(&mut template, key);
        let Some(named) = named.filter(|node| !matches!(node.kind, Kind::Null)) else { continue };
        let named = evaluated(&named, &template, engine, scope)?;
        let other = take_in(&named, key)?;
        if !matches!(other.kind, Kind::Map(_)) {
            return Err(vec![other.diagnostic(format!("expected a mapping, found {}", other.describe()))]);
        }
        template = if key == "from" { merge(other, template) } else { merge(template, other) };
    }
    Err(vec![template.diagnostic(format!("more than {FILES} files come in by `from` and `to`"))])
}

/// A key's value with its expressions evaluated, over the parameters that the template has so far.
pub(super) fn evaluated(node: &Node, template: &Node, engine: &Engine, scope: &Scope) -> Result<Node, Vec<Diagnostic>> {
    let mut scope = scope.clone();
    let params = declared(template.get("params")).map_err(|problem| vec![problem])?;
    scope.resolve_for(engine, node, params).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let rendered = engine.render(node, &scope, &mut problems);
    if problems.is_empty() { Ok(rendered) } else { Err(problems) }
}

fn remove(template: &mut Node, name: &str) -> Option<Node> {
    let Kind::Map(members) = &mut template.kind else { return None };
    let index = members.iter().position(|(key, _)| key.text() == Some(name))?;
    Some(members.remove(index).1)
}

/// Puts `over` on top of `under`. A mapping keeps the place of the one on top.
fn merge(under: Node, over: Node) -> Node {
    match (under.kind, over.kind) {
        (Kind::Map(under_members), Kind::Map(over_members)) => {
            let mut members = under_members;
            for (key, value) in over_members {
                match members.iter().position(|(other, _)| other.text() == key.text()) {
                    Some(index) => {
                        let (_, below) = members.remove(index);
                        members.insert(index, (key, merge(below, value)));
                    }
                    None => members.push((key, value)),
                }
            }
            Node { kind: Kind::Map(members), ..over }
        }
        (Kind::List(mut items), Kind::List(more)) => {
            items.extend(more);
            Node { kind: Kind::List(items), ..over }
        }
        // An empty key has nothing to put on top.
        (kind @ (Kind::Map(_) | Kind::List(_)), Kind::Null) => Node { kind, ..under },
        (_, kind) => Node { kind, ..over },
    }
}
