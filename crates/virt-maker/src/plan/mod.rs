//! Plans: the prefix tree of all requested specs, each node with its key and whether it is there.

mod again;
mod explain;
mod id;
mod keyed;
mod make;

pub use id::{Id, NodeId, SpecId, Table};
pub(crate) use make::usable;
pub use make::{PlanContext, make};

use crate::event::LayerInfo;
pub use crate::event::{FieldChange, MissReason};
use crate::host::clock;
use crate::import::ImportKey;
use crate::key::KeyMaterial;
use crate::spec::{Spec, StepEntry};
use crate::step::StepKey;
use crate::store::Layer;

/// The prefix tree.
#[derive(Debug)]
pub struct Plan {
    /// Parents come before their children; within that, in the order of the specs.
    nodes: Table<NodeId, PlanNode>,
    /// For each spec, its last node.
    tips: Table<SpecId, NodeId>,
    /// For each spec, its tests in their order: nodes as if each had a layer, on that of the last node.
    tests: Table<SpecId, Vec<PlanNode>>,
}

impl Plan {
    /// All nodes: parents come before their children; within that, in the order of the specs.
    pub fn nodes(&self) -> &[PlanNode] {
        self.nodes.values()
    }

    /// The places of all nodes, in the same order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + Clone + use<> {
        (0..self.nodes().len()).map(NodeId)
    }

    /// The last node of a spec.
    pub fn tip(&self, spec: SpecId) -> NodeId {
        self.tips[spec]
    }

    /// The last nodes of all specs, in their order.
    pub fn tips(&self) -> impl Iterator<Item = (SpecId, NodeId)> + '_ {
        self.tips.values().iter().enumerate().map(|(spec, tip)| (SpecId(spec), *tip))
    }

    /// The places from the base to a node, with both.
    pub fn line(&self, node: NodeId) -> Vec<NodeId> {
        let mut line: Vec<NodeId> = std::iter::successors(Some(node), |node| self[*node].parent()).collect();
        line.reverse();
        line
    }

    /// The nodes from the base to the tip of a spec.
    pub fn layers(&self, spec: SpecId) -> Vec<&PlanNode> {
        self.line(self.tip(spec)).into_iter().map(|node| &self[node]).collect()
    }

    /// The way from the base to a node, with the steps of the specs that the plan was made of.
    pub(crate) fn path<'a>(&'a self, specs: &'a [Spec], node: NodeId) -> Path<'a> {
        let mut steps = Vec::new();
        let mut here = node;
        while let Some(step) = self.step(specs, here) {
            here = step.parent;
            steps.push(step);
        }
        steps.reverse();
        Path { base: &self[here], steps }
    }

    /// The step that makes the layer of a node; none for a base.
    pub(crate) fn step<'a>(&'a self, specs: &'a [Spec], id: NodeId) -> Option<StepNode<'a>> {
        let node = &self[id];
        let Work::Step { parent, number, key, inner } = &node.work else { return None };
        Some(StepNode { node, parent: *parent, entry: &node.spec.of(specs).steps[*number], key, inner })
    }

    /// What a test of a spec runs, by its number from 0.
    pub(crate) fn test<'a>(&'a self, specs: &'a [Spec], spec: SpecId, number: usize) -> StepNode<'a> {
        let node = &self.tests[spec][number];
        let Work::Step { parent, key, inner, .. } = &node.work else { unreachable!("a test is planned as a step") };
        StepNode { node, parent: *parent, entry: &spec.of(specs).tests[number].boot, key, inner }
    }

    /// The tests of a spec, in their order. Their keys are those of their verdicts.
    pub fn tests(&self, spec: SpecId) -> &[PlanNode] {
        &self.tests[spec]
    }

    /// Whether the files of a spec get SELinux labels at its exports, as far as the layers tell that are there: `None` where
    /// none of them does.
    pub fn labels(&self, spec: SpecId) -> Option<bool> {
        self.layers(spec).iter().rev().find_map(|node| node.layer.as_ref()?.record.selinux)
    }

    /// How long what is missing took when it, or what is there in its stead, was made, in seconds; and for how many of the layers that is
    /// known.
    pub fn cost(&self) -> (f64, usize) {
        let missing = self.nodes().iter().filter(|node| node.state != NodeState::Hit);
        missing.filter_map(|node| node.took).fold((0.0, 0), |(sum, count), took| (sum + took, count + 1))
    }

    /// How many layers are there already.
    pub fn hits(&self) -> usize {
        self.nodes().iter().filter(|node| node.state == NodeState::Hit).count()
    }
}

