//! From the files of a template to what it asks for: everything resolved, nothing checked yet that needs to know kinds of
//! runners. `virt-maker render` prints this.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::define::{Definitions, unknown_key};
use super::expand::{Exec, Expander, ResolvedStep};
use super::expression::Engine;
use super::files::Files;
use super::functions::{CacheDir, Fetch, Shared};
use super::inherit::{evaluated, follow, take_in};
use super::matrix::{self, Combination};
use super::node::{Kind, Node};
use super::options::{DEFAULTS, StepOptions};
use super::parameters::{declared, unknown};
use super::parse::{parse_instead, parse_named};
use super::problems::{Problems, in_order};
use super::scope::Scope;
use super::tests::{self, ResolvedTest};
use super::value::command_line_value;
use crate::diagnostic::Diagnostic;
use crate::error::{Error, Result};
use crate::host::on_deep_stack;
use crate::host::permit::{Door, Permissions, Places};
use crate::key::Digest;

/// Keys that a template may have.
pub const KEYS: [&str; 14] = [
    "format",
    "name",
    "description",
    "params",
    "from",
    "to",
    "before",
    "after",
    "matrix",
    "use",
    "define",
    "secrets",
    "defaults",
    "spec",
];
/// Keys of `spec`.
pub const SPEC_KEYS: [&str; 4] = ["import", "steps", "tests", "export"];
/// Most templates that one asks for with `before` and `after`.
const TEMPLATES: usize = 1000;

/// How templates are loaded.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// Parameters of the command line: name and text.
    pub parameters: Vec<(String, String)>,
    /// Where files are looked for that are not beside the template.
    pub working_dir: Option<PathBuf>,
    /// Where the folders lie that `cache_dir()` says, one for each folder of templates.
    pub cache_dir: PathBuf,
    /// Folders of users, what is hidden in which no template may read.
    pub homes: Vec<PathBuf>,
    /// What the user allowed.
    pub permissions: Permissions,
    /// The door of the templates that name these, where it is open already.
    pub door: Option<Arc<Door>>,
    /// Values of changing functions from an earlier build, as [`Loaded::record`] has them.
    pub frozen: Option<std::collections::BTreeMap<String, String>>,
    /// Names of the steps that the program itself has.
    pub builtin: Vec<&'static str>,
    /// How `download()` downloads.
    pub fetch: Option<Fetch>,
    /// How `exec:` runs programs.
    pub exec: Option<Exec>,
    /// Whether what steps take from the host is looked at too: an error where it cannot be read.
    pub check_inputs: bool,
    /// A text that is taken in the place of a template that the user names.
    pub instead: Option<Instead>,
}

/// What a template is to be read as, before it is that.
#[derive(Debug, Clone)]
pub struct Instead {
    /// The template.
    pub template: PathBuf,
    /// What it would be.
    pub text: String,
    /// What that is called in messages.
    pub shown: PathBuf,
}

impl LoadOptions {
    /// What `cache_dir()` says in a template.
    fn downloads(&self, template: &Path) -> CacheDir {
        let (cache_dir, template) = (self.cache_dir.clone(), template.to_owned());
        CacheDir::new(Box::new(move || downloads(&cache_dir, &folder_of(&template))))
    }

    /// The door between these templates and the host.
    pub fn door(&self, templates: &[PathBuf]) -> Arc<Door> {
        self.door.clone().unwrap_or_else(|| {
            // Hundreds of templates lie in a few folders.
            let folders: BTreeSet<PathBuf> = templates.iter().map(|template| folder_of(template)).collect();
            let downloads = folders.iter().map(|folder| downloads(&self.cache_dir, folder));
            let downloads = downloads.filter(|folder| folder.is_absolute()).collect();
            let (working_dir, homes) = (self.working_dir.clone(), self.homes.clone());
            let places = Places { templates: templates.to_vec(), working_dir, downloads, homes };
            Arc::new(Door::new(self.permissions.clone(), &places))
        })
    }
}

