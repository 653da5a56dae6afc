//! From template files to specs: typed and validated, all errors at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::entries::{allowed, entry, find, parsed};
use super::{ExportEntry, ImportEntry, Registry, Release, Spec, TestEntry, entries, guestless, secrets};
use crate::diagnostic::{Diagnostic, Position};
use crate::error::{Error, Result, chain};
use crate::host::permit::{Door, Output};
use crate::key::Digest;
use crate::step::Action;
use crate::template::{self, LoadOptions, Node, Problems, ResolvedSpec, in_order};

/// Most templates that are each other's base.
const BASES: usize = 50;

/// What some templates ask for.
#[derive(Default)]
pub struct LoadedSpecs {
    /// The specs, in the order in which they are built.
    pub specs: Vec<Spec>,
    /// What a person should know and what is no error.
    pub notes: Vec<Diagnostic>,
    /// What functions with changing values gave, for `--freeze`.
    pub record: BTreeMap<String, String>,
}

/// Loads a template that asks for one image, with parameters (name, text).
pub fn load(path: &Path, parameters: &[(String, String)]) -> Result<Spec> {
    let options = LoadOptions { parameters: parameters.to_vec(), ..LoadOptions::default() };
    let mut loaded = Registry::default().load_all(&[path.to_owned()], &options)?;
    match (loaded.specs.pop(), loaded.specs.len()) {
        (Some(spec), 0) => Ok(spec),
        (_, more) => {
            let message = format!("{} asks for {} images, not for one", path.display(), more + 1);
            Err(Error::new(crate::error::ErrorKind::Template, message))
        }
    }
}

impl Registry {
    /// Loads templates that may name these runners. All errors that can be found without a guest come at once.
    pub fn load_all(&self, paths: &[PathBuf], options: &LoadOptions) -> Result<LoadedSpecs> {
        // One door for all of them, and for the templates that they name: it knows what each of them reads.
        let door = Some(options.door(paths));
        let options = LoadOptions { door, builtin: self.step_names(), ..options.clone() };
        load_below(self, paths, &options, &[])
    }
}

/// The same, for templates that others name as their base: these are the files above.
fn load_below(registry: &Registry, paths: &[PathBuf], options: &LoadOptions, above: &[PathBuf]) -> Result<LoadedSpecs> {
    let (resolved, mut problems) = template::resolve_all(paths, options)?;
    let mut loaded = LoadedSpecs { specs: Vec::new(), notes: resolved.notes, record: resolved.record };
    let (mut seen, mut targets) = (HashSet::new(), HashMap::new());
    let mut outputs: Vec<(Node, Output)> = Vec::new();
    // The specs of one template stand beside each other.
    for combinations in resolved.specs.chunk_by(|one, other| one.template == other.template) {
        let mut all = Problems::default();
        for spec in combinations {
            let mut found = Vec::new();
            let typed = typed(registry, spec, options, &mut found);
            // A template that is named twice, or comes in by `before` of two others, asks for the same image.
            let new = typed.filter(|typed| seen.insert((typed.template.clone(), typed.matrix.clone())));
            if let Some(typed) = new.filter(|_| found.is_empty()) {
                let at = spec.import.as_ref().and_then(|import| import.members().first()).map(|(key, _)| key);
                let at = at.unwrap_or(&spec.node);
                match on_base(registry, typed, at, options, above, &mut loaded) {
                    Ok(typed) => {
                        one_export_a_file(spec, &typed, &mut targets, &mut found);
                        found.extend(guestless::check(spec, &typed));
                        for (item, export) in spec.exports.iter().zip(&typed.exports) {
                            let written = export.runner.common().outputs().into_iter();
                            outputs.extend(written.map(|output| (item.clone(), output)));
                        }
                        // The base may come later, or be on another host: that is no fault of the template.
                        if options.check_inputs
                            && let Err(error) = typed.import.runner.check()
                        {
                            loaded.notes.push(at.diagnostic(format!("there is no base yet: {}", chain(&error))));
                        }
                        loaded.specs.push(typed);
                    }
                    Err(error) if error.diagnostics().is_empty() => return Err(error),
                    Err(error) => found.extend(error.diagnostics().iter().cloned()),
                }
            }
            all.add(&spec.title(), found);
        }
        problems.extend(all.finish(combinations.len()));
    }
    // What runners said of their arguments.
    loaded.notes.extend(resolved.files.iter().flat_map(|files| files.take_notes()));
    if above.is_empty()
        && let Some(door) = &options.door
    {
        // Only now is it known what all of them read.
        problems.extend(outputs.iter().filter_map(|(item, output)| replaced_input(item, output, door)));
        problems.extend(outputs.iter().filter_map(|(item, output)| within_a_folder(item, output, &loaded.specs)));
    }
    if problems.is_empty() { Ok(loaded) } else { Err(Error::template(in_order(problems))) }
}

