//! What of a spec enters the key of a layer.
//!
//! What a runner says of its arguments ([`StepKey::of`]), its version, its parent, and all options that shape it
//! ([`crate::template::Shaping::keyed`]).

use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::import::{ImportKey, ImportKind};
use crate::key::{HostInput, KeyMaterial, LayerKey};
use crate::spec::{Spec, StepEntry};
use crate::step::{Action, StepKey};
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

/// What a step is keyed by itself, with the steps within it; and the keys of those.
pub(super) fn own(spec: &Spec, step: &StepEntry) -> Result<(StepKey, Vec<StepKey>)> {
    let key = step.runner.key_inputs().map_err(|error| error.at(|| step.place()))?;
    if step.inner.is_empty() {
        return Ok((key, Vec::new()));
    }
    let Within { keys, steps, inputs } = within(spec, &step.inner)?;
    Ok((key.with_steps(steps, inputs), keys))
}

/// What a base is keyed by that is made by an import with these steps within it.
pub(super) fn with_steps(spec: &Spec, mut key: ImportKey) -> Result<ImportKey> {
    if !spec.import.inner.is_empty() {
        let Within { keys: _, steps, inputs } = within(spec, &spec.import.inner)?;
        key.arguments["steps"] = Value::Array(steps);
        key.inputs.extend(inputs);
    }
    Ok(key)
}

/// What steps within something are keyed by.
struct Within {
    keys: Vec<StepKey>,
    steps: Vec<Value>,
    inputs: Vec<HostInput>,
}

fn within(spec: &Spec, inner: &[StepEntry]) -> Result<Within> {
    let (mut keys, mut steps, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
    for (number, inner) in inner.iter().enumerate() {
        let key = inner.runner.key_inputs().map_err(|error| error.at(|| inner.place()))?;
        steps.push(json!({
            "kind": inner.kind.name,
            "version": inner.kind.version,
            "arguments": key.arguments,
            "options": options(spec, inner),
        }));
        let named = |input: &HostInput| HostInput { name: format!("steps/{number}/{}", input.name), ..input.clone() };
        inputs.extend(key.inputs.iter().map(named));
        keys.push(key);
    }
    Ok(Within { keys, steps, inputs })
}

fn options(spec: &Spec, step: &StepEntry) -> Map<String, Value> {
    let version = |name: &str| spec.secrets.iter().find(|secret| secret.name == name)?.version.clone();
    step.options.shaping.keyed(&KeyContext { network: step.kind.network, version: &version })
}

/// What the verdict of a test of the layer `tip` is keyed by.
pub(super) fn test(spec: &Spec, boot: &StepEntry, key: &StepKey, tip: LayerKey) -> KeyMaterial {
    let mut options = options(spec, boot);
    // A layer does not depend on these; whether a test passes may.
    if let Action::Boot(boot) = boot.runner.action() {
        options.extend(boot.limits());
    }
    KeyMaterial { role: "test".into(), options, ..step(spec, boot, key, tip) }
}

/// What the layer of a step on `parent` is keyed by.
pub(super) fn step(spec: &Spec, step: &StepEntry, key: &StepKey, parent: LayerKey) -> KeyMaterial {
    let StepKey { arguments, inputs } = key;
    KeyMaterial {
        role: "step".into(),
        kind: step.kind.name.into(),
        kind_version: step.kind.version,
        arguments: arguments.clone(),
        inputs: inputs.clone(),
        parent: Some(parent),
        options: options(spec, step),
    }
}
