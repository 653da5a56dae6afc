//! Every kind of step, on each engine: what is there before, the step, and exactly what it changes.
//!
//! What each changes stands in [`fixtures`], or, for the many little cases that differ in a word, in lines of the test. All
//! steps of one guest run in one session of each engine, one layer each. The difference between a layer and the one below it
//! has to be what its case says, and nothing else; and so it is the same on each engine.

mod booted;
mod fixtures;
mod full;
mod hidden;
mod host_files;
mod hosts;
mod packages;
mod tiny;

use std::path::PathBuf;

use crate::common::Bench;
use sha2::{Digest, Sha256};
use testkit::tree::{Entry, difference, tree_of_image};

/// One step, and what it changes: lines of `+` (new), `~` (changed) or `-` (gone), a path, its kind, mode and owner, and
/// as JSON the text of a file or the target of a link (`...` where it differs each time).
pub struct Case {
    /// As it stands in a template.
    pub step: String,
    /// What it changes.
    pub changes: Expected,
}

/// Where it stands what a step changes.
pub enum Expected {
    /// In these lines.
    Lines(&'static str),
    /// In this file; see [`fixtures`].
    File(PathBuf),
}

/// A step and its changes.
pub fn case(step: impl Into<String>, changes: &'static str) -> Case {
    Case { step: step.into(), changes: Expected::Lines(changes) }
}

/// Builds the cases on an engine, and compares each layer with its case. Returns what was said, for more looks.
pub fn check(bench: &Bench, engine: &str, cases: &[Case], more: &[&str]) -> crate::common::Ran {
    let lines: Vec<String> = cases.iter().map(|case| case.step.clone()).collect();
    let template = bench.template("cases.yml", &lines, "");
    let store = bench.path(&format!("store-{engine}"));
    let mut arguments = vec!["--store", store.to_str().unwrap()];
    arguments.extend_from_slice(more);
    let ran = bench.build(engine, &template, &arguments).exits(0);
    let keys = ran.sealed();
    assert_eq!(keys.len(), cases.len() + 1, "{engine}");
    let mut before = tree_of_image(&image(&store, &keys[0]).0, image(&store, &keys[0]).1);
    for (case, key) in cases.iter().zip(&keys[1..]) {
        let (path, format) = image(&store, key);
        testkit::fsck_clean(&path, format);
        let after = tree_of_image(&path, format);
        let found = difference(&before, &after);
        match &case.changes {
            Expected::Lines(lines) => compare(engine, &case.step, lines, &found),
            Expected::File(file) => fixtures::compare(engine, &case.step, file, &found),
        }
        before = after;
    }
    ran
}

fn image(store: &std::path::Path, key: &str) -> (PathBuf, &'static str) {
    let path = crate::common::image_of(store, key);
    let format = if path.extension().is_some_and(|ending| ending == "raw") { "raw" } else { "qcow2" };
    (path, format)
}

fn compare(engine: &str, step: &str, changes: &str, found: &fixtures::Difference) {
    let mut expected = Vec::new();
    let mut any = Vec::new();
    for line in changes.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.splitn(6, ' ').collect();
        if words[0] == "-" {
            expected.push(line.to_owned());
            continue;
        }
        let content = match words.get(5).copied() {
            None => String::new(),
            Some("...") => {
                any.push(words[1].to_owned());
                "...".to_owned()
            }
            Some(text) => {
                let text: String = serde_json::from_str(text).unwrap_or_else(|error| panic!("{line}: {error}"));
                if words[2] == "file" { sha256(text.as_bytes()) } else { text }
            }
        };
        expected.push(format!("{} {content}", words[..5].join(" ")).trim_end().to_owned());
    }
    let shown = |(path, (before, after)): (&String, &(Option<Entry>, Option<Entry>))| {
        let Some(entry) = after else { return format!("- {path}") };
        let sign = if before.is_some() { "~" } else { "+" };
        let content = if any.contains(path) { "..." } else { entry.content.as_str() };
        let Entry { kind, mode, uid, gid, .. } = entry;
        format!("{sign} {path} {kind} {mode:04o} {uid}:{gid} {content}").trim_end().to_owned()
    };
    let mut found: Vec<String> = found.iter().map(shown).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "`{step}` on engine {engine}");
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
