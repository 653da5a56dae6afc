//! The JSON Schema of templates, for editors: the frame from the types here, the arguments of runners from theirs.
//!
//! Every value and every key may be an expression, or text that reads as a value, so each schema allows such a text. A
//! step of one's own may have any name, so the names of steps are offered and not demanded. What an import or an export
//! must have may come from the template that `from` or `to` takes in, so it is demanded only where there is neither.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::catalogue::runners;
use crate::template::{DEFAULTS, Definitions, IMPORTS_WITH_STEPS, OneOrMany, STEPS_WITHIN, StepOptions, arguments};

/// A template of virt-maker: how an image is made.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct Template {
    /// The format of this file: 2, or that of the older tool, 1, where it says nothing. [What differs](#formats).
    #[schemars(range(min = 1, max = 2))]
    format: Option<u8>,
    /// What people call it.
    name: Option<String>,
    /// What it is for.
    description: Option<String>,
    /// Values with their defaults; `-p NAME=VALUE` sets them. They may use each other.
    params: Option<BTreeMap<String, Value>>,
    /// A template that this one is put on top of.
    from: Option<String>,
    /// A template that is put on top of this one.
    to: Option<String>,
    /// Templates that are built before this one.
    before: Option<OneOrMany>,
    /// Templates that are built after this one.
    after: Option<OneOrMany>,
    /// Lists of values by name: one image for each combination. `include` and `exclude` are lists of combinations.
    matrix: Option<BTreeMap<String, Vec<Value>>>,
    /// Files with definitions of steps.
    r#use: Option<OneOrMany>,
    /// Steps of one's own, by name.
    define: Option<BTreeMap<String, DefinitionSchema>>,
    /// Values that steps may read while they run and that are nowhere else, by name.
    secrets: Option<BTreeMap<String, SecretSchema>>,
    /// Options for all steps.
    defaults: Option<BTreeMap<String, Value>>,
    /// What is made.
    spec: Option<Value>,
}

/// A step that is made of others.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct DefinitionSchema {
    /// What it does, in a sentence.
    description: Option<String>,
    /// An example of its use.
    example: Option<String>,
    /// Its parameters: a default, or a mapping with `type`, `description` and `default`.
    params: Option<BTreeMap<String, Value>>,
    /// The steps; they see the parameters and nothing else.
    steps: Value,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct SecretSchema {
    /// The variable of the environment that holds it.
    env: Option<String>,
    /// The file of the host that holds it.
    file: Option<String>,
    /// Enters the key of the steps that use it.
    version: Option<Value>,
}

/// What may stand beside a runner.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Options {
    /// An expression; where it is false the step is not in the chain.
    when: Option<String>,
    #[schemars(flatten)]
    options: StepOptions,
}

/// The JSON Schema of the options, for tables in documents.
pub fn options_schema() -> Value {
    arguments::<Options>()
}

/// The JSON Schema of the keys of a template, for tables in documents.
pub fn keys_schema() -> Value {
    arguments::<Template>()
}

