//! What a kind of runner says of itself besides its name: the JSON Schema of its arguments, made from the type that
//! reads them, and what it needs on the host. `virt-maker runners`, `virt-maker schema` and the tables in
//! `docs/templates.md` are made of this and of nothing else.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

/// Makes the JSON Schema of a kind's arguments; [`arguments`] of the type that reads them.
pub type Arguments = fn() -> serde_json::Value;

/// The JSON Schema of a type: what serde reads, with the comments on its fields as descriptions.
pub fn arguments<T: JsonSchema>() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.meta_schema = None;
        settings.inline_subschemas = true;
    });
    let mut schema: Schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    schema.to_value()
}

/// A program that a runner starts on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Need {
    /// Its name.
    pub program: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// What it is needed for, where the runner does other things without it.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub purpose: Option<&'static str>,
}

impl Need {
    /// One that the runner always needs.
    pub const fn new(program: &'static str, package: &'static str) -> Need {
        Need { program, package, purpose: None }
    }

    /// One that it needs for this.
    pub const fn of(program: &'static str, package: &'static str, purpose: &'static str) -> Need {
        Need { program, package, purpose: Some(purpose) }
    }
}

/// One, or a list of them.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several, in their order.
    Many(Vec<String>),
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Example {
        /// Where it goes.
        dest: String,
        /// How often.
        #[serde(default = "three")]
        times: u32,
        /// What for.
        reasons: Option<Vec<String>>,
    }

    fn three() -> u32 {
        3
    }

    #[test]
    fn a_schema_says_what_serde_reads() {
        let expected = json!({
            "type": "object",
            "properties": {
                "dest": {"description": "Where it goes.", "type": "string"},
                "times": {"description": "How often.", "type": "integer", "format": "uint32", "minimum": 0, "default": 3},
                "reasons": {"description": "What for.", "type": ["array", "null"], "items": {"type": "string"}},
            },
            "additionalProperties": false,
            "required": ["dest"],
        });
        assert_eq!(arguments::<Example>(), expected);
    }
}
