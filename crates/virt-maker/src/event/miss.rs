//! Why a layer is not there.

use serde::Serialize;

use crate::key::LayerKey;

/// Why a layer is not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum MissReason {
    /// Its parent is missing, so it cannot be there.
    ParentMissing,
    /// Nothing like it was ever made on this parent.
    NeverMade,
    /// Another layer is there in its place, of the same kind on the same parent: what differs between the two.
    Changed {
        /// The layer that is there.
        other: LayerKey,
        /// All that differs, at least one thing.
        changes: Vec<FieldChange>,
    },
    /// It was there, and was collected.
    Collected {
        /// When, in seconds since 1970.
        at: u64,
        /// Why, in a few words.
        why: String,
    },
    /// There is an entry, but it cannot be used.
    Damaged {
        /// What is wrong with it.
        problem: String,
    },
    /// `--force` was given, or `--force-from` for it.
    Forced,
    /// The step says `cache: always-run`.
    AlwaysRun,
    /// It is older than the step's `cache: {ttl: ...}` allows.
    Expired {
        /// Its age in seconds.
        age: u64,
        /// What is allowed.
        ttl: u64,
    },
}

/// One thing that enters a key and is not the same in two layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// What it is: `arguments.script`, `inputs[site/index.html].digest`, `kind_version`, ...
    pub field: String,
    /// Its value in the layer that is there; none where it has none.
    pub old: Option<String>,
    /// Its value in the layer that is missing.
    pub new: Option<String>,
}
