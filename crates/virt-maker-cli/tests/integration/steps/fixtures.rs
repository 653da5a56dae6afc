//! Cases as files: a folder for each set, in it a folder for each step, in the order in which they run on one guest.
//!
//! ```text
//! fixtures/SET/NN-NAME/step.yml     the step as it stands in a template; `{{NAME}}` is a value that the test knows
//! fixtures/SET/NN-NAME/diff.json    what its layer has that the one below it has not
//! ```
//! A difference has three parts: what was `added`, with all that is known of it; what was `changed`, with what it was before and
//! is after, of what changed alone; and what was `removed`. `"..."` as content stands for one that differs from run to run.
//! `UPDATE_EXPECTED=1 cargo test -p virt-maker-cli --test integration steps` writes what was found; read it before you keep it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use testkit::tree::Entry;

use super::{Case, Expected};
use crate::common::Bench;

/// What differs between two layers: path, before, after.
pub type Difference = BTreeMap<String, (Option<Entry>, Option<Entry>)>;

/// All cases of a set, with values in the place of their names.
pub fn load(set: &str, values: &[(&str, String)]) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(set);
    let mut folders: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let case = |folder: PathBuf| {
        let text =
            fs::read_to_string(folder.join("step.yml")).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let text = values.iter().fold(text, |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value));
        // It becomes an item of a list.
        Case { step: text.trim_end().replace('\n', "\n      "), changes: Expected::File(folder.join("diff.json")) }
    };
    folders.into_iter().map(case).collect()
}

/// What a package manager writes anew each time: times in logs, caches, and databases with other packages tomorrow.
const VOLATILE: [&str; 4] = ["/var/log/", "/var/cache/", "/var/lib/apt/", "/var/lib/dpkg/"];

/// Compares layers with their cases by the program's own `diff`, which reads only what was touched: for a guest that is too large
/// to be read whole for each step. `keys` are those of the base and of each step.
pub fn compare_by_diff(bench: &Bench, engine: &str, cases: &[Case], keys: &[String]) {
    for (case, pair) in cases.iter().zip(keys.windows(2)) {
        let Expected::File(file) = &case.changes else { panic!("a case without a file") };
        let ran = bench.run(&["diff", "--engine", "chroot", "--json", "--content", &pair[0], &pair[1]]).exits(0);
        let found: Value = serde_json::from_str(&ran.stdout).unwrap();
        compare_documents(engine, &case.step, file, document_of_diff(&found));
    }
}

/// What `diff --json` says, in the form of these files. Of texts, the lines that differ.
fn document_of_diff(found: &Value) -> Value {
    let (mut added, mut changed, mut removed) = (Map::new(), Map::new(), Vec::new());
    let facts = |facts: &Value| {
        let mut known = Map::new();
        known.insert("kind".into(), facts["kind"].clone());
        known.insert("mode".into(), json!(format!("{:04o}", facts["mode"].as_u64().unwrap())));
        known.insert("owner".into(), json!(format!("{}:{}", facts["uid"], facts["gid"])));
        if !facts["target"].is_null() {
            known.insert("content".into(), facts["target"].clone());
        }
        known
    };
    // Accounts have the day on which their password was set.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 86400;
    let today = [now, now - 1].map(|day| format!(":{day}:"));
    for change in found["changes"].as_array().unwrap() {
        let path = change["path"].as_str().unwrap();
        if VOLATILE.iter().any(|volatile| path.starts_with(volatile)) {
            continue;
        }
        let lines = change["diff"].as_str().map(|text| {
            let lines = text.lines().filter(|line| line.starts_with(['+', '-']));
            let lines = lines.filter(|line| !line.starts_with("+++") && !line.starts_with("---"));
            lines
                .map(|line| today.iter().fold(line.to_owned(), |line, day| line.replace(day, ":TODAY:")))
                .collect::<Vec<_>>()
        });
        let (before, after) = (facts_if(&change["before"], facts), facts_if(&change["after"], facts));
        let mut all = match (before, after) {
            (None, Some(after)) => after,
            (Some(before), Some(after)) => {
                let differ = after.iter().filter(|(name, value)| before.get(*name) != Some(*value));
                differ.map(|(name, value)| (name.clone(), json!([before.get(name), value]))).collect()
            }
            _ => {
                removed.push(path);
                continue;
            }
        };
        if let Some(lines) = lines {
            all.insert("content".into(), json!(lines));
        } else if change["after"]["kind"] == "file" {
            all.insert("content".into(), json!(format!("{} bytes", change["after"]["size"])));
        }
        let part = if change["change"] == "added" { &mut added } else { &mut changed };
        part.insert(path.to_owned(), Value::Object(all));
    }
    json!({ "added": added, "changed": changed, "removed": removed })
}

fn facts_if(value: &Value, facts: impl Fn(&Value) -> Map<String, Value>) -> Option<Map<String, Value>> {
    (!value.is_null()).then(|| facts(value))
}

/// Compares what was found with the file, or writes the file.
pub fn compare(engine: &str, step: &str, file: &Path, found: &Difference) {
    compare_documents(engine, step, file, document(found));
}

fn compare_documents(engine: &str, step: &str, file: &Path, mut found: Value) {
    let expected = fs::read_to_string(file).ok().map(|text| serde_json::from_str::<Value>(&text).unwrap());
    for part in ["added", "changed"] {
        let paths = expected.as_ref().and_then(|expected| expected[part].as_object()).into_iter().flatten();
        for (path, _) in paths.filter(|(_, facts)| facts["content"] == "...") {
            if let Some(facts) = found[part].get_mut(path) {
                facts["content"] = "...".into();
            }
        }
    }
    testkit::expect_file(&format!("`{step}` on engine {engine}"), file, &format!("{found:#}\n"));
}

fn document(found: &Difference) -> Value {
    let (mut added, mut changed, mut removed) = (Map::new(), Map::new(), Vec::new());
    for (path, (before, after)) in found {
        match (before.as_ref().map(facts), after.as_ref().map(facts)) {
            (None, Some(after)) => drop(added.insert(path.clone(), Value::Object(after))),
            (Some(before), Some(after)) => {
                let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
                let differ = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
                let both = |name: &String| (name.clone(), json!([before.get(name), after.get(name)]));
                changed.insert(path.clone(), Value::Object(differ.map(both).collect()));
            }
            (_, None) => removed.push(path.clone()),
        }
    }
    json!({ "added": added, "changed": changed, "removed": removed })
}

/// What is known of a file, as far as it says something.
fn facts(entry: &Entry) -> Map<String, Value> {
    let Entry { kind, mode, uid, gid, links, content, text, xattrs } = entry;
    let mut facts = Map::new();
    facts.insert("kind".into(), json!(kind));
    facts.insert("mode".into(), json!(format!("{mode:04o}")));
    facts.insert("owner".into(), json!(format!("{uid}:{gid}")));
    let content = match (*kind, text) {
        ("file", Some(text)) => text.clone(),
        ("file", None) => format!("sha256:{content}"),
        _ => content.clone(),
    };
    if *kind != "directory" {
        facts.insert("content".into(), json!(content));
    }
    if *links > 1 {
        facts.insert("links".into(), json!(links));
    }
    if !xattrs.is_empty() {
        facts.insert("xattrs".into(), json!(xattrs));
    }
    facts
}
