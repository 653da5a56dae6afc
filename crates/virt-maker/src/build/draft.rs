//! Drafts of steps: an empty overlay on the image of the layer below, in a folder that is sealed with it.

use crate::disk::ImageFormat;
use crate::disk::overlay::{self, Backing};
use crate::error::Result;
use crate::plan::PlanNode;
use crate::store::{Draft, LayerRecord, Store, Workspace};

/// A draft with an empty overlay whose header names the parent's file as it will lie beside it in the store.
pub(super) fn draft_on(store: &Store, workspace: &Workspace, node: &PlanNode, parent: &LayerRecord) -> Result<Draft> {
    let folder = workspace.subfolder(&node.info.key.to_string())?;
    let draft = store.draft(folder, node.material.clone(), ImageFormat::Qcow2, parent.virtual_size)?;
    create_overlay(&draft, parent)?;
    Ok(draft)
}

/// Writes the empty overlay of a draft.
pub(super) fn create_overlay(draft: &Draft, parent: &LayerRecord) -> Result<()> {
    let backing = Backing { name: &parent.image_name(), format: parent.format };
    overlay::create(&draft.image(), parent.virtual_size, backing)
}
