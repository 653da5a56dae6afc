//! Computes keys, merges specs into one prefix tree, and marks each node: there, or missing and why.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::again::Again;
use super::{CachePolicy, MissReason, NodeState, Part, Plan, PlanNode, explain};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, LayerInfo};
use crate::host::Cancel;
use crate::host::url::shown_in;
use crate::import::{ImportContext, noted_release};
use crate::key::{HostInput, KeyMaterial, LayerKey};
use crate::spec::{Release, Spec, StepEntry};
use crate::step::StepKey;
use crate::store::{Lookup, Store};
use crate::template::StepOptions;

/// What planning may use.
pub struct PlanContext<'a> {
    /// Where layers are looked for.
    pub store: &'a Store,
    /// What imports may use.
    pub import: ImportContext<'a>,
    /// Take every layer as missing.
    pub force: bool,
    /// Steps whose layers are taken as missing, and so is all that lies on them: by number (0 is the base), name or kind, as
    /// `TEMPLATE:STEP` in one template only.
    pub again: &'a [String],
    /// Say for each miss what differs from the layer that is there in its stead; reads what lies on the layers compared.
    pub explain: bool,
    /// Warnings about damaged layers.
    pub events: &'a Events,
    /// Asked between nodes.
    pub cancel: &'a Cancel,
}

/// Makes the plan of some specs.
///
/// Errors: a file that a step takes from the host cannot be read; a source that has to be fetched to know its digest
/// cannot be fetched.
pub fn make(specs: &[Spec], context: &PlanContext<'_>) -> Result<Plan> {
    let mut plan = Plan { nodes: Vec::new(), tips: Vec::new() };
    let mut known = HashMap::new();
    let mut again = Again::new(context.again);
    for (index, spec) in specs.iter().enumerate() {
        context.cancel.check()?;
        let again = again.of(spec)?;
        let mut tip = match spec.import.runner.tag() {
            Some(tag) => given(&mut plan, &mut known, context, spec, index, tag)?,
            None => {
                let again = again.contains(&0);
                import(&mut plan, &mut known, context, spec, index, again)?
            }
        };
        for (number, step) in spec.steps.iter().enumerate() {
            context.cancel.check()?;
            let key = step.runner.key_inputs().map_err(|error| error.at(|| step.place()))?;
            let parent = plan.nodes[tip].info.key;
            let material = step_material(spec, step, &key, parent);
            let info = LayerInfo {
                key: material.key(),
                role: "step",
                kind: step.kind.name.into(),
                summary: shown_in(&step.options.name.clone().unwrap_or_else(|| step.runner.summary())),
                index: number + 1,
                steps: spec.steps.len(),
                position: Some(step.position.clone()),
                volatile: step.volatile.clone(),
                within: step.within.clone(),
            };
            let StepOptions { always_run, ttl, .. } = step.options;
            let policy = CachePolicy { always_run, ttl, again: again.contains(&(number + 1)) };
            let origin = (index, Part::Step(number, key));
            tip = add(&mut plan, &mut known, context, info, material, Some(tip), origin, policy);
        }
        plan.tips.push(tip);
    }
    again.check()?;
    apply_policies(&mut plan);
    if context.explain {
        explain::explain(&mut plan, specs, context.store);
    }
    Ok(plan)
}

/// The node of a spec's base that is made by its import.
fn import(
    plan: &mut Plan,
    known: &mut HashMap<LayerKey, usize>,
    context: &PlanContext<'_>,
    spec: &Spec,
    index: usize,
    again: bool,
) -> Result<usize> {
    let entry = &spec.import;
    let mut key = entry.runner.key_inputs(&context.import).map_err(|error| error.at(|| entry.place()))?;
    if let Release::Locked { digest, .. } = entry.release {
        key.inputs.push(HostInput { name: "release".into(), kind: "file".into(), digest, mode: 0 });
    }
    let keyed = entry.runner.keyed_as(entry.kind);
    let material = KeyMaterial {
        role: "import".into(),
        kind: keyed.name.into(),
        kind_version: keyed.version,
        arguments: key.arguments.clone(),
        inputs: key.inputs.clone(),
        parent: None,
        options: Map::new(),
    };
    let info = LayerInfo {
        key: material.key(),
        role: "import",
        kind: entry.kind.name.into(),
        summary: shown_in(&entry.runner.summary()),
        index: 0,
        steps: spec.steps.len(),
        position: Some(entry.position.clone()),
        volatile: entry.volatile.clone(),
        within: Vec::new(),
    };
    let stale = match entry.release {
        Release::Pulled(now) => noted_release(info.key, &context.import) != Some(now),
        _ => false,
    };
    let policy = CachePolicy { always_run: stale, ttl: None, again };
    Ok(add(plan, known, context, info, material, None, (index, Part::Import(key)), policy))
}

