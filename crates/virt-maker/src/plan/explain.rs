//! Why a layer is not there: that it was collected, or what differs between it and the layer that is there in its stead.
//!
//! The layer to compare with is the youngest of the same kind on the same parent that the same template was built with, as it
//! was last built, or a template beside it that has a step in common with it and differs in little: a layer of another
//! template's is no older state of this one. Where the parent is missing too, it is
//! looked for on the layer that the parent was compared with, so that two steps that were changed are both explained. A
//! step that is the same as the one which its parent was compared with only moved down: one was put in before it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{FieldChange, MissReason, NodeId, NodeState, Plan, PlanNode, Table};
use crate::host::url::shown_in;
use crate::key::{KeyMaterial, LayerKey};
use crate::spec::Spec;
use crate::store::{LayerRecord, Lookup, Store, noted_path};

/// Longest value that is given, in bytes; a script is shorter.
const VALUE_MAX: usize = 64 << 10;

/// What is known of the store so far. Only what lies on the layers that are compared is read, however large the store is.
struct Known<'a> {
    store: &'a Store,
    records: HashMap<LayerKey, LayerRecord>,
    on: HashMap<Option<LayerKey>, Vec<LayerKey>>,
    /// The templates that were built with each layer, as they were last built.
    of: HashMap<LayerKey, Vec<PathBuf>>,
}

/// A layer of another template counts as near if it differs in at most this many things.
const NEAR: usize = 1;

impl Known<'_> {
    fn record(&mut self, key: LayerKey) -> Option<&LayerRecord> {
        if let Entry::Vacant(place) = self.records.entry(key)
            && let Lookup::Present(layer) = self.store.lookup(key)
        {
            place.insert(layer.record);
        }
        self.records.get(&key)
    }

    /// The layers of a kind on `parent` that may be an older state of a template's, the oldest first; bases for `None`.
    fn rivals(&mut self, parent: Option<LayerKey>, node: &PlanNode, template: &Path) -> Vec<&LayerRecord> {
        parent.map(|parent| self.record(parent).is_some());
        let keys = self.on.entry(parent).or_insert_with(|| {
            let mut found = self.store.children(parent);
            found.sort_by_key(|layer| (layer.record.created, layer.record.key));
            let keys = found.iter().map(|layer| layer.record.key).collect();
            self.records.extend(found.into_iter().map(|layer| (layer.record.key, layer.record)));
            keys
        });
        // With another template, a base alone is nothing in common: everybody begins with some.
        let on_step =
            parent.and_then(|parent| self.records.get(&parent)).is_some_and(|record| record.parent().is_some());
        let records = keys.iter().filter_map(|key| self.records.get(key));
        let records = records.filter(|record| record.material.kind == node.material.kind);
        let near = |record: &&LayerRecord| {
            let users = self.of.get(&record.key).map_or(&[][..], Vec::as_slice);
            let same = users.iter().any(|user| user == template);
            let beside = || on_step && users.iter().any(|user| user.parent() == template.parent());
            same || differences(&record.material, &node.material).len() <= if beside() { NEAR } else { 0 }
        };
        // Those of the template itself are the last, so that they are taken first.
        let own = |record: &LayerRecord| {
            self.of.get(&record.key).is_some_and(|users| users.iter().any(|user| user == template))
        };
        let mut found: Vec<_> = records.filter(near).collect();
        found.sort_by_key(|record| own(record));
        found
    }
}

