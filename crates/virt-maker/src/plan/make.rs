//! Computes keys, merges specs into one prefix tree, and marks each node: there, or missing and why.

use std::collections::HashMap;

use super::again::Again;
use super::{CachePolicy, MissReason, NodeId, NodeState, Plan, PlanNode, SpecId, Work, explain, keyed};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, LayerInfo};
use crate::host::Cancel;
use crate::host::url::shown_in;
use crate::import::{ImportContext, noted_release};
use crate::key::{HostInput, KeyMaterial, LayerKey};
use crate::spec::{Release, Spec, TestEntry};
use crate::store::{Lookup, Store};
use crate::template::Validity;

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
    let plan = Plan { nodes: Vec::new().into(), tips: Vec::new().into(), tests: Vec::new().into() };
    let mut planner = Planner { plan, known: HashMap::new(), context };
    let mut again = Again::new(context.again);
    for id in SpecId::all(specs) {
        context.cancel.check()?;
        let spec = id.of(specs);
        let again = again.of(spec)?;
        let mut tip = match spec.import.runner.tag() {
            Some(tag) => planner.given(spec, id, tag)?,
            None => planner.import(spec, id, again.contains(&0))?,
        };
        for (number, step) in spec.steps.iter().enumerate() {
            context.cancel.check()?;
            let (key, inner) = keyed::own(spec, step)?;
            let material = keyed::step(spec, step, &key, planner.plan[tip].info.key);
            let info = LayerInfo {
                key: material.key(),
                role: "step",
                kind: step.kind.name.into(),
                summary: shown_in(&step.options.running.name.clone().unwrap_or_else(|| step.runner.summary())),
                index: number + 1,
                steps: spec.steps.len(),
                position: Some(step.position.clone()),
                volatile: step.volatile.clone(),
                within: step.within.clone(),
            };
            let Validity { ttl, always_run } = step.options.caching.cache;
            let policy = CachePolicy { always_run, ttl, again: again.contains(&(number + 1)) };
            tip = planner.add(info, material, policy, id, Work::Step { parent: tip, number, key, inner });
        }
        let tests = spec.tests.iter().map(|test| of_test(spec, test, id, tip, planner.plan[tip].info.key));
        let tests = tests.collect::<Result<_>>()?;
        planner.plan.tips.push(tip);
        planner.plan.tests.push(tests);
    }
    again.check()?;
    let mut plan = planner.plan;
    apply_policies(&mut plan);
    if context.explain {
        explain::explain(&mut plan, specs, context.store);
    }
    Ok(plan)
}

/// What a test runs. It has no layer, so nothing is looked up.
fn of_test(spec: &Spec, test: &TestEntry, id: SpecId, tip: NodeId, tip_key: LayerKey) -> Result<PlanNode> {
    let (key, inner) = keyed::own(spec, &test.boot)?;
    let material = keyed::test(spec, &test.boot, &key, tip_key);
    let info = LayerInfo {
        key: material.key(),
        role: "test",
        kind: test.boot.kind.name.into(),
        summary: shown_in(&test.name),
        index: spec.steps.len(),
        steps: spec.steps.len(),
        position: Some(test.boot.position.clone()),
        volatile: test.boot.volatile.clone(),
        within: test.boot.within.clone(),
    };
    Ok(PlanNode {
        info,
        state: NodeState::Miss { reason: MissReason::NeverMade },
        material,
        policy: CachePolicy::default(),
        layer: None,
        took: None,
        spec: id,
        work: Work::Step { parent: tip, number: 0, key, inner },
    })
}

/// A plan in the making.
struct Planner<'a> {
    plan: Plan,
    known: HashMap<LayerKey, NodeId>,
    context: &'a PlanContext<'a>,
}

