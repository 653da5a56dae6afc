//! `virt-maker config show`: every setting with its value, and who said it.

use std::io::Write;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::print_json;
use crate::arguments::ConfigCommand;
use crate::config::{self, Origin, Value};
use crate::error::Failure;
use crate::text::{self, harmless};

/// Version of the JSON document.
const VERSION: u32 = 1;

/// One row: its name, its value, who said it.
struct Row {
    name: &'static str,
    value: Json,
    /// The value for people, where it is not how a machine wants it.
    text: Option<String>,
    origin: Origin,
}

pub fn run(command: &ConfigCommand) -> Result<(), Failure> {
    let ConfigCommand::Show { json } = command;
    let rows = rows()?;
    let files = config::files()?;
    if *json {
        let settings: Vec<Json> = rows.iter().map(document).collect();
        return print_json(&json!({
            "version": VERSION,
            "files": {
                "user": files.user_path.as_ref().filter(|path| path.exists()),
                "project": files.project_path,
                "project_trusted": files.trusted,
            },
            "settings": settings,
            "refused": files.refused,
        }));
    }
    let mut out = std::io::stdout().lock();
    for row in &rows {
        let value = match &row.value {
            _ if row.text.is_some() => row.text.clone().unwrap_or_default(),
            Json::Null => "-".to_owned(),
            Json::String(text) => text.clone(),
            other => other.to_string(),
        };
        writeln!(out, "{:<15} {:<30} {}", row.name, harmless(&value), harmless(&shown(&row.origin)))?;
    }
    let file = |path: &Option<std::path::PathBuf>, none: &str| match path {
        Some(path) if path.exists() => path.display().to_string(),
        Some(path) => format!("{} (not there)", path.display()),
        None => none.to_owned(),
    };
    writeln!(out, "user's file     {}", harmless(&file(&files.user_path, "none: HOME is not set")))?;
    let none = format!("none: no {} in this folder or above it", config::PROJECT);
    let trust = if files.trusted { " (trusted)" } else { "" };
    writeln!(out, "project's file  {}{trust}", harmless(&file(&files.project_path, &none)))?;
    Ok(())
}

fn rows() -> Result<Vec<Row>, Failure> {
    fn row<T: serde::Serialize>(name: &'static str, found: Value<T>) -> Row {
        Row { name, value: json!(found.value), text: None, origin: found.origin }
    }
    let engine = config::engine(None)?;
    let word = clap::ValueEnum::to_possible_value(&engine.value).map(|value| value.get_name().to_owned());
    let store = config::store(None)?;
    let limits = config::limits(&store)?;
    let mut rows = vec![
        row("store", store),
        row("engine", Value { value: word, origin: engine.origin }),
        row("jobs", config::jobs(None)?),
        row("kernel", config::kernel(None)?),
        row("certificates", config::certificates()?),
    ];
    let allowed = config::allowed()?;
    if allowed.is_empty() {
        rows.push(Row { name: "allow", value: Json::Null, text: None, origin: Origin::Default });
    }
    for Value { value, origin } in allowed {
        rows.push(Row { name: "allow", value: value.to_string().into(), text: None, origin });
    }
    let shown = limits.max_size.value.map(text::size);
    rows.push(Row { text: shown, ..row("cache.max_size", limits.max_size) });
    let shown = limits.min_free.value.map(text::size);
    rows.push(Row { text: shown, ..row("cache.min_free", limits.min_free) });
    let seconds = limits.max_age.value.map(|age| age.as_secs());
    let max_age = Value { value: seconds, origin: limits.max_age.origin };
    rows.push(Row { text: seconds.map(text::age), ..row("cache.max_age", max_age) });
    rows.push(row("cache.max_depth", limits.max_depth));
    Ok(rows)
}

fn shown(origin: &Origin) -> String {
    match origin {
        Origin::Argument => "command line".into(),
        Origin::Variable(name) => format!("${name}"),
        Origin::Project(position) | Origin::User(position) => {
            let file = position.file.as_path();
            format!("{}:{}:{}", nearer(file).display(), position.line, position.column)
        }
        Origin::Default => "default".into(),
    }
}

/// A path below the working folder is shown from there.
fn nearer(path: &Path) -> &Path {
    match crate::environment::working_dir() {
        Some(folder) => path.strip_prefix(folder).unwrap_or(path),
        None => path,
    }
}

fn document(row: &Row) -> Json {
    let (from, more) = match &row.origin {
        Origin::Argument => ("command-line", json!(null)),
        Origin::Variable(name) => ("environment", json!({ "variable": name })),
        Origin::Project(position) => ("project", json!({ "position": position })),
        Origin::User(position) => ("user", json!({ "position": position })),
        Origin::Default => ("default", json!(null)),
    };
    let mut document = json!({"name": row.name, "value": row.value, "from": from});
    if let (Some(document), Some(more)) = (document.as_object_mut(), more.as_object()) {
        document.extend(more.clone());
    }
    document
}