/// An error where an export would replace what a template of this call reads.
fn replaced_input(item: &Node, output: &Output, door: &Door) -> Option<Diagnostic> {
    let input = door.replaces(output)?;
    let at = item.members().first().map_or(item, |(_, arguments)| arguments.get("path").unwrap_or(arguments));
    let (target, input) = (output.path().display().to_string(), input.display().to_string());
    let message = match target == input {
        true => format!("{} is read by a template of this build, so no export replaces it", target.escape_debug()),
        false => format!(
            "{} is a part of {}, which a template of this build reads, so no export replaces it",
            target.escape_debug(),
            input.escape_debug()
        ),
    };
    Some(Diagnostic { hint: Some("name another path".into()), ..at.diagnostic(message) })
}

/// An error where an export would write into a folder that another one fills with the files of a guest: what leads on from
/// there is the guest's to say.
fn within_a_folder(item: &Node, output: &Output, specs: &[Spec]) -> Option<Diagnostic> {
    let exports = specs.iter().flat_map(|spec| &spec.exports).filter(|export| export.runner.is_folder());
    let mut folders = exports.map(|export| &export.runner.common().target);
    let within = |folder: &&Output| {
        let ways = [(output.path(), folder.path()), (output.named(), folder.named())];
        ways.iter().any(|(path, folder)| path != folder && path.starts_with(folder))
    };
    let folder = folders.find(within)?.named().display().to_string();
    let at = item.members().first().map_or(item, |(_, arguments)| arguments.get("path").unwrap_or(arguments));
    let message =
        format!("another export fills {} with files of a guest, so no artifact lies in it", folder.escape_debug());
    Some(Diagnostic { hint: Some("name a path beside that folder".into()), ..at.diagnostic(message) })
}

/// An error for each export that writes the file of another one: images are built side by side, and one would be lost.
fn one_export_a_file(
    resolved: &ResolvedSpec,
    spec: &Spec,
    targets: &mut HashMap<PathBuf, Position>,
    problems: &mut Vec<Diagnostic>,
) {
    for (item, export) in resolved.exports.iter().zip(&spec.exports) {
        let target = export.runner.common().target.path().to_owned();
        if let Some(other) = targets.get(&target) {
            let message = format!("another export writes {} too", target.display().to_string().escape_debug());
            let mut problem = item.members().first().map_or(item, |(key, _)| key).diagnostic(message);
            if *other == export.position {
                problem.hint = Some("let its path name the values of the matrix: `{{ NAME }}`".into());
            } else {
                let message = "it is here".into();
                problem.notes.push(crate::diagnostic::Note { message, position: Some(other.clone()) });
            }
            problems.push(problem);
        }
        targets.insert(target, export.position.clone());
    }
}

fn typed(
    registry: &Registry,
    spec: &ResolvedSpec,
    options: &LoadOptions,
    problems: &mut Vec<Diagnostic>,
) -> Option<Spec> {
    let secrets = secrets::read(spec.secrets.as_ref(), problems);
    let import = match &spec.import {
        None if spec.incomplete => None,
        None => {
            problems.push(spec.node.diagnostic("the spec has no `import`: every image starts from a base"));
            None
        }
        Some(node) => single(node, "import", problems).and_then(|(key, arguments)| {
            let kind = find(&registry.imports, key, "import", &[], problems)?;
            let runner = parsed((kind.parse)(arguments), (arguments, kind.example), problems);
            let inner = entries::of_import(registry, spec, arguments, &secrets, options, problems);
            let mut volatile = arguments.volatile();
            volatile.extend(key.volatile());
            volatile.extend(inner.iter().flat_map(|step| step.volatile.iter().copied()));
            volatile.sort_unstable();
            volatile.dedup();
            Some(ImportEntry {
                kind,
                runner: runner?,
                position: key.position(),
                volatile,
                inner,
                release: Release::Any,
            })
        }),
    };
    let mut steps = Vec::new();
    for step in &spec.steps {
        let Some(entry) = entry(registry, step, &secrets, options, problems) else { continue };
        if let Action::OnMachine(_) = entry.runner.action() {
            let message = format!("`{}` is done to a machine that runs", entry.kind.name);
            problems.push(Diagnostic {
                hint: Some("put it within a step that boots the guest: `boot: {steps: [...]}`".into()),
                ..step.runner.diagnostic(message)
            });
        }
        steps.push(entry);
    }
    let mut tests = Vec::new();
    for test in &spec.tests {
        let entry = entry(registry, &test.step, &secrets, options, problems);
        tests.extend(entry.map(|boot| TestEntry { name: test.name.clone(), boot }));
    }
    let mut exports = Vec::new();
    for item in &spec.exports {
        exports.extend(single(item, "export", problems).and_then(|(key, arguments)| {
            let kind = find(&registry.exports, key, "export", &[], problems)?;
            let runner = parsed((kind.parse)(arguments), (arguments, kind.example), problems)?;
            if runner.runs_on_host() {
                allowed(key, options, problems)?;
            }
            Some(ExportEntry { kind, runner, position: key.position() })
        }));
    }
    let shown = |node: &Node| node.text().map_or_else(|| node.to_json().to_string(), str::to_owned);
    Some(Spec {
        template: spec.template.clone(),
        name: spec.name.clone(),
        description: spec.description.clone(),
        matrix: spec.matrix.iter().map(|(name, value)| (name.clone(), shown(value))).collect(),
        parameters: spec.parameters.clone(),
        variant: variant(spec, options),
        secrets,
        import: import?,
        steps,
        tests,
        exports,
    })
}

