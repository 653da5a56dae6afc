//! Steps of a spec, each with its runner, and those within others: of a system that has booted, and of an installer.

use super::{Registry, Secret, StepEntry};
use crate::diagnostic::{Diagnostic, Within};
use crate::error::chain;
use crate::import::keystrokes;
use crate::step::Action;
use crate::template::{
    self, IMPORTS_WITH_STEPS, LoadOptions, Node, ResolvedSpec, ResolvedStep, RunnerKind, StepOptions,
};

/// A step with its runner; nothing where something is wrong with it.
pub(super) fn entry(
    registry: &Registry,
    step: &ResolvedStep,
    secrets: &[Secret],
    options: &LoadOptions,
    problems: &mut Vec<Diagnostic>,
) -> Option<StepEntry> {
    let key = &step.runner;
    let own: Vec<&str> = template::library_steps().map(|definition| definition.name.as_str()).collect();
    let before = problems.len();
    let found = find(&registry.steps, key, "step", &own, problems);
    if let (None, Some(problem)) = (found, problems[before..].last_mut()) {
        problem.hint = template::package_instead(key, &step.arguments, problem.hint.take());
    }
    let mut runner =
        found.and_then(|kind| parsed((kind.parse)(&step.arguments), (&step.arguments, kind.example), problems));
    if let Some(shell) = &step.options.running.shell
        && let Some(runner) = &mut runner
        && !runner.set_shell(shell)
        && step.own_shell
    {
        let name = key.text().unwrap_or_default().escape_debug();
        problems.push(key.diagnostic(format!("`{name}` runs no script, so it has no use for `shell`")));
    }
    if let Some(runner) = &runner {
        if runner.runs_on_host() {
            allowed(key, options, problems);
        }
        if options.check_inputs
            && let Err(error) = runner.key_inputs()
        {
            let message = chain(&error);
            let mut problem = template::named_in(&step.arguments, &message).diagnostic(message);
            problem.hint = error.hint().map(str::to_owned);
            problems.push(problem);
        }
    }
    if let Some(kind) = found
        && !step.options.shaping.mounts.is_empty()
        && !kind.network
    {
        let message = format!("`{}` downloads nothing in the guest, so it has no use for `mounts`", kind.name);
        problems.push(key.diagnostic(message));
    }
    for name in &step.options.shaping.secrets {
        if secrets.iter().all(|secret| secret.name != *name) {
            let mut problem = key.diagnostic(format!("the template has no secret `{}`", name.escape_debug()));
            problem.hint = Some(match template::closest(name, secrets.iter().map(|secret| secret.name.as_str())) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "name it under `secrets:` with `{env: VARIABLE}` or `{file: PATH}`".into(),
            });
            problems.push(problem);
        }
    }
    for problem in &mut problems[before..] {
        step.calls.iter().rev().for_each(|call| call.blame(problem));
    }
    let (kind, runner) = (found?, runner?);
    let inner = of_boot(registry, step, secrets, options, problems);
    let within = step.calls.iter().filter(|call| call.is_step());
    let within = within.map(|call| Within { name: call.name.clone(), position: call.key.position() }).collect();
    let mut volatile = step.arguments.volatile();
    volatile.extend(key.volatile());
    volatile.extend(inner.iter().flat_map(|step| step.volatile.iter().copied()));
    volatile.sort_unstable();
    volatile.dedup();
    Some(StepEntry { kind, runner, position: key.position(), options: step.options.clone(), volatile, within, inner })
}

/// The steps within a step that boots the guest.
fn of_boot(
    registry: &Registry,
    step: &ResolvedStep,
    secrets: &[Secret],
    options: &LoadOptions,
    problems: &mut Vec<Diagnostic>,
) -> Vec<StepEntry> {
    let mut entries = Vec::new();
    for inner in &step.inner {
        let Some(entry) = entry(registry, inner, secrets, options, problems) else { continue };
        let name = entry.kind.name;
        match entry.runner.action() {
            Action::InGuest(_) | Action::OnMachine(_) => {}
            Action::OnDisk(_) => {
                let message =
                    format!("`{name}` works on the disk of a guest that is not booted, so it is no step within `boot`");
                problems.push(Diagnostic {
                    hint: Some("put it before or after the `boot`".into()),
                    ..inner.runner.diagnostic(message)
                });
            }
            Action::Boot(_) => {
                problems.push(inner.runner.diagnostic("the guest is booted already: no `boot` within `boot`"))
            }
        }
        let shaping = &entry.options.shaping;
        if !shaping.mounts.is_empty() {
            problems.push(
                inner
                    .runner
                    .diagnostic("a machine that has booted has no caches, so `mounts` has no use within `boot`"),
            );
        }
        if entry.options.caching != Default::default() {
            let message = "steps within `boot` have no layer of their own, so `cache` has no use here";
            problems
                .push(Diagnostic { hint: Some("put it beside the `boot`".into()), ..inner.runner.diagnostic(message) });
        }
        entries.push(entry);
    }
    entries
}

