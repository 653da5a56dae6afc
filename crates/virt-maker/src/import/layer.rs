//! `layer`: the result of another template, or a layer of the store that has a tag.
//!
//! A template's import and its steps come first, so that the chain of both is one path: the layers of the other template are
//! those that it makes by itself, and nothing is built twice. The loader puts the other template's spec in the place of this
//! import ([`Import::template`]), so no build sees it.
//!
//! A tagged layer ([`Import::tag`]) is where it is, under its own key: what `shell --keep-as` kept, for one, which no template
//! can make. The planner takes it as it lies; when it is not there, nothing can be built on it.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Base, Import, ImportContext, ImportKey, ImportKind, Made};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::template::{Kind, Node, arguments, from_node};

pub(super) static KIND: ImportKind = ImportKind {
    name: "layer",
    about: "Goes on from the result of another template, whose layers are shared with it, or from a layer with a tag.",
    arguments: arguments::<Arguments>,
    example: "layer: {template: base.yml, with: {size: 8G}}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The file of the other template, which asks for one image. Its exports are not made.
    template: Option<PathBuf>,
    /// The tag of a layer that is in the store, in place of `template`: one that `shell --keep-as` or `tag` gave. The key is
    /// that layer's own.
    tag: Option<String>,
    /// Parameters of the other template, by name.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    #[expect(dead_code, reason = "read from the node, so that values stay what they are")]
    with: Option<serde::de::IgnoredAny>,
}

enum Layer {
    Template(Base),
    Tag(String),
}

fn parse(node: &Node) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let mut parameters = Vec::new();
    match node.get("with") {
        None | Some(Node { kind: Kind::Null, .. }) => {}
        Some(with) if matches!(with.kind, Kind::Map(_)) => {
            for (name, value) in with.members() {
                parameters.push((name.text().unwrap_or_default().to_owned(), value.to_json().to_string()));
            }
        }
        Some(with) => {
            return Err(vec![with.diagnostic(format!("expected a mapping of parameters, found {}", with.describe()))]);
        }
    }
    let template = match (arguments.template, arguments.tag) {
        (Some(template), None) => template,
        (None, Some(tag)) if node.get("with").is_none() => {
            return Ok(Box::new(Layer::Tag(tag)));
        }
        (None, Some(_)) => {
            let at = node.get("with").unwrap_or(node);
            return Err(vec![at.diagnostic("a layer with a tag is made already, so it takes no parameters")]);
        }
        _ => return Err(vec![node.diagnostic("expected one of `template` (a file) and `tag` (the name of a layer)")]),
    };
    let at = node.get("template").unwrap_or(node);
    let template = at.host_path(template).map_err(|problem| vec![problem])?;
    if !template.is_file() {
        return Err(vec![at.diagnostic(format!("{} is no file", template.display()))]);
    }
    Ok(Box::new(Layer::Template(Base { template: template.named().to_owned(), parameters })))
}

impl Import for Layer {
    fn summary(&self) -> String {
        match self {
            Layer::Template(base) => base.template.display().to_string(),
            Layer::Tag(tag) => tag.clone(),
        }
    }

    fn template(&self) -> Option<&Base> {
        match self {
            Layer::Template(base) => Some(base),
            Layer::Tag(_) => None,
        }
    }

    fn tag(&self) -> Option<&str> {
        match self {
            Layer::Template(_) => None,
            Layer::Tag(tag) => Some(tag),
        }
    }

    fn key_inputs(&self, _: &ImportContext<'_>) -> Result<ImportKey> {
        Err(replaced())
    }

    fn make(&self, _: &ImportKey, _: &Path, _: &Path, _: &ImportContext<'_>) -> Result<Made> {
        Err(replaced())
    }
}

fn replaced() -> Error {
    Error::new(ErrorKind::Internal, "an import `layer` that the loader or the planner did not replace")
}
