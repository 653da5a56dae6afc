//! Scripts of templates, and what runs them.
//!
//! A text with a `#!` line is its own. Any other is one for `/bin/sh`: as it stands in a template of the older format,
//! where it fails when its last command does; from format 2 on it ends at the first command that fails, in a pipe
//! too where the guest's `/bin/sh` knows `pipefail` (that of Debian 12 does not). `shell` beside a step, or in `defaults`, names another shell. What is keyed is what runs: a step
//! of the older format keeps its key, and so does one with `shell: /bin/sh`, which is the same.
//!
//! What a shell says of a script has the line numbers that its author sees: the first line of the text is line 1. So nothing stands
//! in lines before the text. Its shell is started by name, and what sets options stands in the first line, before what is there. A
//! key has the same as lines of their own, as in earlier versions, and so has a file in the guest that an init system starts
//! ([`Script::whole`]).

use super::Node;
use crate::diagnostic::Diagnostic;

/// What scripts of format 2 begin with.
const STRICT: &str = "set -e; (set -o pipefail) 2>/dev/null && set -o pipefail";
/// The shell of a text without a `#!` line; in the older format, that line is no part of a key.
const PLAIN: &str = "/bin/sh";

/// The text of a script, and what runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// As it stands in the template.
    written: String,
    /// The program that runs it, with its argument; none for a text that names one by itself.
    shell: Vec<String>,
    /// What the shell does before the text.
    before: Option<String>,
    /// Whether a key has the shell, too.
    keyed: bool,
}

/// As what enters a key.
impl serde::Serialize for Script {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl Script {
    /// The script of a step.
    pub fn of_step(written: String, node: &Node) -> Result<Script, Vec<Diagnostic>> {
        if written.trim().is_empty() {
            return Err(vec![node.diagnostic("the script is empty")]);
        }
        Ok(Script::new(written, node))
    }

    /// The script that stands at a node.
    pub fn new(written: String, node: &Node) -> Script {
        let own = written.starts_with("#!");
        let strict = node.source.format() >= 2 && !own;
        if !strict && passes_over_failures(&written) {
            let several = |lines: &str| {
                format!(
                    "a command that fails does not end this script, nor those in {lines}: only the last one of each counts"
                )
            };
            node.source.files.note_together("failures", failures(node), several);
        }
        let shell = if own { Vec::new() } else { vec![PLAIN.to_owned()] };
        Script { written, shell, before: strict.then(|| STRICT.to_owned()), keyed: strict }
    }

    /// Has a shell run it, unless it says by itself what does.
    pub fn set_shell(&mut self, shell: &str) {
        if !self.written.starts_with("#!") {
            (self.shell, self.before) = parts(shell);
            self.keyed = self.before.is_some() || self.shell != [PLAIN];
        }
    }

    /// As it stands in the template.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// What enters a key.
    pub fn text(&self) -> String {
        if self.keyed { self.whole() } else { self.written.clone() }
    }

    /// A file that can be started: with a `#!` line, and lines before the text.
    pub fn whole(&self) -> String {
        if self.shell.is_empty() {
            return self.written.clone();
        }
        let before = self.before.as_ref().map(|before| format!("{before}\n")).unwrap_or_default();
        format!("#!{}\n{before}{}", self.shell.join(" "), self.written)
    }

