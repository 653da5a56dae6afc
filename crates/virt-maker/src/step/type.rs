//! `type`: types a text on the keyboard of a machine that runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::support::pressing::{PressStep, Pressing, told};
use super::{Step, StepKey, StepKind, first_line};
use crate::diagnostic::Diagnostic;
use crate::guest::keyboard::{self, Layout};
use crate::template::{Kind, Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "type",
    about: "Types a text on the keyboard of a machine that runs. No sign is special; the end of a line is Enter.",
    arguments: arguments::<Arguments>,
    example: "boot: {steps: [{type: 'echo <one> > /tmp/file'}]}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

/// The text, or a mapping.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "read from the node, so that errors have their places")]
enum Arguments {
    Short(String),
    Long(Long),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Long {
    /// What is typed.
    text: String,
    /// What the guest takes the keyboard for.
    #[serde(default)]
    layout: Layout,
    /// How long is waited before the first key, such as `5s`: where there is nothing that could be waited for.
    #[schemars(with = "Option<String>")]
    #[expect(dead_code, reason = "read from the node")]
    after: Option<serde::de::IgnoredAny>,
    /// The pause after each key, in milliseconds; 50 without it.
    #[schemars(with = "Option<u32>")]
    #[expect(dead_code, reason = "read from the node")]
    pace: Option<serde::de::IgnoredAny>,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let (text, layout) = match &node.kind {
        Kind::Map(_) => {
            let Long { text, layout, .. } = from_node(node)?;
            (text, layout)
        }
        _ => (from_node::<String>(node)?, Layout::default()),
    };
    let at = node.get("text").unwrap_or(node);
    let keys = keyboard::typed(&text, layout).map_err(|wrong| vec![told(wrong, layout, at)])?;
    let key = StepKey::of(&Keyed { text: &text, layout }).map_err(|error| vec![node.diagnostic(error.to_string())])?;
    Ok(Box::new(PressStep { pressing: Pressing::read(keys, node)?, summary: first_line(&text), key }))
}

/// When they are pressed has no part in what they do.
#[derive(Serialize)]
struct Keyed<'a> {
    text: &'a str,
    layout: Layout,
}