impl std::ops::Index<NodeId> for Plan {
    type Output = PlanNode;

    fn index(&self, id: NodeId) -> &PlanNode {
        &self.nodes[id]
    }
}

/// One layer of a plan.
#[derive(Debug)]
pub struct PlanNode {
    /// What it is.
    pub info: LayerInfo,
    /// Whether it is there.
    pub state: NodeState,
    /// What its key covers.
    pub material: KeyMaterial,
    /// For how long a layer of it is good.
    pub policy: CachePolicy,
    /// The layer, where it is there.
    pub layer: Option<Layer>,
    /// How long it took to make it, or what is there in its stead, in seconds; `None` where nothing tells.
    pub took: Option<f64>,
    /// The first spec that asks for it.
    pub spec: SpecId,
    /// What makes it.
    pub work: Work,
}

/// What makes a layer: a part of the first spec that asks for it.
#[derive(Debug)]
pub enum Work {
    /// The import, with what its runner needs to make it.
    Import(ImportKey),
    /// Nothing here: it is a layer with a tag. It lies on this making of its parent.
    Given(Option<String>),
    /// A step.
    Step {
        /// The layer that it runs on.
        parent: NodeId,
        /// Its index in the spec, from 0.
        number: usize,
        /// What its runner needs to run.
        key: StepKey,
        /// The same of the steps within it.
        inner: Vec<StepKey>,
    },
}

/// The way from a base to a node.
#[derive(Debug)]
pub(crate) struct Path<'a> {
    /// Its base.
    pub(crate) base: &'a PlanNode,
    /// The steps on that, in their order.
    pub(crate) steps: Vec<StepNode<'a>>,
}

/// A layer that a step makes, with all that it is made of.
#[derive(Clone, Copy)]
pub(crate) struct StepNode<'a> {
    /// The layer.
    pub(crate) node: &'a PlanNode,
    /// The layer that it runs on.
    pub(crate) parent: NodeId,
    /// The step as its spec has it.
    pub(crate) entry: &'a StepEntry,
    /// What the runner needs to run.
    pub(crate) key: &'a StepKey,
    /// The same of the steps within it.
    pub(crate) inner: &'a [StepKey],
}

impl std::fmt::Debug for StepNode<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.node.fmt(f)
    }
}

impl PlanNode {
    /// Its parent; none for a base.
    pub fn parent(&self) -> Option<NodeId> {
        match &self.work {
            Work::Step { parent, .. } => Some(*parent),
            Work::Import(_) | Work::Given(_) => None,
        }
    }

    /// The making of the parent that its layer has to lie on: that of the layer `below` it in the path, where the path does not
    /// begin in the middle of a chain.
    pub(crate) fn lies_on<'a>(&'a self, below: Option<&'a Layer>) -> Option<&'a str> {
        match &self.work {
            Work::Given(parent) => parent.as_deref(),
            Work::Import(_) | Work::Step { .. } => below.map(|layer| &*layer.record.id),
        }
    }

    /// Whether it is a layer that is taken as it lies, whatever is to be made again.
    pub(crate) fn is_given(&self) -> bool {
        matches!(self.work, Work::Given(_))
    }
}

/// For how long a layer may be taken from the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CachePolicy {
    /// Never.
    pub always_run: bool,
    /// For this many seconds after it was made.
    pub ttl: Option<u64>,
    /// Not this time: it was asked for ([`PlanContext::again`]).
    pub again: bool,
}

impl CachePolicy {
    /// The stricter of two.
    fn and(self, other: CachePolicy) -> CachePolicy {
        let ttl = match (self.ttl, other.ttl) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        let (always_run, again) = (self.always_run || other.always_run, self.again || other.again);
        CachePolicy { always_run, ttl, again }
    }

    /// Why a layer that was made at `created` (seconds since 1970) is not taken, if it is not.
    pub(crate) fn refuses(self, created: u64) -> Option<MissReason> {
        if self.again {
            return Some(MissReason::Forced);
        }
        if self.always_run {
            return Some(MissReason::AlwaysRun);
        }
        let age = clock::now().saturating_sub(created);
        self.ttl.filter(|ttl| age >= *ttl).map(|ttl| MissReason::Expired { age, ttl })
    }
}

/// Whether a layer is there.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum NodeState {
    /// It is in the store.
    Hit,
    /// It has to be made.
    Miss {
        /// Why.
        reason: MissReason,
    },
}
