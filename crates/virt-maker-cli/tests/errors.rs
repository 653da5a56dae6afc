//! A wrong template for every error that the loader can give, with the text that a person sees.
//!
//! `errors/cases.txt` has the templates, `errors/expected.txt` what `validate` says of each. After a change of words:
//! `UPDATE_EXPECTED=1 cargo test -p virt-maker-cli --test errors`, and read the difference.
#![expect(clippy::disallowed_methods, reason = "whoever runs the test asks for new texts by a variable")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::Bench;

struct Case {
    name: String,
    arguments: Vec<String>,
    files: Vec<(String, String)>,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().skip_while(|line| !line.starts_with("#### ")) {
        if let Some(name) = line.strip_prefix("#### ") {
            cases.push(Case { name: name.to_owned(), arguments: Vec::new(), files: Vec::new() });
            continue;
        }
        let case = cases.last_mut().expect("the first line names a case");
        if let Some(arguments) = line.strip_prefix("$ ") {
            case.arguments = arguments.split(' ').map(str::to_owned).collect();
        } else if let Some(file) = line.strip_prefix("== ") {
            case.files.push((file.to_owned(), String::new()));
        } else {
            if case.files.is_empty() {
                case.files.push(("t.yml".into(), String::new()));
            }
            let (_, text) = case.files.last_mut().expect("there is one now");
            text.push_str(&line.replace("\\t", "\t"));
            text.push('\n');
        }
    }
    cases
}

#[test]
fn every_error_says_what_is_wrong() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let cases = cases(&fs::read_to_string(folder.join("cases.txt")).unwrap());
    let mut said = String::new();
    for case in &cases {
        let bench = Bench::new(PathBuf::from("/nonexistent"));
        for (name, text) in &case.files {
            let path = bench.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = text.trim_end_matches('\n');
            fs::write(path, format!("{text}\n")).unwrap();
        }
        let mut arguments = vec!["validate"];
        arguments.extend(case.arguments.iter().map(String::as_str));
        if !case.arguments.iter().any(|argument| argument.ends_with(".yml")) {
            arguments.push("t.yml");
        }
        let ran = bench.run(&arguments);
        assert_eq!(ran.status, Some(1), "{}:\n{}{}", case.name, ran.stdout, ran.stderr);
        let real = bench.folder.path().canonicalize().unwrap();
        let text = ran.stderr.replace(real.to_str().unwrap(), "FOLDER");
        said.push_str(&format!("#### {}\n{text}\n", case.name));

        // The same as data: a message each, and places that are numbers.
        arguments.insert(1, "--json");
        let printed: serde_json::Value = serde_json::from_str(&bench.run(&arguments).stdout).unwrap();
        let errors = printed["errors"].as_array().unwrap();
        let shown = ran.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors.len(), shown, "{}", case.name);
        for error in errors.iter().filter(|error| !error["position"].is_null()) {
            assert!(error["position"]["line"].as_u64().unwrap() > 0, "{error}");
        }
    }
    let path = folder.join("expected.txt");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&path, &said).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    for (said, expected) in said.split("#### ").zip(expected.split("#### ")) {
        assert_eq!(said, expected);
    }
    assert_eq!(said, expected);
}