    /// What runs it, and the file that it is given: lines have the numbers of the template's text.
    pub fn run(&self) -> (Vec<String>, String) {
        let before = self.before.as_ref().map(|before| format!("{before}; ")).unwrap_or_default();
        (self.shell.clone(), format!("{before}{}", self.written))
    }
}

/// Says that failures of a script are passed over.
fn failures(node: &Node) -> Diagnostic {
    let mut note = node.diagnostic("a command that fails does not end this script: only its last one counts");
    note.hint = Some(
        "begin the script with `set -e`, or the file with `format: 2`, where each script ends at the first failure \
         (`virt-maker migrate` takes a file there)"
            .into(),
    );
    note
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

/// The program of a shell, with its argument, and what it does first. A `#!` line takes one argument, so options of shells are
/// set by themselves.
fn parts(shell: &str) -> (Vec<String>, Option<String>) {
    let (program, options) = shell.trim().split_once(char::is_whitespace).unwrap_or((shell.trim(), ""));
    let (program, options) = (program.to_owned(), options.trim());
    match (options, program.ends_with("sh")) {
        ("", _) => (vec![program], None),
        (options, true) => (vec![program], Some(format!("set {options}"))),
        (option, false) => (vec![program, option.to_owned()], None),
    }
}

/// Shells whose `set` knows `-e`, each with whether it knows `pipefail` wherever it is installed.
const SHELLS: [(&str, bool); 8] = [
    ("ash", false),
    ("bash", true),
    ("dash", false),
    ("ksh", true),
    ("mksh", true),
    ("sh", false),
    ("yash", false),
    ("zsh", true),
];

/// What is wrong with the options of a shell, in a sentence: an `-o` without a name has `set` print all options, and sets none.
pub(super) fn wrong_options(shell: &str) -> Option<String> {
    let (program, words) = known(shell)?;
    options(&words).any(|(_, flags, name)| flags.contains('o') && name.is_none()).then(|| {
        let shown = program.escape_debug();
        format!("`-o` is followed by the name of an option, as in `{shown} -eu -o pipefail`")
    })
}

/// The shell with options with which a script ends at the first failure, where it has no `-e`. `/bin/sh` alone is the word
/// for a shell that goes on.
pub(super) fn strict_instead(shell: &str) -> Option<String> {
    let (program, words) = known(shell)?;
    let mut strict = false;
    for (sets, flags, name) in options(&words) {
        if flags.contains('e') || name.is_some_and(|name| name == "errexit") {
            strict = sets;
        }
    }
    let on_purpose = program == PLAIN && words.is_empty();
    let pipes = SHELLS.iter().any(|(name, pipes)| *pipes && program.rsplit('/').next() == Some(name));
    (!strict && !on_purpose).then(|| format!("{program} {}", if pipes { "-euo pipefail" } else { "-eu" }))
}

/// The program and the words after it, where it is a shell that we know.
fn known(shell: &str) -> Option<(&str, Vec<&str>)> {
    let mut words = shell.split_whitespace();
    let program = words.next()?;
    let name = program.rsplit('/').next();
    SHELLS.iter().any(|(known, _)| name == Some(known)).then(|| (program, words.collect()))
}

/// The options among some words: whether they are set, their letters, and the name that follows an `o`.
fn options<'a>(words: &'a [&'a str]) -> impl Iterator<Item = (bool, &'a str, Option<&'a str>)> {
    let is_option = |word: &str| word.len() > 1 && word.starts_with(['-', '+']);
    words.iter().enumerate().filter(move |(_, word)| is_option(word)).map(move |(index, word)| {
        let name = words.get(index + 1).filter(|next| word.contains('o') && !is_option(next));
        (word.starts_with('-'), &word[1..], name.copied())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_that_go_on_after_a_failure_are_known() {
        for (shell, instead) in [
            ("/bin/bash", Some("/bin/bash -euo pipefail")),
            ("/bin/bash -uo pipefail", Some("/bin/bash -euo pipefail")),
            ("/bin/bash -e +e", Some("/bin/bash -euo pipefail")),
            ("/usr/bin/zsh -x", Some("/usr/bin/zsh -euo pipefail")),
            ("/bin/sh -x", Some("/bin/sh -eu")),
            ("/bin/dash", Some("/bin/dash -eu")),
            ("/bin/sh", None),
            ("/bin/sh -e", None),
            ("/bin/bash -euo pipefail", None),
            ("/bin/bash -o errexit", None),
            ("/bin/bash -u -o pipefail -e", None),
            ("/usr/bin/python3", None),
            ("/usr/bin/fish", None),
        ] {
            assert_eq!(strict_instead(shell).as_deref(), instead, "{shell}");
        }
        for wrong in ["/bin/bash -euo", "/bin/sh -o", "/bin/bash -eo -u", "/bin/bash -e +o"] {
            assert!(wrong_options(wrong).is_some(), "{wrong}");
        }
        for right in ["/bin/bash", "/bin/bash -euo pipefail", "/usr/bin/python3 -o", "/bin/bash -o errexit -u"] {
            assert_eq!(wrong_options(right), None, "{right}");
        }
    }

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
        let script = Script { written: "a\nb".into(), shell: vec![PLAIN.into()], before: None, keyed: false };
        for (shell, keyed, run) in [
            ("/bin/sh", "a\nb", (vec!["/bin/sh"], "a\nb")),
            ("/bin/bash", "#!/bin/bash\na\nb", (vec!["/bin/bash"], "a\nb")),
            (
                "/bin/bash -euo pipefail",
                "#!/bin/bash\nset -euo pipefail\na\nb",
                (vec!["/bin/bash"], "set -euo pipefail; a\nb"),
            ),
            ("/usr/bin/python3 -u", "#!/usr/bin/python3 -u\na\nb", (vec!["/usr/bin/python3", "-u"], "a\nb")),
        ] {
            let mut script = script.clone();
            script.set_shell(shell);
            assert_eq!(script.text(), keyed, "{shell}");
            let (program, text) = script.run();
            assert_eq!((program.iter().map(String::as_str).collect(), &*text), run, "{shell}");
        }
        // What is keyed is what earlier versions ran.
        let strict = Script { before: Some(STRICT.into()), keyed: true, ..script };
        let old = "#!/bin/sh\nset -e; (set -o pipefail) 2>/dev/null && set -o pipefail\na\nb";
        assert_eq!((strict.text(), strict.whole()), (old.to_owned(), old.to_owned()));
    }
}
