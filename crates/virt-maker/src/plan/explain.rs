//! Why a layer is not there: what differs between it and the layer that is there in its stead.

use std::collections::HashMap;

use serde_json::Value;

use super::{MissReason, NodeState, Plan};
use crate::error::Result;
use crate::key::{KeyMaterial, LayerKey};
use crate::store::{LayerRecord, Store};

/// Longest value that is quoted, in characters.
const QUOTE: usize = 200;

/// Turns each `NeverMade` into `Changed` where the parent has another layer of the same kind, the youngest of them.
pub(super) fn explain(plan: &mut Plan, store: &Store) -> Result<()> {
    let unexplained = NodeState::Miss { reason: MissReason::NeverMade };
    if plan.nodes.iter().all(|node| node.state != unexplained) {
        return Ok(());
    }
    let (layers, _) = store.layers()?;
    let mut siblings: HashMap<(Option<LayerKey>, &str), &LayerRecord> = HashMap::new();
    for layer in &layers {
        let record = &layer.record;
        let slot = siblings.entry((record.parent(), record.material.kind.as_str())).or_insert(record);
        if record.created > slot.created {
            *slot = record;
        }
    }
    for node in &mut plan.nodes {
        if node.state != (NodeState::Miss { reason: MissReason::NeverMade }) {
            continue;
        }
        let place = (node.material.parent, node.material.kind.as_str());
        if let Some(other) = siblings.get(&place)
            && let Some((field, old, new)) = difference(&other.material, &node.material)
        {
            node.state = NodeState::Miss { reason: MissReason::Changed { other: other.key, field, old, new } };
        }
    }
    Ok(())
}

/// The first thing that differs: its name, its value there and here.
fn difference(there: &KeyMaterial, here: &KeyMaterial) -> Option<(String, String, String)> {
    if there.kind_version != here.kind_version {
        return Some(("kind_version".into(), there.kind_version.to_string(), here.kind_version.to_string()));
    }
    if let Some(found) = value_difference("arguments", &there.arguments, &here.arguments) {
        return Some(found);
    }
    let options = |material: &KeyMaterial| Value::Object(material.options.clone());
    if let Some(found) = value_difference("options", &options(there), &options(here)) {
        return Some(found);
    }
    for input in &here.inputs {
        let field = |what: &str| format!("inputs[{}].{what}", input.name);
        match there.inputs.iter().find(|other| other.name == input.name) {
            None => return Some((field("digest"), "(not there)".into(), input.digest.to_string())),
            Some(other) if other.digest != input.digest || other.kind != input.kind => {
                return Some((field("digest"), other.digest.to_string(), input.digest.to_string()));
            }
            Some(other) if other.mode != input.mode => {
                return Some((field("mode"), format!("{:04o}", other.mode), format!("{:04o}", input.mode)));
            }
            Some(_) => {}
        }
    }
    let gone = there.inputs.iter().find(|other| here.inputs.iter().all(|input| input.name != other.name))?;
    Some((format!("inputs[{}].digest", gone.name), gone.digest.to_string(), "(not there)".into()))
}

fn value_difference(field: &str, there: &Value, here: &Value) -> Option<(String, String, String)> {
    match (there, here) {
        _ if there == here => None,
        (Value::Object(there), Value::Object(here)) => {
            let names = here.keys().chain(there.keys().filter(|name| !here.contains_key(*name)));
            names
                .filter_map(|name| {
                    let none = Value::Null;
                    let (there, here) = (there.get(name).unwrap_or(&none), here.get(name).unwrap_or(&none));
                    value_difference(&format!("{field}.{name}"), there, here)
                })
                .next()
        }
        (Value::Array(there), Value::Array(here)) if there.len() == here.len() => there
            .iter()
            .zip(here)
            .enumerate()
            .find_map(|(index, (there, here))| value_difference(&format!("{field}[{index}]"), there, here)),
        _ => Some((field.to_owned(), quote(there), quote(here))),
    }
}

fn quote(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => "(not there)".into(),
        other => other.to_string(),
    };
    if text.chars().count() > QUOTE { text.chars().take(QUOTE).chain(['…']).collect() } else { text }
}