impl Planner<'_> {
    /// The node of a spec's base that is made by its import.
    fn import(&mut self, spec: &Spec, id: SpecId, again: bool) -> Result<NodeId> {
        let (entry, context) = (&spec.import, &self.context.import);
        let key = entry.runner.key_inputs(context).map_err(|error| error.at(|| entry.place()))?;
        let mut key = keyed::with_steps(spec, key)?;
        if let Release::Locked { digest, .. } = entry.release {
            key.inputs.push(HostInput { name: "release".into(), kind: "file".into(), digest, mode: 0 });
        }
        let material = keyed::import(entry.runner.keyed_as(entry.kind), &key);
        let info = LayerInfo {
            volatile: entry.volatile.clone(),
            ..base_info(spec, material.key(), shown_in(&entry.runner.summary()))
        };
        let stale = match entry.release {
            Release::Pulled(now) => noted_release(info.key, context) != Some(now),
            _ => false,
        };
        let policy = CachePolicy { always_run: stale, ttl: None, again };
        Ok(self.add(info, material, policy, id, Work::Import(key)))
    }

    /// The node of a spec's base that is a layer with a tag. It is there as it lies, or it is an error: nothing makes it again.
    fn given(&mut self, spec: &Spec, id: SpecId, tag: &str) -> Result<NodeId> {
        let entry = &spec.import;
        let Some(key) = self.context.store.tagged(tag)? else {
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
        if let Some(node) = self.known.get(&key) {
            return Ok(*node);
        }
        let layer = self.context.store.chain(key)?.pop();
        let layer = layer.ok_or_else(|| Error::new(ErrorKind::Internal, "a chain without layers"))?;
        let info = base_info(spec, key, tag.to_owned());
        let work = Work::Given(layer.record.parent_id.clone());
        let node = PlanNode {
            info,
            state: NodeState::Hit,
            material: layer.record.material.clone(),
            policy: CachePolicy::default(),
            took: Some(layer.record.duration),
            layer: Some(layer),
            spec: id,
            work,
        };
        Ok(self.put(node))
    }

    /// The node with this key: the one that is there, or a new one.
    fn add(&mut self, info: LayerInfo, material: KeyMaterial, policy: CachePolicy, spec: SpecId, work: Work) -> NodeId {
        if let Some(node) = self.known.get(&info.key) {
            let found = &mut self.plan.nodes[*node];
            found.policy = found.policy.and(policy);
            return *node;
        }
        let mut node = PlanNode { info, state: NodeState::Hit, material, policy, layer: None, took: None, spec, work };
        let below = node.parent().map(|parent| self.plan[parent].layer.as_ref());
        let reason = match below {
            _ if self.context.force => MissReason::Forced,
            Some(None) => MissReason::ParentMissing,
            _ => match usable(self.context.store, node.info.key, below.flatten().map(|layer| &*layer.record.id)) {
                Lookup::Present(layer) => {
                    node.took = Some(layer.record.duration);
                    node.layer = Some(*layer);
                    return self.put(node);
                }
                Lookup::Absent => MissReason::NeverMade,
                Lookup::Damaged(problem) => {
                    self.context.events.warn(format!("layer {} is made again: {problem}", node.info.key.short()));
                    MissReason::Damaged { problem }
                }
            },
        };
        node.state = NodeState::Miss { reason };
        self.put(node)
    }

    fn put(&mut self, node: PlanNode) -> NodeId {
        let id = NodeId(self.plan.nodes().len());
        self.known.insert(node.info.key, id);
        self.plan.nodes.push(node);
        id
    }
}

/// What a spec's base is, for people.
fn base_info(spec: &Spec, key: LayerKey, summary: String) -> LayerInfo {
    let entry = &spec.import;
    LayerInfo {
        key,
        role: "import",
        kind: entry.kind.name.into(),
        summary,
        index: 0,
        steps: spec.steps.len(),
        position: Some(entry.position.clone()),
        volatile: Vec::new(),
        within: Vec::new(),
    }
}

/// Layers that are there and not to be taken are misses, and with each all that lies on it.
fn apply_policies(plan: &mut Plan) {
    for id in plan.ids() {
        let below = plan[id].parent().is_some_and(|parent| plan[parent].layer.is_none());
        let node = &mut plan.nodes[id];
        let Some(layer) = &node.layer else { continue };
        let refused = node.policy.refuses(layer.record.created);
        if let Some(reason) = refused.or(below.then_some(MissReason::ParentMissing)) {
            node.state = NodeState::Miss { reason };
            node.layer = None;
        }
    }
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
