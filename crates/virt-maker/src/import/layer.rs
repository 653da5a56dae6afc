//! `layer`: the result of another template. Its import and its steps come first, so that the chain of both is one path:
//! the layers of the other template are those that it makes by itself, and nothing is built twice.
//!
//! The loader puts the other template's spec in the place of this import ([`Import::template`]), so no build sees it.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Base, Import, ImportContext, ImportKey, ImportKind, Made};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::template::{Kind, Node, arguments, from_node};

pub(super) static KIND: ImportKind = ImportKind {
    name: "layer",
    about: "Goes on from the result of another template, whose layers are shared with it.",
    arguments: arguments::<Arguments>,
    example: "layer: {template: base.yml, with: {size: 8G}}",
    needs: &[],
    version: 1,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The file of the other template, which asks for one image. Its exports are not made.
    template: PathBuf,
    /// Its parameters, by name.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    #[expect(dead_code, reason = "read from the node, so that values stay what they are")]
    with: Option<serde::de::IgnoredAny>,
}

struct Layer(Base);

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
    let at = node.get("template").unwrap_or(node);
    let template = at.host_path(arguments.template).map_err(|problem| vec![problem])?;
    if !template.is_file() {
        return Err(vec![at.diagnostic(format!("{} is no file", template.display()))]);
    }
    Ok(Box::new(Layer(Base { template: template.named().to_owned(), parameters })))
}

impl Import for Layer {
    fn summary(&self) -> String {
        self.0.template.display().to_string()
    }

    fn template(&self) -> Option<&Base> {
        Some(&self.0)
    }

    fn key_inputs(&self, _: &ImportContext<'_>) -> Result<ImportKey> {
        Err(replaced())
    }

    fn make(&self, _: &ImportKey, _: &Path, _: &Path, _: &ImportContext<'_>) -> Result<Made> {
        Err(replaced())
    }
}

fn replaced() -> Error {
    Error::new(ErrorKind::Internal, "an import `layer` that the loader did not replace")
}