/// The folder of a template; links are not followed.
fn folder_of(template: &Path) -> PathBuf {
    let absolute = std::path::absolute(template).unwrap_or_else(|_| template.to_owned());
    absolute.parent().unwrap_or(&absolute).to_owned()
}

/// A folder below `cache_dir` for the downloads of the templates of one folder, so that nobody finds there what somebody
/// else's put.
fn downloads(cache_dir: &Path, folder: &Path) -> PathBuf {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = Digest::of(folder.as_os_str().as_encoded_bytes()).to_string();
    cache_dir.join(&name[..16])
}

/// What a template asks for.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The specs, in the order in which they are built.
    pub specs: Vec<ResolvedSpec>,
    /// What a person should know and what is no error.
    pub notes: Vec<Diagnostic>,
    /// What changing functions (`now()`, ...) gave.
    pub record: std::collections::BTreeMap<String, String>,
    /// Where what there is to say of the templates' files is kept: whoever reads more of the nodes asks them again.
    pub(crate) files: Vec<Arc<Files>>,
    /// Parameters of the command line that no template knows are errors; these are the names that some template knows.
    known: BTreeSet<String>,
}

/// One image, everything resolved.
#[derive(Debug)]
pub struct ResolvedSpec {
    /// The file that the user named, or that one of these names with `before` or `after`.
    pub template: PathBuf,
    /// The format of that file.
    pub format: u8,
    /// `name`.
    pub name: Option<String>,
    /// `description`.
    pub description: Option<String>,
    /// Its values of the matrix.
    pub matrix: Vec<(String, Node)>,
    /// Its parameters with the values that they had, and those of the matrix.
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// The `spec`, for its place.
    pub node: Node,
    /// The import: a mapping of its runner to arguments.
    pub import: Option<Node>,
    /// The steps within it, of one that has some.
    pub import_steps: Vec<ResolvedStep>,
    /// The steps.
    pub steps: Vec<ResolvedStep>,
    /// The tests.
    pub tests: Vec<ResolvedTest>,
    /// The exports, each a mapping as the import.
    pub exports: Vec<Node>,
    /// `secrets`, rendered.
    pub secrets: Option<Node>,
    /// Something of it could not be resolved, and that was told: what is missing is not missing in the template.
    pub(crate) incomplete: bool,
}

impl ResolvedSpec {
    /// Its values of the matrix for people; empty without a matrix.
    pub(crate) fn title(&self) -> String {
        matrix::title(&self.matrix)
    }

    /// The spec as a template without parameters would have it.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::{Map, Value, json};
        let mut spec = Map::new();
        if let Some(import) = &self.import {
            let mut json = import.to_json_as_written();
            if let (false, [(name, _)]) = (self.import_steps.is_empty(), import.members()) {
                let steps = self.import_steps.iter().map(ResolvedStep::to_json).collect();
                json[name.text().unwrap_or_default()]["steps"] = Value::Array(steps);
            }
            spec.insert("import".into(), json);
        }
        spec.insert("steps".into(), self.steps.iter().map(ResolvedStep::to_json).collect());
        if !self.tests.is_empty() {
            spec.insert("tests".into(), self.tests.iter().map(ResolvedTest::to_json).collect());
        }
        spec.insert("export".into(), self.exports.iter().map(Node::to_json_as_written).collect());
        let mut whole = Map::new();
        let mut add = |name: &str, value: Option<Value>| whole.extend(value.map(|value| (name.to_owned(), value)));
        add("format", (self.format > 1).then(|| self.format.into()));
        add("name", self.name.as_deref().map(Value::from));
        add("description", self.description.as_deref().map(Value::from));
        add("template", Some(json!(self.template)));
        let matrix: Map<_, _> = self.matrix.iter().map(|(name, value)| (name.clone(), value.to_json())).collect();
        add("matrix", (!matrix.is_empty()).then_some(Value::Object(matrix)));
        add("secrets", self.secrets.as_ref().map(Node::to_json));
        add("spec", Some(Value::Object(spec)));
        Value::Object(whole)
    }
}

