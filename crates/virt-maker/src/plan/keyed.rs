//! What of a spec enters the key of a layer.
//!
//! What a runner says of its arguments ([`StepKey::of`]), its version, its parent, and all options that shape it
//! ([`crate::template::Shaping::keyed`]).

use serde_json::Map;

use crate::import::{ImportKey, ImportKind};
use crate::key::{KeyMaterial, LayerKey};
use crate::spec::{Spec, StepEntry};
use crate::step::StepKey;
use crate::template::KeyContext;

/// What a base is keyed by.
pub(super) fn import(kind: &ImportKind, key: &ImportKey) -> KeyMaterial {
    KeyMaterial {
        role: "import".into(),
        kind: kind.name.into(),
        kind_version: kind.version,
        arguments: key.arguments.clone(),
        inputs: key.inputs.clone(),
        parent: None,
        options: Map::new(),
    }
}

/// What the layer of a step on `parent` is keyed by.
pub(super) fn step(spec: &Spec, step: &StepEntry, key: &StepKey, parent: LayerKey) -> KeyMaterial {
    let StepKey { arguments, inputs } = key;
    let version = |name: &str| spec.secrets.iter().find(|secret| secret.name == name)?.version.clone();
    let context = KeyContext { network: step.kind.network, version: &version };
    KeyMaterial {
        role: "step".into(),
        kind: step.kind.name.into(),
        kind_version: step.kind.version,
        arguments: arguments.clone(),
        inputs: inputs.clone(),
        parent: Some(parent),
        options: step.options.shaping.keyed(&context),
    }
}