/// The JSON Schema of templates.
pub fn schema() -> Value {
    let all = runners(&Definitions::default());
    let of = |role: &str| -> Map<String, Value> {
        let described = |runner: &super::Runner| {
            let mut schema = loose(&runner.arguments);
            schema["description"] = runner.about.as_str().into();
            (runner.name.clone(), schema)
        };
        all.iter().filter(|runner| runner.role == role).map(described).collect()
    };
    let one = |about: &str, runners: Map<String, Value>| {
        json!({
            "description": about, "type": "object", "minProperties": 1, "maxProperties": 1,
            "properties": runners, "patternProperties": {"\\{\\{": {}}, "additionalProperties": false,
        })
    };
    let (mut imports, mut exports) = (of("import"), of("export"));
    let of_import = json!({"properties": take_demands(&mut imports)});
    let of_export = json!({"properties": take_demands(&mut exports)});
    let mut step = of("step");
    let options = loose(&options_schema());
    step.extend(options["anyOf"][0]["properties"].as_object().cloned().unwrap_or_default());
    for name in STEPS_WITHIN {
        step[name]["anyOf"][0]["properties"]["steps"] =
            json!({"description": "What is done in the running system.", "$ref": "#/$defs/steps"});
    }
    for name in IMPORTS_WITH_STEPS {
        imports[name]["anyOf"][0]["properties"]["steps"] =
            json!({"description": "What is done meanwhile.", "$ref": "#/$defs/steps"});
    }
    let more = json!({
        "include": {"description": "A file whose steps stand here.", "type": "string"},
        "with": {"description": "Parameters of the file that is included.", "type": "object"},
        "for": {
            "description": "One variable with a list: the rest of the item once for each of its values.",
            "type": "object", "minProperties": 1, "maxProperties": 1,
        },
        "steps": {"description": "Several steps as one item.", "$ref": "#/$defs/steps"},
    });
    step.extend(more.as_object().cloned().unwrap_or_default());

    let mut root = arguments::<Template>();
    let properties = root["properties"].as_object_mut().expect("a template has keys");
    let defaults = options_schema()["properties"].as_object().cloned().unwrap_or_default();
    let defaults: Map<_, _> = defaults.into_iter().filter(|(name, _)| DEFAULTS.contains(&name.as_str())).collect();
    properties["defaults"] = json!({
        "description": properties["defaults"]["description"],
        "type": ["object", "null"], "properties": defaults, "additionalProperties": false,
    });
    for (name, value) in properties.iter_mut() {
        if !["params", "define"].contains(&name.as_str()) {
            let about = value["description"].clone();
            *value = loose(value);
            value["description"] = about;
        }
    }
    properties["define"]["additionalProperties"]["properties"]["steps"] = json!({"$ref": "#/$defs/steps"});
    let mut boot = step["boot"].clone();
    if let Some(arguments) = boot["anyOf"][0]["properties"].as_object_mut() {
        arguments.remove("steps");
    }
    let tests = json!({
        "description": "What is looked at in the machine that the image becomes, before anything is made of it.",
        "anyOf": [
            {"type": "array", "items": {"anyOf": [
                {
                    "type": "object", "additionalProperties": false, "required": ["name"],
                    "properties": {
                        "name": {"description": "What reports call it.", "type": ["string", "number", "boolean"]},
                        "boot": boot,
                        "steps": {"description": "What is done and expected in the running system.", "$ref": "#/$defs/steps"},
                    },
                },
                {"$ref": "#/$defs/expression"},
            ]}},
            {"$ref": "#/$defs/expression"},
            {"type": "null"},
        ],
    });
    properties["spec"] = json!({
        "description": "What is made.",
        "anyOf": [
            {
                "type": "object", "additionalProperties": false,
                "properties": {
                    "import": one("Where the base comes from.", imports),
                    "steps": {"$ref": "#/$defs/steps"},
                    "tests": tests,
                    "export": {"anyOf": [
                        {"$ref": "#/$defs/export"},
                        {"type": "array", "items": {"allOf": [{"$ref": "#/$defs/export"}, of_export.clone()]}},
                        {"$ref": "#/$defs/expression"},
                    ]},
                },
            },
            {"$ref": "#/$defs/expression"},
        ],
    });
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "virt-maker template".into();
    root["if"] = json!({"anyOf": [{"required": ["from"]}, {"required": ["to"]}]});
    root["else"] = json!({"properties": {"spec": {"properties": {"import": of_import, "export": of_export}}}});
    root["$defs"] = json!({
        "expression": {
            "description": "An expression, or the text of a value.", "type": "string",
            "pattern": "\\{[{%#]|^\\s*([\\[{(+.0-9-]|(True|False|None)\\s*$)",
        },
        "steps": {"anyOf": [
            {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/step"}, {"$ref": "#/$defs/steps"}]}},
            {"$ref": "#/$defs/expression"},
            {"type": "null"},
        ]},
        "export": one("What is made of the result.", exports),
        "step": {"type": "object", "minProperties": 1, "properties": step},
    });
    root
}

/// Takes away what runners demand of their arguments, and gives it back by runner. In a list of arguments that may
/// also be written shorter, it is demanded of the long form.
fn take_demands(runners: &mut Map<String, Value>) -> Map<String, Value> {
    let mut demands = Map::new();
    for (name, schema) in runners {
        let has_some = |schema: &&mut Value| schema.get("required").is_some();
        let mut forms: Vec<&mut Value> = match schema.get_mut("anyOf") {
            Some(Value::Array(forms)) => forms.iter_mut().filter(has_some).collect(),
            _ => vec![schema],
        };
        if let [form] = forms.as_mut_slice()
            && let Some(required) = form.as_object_mut().and_then(|members| members.remove("required"))
        {
            // A key that is an expression may be the one that is wanted.
            let plain = json!({"propertyNames": {"not": {"pattern": "\\{\\{"}}});
            demands.insert(name.clone(), json!({"if": plain, "then": {"required": required}}));
        }
    }
    demands
}

/// A schema that an expression fits too, at every depth. Where text is wanted, a number is text as it was written.
fn loose(schema: &Value) -> Value {
    let mut inner = schema.clone();
    let mut closed = false;
    if let Some(members) = inner.as_object_mut() {
        for (key, value) in members.iter_mut() {
            match (key.as_str(), value) {
                ("properties", Value::Object(properties)) => {
                    properties.values_mut().for_each(|value| *value = loose(value));
                    closed = true;
                }
                ("items" | "additionalProperties", value @ Value::Object(_)) => *value = loose(value),
                ("anyOf" | "oneOf", Value::Array(options)) => *options = alternatives(options),
                ("type", value) => {
                    if *value == "string" {
                        *value = json!(["string", "number", "boolean"]);
                    } else if let Value::Array(names) = value
                        && names.iter().any(|name| name == "string")
                    {
                        names.extend(["number", "boolean"].map(Value::from));
                    }
                }
                _ => {}
            }
        }
        if closed && members.get("additionalProperties") == Some(&Value::Bool(false)) {
            members.insert("patternProperties".into(), json!({"\\{\\{": {}}));
        }
    }
    if inner.get("anyOf").is_some() {
        return inner;
    }
    let text = inner.get("enum").is_none()
        && inner["type"].as_array().is_some_and(|names| names.iter().any(|name| name == "string"));
    if text
        || inner.get("type").is_none()
            && inner.get("anyOf").is_none()
            && inner.get("oneOf").is_none()
            && inner.get("const").is_none()
            && inner.get("enum").is_none()
    {
        return inner;
    }
    json!({"anyOf": [inner, {"$ref": "#/$defs/expression"}]})
}

/// Alternatives without alternatives in them, and the expression once.
fn alternatives(options: &[Value]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for option in options.iter().map(loose) {
        let parts = match option.get("anyOf").and_then(Value::as_array) {
            Some(parts) if option.as_object().is_some_and(|members| members.len() == 1) => parts.clone(),
            _ => vec![option],
        };
        for part in parts {
            if !all.contains(&part) {
                all.push(part);
            }
        }
    }
    let expression = json!({"$ref": "#/$defs/expression"});
    if !all.contains(&expression) {
        all.push(expression);
    }
    all
}
