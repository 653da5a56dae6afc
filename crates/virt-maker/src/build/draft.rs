//! Layers in the making, as far as all of a build do it in one way.

use super::Build;
use crate::error::Result;
use crate::plan::{PlanNode, StepNode};
use crate::store::{Draft, KeyLock, LayerRecord, Outcome, Workspace};

/// A draft with an empty overlay whose header names the parent's file as it will lie beside it in the store.
pub(super) fn draft_on(
    build: &Build<'_>,
    workspace: &Workspace,
    step: &StepNode<'_>,
    parent: &LayerRecord,
    lock: KeyLock,
) -> Result<Draft> {
    let folder = workspace.subfolder(&step.node.info.key.to_string())?;
    Ok(build.store.scratch(folder, step.node.material.clone(), parent)?.into_draft(lock))
}

/// What a layer's record says of its making, as far as the plan knows it.
pub(super) fn outcome_of(node: &PlanNode, seconds: f64) -> Outcome {
    let within = node.info.within.iter().map(|within| within.name.clone()).collect();
    Outcome { summary: node.info.summary.clone(), within, seconds, ..Outcome::default() }
}
