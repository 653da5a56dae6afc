//! What is to be collected.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

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
    /// The same, after a build: what was used since it began goes last, or a limit would throw away what was just made.
    AfterBuild {
        /// The limits.
        limits: Limits,
        /// When the build began.
        began: SystemTime,
    },
    /// All that nobody uses or wants to keep.
    Everything,
    /// These, and all on them. Tags and pins do not keep them, for nothing is left to keep.
    Bad(HashMap<LayerKey, Verdict>),
}

impl Wish {
    /// The limits that are to be kept, where it is about limits.
    pub(super) fn limits(&self) -> Option<&Limits> {
        match self {
            Wish::Within(limits) | Wish::AfterBuild { limits, .. } => Some(limits),
            Wish::Everything | Wish::Bad(_) => None,
        }
    }

    /// Whether a layer that was last used then goes after all others.
    pub(super) fn is_last(&self, used: SystemTime) -> bool {
        matches!(self, Wish::AfterBuild { began, .. } if used >= *began)
    }
}

/// What is wrong with a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// In words.
    pub problem: String,
    /// The making that was looked at; none where its record could not be read. One that was made since is another.
    pub id: Option<String>,
}