/// The node of a spec's base that is a layer with a tag. It is there as it lies, or it is an error: nothing makes it again.
fn given(
    plan: &mut Plan,
    known: &mut HashMap<LayerKey, usize>,
    context: &PlanContext<'_>,
    spec: &Spec,
    index: usize,
    tag: &str,
) -> Result<usize> {
    let entry = &spec.import;
    let Some(key) = context.store.tagged(tag)? else {
        return Err(Error::template(vec![Diagnostic {
            message: format!("no layer of the store has the tag `{tag}`"),
            position: Some(entry.position.clone()),
            source_line: None,
            hint: Some(
                "`shell LAYER --keep-as NAME` makes one, `tag LAYER NAME` names one; `cache ls` shows those there are"
                    .into(),
            ),
            notes: Vec::new(),
        }]));
    };
    if let Some(node) = known.get(&key) {
        return Ok(*node);
    }
    let layer = context.store.chain(key)?.pop();
    let layer = layer.ok_or_else(|| Error::new(ErrorKind::Internal, "a chain without layers"))?;
    let info = LayerInfo {
        key,
        role: "import",
        kind: entry.kind.name.into(),
        summary: tag.to_owned(),
        index: 0,
        steps: spec.steps.len(),
        position: Some(entry.position.clone()),
        volatile: Vec::new(),
        within: Vec::new(),
    };
    known.insert(key, plan.nodes.len());
    plan.nodes.push(PlanNode {
        info,
        parent: None,
        state: NodeState::Hit,
        material: layer.record.material.clone(),
        policy: CachePolicy::default(),
        took: Some(layer.record.duration),
        origin: (index, Part::Layer(layer.record.parent_id.clone())),
        layer: Some(layer),
    });
    Ok(plan.nodes.len() - 1)
}

/// Layers that are there and not to be taken are misses, and with each all that lies on it.
fn apply_policies(plan: &mut Plan) {
    for index in 0..plan.nodes.len() {
        let below = plan.nodes[index].parent.is_some_and(|parent| plan.nodes[parent].layer.is_none());
        let node = &mut plan.nodes[index];
        let Some(layer) = &node.layer else { continue };
        let refused = node.policy.refuses(layer.record.created);
        if let Some(reason) = refused.or(below.then_some(MissReason::ParentMissing)) {
            node.state = NodeState::Miss { reason };
            node.layer = None;
        }
    }
}

/// The options that shape a layer; see the table in `docs/cache-keys.md`.
fn options(spec: &Spec, step: &StepEntry) -> Map<String, Value> {
    let options = &step.options;
    let mut found = Map::new();
    if !options.env.is_empty() {
        found.insert("env".into(), json!(options.env));
    }
    if let Some(network) = options.network.filter(|network| *network != step.kind.network) {
        found.insert("network".into(), network.into());
    }
    if options.has_all_rights() {
        found.insert("privileged".into(), true.into());
    }
    if !options.cache_key.is_empty() {
        found.insert("cache_key".into(), json!(options.cache_key));
    }
    if !options.secrets.is_empty() {
        let version = |name: &String| spec.secrets.iter().find(|secret| secret.name == *name)?.version.clone();
        let secrets: Map<_, _> = options.secrets.iter().map(|name| (name.clone(), json!(version(name)))).collect();
        found.insert("secrets".into(), Value::Object(secrets));
    }
    if !options.mounts.is_empty() {
        found.insert("mounts".into(), json!(options.mounts));
    }
    if !options.made_by.is_empty() {
        found.insert("made_by".into(), json!(options.made_by));
    }
    found
}

fn step_material(spec: &Spec, step: &StepEntry, key: &StepKey, parent: LayerKey) -> KeyMaterial {
    KeyMaterial {
        role: "step".into(),
        kind: step.kind.name.into(),
        kind_version: step.kind.version,
        arguments: key.arguments.clone(),
        inputs: key.inputs.clone(),
        parent: Some(parent),
        options: options(spec, step),
    }
}

#[expect(clippy::too_many_arguments, reason = "all that one node is made of")]
fn add(
    plan: &mut Plan,
    known: &mut HashMap<LayerKey, usize>,
    context: &PlanContext<'_>,
    info: LayerInfo,
    material: KeyMaterial,
    parent: Option<usize>,
    origin: (usize, Part),
    policy: CachePolicy,
) -> usize {
    if let Some(node) = known.get(&info.key) {
        let found = &mut plan.nodes[*node];
        found.policy = found.policy.and(policy);
        return *node;
    }
    let above = parent.map(|parent| &plan.nodes[parent]);
    let (state, layer) = match above {
        _ if context.force => (NodeState::Miss { reason: MissReason::Forced }, None),
        Some(above) if above.layer.is_none() => (NodeState::Miss { reason: MissReason::ParentMissing }, None),
        _ => match usable(context.store, info.key, above.and_then(|above| above.layer.as_ref()).map(|l| &*l.record.id))
        {
            Lookup::Present(layer) => (NodeState::Hit, Some(*layer)),
            Lookup::Absent => (NodeState::Miss { reason: MissReason::NeverMade }, None),
            Lookup::Damaged(problem) => {
                context.events.warn(format!("layer {} is made again: {problem}", info.key.short()));
                (NodeState::Miss { reason: MissReason::Damaged { problem } }, None)
            }
        },
    };
    known.insert(info.key, plan.nodes.len());
    let took = layer.as_ref().map(|layer| layer.record.duration);
    plan.nodes.push(PlanNode { info, parent, state, material, policy, layer, took, origin });
    plan.nodes.len() - 1
}

/// A layer that lies on the making of its parent that is there now.
pub(crate) fn usable(store: &Store, key: LayerKey, parent_id: Option<&str>) -> Lookup {
    match store.lookup(key) {
        Lookup::Present(layer) if layer.record.parent_id.as_deref() != parent_id => {
            Lookup::Damaged("the layer under it was made anew".into())
        }
        found => found,
    }
}
