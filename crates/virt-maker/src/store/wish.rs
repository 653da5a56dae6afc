//! What is to be collected.

use std::collections::HashMap;
use std::time::Duration;

use crate::key::LayerKey;

/// What a store may have. Sizes in bytes; only layers count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// All layers together take no more than this.
    pub max_size: Option<u64>,
    /// How much stays free on the disk that holds the store.
    pub min_free: Option<u64>,
    /// Layers that were not used for longer go.
    pub max_age: Option<Duration>,
}

impl Limits {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

/// What is to be collected.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// What can never be used again, and what passes these limits.
    Within(Limits),
    /// All that nobody uses or wants to keep.
    Everything,
    /// These, and all on them. Tags and pins do not keep them, for nothing is left to keep.
    Bad(HashMap<LayerKey, Verdict>),
}

/// What is wrong with a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// In words.
    pub problem: String,
    /// The making that was looked at; none where its record could not be read. One that was made since is another.
    pub id: Option<String>,
}