/// Stands for the values that tell images of one template apart: those of its matrix, and those of the command line.
fn variant(spec: &ResolvedSpec, options: &LoadOptions) -> Digest {
    let matrix: Vec<_> = spec.matrix.iter().map(|(name, value)| (name, value.to_json())).collect();
    Digest::of(serde_json::json!([matrix, options.parameters]).to_string().as_bytes())
}

/// Puts the spec of another template below one whose import names it; any other stays as it is.
fn on_base(
    registry: &Registry,
    spec: Spec,
    at: &Node,
    options: &LoadOptions,
    above: &[PathBuf],
    loaded: &mut LoadedSpecs,
) -> Result<Spec> {
    let Some(base) = spec.import.runner.template().cloned() else { return Ok(spec) };
    let wrong = |message: String| Error::template(vec![at.diagnostic(message)]);
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut above = above.to_vec();
    above.push(real(&spec.template));
    if above.contains(&real(&base.template)) {
        return Err(wrong(format!("{} is its own base", base.template.display())));
    }
    if above.len() > BASES {
        return Err(wrong(format!("more than {BASES} templates are each other's base")));
    }
    let options = LoadOptions { parameters: base.parameters, ..options.clone() };
    let mut below = load_below(registry, std::slice::from_ref(&base.template), &options, &above)?;
    loaded.notes.append(&mut below.notes);
    loaded.record.append(&mut below.record);
    let (Some(mut below), 0) = (below.specs.pop(), below.specs.len()) else {
        let message = format!("{} asks for several images, and a base is one", base.template.display());
        return Err(wrong(message));
    };
    for secret in spec.secrets {
        match below.secrets.iter().find(|other| other.name == secret.name) {
            Some(other) if !other.is_same(&secret) => {
                let name = secret.name.escape_debug();
                return Err(wrong(format!("the secret `{name}` is another one in {}", base.template.display())));
            }
            Some(_) => {}
            None => below.secrets.push(secret),
        }
    }
    below.steps.extend(spec.steps);
    Ok(Spec { import: below.import, steps: below.steps, secrets: below.secrets, ..spec })
}

/// The one runner of an item, with its arguments.
fn single<'a>(item: &'a Node, role: &str, problems: &mut Vec<Diagnostic>) -> Option<(&'a Node, &'a Node)> {
    match item.members() {
        [(key, arguments)] => return Some((key, arguments)),
        [] => {
            let mut problem = item.diagnostic(format!("expected the name of one {role}, found {}", item.describe()));
            if let Some(name) = item.text() {
                problem.hint = Some(format!("its arguments stand behind a colon: `{}: {{...}}`", name.escape_debug()));
            }
            problems.push(problem);
        }
        [_, (second, _), ..] => {
            let name = second.text().unwrap_or_default().escape_debug();
            let mut problem = second.diagnostic(format!("`{name}`: an {role} has one runner"));
            problem.hint = Some(match role {
                "export" => format!("several exports are a list: each begins with `- `, as in `- {name}: ...`"),
                _ => "an image begins with one base".to_owned(),
            });
            problems.push(problem);
        }
    }
    None
}
