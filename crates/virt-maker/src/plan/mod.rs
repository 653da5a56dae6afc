//! Plans: the prefix tree of all requested specs, each node with its key and whether it is there.

mod again;
mod explain;
mod make;

pub(crate) use make::usable;
pub use make::{PlanContext, make};

use std::time::{SystemTime, UNIX_EPOCH};

use crate::event::LayerInfo;
pub use crate::event::{FieldChange, MissReason};
use crate::import::ImportKey;
use crate::key::KeyMaterial;
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

    /// Whether the files of a spec get SELinux labels at its exports, as far as the layers tell that are there: `None` where
    /// none of them does.
    pub fn labels(&self, spec: usize) -> Option<bool> {
        self.path(spec).iter().rev().find_map(|node| self.nodes[*node].layer.as_ref()?.record.selinux)
    }

    /// How long what is missing took when it, or what is there in its stead, was made, in seconds; and for how many of the layers that is
    /// known.
    pub fn cost(&self) -> (f64, usize) {
        let missing = self.nodes.iter().filter(|node| node.state != NodeState::Hit);
        missing.filter_map(|node| node.took).fold((0.0, 0), |(sum, count), took| (sum + took, count + 1))
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
    /// For how long a layer of it is good.
    pub policy: CachePolicy,
    /// The layer, where it is there.
    pub layer: Option<Layer>,
    /// How long it took to make it, or what is there in its stead, in seconds; `None` where nothing tells.
    pub took: Option<f64>,
    /// The first spec that asks for it, and which part of that spec it is.
    pub origin: (usize, Part),
}

/// Which part of a spec a layer comes from.
#[derive(Debug)]
pub enum Part {
    /// The import, with what its runner needs to make it.
    Import(ImportKey),
    /// A layer that is there and that nobody can make again here: one with a tag. It lies on this making of its parent.
    Layer(Option<String>),
    /// The step with this index, from 0, with what its runner needs to run.
    Step(usize, StepKey),
}

impl PlanNode {
    /// The making of the parent that its layer has to lie on: that of the layer `below` it in the path, where the path does not
    /// begin in the middle of a chain.
    pub(crate) fn lies_on<'a>(&'a self, below: Option<&'a Layer>) -> Option<&'a str> {
        match &self.origin.1 {
            Part::Layer(parent) => parent.as_deref(),
            Part::Import(_) | Part::Step(..) => below.map(|layer| &*layer.record.id),
        }
    }

    /// Whether it is a layer that is taken as it lies, whatever is to be made again.
    pub(crate) fn is_given(&self) -> bool {
        matches!(self.origin.1, Part::Layer(_))
    }
}

/// For how long a layer may be taken from the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CachePolicy {
    /// Never.
    pub always_run: bool,
    /// So many seconds after it was made.
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let age = now.saturating_sub(created);
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