/// Loads templates; all their errors at once.
pub fn resolve(paths: &[PathBuf], options: &LoadOptions) -> Result<Loaded> {
    let (loaded, problems) = resolve_all(paths, options)?;
    if problems.is_empty() { Ok(loaded) } else { Err(Error::template(in_order(problems))) }
}

/// The same, with what could be resolved beside the errors.
pub(crate) fn resolve_all(paths: &[PathBuf], options: &LoadOptions) -> Result<(Loaded, Vec<Diagnostic>)> {
    on_deep_stack(|| resolve_here(paths, options))
}

fn resolve_here(paths: &[PathBuf], options: &LoadOptions) -> Result<(Loaded, Vec<Diagnostic>)> {
    let mut loaded = Loaded::default();
    let mut problems = Vec::new();
    let mut known = Vec::new();
    let door = options.door(paths);
    for path in paths {
        let files = Arc::new(Files::new(options.working_dir.clone(), door.clone()));
        let parsed = match &options.instead {
            Some(Instead { template, text, shown }) if template == path => {
                parse_instead(text.clone(), path, shown, &files)
            }
            _ => parse_named(path, &files),
        };
        let node = match parsed {
            Ok(node) => node,
            Err(error) if error.diagnostics().is_empty() => return Err(error),
            Err(error) => {
                problems.extend(error.diagnostics().iter().cloned());
                continue;
            }
        };
        let shared = Arc::new(Shared {
            door: door.clone(),
            cache_dir: options.downloads(path),
            fetch: options.fetch.clone(),
            frozen: options.frozen.clone(),
            state: Default::default(),
        });
        let engine = Engine::new(shared);
        let mut loader = Loader { options, engine: &engine, loaded: &mut loaded, known: &mut known, templates: 0 };
        if let Err(found) = loader.template(node) {
            problems.extend(found);
        }
        loaded.record.append(&mut engine.shared.state().record);
        loaded.notes.extend(files.take_notes());
        loaded.files.push(files);
    }
    // Templates that are wrong may know parameters that nobody heard of.
    if problems.is_empty() {
        for (name, _) in &options.parameters {
            if !loaded.known.contains(name) {
                problems.push(unknown(name, known.iter()));
            }
        }
    }
    Ok((loaded, problems))
}

struct Loader<'a> {
    options: &'a LoadOptions,
    engine: &'a Engine,
    loaded: &'a mut Loaded,
    /// Names of parameters, for suggestions.
    known: &'a mut Vec<String>,
    templates: usize,
}

