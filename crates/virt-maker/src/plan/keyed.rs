//! What of a spec enters the key of a layer.
//!
//! What shapes a layer is taken apart here field by field, without `..`, and variables that are not used do not compile: so
//! an option that is new in [`Shaping`] has to enter the key. The table in `docs/cache-keys.md` says why each does.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::import::{ImportKey, ImportKind};
use crate::key::{KeyMaterial, LayerKey};
use crate::spec::{Spec, StepEntry};
use crate::step::StepKey;
use crate::template::{CacheMount, Shaping};

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
pub(super) fn step(spec: &Spec, step: &StepEntry, key: &StepKey, parent: LayerKey) -> Result<KeyMaterial> {
    let StepKey { arguments, inputs } = key;
    Ok(KeyMaterial {
        role: "step".into(),
        kind: step.kind.name.into(),
        kind_version: step.kind.version,
        arguments: arguments.clone(),
        inputs: inputs.clone(),
        parent: Some(parent),
        options: options(spec, step)?,
    })
}

/// The options of a step as its key has them. One that says what is so without it is none: no key changes when an option is
/// new.
#[derive(Serialize)]
struct Keyed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    privileged: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_key: Option<&'a [String]>,
    /// The versions of the secrets by their names; their values enter no key.
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<BTreeMap<&'a str, Option<&'a str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mounts: Option<&'a [CacheMount]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    made_by: Option<&'a BTreeMap<String, String>>,
}

fn options(spec: &Spec, step: &StepEntry) -> Result<Map<String, Value>> {
    let Shaping { env, network, privileged, cache_key, secrets, mounts, made_by } = &step.options.shaping;
    let version = |name: &String| spec.secrets.iter().find(|secret| secret.name == *name)?.version.as_deref();
    let keyed = Keyed {
        env: (!env.is_empty()).then_some(env),
        network: network.filter(|network| *network != step.kind.network),
        privileged: privileged.filter(|privileged| *privileged),
        cache_key: (!cache_key.is_empty()).then_some(cache_key),
        secrets: (!secrets.is_empty()).then(|| secrets.iter().map(|name| (name.as_str(), version(name))).collect()),
        mounts: (!mounts.is_empty()).then_some(mounts),
        made_by: (!made_by.is_empty()).then_some(made_by),
    };
    match serde_json::to_value(&keyed) {
        Ok(Value::Object(options)) => Ok(options),
        _ => Err(Error::new(ErrorKind::Internal, "the options of a step cannot be keyed")),
    }
}
