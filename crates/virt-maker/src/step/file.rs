//! `file`: a text file in the guest, with its mode and owner; its text is in the template, or is rendered from a file of
//! the host.
//!
//! A rendered file sees only the values that the step gives it. Like everything else it is rendered once: what a value
//! holds is never rendered again.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::support::owner::{Looks, keep};
use super::support::paths;
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind, first_line};
use crate::diagnostic::Diagnostic;
use crate::host::permit::HostPath;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::Guest;
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "file",
    about: "Writes a text file in the guest, with mode and owner; a file of the host can be its template.",
    arguments: arguments::<Arguments>,
    example: "file: {path: /etc/issue, content: \"Welcome\\n\", chmod: 0644}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// An absolute path in the guest; folders above it are made, and a link that is there is replaced.
    path: String,
    /// The text.
    content: Option<String>,
    /// A file of the host that is rendered as a Jinja template, in place of `content`.
    template: Option<PathBuf>,
    /// Values that the expressions in `template` may use.
    variables: Option<serde_json::Map<String, serde_json::Value>>,
    /// Octal digits; 0644 by default.
    chmod: Option<String>,
    /// `user` or `user:group`, by name or number; root by default.
    chown: Option<String>,
}

struct FileStep {
    path: String,
    text: Text,
    looks: Looks,
}

enum Text {
    Given(String),
    Rendered(HostPath, serde_json::Map<String, serde_json::Value>),
}

/// Largest template, in bytes.
const TEMPLATE_MAX: u64 = 16 << 20;
/// How much work a template may make.
const FUEL: u64 = 50_000_000;

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let path = keep(Some(paths::guest_path(&arguments.path, at("path"))), &mut problems).unwrap_or_default();
    let looks = Looks::read(node, arguments.chmod.as_deref(), arguments.chown.as_deref(), &mut problems);
    if arguments.variables.is_some() && arguments.template.is_none() {
        let message = "`variables` are for `template`; `content` is rendered with the template's parameters already";
        problems.push(at("variables").diagnostic(message));
    }
    let text = match (arguments.content, arguments.template) {
        (Some(content), None) => Text::Given(content),
        (None, Some(template)) => match at("template").host_path(template) {
            Ok(template) => Text::Rendered(template, arguments.variables.unwrap_or_default()),
            Err(problem) => {
                problems.push(problem);
                Text::Given(String::new())
            }
        },
        _ => {
            problems.push(node.diagnostic("expected one of `content` (text) and `template` (a file of the host)"));
            Text::Given(String::new())
        }
    };
    if let Text::Rendered(..) = &text
        && let Err(error) = rendered(&text)
    {
        problems.push(at("template").diagnostic(crate::error::chain(&error)));
    }
    if problems.is_empty() { Ok(Box::new(FileStep { path, text, looks })) } else { Err(problems) }
}

impl Step for FileStep {
    fn summary(&self) -> String {
        match &self.text {
            Text::Given(text) => format!("{} <- {}", self.path, first_line(text)),
            Text::Rendered(path, _) => format!("{} <- {}", self.path, first_line(&path.name())),
        }
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let FileStep { path, text, looks } = self;
        StepKey::of(&json!({ "path": path, "content": rendered(text)?, "looks": looks }))
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for FileStep {
    fn run(&self, key: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        paths::tell_if_hidden(guest, &self.path, context)?;
        let attributes = self.looks.of_a_file(guest)?;
        paths::make_parent(guest, &self.path)?;
        // What the key covers, even if the template has changed since.
        let text = key.arguments["content"].as_str().unwrap_or_default();
        guest.write(&self.path, &mut text.as_bytes(), attributes)
    }
}

fn rendered(text: &Text) -> Result<String> {
    let (path, variables) = match text {
        Text::Given(text) => return Ok(text.clone()),
        Text::Rendered(path, variables) => (path, variables),
    };
    let source = path
        .read_to_string(TEMPLATE_MAX)
        .context(ErrorKind::Template, || format!("cannot read the template {}", path.display()))?;
    let mut environment = minijinja::Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    let syntax = minijinja::syntax::SyntaxConfig::builder().keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.render_str(&source, to_values(variables)).map_err(|error| {
        let place = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
        Error::new(ErrorKind::Template, format!("cannot render {}{place}", path.display())).with_source(error)
    })
}

fn to_value(value: &serde_json::Value) -> minijinja::Value {
    use serde_json::Value;
    match value {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(yes) => minijinja::Value::from(*yes),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => minijinja::Value::from(number),
            (None, number) => minijinja::Value::from(number.unwrap_or(f64::NAN)),
        },
        Value::String(text) => minijinja::Value::from(text.as_str()),
        Value::Array(items) => items.iter().map(to_value).collect(),
        Value::Object(members) => to_values(members),
    }
}

fn to_values(members: &serde_json::Map<String, serde_json::Value>) -> minijinja::Value {
    minijinja::Value::from_pairs(members.iter().map(|(name, value)| (name.as_str(), to_value(value))))
}
