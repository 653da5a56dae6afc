//! What runners there are, for lists and documents: those of the program, those of its library, and a template's own.

use serde_json::{Map, Value, json};

use crate::template::{Definition, Definitions, Need, RunnerKind, library_steps};
use crate::{export, import, step};

/// One runner, as it describes itself.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Runner {
    /// `import`, `step` or `export`.
    pub role: &'static str,
    /// Its name in templates.
    pub name: String,
    /// Where it comes from: `built in`, `library`, or the file that defines it.
    pub origin: String,
    /// One sentence.
    pub about: String,
    /// JSON Schema of its arguments.
    pub arguments: Value,
    /// An example, as YAML.
    pub example: Option<String>,
    /// Programs that it starts on the host.
    pub needs: Vec<Need>,
    /// Whether its commands have the network unless a template says otherwise; only for steps of the program.
    pub network: Option<bool>,
    /// The definition, for steps that are made of others.
    #[serde(skip)]
    pub source: Option<String>,
}

/// One argument of a runner, as a row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its name; empty where the runner takes one value that has no name.
    pub name: String,
    /// Its type in words: `text`, `number`, `text or list of text`, ...
    pub kind: String,
    /// `required`, or the value where none is given; empty where there is none.
    pub default: String,
    /// What it is for.
    pub about: String,
}

/// A runner of a table of kinds.
fn built_in<R: ?Sized>(role: &'static str, kind: &RunnerKind<R>) -> Runner {
    Runner {
        role,
        name: kind.name.into(),
        origin: "built in".into(),
        about: kind.about.into(),
        arguments: (kind.arguments)(),
        example: Some(kind.example.into()),
        needs: kind.needs.to_vec(),
        network: (role == "step").then_some(kind.network),
        source: None,
    }
}

/// All runners, in the order import, step, export, and by name. `own` are the definitions of a template.
pub fn runners(own: &Definitions) -> Vec<Runner> {
    let imports = import::KINDS.iter().map(|kind| built_in("import", kind));
    let steps = step::KINDS.iter().map(|kind| built_in("step", kind));
    let exports = export::KINDS.iter().map(|kind| built_in("export", kind));
    let hidden = |name: &str| step::KINDS.iter().any(|kind| kind.name == name) || own.get(name).is_some();
    let library = library_steps().filter(|definition| !hidden(&definition.name));
    let library = library.map(|definition| defined(definition, "library".into()));
    let own = own.iter().map(|definition| {
        let file = definition.node.source.path.display().to_string();
        defined(definition, file)
    });
    let mut steps: Vec<Runner> = steps.chain(library).chain(own).collect();
    steps.sort_by(|a, b| a.name.cmp(&b.name));
    imports.chain(steps).chain(exports).collect()
}

fn defined(definition: &Definition, origin: String) -> Runner {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for parameter in &definition.params {
        let kind = match parameter.kind {
            "list" => json!("array"),
            "mapping" => json!("object"),
            "any" => Value::Null,
            other => json!(other),
        };
        let mut schema = Map::new();
        if !kind.is_null() {
            schema.insert("type".into(), kind);
        }
        if !parameter.description.is_empty() {
            schema.insert("description".into(), parameter.description.as_str().into());
        }
        match &parameter.default {
            Some(default) => {
                schema.insert("default".into(), default.to_json());
            }
            None => required.push(parameter.name.clone()),
        }
        properties.insert(parameter.name.clone(), Value::Object(schema));
    }
    let arguments = json!({
        "type": "object", "properties": properties, "additionalProperties": false, "required": required,
    });
    Runner {
        role: "step",
        name: definition.name.clone(),
        origin,
        about: definition.description.clone(),
        arguments,
        example: definition.example.clone(),
        needs: Vec::new(),
        network: None,
        source: Some(definition.source_text()),
    }
}

/// The arguments of a schema as rows. Those of a runner that takes either one value or a mapping are the value, then those of the
/// mapping; members of an argument that is a mapping follow it, as `http.port`.
pub fn arguments(schema: &Value) -> Vec<Argument> {
    let mut rows = Vec::new();
    if schema.get("properties").is_none() {
        rows.push(Argument {
            name: String::new(),
            kind: kind(schema),
            default: "required".into(),
            about: about(schema),
        });
    }
    add_members(&mut rows, "", schema);
    rows
}

/// Adds the members of a schema that is a mapping, or of the one mapping among its choices.
fn add_members(rows: &mut Vec<Argument>, before: &str, schema: &Value) {
    let choices = ["anyOf", "oneOf"].iter().filter_map(|key| schema[key].as_array()).flatten();
    let mut mappings = std::iter::once(schema).chain(choices).filter(|schema| schema["properties"].is_object());
    let (Some(mapping), None) = (mappings.next(), mappings.next()) else { return };
    let required = |name: &str| mapping["required"].as_array().is_some_and(|list| list.iter().any(|item| item == name));
    for (name, property) in mapping["properties"].as_object().into_iter().flatten() {
        let default = match &property["default"] {
            _ if required(name) => "required".to_owned(),
            Value::Null => String::new(),
            value => value.to_string(),
        };
        let name = format!("{before}{name}");
        let within = format!("{name}.");
        rows.push(Argument { name, kind: kind(property), default, about: about(property) });
        add_members(rows, &within, property);
    }
}

fn about(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A type in words.
fn kind(schema: &Value) -> String {
    for key in ["anyOf", "oneOf"] {
        if let Some(options) = schema[key].as_array() {
            let mut kinds: Vec<String> = options.iter().map(kind).filter(|kind| kind != "nothing").collect();
            kinds.dedup();
            let words = |kind: &String| kind.starts_with('`');
            let glue = if kinds.iter().all(words) { ", " } else { " or " };
            return kinds.join(glue);
        }
    }
    if let Some(value) = schema.get("const") {
        return format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    if let Some(values) = schema["enum"].as_array() {
        let names = values.iter().filter(|value| !value.is_null());
        return names.map(|value| format!("`{}`", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(", ");
    }
    let one = |name: &str| match name {
        "string" => "text".to_owned(),
        "integer" | "number" => "number".into(),
        "boolean" => "true or false".into(),
        "array" => match schema.get("items") {
            Some(items) if items.get("type").is_some() => format!("list of {}", kind(items)),
            _ => "list".into(),
        },
        "object" => "mapping".into(),
        "null" => "nothing".into(),
        other => other.into(),
    };
    match &schema["type"] {
        Value::String(name) => one(name),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.map(one).collect::<Vec<_>>().join(" or ")
        }
        _ => "any value".into(),
    }
}