/// The steps within an import that boots an installer: those of its `steps`, or what the older form of its arguments says.
pub(super) fn of_import(
    registry: &Registry,
    spec: &ResolvedSpec,
    arguments: &Node,
    secrets: &[Secret],
    options: &LoadOptions,
    problems: &mut Vec<Diagnostic>,
) -> Vec<StepEntry> {
    let name = spec.import.as_ref().and_then(|import| import.members().first()).and_then(|(key, _)| key.text());
    if !name.is_some_and(|name| IMPORTS_WITH_STEPS.contains(&name)) {
        return Vec::new();
    }
    let older: Vec<ResolvedStep> = keystrokes(arguments, problems)
        .into_iter()
        .map(|(runner, arguments)| ResolvedStep {
            runner,
            arguments,
            options: StepOptions::default(),
            own_shell: false,
            calls: Vec::new(),
            inner: Vec::new(),
        })
        .collect();
    if !older.is_empty() && !spec.import_steps.is_empty() {
        problems.push(spec.import_steps[0].runner.diagnostic("either `steps` or `keystrokes`, not both"));
    }
    let mut entries = Vec::new();
    for step in spec.import_steps.iter().chain(&older) {
        let Some(entry) = entry(registry, step, secrets, options, problems) else { continue };
        match entry.runner.action() {
            Action::OnMachine(runner) if !runner.asks_the_guest() => entries.push(entry),
            _ => {
                let message =
                    format!("`{}` needs a system with our agent in it, and an installer has none", entry.kind.name);
                let hint = "here are `wait_for` with `screen` or `console`, `keys`, `type`, `click` and `screenshot`; other steps stand \
                            under the `steps` of the template";
                problems.push(Diagnostic { hint: Some(hint.into()), ..step.runner.diagnostic(message) });
            }
        }
    }
    entries
}

/// An error where a runner that runs programs on the host is not allowed to.
pub(super) fn allowed(key: &Node, options: &LoadOptions, problems: &mut Vec<Diagnostic>) -> Option<()> {
    // The door of the load, and not that of the node: a step of the library's own is asked about as well.
    let door = options.door.as_ref()?;
    door.program(key.text().unwrap_or_default()).map_err(|refusal| problems.push(key.refused(refusal))).ok()
}

/// The runner, or its errors: those about its arguments as a whole come with an example.
pub(super) fn parsed<T>(
    result: Result<T, Vec<Diagnostic>>,
    (arguments, example): (&Node, &str),
    problems: &mut Vec<Diagnostic>,
) -> Option<T> {
    let whole = Some(arguments.position());
    let told = |mut problem: Diagnostic| {
        if problem.hint.as_deref().is_none_or(template::is_less_than_an_example) && problem.position == whole {
            problem.hint = template::as_in(example).or(problem.hint);
        }
        problem
    };
    result.map_err(|found| problems.extend(found.into_iter().map(told))).ok()
}

/// The kind that a runner's name means.
pub(super) fn find<R: ?Sized>(
    kinds: &[&'static RunnerKind<R>],
    key: &Node,
    role: &str,
    more: &[&str],
    problems: &mut Vec<Diagnostic>,
) -> Option<&'static RunnerKind<R>> {
    let name = key.text().unwrap_or_default();
    if let Some(kind) = kinds.iter().find(|kind| kind.name == name) {
        return Some(kind);
    }
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name).chain(more.iter().copied()).collect();
    let mut problem = key.diagnostic(format!("unknown {role} `{}`", name.escape_debug()));
    problem.hint = Some(match template::closest(name, names.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if role == "step" => format!("known are: {}; {}", names.join(", "), template::LIST),
        None => format!("known are: {}", names.join(", ")),
    });
    problems.push(problem);
    None
}
