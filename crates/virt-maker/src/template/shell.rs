//! Scripts of templates, and what runs them.
//!
//! A text with a `#!` line is its own. Any other is one for `/bin/sh`: as it stands in a template of the older format,
//! where it fails when its last command does; from format 2 on it ends at the first command that fails, in a pipe too
//! where the shell can. `shell` beside a step, or in `defaults`, names another shell. What is keyed is what runs: a step
//! of the older format keeps its key, and so does one with `shell: /bin/sh`, which is the same.

use super::Node;

/// What scripts of format 2 begin with.
const STRICT: &str = "#!/bin/sh\nset -e; (set -o pipefail) 2>/dev/null && set -o pipefail\n";
/// The shell of the older format, whose `#!` line is no part of a key.
const PLAIN: &str = "/bin/sh";

/// The text of a script, as what runs it gets it.
#[derive(Debug, Clone)]
pub struct Script {
    /// As it stands in the template.
    written: String,
    /// With what stands before it.
    text: String,
}

impl Script {
    /// The script that stands at a node.
    pub fn new(written: String, node: &Node) -> Script {
        let strict = node.source.format() >= 2 && !written.starts_with("#!");
        if !strict && passes_over_failures(&written) && node.source.files.is_first(&node.source.path, "failures") {
            let mut note = node.diagnostic("a command that fails does not end this script: only its last one counts");
            note.hint = Some(
                "begin the script with `set -e`, or the file with `format: 2`, where each script ends at the first \
                 failure (`virt-maker migrate` takes a file there)"
                    .into(),
            );
            node.note(note);
        }
        let text = if strict { format!("{STRICT}{written}") } else { written.clone() };
        Script { written, text }
    }

    /// Has a shell run it, unless it says by itself what does.
    pub fn set_shell(&mut self, shell: &str) {
        if !self.written.starts_with("#!") {
            self.text = format!("{}{}", head(shell), self.written);
        }
    }

    /// As it stands in the template.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// What enters a key; without a `#!` line it is run by `/bin/sh`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The same, always with its `#!` line.
    pub fn whole(&self) -> String {
        if self.text.starts_with("#!") { self.text.clone() } else { format!("#!{PLAIN}\n{}", self.text) }
    }
}

/// Whether a script has several commands, of which all but the last may fail unnoticed.
fn passes_over_failures(script: &str) -> bool {
    if script.starts_with("#!") {
        return false;
    }
    let strict = |line: &str| {
        let options = line.strip_prefix("set ").map(str::trim_start).and_then(|options| options.strip_prefix('-'));
        let flags = options.map(|options| options.split([' ', ';']).next().unwrap_or_default());
        flags.is_some_and(|flags| flags.contains('e')) || line.starts_with("set ") && line.contains("errexit")
    };
    let lines = script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut commands, mut goes_on) = (0, false);
    for line in lines {
        if strict(line) {
            return false;
        }
        commands += usize::from(!goes_on);
        goes_on = ["\\", "&&", "||", "|"].iter().any(|end| line.ends_with(end));
        let compound =
            ["if ", "for ", "while ", "until ", "case ", "{", "("].iter().any(|begin| line.starts_with(begin));
        commands += usize::from(!compound && line.trim_end_matches(';').contains("; "));
    }
    commands > 1
}

/// The lines that have a shell run what follows. A `#!` line takes one argument, so options of shells are set by a line
/// of their own.
fn head(shell: &str) -> String {
    let (program, options) = shell.trim().split_once(char::is_whitespace).unwrap_or((shell.trim(), ""));
    let name = program.rsplit('/').next().unwrap_or_default();
    match (options.trim(), name.ends_with("sh")) {
        ("", _) if program == PLAIN => String::new(),
        ("", _) => format!("#!{program}\n"),
        (options, true) => format!("#!{program}\nset {options}\n"),
        (option, false) => format!("#!{program} {option}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_whose_failures_nobody_sees_are_known() {
        for script in ["a\nb", "cp x y; echo done", "# c\na && b\nc", "if a; then b; fi\nc"] {
            assert!(passes_over_failures(script), "{script}");
        }
        for script in
            ["a", "set -e\na\nb", "set -eu; a\nb", "a &&\nb", "a \\\n  b", "#!/bin/sh\na\nb", "if a; then b; fi"]
        {
            assert!(!passes_over_failures(script), "{script}");
        }
    }

    #[test]
    fn shells_have_their_options() {
        for (shell, expected) in [
            ("/bin/sh", ""),
            ("/bin/bash", "#!/bin/bash\n"),
            ("/bin/bash -euo pipefail", "#!/bin/bash\nset -euo pipefail\n"),
            ("/usr/bin/python3 -u", "#!/usr/bin/python3 -u\n"),
        ] {
            assert_eq!(head(shell), expected, "{shell}");
        }
    }
}