/// Gives each `NeverMade` and `ParentMissing` its reason, where there is one to be found.
pub(super) fn explain(plan: &mut Plan, specs: &[Spec], store: &Store) {
    if plan.nodes().iter().all(|node| !is_open(&node.state)) {
        return;
    }
    let collected = store.collected();
    let mut of: HashMap<LayerKey, Vec<PathBuf>> = HashMap::new();
    for note in store.build_notes() {
        note.layers.iter().for_each(|layer| of.entry(layer.key).or_default().push(note.template.clone()));
    }
    let mut known = Known { store, records: HashMap::new(), on: HashMap::new(), of };
    // For each node the layer that stands in its place, itself where it is there.
    let mut instead: Table<NodeId, Option<LayerKey>> = Table::of_nodes(plan, None);
    for id in plan.ids() {
        let node = &plan[id];
        let key = node.info.key;
        if !is_open(&node.state) {
            let there = node.state == NodeState::Hit || known.record(key).is_some();
            instead[id] = there.then_some(key);
            // Also of one that is made again because of what lies under it.
            plan.nodes[id].took = plan[id].took.or(known.record(key).map(|record| record.duration));
            continue;
        }
        let below = node.parent().and_then(|parent| instead[parent]);
        let same = |record: &LayerRecord| {
            record.material.kind == node.material.kind && differences(&record.material, &node.material).is_empty()
        };
        let moved = below.filter(|below| known.record(*below).is_some_and(same));
        // Another base stands in for a base; another step lies on what its parent was compared with.
        let template = noted_path(&node.spec.of(specs).template);
        let rivals = match (node.parent(), below) {
            (None, _) => known.rivals(None, node, &template),
            (Some(_), Some(below)) => known.rivals(Some(below), node, &template),
            (Some(_), None) => Vec::new(),
        };
        let twin = rivals.iter().find(|record| same(record)).map(|record| record.key);
        let (reason, stand_in) = match (collected.get(&key), twin, moved, rivals.last()) {
            (Some(gone), twin, ..) => (Some(MissReason::Collected { at: gone.at, why: gone.why.clone() }), twin),
            (None, Some(twin), ..) => (None, Some(twin)),
            (None, None, Some(moved), _) => (None, Some(moved)),
            (None, None, None, Some(other)) => {
                let changes = differences(&other.material, &node.material);
                (Some(MissReason::Changed { other: other.key, changes }), Some(other.key))
            }
            (None, None, None, None) => (None, None),
        };
        plan.nodes[id].took = stand_in.and_then(|key| known.record(key)).map(|record| record.duration);
        if let Some(reason) = reason {
            plan.nodes[id].state = NodeState::Miss { reason };
        }
        instead[id] = stand_in;
    }
}

/// Whether more may be found out about it.
fn is_open(state: &NodeState) -> bool {
    matches!(state, NodeState::Miss { reason: MissReason::NeverMade | MissReason::ParentMissing })
}

/// All that differs, the parent left out.
fn differences(there: &KeyMaterial, here: &KeyMaterial) -> Vec<FieldChange> {
    let mut found = Vec::new();
    if there.kind_version != here.kind_version {
        let text = |version: u32| Some(version.to_string());
        found.push(change("kind_version".into(), text(there.kind_version), text(here.kind_version)));
    }
    compare("arguments", &there.arguments, &here.arguments, &mut found);
    let options = |material: &KeyMaterial| Value::Object(material.options.clone());
    compare("options", &options(there), &options(here), &mut found);
    for input in &here.inputs {
        let field = |what: &str| format!("inputs[{}].{what}", input.name);
        match there.inputs.iter().find(|other| other.name == input.name) {
            None => found.push(change(field("digest"), None, Some(input.digest.to_string()))),
            Some(other) => {
                if other.kind != input.kind {
                    found.push(change(field("kind"), Some(other.kind.clone()), Some(input.kind.clone())));
                }
                if other.digest != input.digest {
                    let (old, new) = (other.digest.to_string(), input.digest.to_string());
                    found.push(change(field("digest"), Some(old), Some(new)));
                }
                if other.mode != input.mode {
                    let text = |mode: u32| Some(format!("{mode:04o}"));
                    found.push(change(field("mode"), text(other.mode), text(input.mode)));
                }
            }
        }
    }
    for gone in there.inputs.iter().filter(|other| here.inputs.iter().all(|input| input.name != other.name)) {
        found.push(change(format!("inputs[{}].digest", gone.name), Some(gone.digest.to_string()), None));
    }
    // The same names and bytes in another order are another key too.
    if found.is_empty() && there.inputs != here.inputs {
        let order = |material: &KeyMaterial| {
            Some(material.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", "))
        };
        found.push(change("inputs".into(), order(there), order(here)));
    }
    found
}

fn change(field: String, old: Option<String>, new: Option<String>) -> FieldChange {
    FieldChange { field, old, new }
}

fn compare(field: &str, there: &Value, here: &Value, found: &mut Vec<FieldChange>) {
    match (there, here) {
        _ if there == here => {}
        (Value::Object(there), Value::Object(here)) => {
            for name in here.keys().chain(there.keys().filter(|name| !here.contains_key(*name))) {
                let none = Value::Null;
                let (there, here) = (there.get(name).unwrap_or(&none), here.get(name).unwrap_or(&none));
                compare(&format!("{field}.{name}"), there, here, found);
            }
        }
        (Value::Array(there), Value::Array(here)) if there.len() == here.len() => {
            for (index, (there, here)) in there.iter().zip(here).enumerate() {
                compare(&format!("{field}[{index}]"), there, here, found);
            }
        }
        _ => found.push(change(field.to_owned(), text(there), text(here))),
    }
}

fn text(value: &Value) -> Option<String> {
    let mut text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // The key covers URLs whole; whoever looks at what differs sees them without what lets somebody in. A part of one might
    // not be known for one.
    text = shown_in(&text);
    if text.len() > VALUE_MAX {
        let end = (0..=VALUE_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    Some(text)
}
