//! Templates of the older format: what `render --json` says of them is what the format's facts say, worked out by hand.
//!
//! A case in `corpus/*.txt` is a text: its name, perhaps arguments after a `$`, files, and after `=> ` the specs as
//! JSON, or the words of an error after `!!`. Each case has a folder of its own, which is the working directory too.

use std::fs;
use std::path::PathBuf;

use crate::common::Bench;
use serde_json::Value;

/// Fewer cases than this would not cover the format.
const LEAST: usize = 60;

struct Case {
    name: String,
    arguments: Vec<String>,
    files: Vec<(String, String)>,
    expected: Vec<String>,
    words: Vec<String>,
}

fn cases() -> Vec<Case> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut cases: Vec<Case> = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        // Before its first case, a file says what it is about.
        for line in text.lines().skip_while(|line| !line.starts_with("#### ")) {
            if let Some(name) = line.strip_prefix("#### ") {
                let name = name.trim().to_owned();
                cases.push(Case {
                    name,
                    arguments: Vec::new(),
                    files: Vec::new(),
                    expected: Vec::new(),
                    words: Vec::new(),
                });
                continue;
            }
            let Some(case) = cases.last_mut() else { continue };
            if let Some(arguments) = line.strip_prefix("$ ") {
                case.arguments = arguments.split(' ').map(str::to_owned).collect();
            } else if let Some(file) = line.strip_prefix("== ") {
                case.files.push((file.trim().to_owned(), String::new()));
            } else if let Some(expected) = line.strip_prefix("=> ") {
                case.expected.push(expected.to_owned());
            } else if let Some(words) = line.strip_prefix("!! ") {
                case.words.push(words.to_owned());
            } else if case.expected.is_empty()
                && case.words.is_empty()
                && let Some((_, text)) = case.files.last_mut()
            {
                text.push_str(line);
                text.push('\n');
            } else {
                assert!(line.trim().is_empty() || case.files.is_empty(), "{}: what is `{line}`?", case.name);
            }
        }
    }
    cases
}

/// What a template asks for, whatever its scripts are run by; a runner takes `4` and `'4'`, `true` and `True` for the same.
fn alike(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, value)| *name != "shell" || *value != "/bin/sh");
            Value::Object(kept.map(|(name, value)| (name.clone(), alike(value))).collect())
        }
        Value::Array(items) => items.iter().map(alike).collect(),
        Value::Number(number) => number.to_string().into(),
        Value::Bool(value) => if *value { "True" } else { "False" }.into(),
        other => other.clone(),
    }
}

/// All cases, as they stand here and as `migrate` writes them.
#[test]
fn old_templates_mean_what_they_meant() {
    check(false);
    check(true);
}

fn check(migrated: bool) {
    let cases = cases();
    assert!(cases.len() >= LEAST, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        assert!(!case.files.is_empty() && (case.expected.is_empty() != case.words.is_empty()), "{}", case.name);
        let bench = Bench::new(PathBuf::from("/nonexistent"));
        for (name, text) in &case.files {
            let path = bench.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // A file that is only a part of a template's folder is no template.
            let new = name.ends_with(".yml") && name != "data.yml" && migrated;
            let is_file = |path: &str| bench.path(path).is_file();
            let new = new.then(|| virt_maker::template::migrate(text, &is_file).unwrap().text);
            fs::write(path, new.as_ref().unwrap_or(text)).unwrap();
        }
        // Older templates name files relative to the working folder, which is asked for now.
        let mut arguments = vec!["render", "--json", "--allow", "read=."];
        arguments.extend(case.arguments.iter().map(String::as_str));
        if !case.arguments.iter().any(|argument| argument.ends_with(".yml")) {
            arguments.push("t.yml");
        }
        let ran = bench.run(&arguments);
        let printed: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        if case.words.is_empty() {
            let specs = |spec: &Value| spec["spec"].clone();
            let found: Vec<Value> = printed["specs"].as_array().into_iter().flatten().map(specs).collect();
            let expected: Vec<Value> = case
                .expected
                .iter()
                .map(|text| serde_json::from_str(text).unwrap_or_else(|error| panic!("{}: {error}", case.name)))
                .collect();
            let (found, expected) = match migrated {
                true => (found.iter().map(alike).collect(), expected.iter().map(alike).collect()),
                false => (found, expected),
            };
            if found != expected {
                wrong.push(format!(
                    "{} (migrated: {migrated}):\n  expected {expected:?}\n  found    {found:?}\n{}{}",
                    case.name, ran.stdout, ran.stderr
                ));
            }
        } else {
            let messages: Vec<&str> = printed["errors"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|error| error["message"].as_str())
                .collect();
            let told = |words: &String| messages.iter().any(|message| message.contains(words.as_str()));
            if ran.status != Some(1) || !case.words.iter().all(told) {
                wrong.push(format!("{}: no {:?} in\n{}{}", case.name, case.words, ran.stdout, ran.stderr));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
}
