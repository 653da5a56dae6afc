//! What helps where an argument is not known that other tools have, or that another verb has.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// An argument, the verbs at which it is tried (all for none), and what to do.
const TIPS: &[(&[&str], &[&str], &str)] = &[
    (&["--dry-run", "-n", "--plan", "--check"], &["build"], "`virt-maker plan TEMPLATE` says what a build would do"),
    (
        &["--store"],
        &["validate", "render"],
        "nothing of a store is looked at here: leave it out; `virt-maker plan` takes one",
    ),
    (&["--no-cache", "--rebuild"], &["build"], "`--force` runs every step again, `--force-from STEP` from there on"),
    (&["--var", "--set", "--vars", "-e", "--extra-vars"], &[], "a parameter is set by `-p NAME=VALUE`"),
    (&["--output", "-o", "--out"], &["build"], "where an artifact goes is said by the template, under `export`"),
    (&["--debug", "--trace"], &[], "`-v` shows what steps say, `-vv` also what engines do"),
    (&["--yes", "-y"], &[], "nothing is asked: leave it out"),
];

/// Adds the tip for an argument that is not known.
pub fn add(error: &mut clap::Error) {
    if error.kind() != ErrorKind::UnknownArgument {
        return;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return };
    let name = argument.split('=').next().unwrap_or_default();
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    let verb = usage.split_whitespace().skip_while(|word| !word.ends_with("virt-maker")).nth(1).unwrap_or_default();
    let fits = |(names, verbs, _): &&(&[&str], &[&str], &str)| {
        names.contains(&name) && (verbs.is_empty() || verbs.contains(&verb))
    };
    if let Some((_, _, tip)) = TIPS.iter().find(fits) {
        // In the place of one about a word that is written much the same.
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(*tip)]));
    }
}