impl Loader<'_> {
    /// Adds the specs of one template, and of those before and after it.
    fn template(&mut self, node: Node) -> Result<(), Vec<Diagnostic>> {
        self.templates += 1;
        if self.templates > TEMPLATES {
            return Err(vec![
                node.diagnostic(format!("more than {TEMPLATES} templates come in by `before` and `after`")),
            ]);
        }
        check_mapping(&node)?;
        let (path, format) = (node.source.path.clone(), node.source.format());
        let mut outside = Scope::default();
        for (name, text) in &self.options.parameters {
            outside.set_from_outside(name, &command_line_value(name, text, format));
        }
        let template = follow(node, self.engine, &outside)?;
        let mut problems: Vec<_> =
            template.members().iter().filter_map(|(key, _)| unknown_key(key, &KEYS, "a template")).collect();
        let scope = match self.command_line(&template, format) {
            Ok(scope) => scope,
            Err(problem) => {
                problems.push(problem);
                return Err(problems);
            }
        };
        if ["spec", "before", "after"].iter().all(|key| template.get(key).is_none()) {
            problems.push(template.diagnostic("the template has no `spec`, and no `before` or `after` either"));
        }
        problems.extend(self.others(&template, "before", &scope).err().into_iter().flatten());
        if let Some(spec) = template.get("spec") {
            match self.combinations(&template, &scope) {
                Ok(combinations) => {
                    let (mut all, count) = (Problems::default(), combinations.len());
                    for combination in combinations {
                        let mut found = Vec::new();
                        let title = matrix::title(&combination);
                        let made = self.spec((&path, format), &template, spec, &scope, combination, &mut found);
                        self.loaded.specs.extend(made);
                        all.add(&title, found);
                    }
                    problems.extend(all.finish(count));
                }
                Err(found) => problems.extend(found),
            }
        }
        problems.extend(self.others(&template, "after", &scope).err().into_iter().flatten());
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The parameters of the command line that this template knows.
    fn command_line(&mut self, template: &Node, format: u8) -> Result<Scope, Diagnostic> {
        let params = declared(template.get("params"))?;
        self.known.extend(params.iter().filter_map(|(key, _)| key.text()).map(str::to_owned));
        let mut scope = Scope::default();
        if self.options.parameters.is_empty() {
            return Ok(scope);
        }
        let axes: Vec<_> = template
            .get("matrix")
            .map(Node::members)
            .unwrap_or_default()
            .iter()
            .filter_map(|(key, _)| key.text())
            .collect();
        let used = self.engine.names(template);
        for (name, text) in &self.options.parameters {
            let is_axis = axes.contains(&name.as_str());
            if is_axis || used.contains(name) || params.iter().any(|(key, _)| key.text() == Some(name)) {
                self.loaded.known.insert(name.clone());
                if !is_axis {
                    scope.set_from_outside(name, &command_line_value(name, text, format));
                }
            }
        }
        self.known.extend(used);
        Ok(scope)
    }

    /// The templates that are built before or after this one.
    fn others(&mut self, template: &Node, key: &'static str, scope: &Scope) -> Result<(), Vec<Diagnostic>> {
        let Some(node) = template.get(key) else { return Ok(()) };
        let rendered = evaluated(node, template, self.engine, scope)?;
        let names = match &rendered.kind {
            Kind::List(items) => items.iter().collect(),
            Kind::Null => Vec::new(),
            _ => vec![&rendered],
        };
        let mut problems = Vec::new();
        for name in names {
            let loaded = take_in(name, key).and_then(|node| self.template(node));
            problems.extend(loaded.err().into_iter().flatten());
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn combinations(&self, template: &Node, scope: &Scope) -> Result<Vec<Combination>, Vec<Diagnostic>> {
        match template.get("matrix") {
            None => Ok(vec![Vec::new()]),
            Some(node) => {
                matrix::combinations(&evaluated(node, template, self.engine, scope)?, &self.options.parameters)
            }
        }
    }

    fn spec(
        &self,
        (path, format): (&Path, u8),
        template: &Node,
        spec: &Node,
        scope: &Scope,
        matrix: Combination,
        problems: &mut Vec<Diagnostic>,
    ) -> Option<ResolvedSpec> {
        let before = problems.len();
        let mut scope = scope.clone();
        matrix.iter().for_each(|(name, value)| scope.set(name, value));
        scope.resolve(self.engine, declared(template.get("params")).unwrap_or_default(), problems);
        let parameters = scope.to_json();
        let text = |name: &str, problems: &mut Vec<Diagnostic>| {
            let rendered = self.engine.rendered(template.get(name)?, &scope, problems)?;
            if rendered.text().is_none() {
                problems.push(rendered.diagnostic(format!("expected a text, found {}", rendered.describe())));
            }
            rendered.text().map(str::to_owned)
        };
        let (name, description) = (text("name", problems), text("description", problems));
        let secrets = template.get("secrets").and_then(|node| self.engine.rendered(node, &scope, problems));
        let mut options = StepOptions::default();
        let defaults = template.get("defaults").and_then(|node| self.engine.rendered(node, &scope, problems));
        if let Some(rendered) = defaults {
            if !matches!(rendered.kind, Kind::Map(_)) {
                problems
                    .push(rendered.diagnostic(format!("expected a mapping of options, found {}", rendered.describe())));
            }
            for (key, value) in rendered.members() {
                match unknown_key(key, &DEFAULTS, "`defaults`") {
                    Some(problem) => problems.push(problem),
                    None => problems.extend(options.set(key.text().unwrap_or_default(), value).err()),
                }
            }
        }
        let mut definitions = Definitions::default();
        definitions.take(template, self.engine, &scope, &self.options.builtin, problems);

        // A whole spec may be a parameter; what is in it is data then.
        let (spec, data) = match &spec.kind {
            Kind::String(_) => (self.engine.rendered(spec, &scope, problems)?, true),
            _ => (spec.clone(), false),
        };
        if !matches!(spec.kind, Kind::Map(_)) {
            problems.push(spec.diagnostic(format!("expected a mapping with `import`, found {}", spec.describe())));
            return None;
        }
        problems.extend(spec.members().iter().filter_map(|(key, _)| unknown_key(key, &SPEC_KEYS, "`spec`")));
        let render = |node: &Node, problems: &mut Vec<Diagnostic>| {
            if data { Some(node.clone()) } else { self.engine.rendered(node, &scope, problems) }
        };
        let mut expander = Expander {
            engine: self.engine,
            definitions,
            builtin: &self.options.builtin,
            exec: self.options.exec.as_ref(),
            steps: Vec::new(),
            problems: Vec::new(),
            stopped: false,
        };
        let (import, import_steps) = match spec.get("import") {
            // A whole import may be a parameter; what is in it is data then.
            Some(node @ Node { kind: Kind::String(_), .. }) => match render(node, problems) {
                Some(node) => {
                    let (node, steps) = expander.import(&node, &scope, &options, true);
                    (Some(node), steps)
                }
                None => (None, Vec::new()),
            },
            Some(node) => {
                let (node, steps) = expander.import(node, &scope, &options, data);
                (render(&node, problems), steps)
            }
            None => (None, Vec::new()),
        };
        if let Some(node) = spec.get("steps") {
            expander.expand(node, &scope, &options, data);
        }
        let of_tests = spec.get("tests").map(|node| tests::tests(node, &mut expander, &scope, &options, data));
        problems.append(&mut expander.problems);
        let (steps, tests) = (expander.steps, of_tests.unwrap_or_default());
        let exporters = match spec.get("export") {
            None | Some(Node { kind: Kind::Null, .. }) => Vec::new(),
            Some(Node { kind: Kind::List(items), .. }) => items.iter().collect(),
            Some(node) => vec![node],
        };
        let mut exports = Vec::new();
        for node in exporters {
            match render(node, problems) {
                Some(Node { kind: Kind::List(items), .. }) => exports.extend(items),
                rendered => exports.extend(rendered),
            }
        }
        let incomplete = problems.len() > before;
        Some(ResolvedSpec {
            parameters,
            template: path.to_owned(),
            format,
            name,
            description,
            matrix,
            node: spec,
            import,
            import_steps,
            steps,
            tests,
            exports,
            secrets,
            incomplete,
        })
    }
}

fn check_mapping(node: &Node) -> Result<(), Vec<Diagnostic>> {
    match node.kind {
        Kind::Map(_) => Ok(()),
        _ => Err(vec![node.diagnostic(format!("expected a mapping with `spec`, found {}", node.describe()))]),
    }
}

/// The definitions of a template, for lists of runners.
pub fn definitions(path: &Path, options: &LoadOptions) -> Result<Definitions> {
    on_deep_stack(|| definitions_here(path, options))
}

fn definitions_here(path: &Path, options: &LoadOptions) -> Result<Definitions> {
    let door = options.door(&[path.to_owned()]);
    let files = Arc::new(Files::new(options.working_dir.clone(), door.clone()));
    let node = parse_named(path, &files)?;
    let shared = Arc::new(Shared {
        door,
        cache_dir: options.downloads(path),
        fetch: None,
        frozen: None,
        state: Default::default(),
    });
    let engine = Engine::new(shared);
    let mut problems = Vec::new();
    let mut found = Definitions::default();
    let template =
        check_mapping(&node).and_then(|()| follow(node, &engine, &Scope::default())).map_err(Error::template)?;
    let mut scope = Scope::default();
    scope.resolve(
        &engine,
        declared(template.get("params")).map_err(|problem| Error::template(vec![problem]))?,
        &mut problems,
    );
    found.take(&template, &engine, &scope, &options.builtin, &mut problems);
    if problems.is_empty() { Ok(found) } else { Err(Error::template(in_order(problems))) }
}
