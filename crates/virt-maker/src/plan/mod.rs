//! Plans: the prefix tree of all requested specs, each node with its key and whether it is there.

mod explain;
mod make;

pub(crate) use make::usable;
pub use make::{PlanContext, make};

use crate::event::LayerInfo;
use crate::import::ImportKey;
use crate::key::{KeyMaterial, LayerKey};
use crate::step::StepKey;
use crate::store::Layer;

/// The prefix tree.
#[derive(Debug)]
pub struct Plan {
    /// Parents come before their children; within that, in the order of the specs.
    pub nodes: Vec<PlanNode>,
    /// For each spec, the index of its last node.
    pub tips: Vec<usize>,
}

impl Plan {
    /// The nodes from the base to the tip of a spec.
    pub fn path(&self, spec: usize) -> Vec<usize> {
        let mut path: Vec<usize> =
            std::iter::successors(Some(self.tips[spec]), |node| self.nodes[*node].parent).collect();
        path.reverse();
        path
    }

    /// How many layers are there already.
    pub fn hits(&self) -> usize {
        self.nodes.iter().filter(|node| node.state == NodeState::Hit).count()
    }
}

/// One layer of a plan.
#[derive(Debug)]
pub struct PlanNode {
    /// What it is.
    pub info: LayerInfo,
    /// Index of its parent in [`Plan::nodes`]; `None` for a base.
    pub parent: Option<usize>,
    /// Whether it is there.
    pub state: NodeState,
    /// What its key covers.
    pub material: KeyMaterial,
    /// The layer, where it is there.
    pub layer: Option<Layer>,
    /// The first spec that asks for it, and which part of that spec it is.
    pub origin: (usize, Part),
}

/// Which part of a spec a layer comes from.
#[derive(Debug)]
pub enum Part {
    /// The import, with what its runner needs to make it.
    Import(ImportKey),
    /// The step with this index, from 0, with what its runner needs to run.
    Step(usize, StepKey),
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

/// Why a layer is not there.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum MissReason {
    /// Its parent is missing, so it cannot be there.
    ParentMissing,
    /// Nothing like it was ever made on this parent.
    NeverMade,
    /// The parent has another layer of the same kind: what differs between the two.
    Changed {
        /// The layer that is there.
        other: LayerKey,
        /// What differs: `arguments.content`, `inputs[index.html].digest`, ...
        field: String,
        /// Value there.
        old: String,
        /// Value here.
        new: String,
    },
    /// There is an entry, but it cannot be used.
    Damaged {
        /// What is wrong with it.
        problem: String,
    },
    /// `--force` was given.
    Forced,
}
