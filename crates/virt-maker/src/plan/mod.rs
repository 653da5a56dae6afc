//! Plans: the prefix tree of all requested specs, each node with its key and whether it is there.

use crate::event::LayerInfo;
use crate::key::LayerKey;

/// The prefix tree.
#[derive(Debug)]
pub struct Plan {
    /// Parents come before their children; within that, in the order of the specs.
    pub nodes: Vec<PlanNode>,
    /// For each spec, the index of its last node.
    pub tips: Vec<usize>,
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
