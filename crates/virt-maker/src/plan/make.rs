//! Computes keys, merges specs into one prefix tree, and marks each node: there, or missing and why.

use std::collections::HashMap;

use super::{MissReason, NodeState, Part, Plan, PlanNode, explain};
use crate::error::Result;
use crate::event::{Events, LayerInfo};
use crate::host::Cancel;
use crate::import::ImportContext;
use crate::key::{KeyMaterial, LayerKey};
use crate::spec::{Spec, StepEntry};
use crate::step::StepKey;
use crate::store::{Lookup, Store};

/// What planning may use.
pub struct PlanContext<'a> {
    /// Where layers are looked for.
    pub store: &'a Store,
    /// What imports may use.
    pub import: ImportContext<'a>,
    /// Take every layer as missing.
    pub force: bool,
    /// Say for each miss what differs from the layer that is there in its stead; reads every record of the store.
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
    for (index, spec) in specs.iter().enumerate() {
        context.cancel.check()?;
        let entry = &spec.import;
        let key = entry.runner.key_inputs(&context.import)?;
        let material = KeyMaterial {
            role: "import".into(),
            kind: entry.kind.name.into(),
            kind_version: entry.kind.version,
            arguments: key.arguments.clone(),
            inputs: key.inputs.clone(),
            parent: None,
        };
        let info = LayerInfo {
            key: material.key(),
            role: "import",
            kind: entry.kind.name.into(),
            summary: entry.runner.summary(),
            index: 0,
            steps: spec.steps.len(),
            position: Some(entry.position.clone()),
        };
        let mut tip = add(&mut plan, &mut known, context, info, material, None, (index, Part::Import(key)));
        for (number, step) in spec.steps.iter().enumerate() {
            context.cancel.check()?;
            let key = step.runner.key_inputs()?;
            let parent = plan.nodes[tip].info.key;
            let material = step_material(step, &key, parent);
            let info = LayerInfo {
                key: material.key(),
                role: "step",
                kind: step.kind.name.into(),
                summary: step.runner.summary(),
                index: number + 1,
                steps: spec.steps.len(),
                position: Some(step.position.clone()),
            };
            tip = add(&mut plan, &mut known, context, info, material, Some(tip), (index, Part::Step(number, key)));
        }
        plan.tips.push(tip);
    }
    if context.explain {
        explain::explain(&mut plan, context.store)?;
    }
    Ok(plan)
}

fn step_material(step: &StepEntry, key: &StepKey, parent: LayerKey) -> KeyMaterial {
    KeyMaterial {
        role: "step".into(),
        kind: step.kind.name.into(),
        kind_version: step.kind.version,
        arguments: key.arguments.clone(),
        inputs: key.inputs.clone(),
        parent: Some(parent),
    }
}

fn add(
    plan: &mut Plan,
    known: &mut HashMap<LayerKey, usize>,
    context: &PlanContext<'_>,
    info: LayerInfo,
    material: KeyMaterial,
    parent: Option<usize>,
    origin: (usize, Part),
) -> usize {
    if let Some(node) = known.get(&info.key) {
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
    plan.nodes.push(PlanNode { info, parent, state, material, layer, origin });
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
