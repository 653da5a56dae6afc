//! An error as it is printed: one sentence, its causes, its places in templates, what to do.

use std::io::Write;
use std::path::Path;

use virt_maker::diagnostic::{Position, Within};
use virt_maker::error::{Error, Place, StepFailure};

use crate::diagnostic;
use crate::error::Failure;
use crate::settings;
use crate::text::{harmless, without_passwords};

/// Prints why a command ended to standard error.
pub fn print(failure: &Failure) {
    let text = match failure {
        Failure::Usage(text) => format!("error: {}\n", without_passwords(text)),
        Failure::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return,
        Failure::Output(error) => format!("error: cannot write the output: {error}\n"),
        Failure::Code(_) => return,
        Failure::Library(error) => render(error),
    };
    // Nobody is left to be told if this fails.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// An error as it is shown: one sentence, its causes, its places in templates, what to do.
pub fn render(error: &Error) -> String {
    if !error.parts().is_empty() {
        return error.parts().iter().map(render).collect();
    }
    let mut text = String::new();
    match error.diagnostics() {
        [] => {
            text.push_str(&format!("error: {}\n", lines(&error.to_string())));
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                text.push_str(&format!("  caused by: {}\n", lines(&cause.to_string())));
                source = cause.source();
            }
        }
        diagnostics => diagnostics.iter().for_each(|diagnostic| text.push_str(&diagnostic::render(diagnostic))),
    }
    match (error.failure(), error.place()) {
        (Some(failure), _) => {
            let told = text.clone();
            text.push_str(&render_failure(failure, &told));
        }
        (None, Some(Place { position, within, what })) => {
            text.push_str(&render_place(within, Some(position)));
            text.push_str(&format!("  {}\n", harmless(what)));
        }
        (None, None) => {}
    }
    let hints = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    for hint in hints.filter_map(|error| error.downcast_ref::<Error>()).filter_map(Error::hint) {
        text.push_str(&format!("  hint: {}\n", harmless(hint)));
    }
    text
}

/// A message whose further lines are indented, such as what a screen showed: they stay lines, and stay indented.
fn lines(text: &str) -> String {
    text.split("\n  ").map(harmless).collect::<Vec<_>>().join("\n    ")
}

/// The line that the author wrote comes first, and then what it is made of.
fn render_place(within: &[Within], position: Option<&Position>) -> String {
    let mut text = String::new();
    for within in within {
        text.push_str(&format!("  --> {}: `{}`\n", within.position, harmless(&within.name)));
    }
    if let Some(position) = position {
        text.push_str(&format!("  --> {position}\n"));
    }
    text
}

/// What is known of a step that failed, but for what was `told` before.
fn render_failure(failure: &StepFailure, told: &str) -> String {
    let mut text = render_place(&failure.within, failure.position.as_ref());
    text.push_str(&format!("  step: {}\n", harmless(&failure.step)));
    let quoted = |lines: &[String]| lines.iter().map(|line| format!("    | {}\n", harmless(line))).collect::<String>();
    match failure.last_lines.as_slice() {
        [] => text.push_str("  it printed nothing\n"),
        lines => text.push_str(&format!("  the last lines of its output:\n{}", quoted(lines))),
    }
    if let Some(machine) = &failure.machine {
        if !machine.shown.is_empty() {
            text.push_str(&format!("  on its screen last:\n{}", quoted(&machine.shown)));
        }
        for (what, path) in [("screen", &machine.screen), ("console", &machine.console)] {
            if let Some(path) = path.as_ref().filter(|path| !told.contains(&*path.to_string_lossy())) {
                text.push_str(&format!("  its {what} is kept: {}\n", path.display()));
            }
        }
    }
    if !failure.log.as_os_str().is_empty() {
        text.push_str(&format!("  the whole log: {}\n", failure.log.display()));
    }
    match &failure.kept {
        Some(kept) => {
            // STORE/kept/NAME/overlay.qcow2
            let store = kept.ancestors().nth(3).unwrap_or(kept);
            text.push_str(&format!("  the guest as the step left it: {}\n", kept.display()));
            text.push_str(&format!("  look inside with: {}\n", command("shell", Some(store), &word(kept))));
            if failure.machine.is_some() {
                text.push_str(&format!("  boot it with: {}\n", command("run", Some(store), &word(kept))));
            }
        }
        None => text.push_str("  look inside with: --on-failure shell, or --on-failure keep\n"),
    }
    if let (Some(machine), None) = (&failure.machine, &failure.kept) {
        // STORE/logs/NAME.log
        let store = failure.log.ancestors().nth(2);
        text.push_str(&format!("  boot what it began with: {}\n", command("run", store, &machine.below.short())));
    }
    text
}

/// A command that opens something of a store: one that is not the store of now needs its name.
fn command(verb: &str, store: Option<&Path>, what: &str) -> String {
    let of = |path: &Path| path.canonicalize().ok();
    let usual = settings::store(None).ok();
    let other = store.filter(|store| of(store).is_none() || of(store) != usual.as_deref().and_then(of));
    let option = other.map(|store| format!("--store {} ", word(store))).unwrap_or_default();
    format!("virt-maker {verb} {option}{what}")
}

/// A path as a word of a shell.
fn word(path: &Path) -> String {
    match path.to_string_lossy() {
        plain if plain.chars().all(|c| c.is_alphanumeric() || "_-./:@+=,".contains(c)) => plain.into_owned(),
        other => format!("'{}'", other.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use virt_maker::diagnostic::Diagnostic;
    use virt_maker::error::ErrorKind;

    use super::*;

    #[test]
    fn a_diagnostic_marks_its_place() {
        let diagnostic = Diagnostic {
            message: "unknown step `rum`".into(),
            position: Some(Position { file: Arc::new(PathBuf::from("a.yml")), line: 12, column: 7 }),
            source_line: Some("    - rum: ls".into()),
            hint: Some("did you mean `run`?".into()),
            notes: Vec::new(),
        };
        let expected = "error: unknown step `rum`\n  --> a.yml:12:7\n   |\n12 |     - rum: ls\n   |       ^\n  hint: did you mean `run`?\n";
        assert_eq!(render(&Error::template(vec![diagnostic])), expected);
    }

    #[test]
    fn no_password_of_a_url_is_printed() {
        let line = "    - repo: {url: 'https://u:pass@h/x?token=abc', nmae: x}";
        let column = line.find("nmae").unwrap() + 1;
        let diagnostic = Diagnostic {
            message: "`https://u:pass@h/x?token=abc` is wrong".into(),
            position: Some(Position { file: Arc::new(PathBuf::from("a.yml")), line: 1, column }),
            source_line: Some(line.into()),
            hint: None,
            notes: Vec::new(),
        };
        let cause = std::io::Error::other("no https://u:pass@h/");
        let error = Error::new(ErrorKind::Base, "cannot fetch https://u:pass@h/?token=abc").with_source(cause);
        let text = render(&Error::template(vec![diagnostic])) + &render(&error);
        assert!(!text.contains("pass") && !text.contains("abc"), "{text}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[3].find("nmae"), lines[4].find('^'), "{text}");
    }

    #[test]
    fn causes_and_hints_have_lines_of_their_own() {
        let inner = Error::new(ErrorKind::Host, "no such \x1bthing").with_hint("install it");
        let error = Error::new(ErrorKind::Base, "cannot do it").with_source(inner);
        assert_eq!(render(&error), "error: cannot do it\n  caused by: no such \\u{1b}thing\n  hint: install it\n");
        assert_eq!(Failure::from(error).exit_code(), 1);
    }
}
