//! A wrong template for every error that the loader can give, with the text that a person sees.
//!
//! `errors/cases.txt` has the templates, `errors/expected.txt` what `validate` says of each. After a change of words:
//! `UPDATE_EXPECTED=1 cargo test -p virt-maker-cli --test integration errors`, and read the difference.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::common::Bench;

struct Case {
    name: String,
    /// Another command than `validate`, with all its arguments.
    command: Vec<String>,
    arguments: Vec<String>,
    files: Vec<CaseFile>,
}

/// A part of a file; parts of one name are put together.
struct CaseFile {
    name: String,
    made: Made,
    text: String,
}

/// How a part of a file comes from what stands in the case.
enum Made {
    AsItIs,
    /// `: 9 times TEXT`, where TEXT may have `\n` and `\xff`.
    Times(usize, String),
    /// `: for 1 to 9`: once for each number, `%` and `%+` in name and text being the number and the next one.
    For(usize, usize),
    /// `: program`: it can be started.
    Program,
}

impl CaseFile {
    fn new(line: &str) -> CaseFile {
        let Some((name, how)) = line.split_once(": ") else {
            return CaseFile { name: line.to_owned(), made: Made::AsItIs, text: String::new() };
        };
        let made = match how.split_once(' ') {
            None if how == "program" => Made::Program,
            Some(("for", range)) => {
                let (first, last) = range.split_once(" to ").unwrap();
                Made::For(first.parse().unwrap(), last.parse().unwrap())
            }
            Some((count, text)) => Made::Times(count.parse().unwrap(), text.strip_prefix("times ").unwrap().to_owned()),
            None => panic!("{line}"),
        };
        CaseFile { name: name.to_owned(), made, text: String::new() }
    }

    /// Its files with what is in them.
    fn parts(&self) -> Vec<(String, Vec<u8>)> {
        let text = format!("{}\n", self.text.trim_end_matches('\n'));
        match &self.made {
            Made::AsItIs | Made::Program => vec![(self.name.clone(), text.into_bytes())],
            Made::Times(count, text) => {
                let parts = text.split("\\xff").map(|part| part.replace("\\n", "\n").into_bytes());
                vec![(self.name.clone(), parts.collect::<Vec<_>>().join(&0xff).repeat(*count))]
            }
            Made::For(first, last) => {
                let with = |text: &str, number: usize| {
                    text.replace("%+", &(number + 1).to_string()).replace('%', &number.to_string())
                };
                (*first..=*last).map(|number| (with(&self.name, number), with(&text, number).into_bytes())).collect()
            }
        }
    }
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().skip_while(|line| !line.starts_with("#### ")) {
        if let Some(name) = line.strip_prefix("#### ") {
            cases.push(Case { name: name.to_owned(), command: Vec::new(), arguments: Vec::new(), files: Vec::new() });
            continue;
        }
        let case = cases.last_mut().expect("the first line names a case");
        if let Some(arguments) = line.strip_prefix("$$ ") {
            case.command = arguments.split(' ').map(str::to_owned).collect();
        } else if let Some(arguments) = line.strip_prefix("$ ") {
            case.arguments = arguments.split(' ').map(str::to_owned).collect();
        } else if let Some(file) = line.strip_prefix("== ") {
            case.files.push(CaseFile::new(file));
        } else {
            if case.files.is_empty() {
                case.files.push(CaseFile::new("t.yml"));
            }
            let text = &mut case.files.last_mut().expect("there is one now").text;
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
        for file in &case.files {
            for (name, bytes) in file.parts() {
                let path = bench.path(&name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let mut opened = fs::File::options().create(true).append(true).open(&path).unwrap();
                opened.write_all(&bytes).unwrap();
                if matches!(file.made, Made::Program) {
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
                }
            }
        }
        let real = bench.folder.path().canonicalize().unwrap();
        let shown = |ran: &crate::common::Ran| ran.stderr.replace(real.to_str().unwrap(), "FOLDER");
        if !case.command.is_empty() {
            let ran = bench.run(&case.command.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(ran.status.is_some_and(|status| status > 0), "{}:\n{}{}", case.name, ran.stdout, ran.stderr);
            said.push_str(&format!("#### {}\n{}\n", case.name, shown(&ran)));
            continue;
        }
        let mut arguments = vec!["validate"];
        arguments.extend(case.arguments.iter().map(String::as_str));
        if !case.arguments.iter().any(|argument| argument.ends_with(".yml")) {
            arguments.push("t.yml");
        }
        let ran = bench.run(&arguments);
        assert_eq!(ran.status, Some(1), "{}:\n{}{}", case.name, ran.stdout, ran.stderr);
        said.push_str(&format!("#### {}\n{}\n", case.name, shown(&ran)));

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
    testkit::expect_file("what errors say", &folder.join("expected.txt"), &said);
}

/// What `errors/elsewhere.txt` says that it is here.
#[test]
fn what_needs_more_than_a_wrong_template() {
    use virt_maker::spec::{load, load_all};
    use virt_maker::template::LoadOptions;

    let bench = Bench::new(PathBuf::from("/nonexistent"));
    fs::create_dir(bench.path("sub")).unwrap();
    fs::write(bench.path("sub/t.yml"), "from: base.yml\n").unwrap();
    fs::write(bench.path("base.yml"), "spec: {import: {download: {url: x}}}\n").unwrap();
    let ran = bench.run(&["validate", "sub/t.yml", "--allow", "read=."]).exits(0);
    let words = "note: `base.yml` was found in the working directory, not beside sub/t.yml\n --> sub/t.yml:1:7\n";
    assert!(ran.stderr.starts_with(words), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("note: there is no base yet: cannot read {}", bench.path("x").display())));
    assert!(ran.stderr.contains("hint: a path in a template is relative to the template's own folder"));

    let path = bench.path("t.yml");
    let spec = "spec: {import: {download: {url: x}}";
    let message = |options: &LoadOptions| {
        let error = load_all(std::slice::from_ref(&path), options).err().expect("the template is wrong");
        error.diagnostics()[0].message.clone()
    };
    fs::write(&path, format!("{spec}, steps: [{{hostname: '{{{{ nproc() }}}}'}}]}}\n")).unwrap();
    let frozen = Some([("nproc()#1".to_owned(), "many".to_owned())].into());
    let options = LoadOptions { frozen, ..LoadOptions::default() };
    assert_eq!(message(&options), "the record of nproc() is damaged: `many`");

    fs::write(&path, format!("{spec}, steps: [{{'exec:./tool': }}]}}\n")).unwrap();
    let mut options = LoadOptions::default();
    options.permissions.host_exec = true;
    assert_eq!(message(&options), "programs cannot be run here");

    fs::write(&path, format!("matrix: {{a: [1, 2]}}\n{spec}}}\n")).unwrap();
    let error = load(&path, &[]).err().expect("it asks for two");
    assert!(error.to_string().ends_with("t.yml asks for 2 images, not for one"), "{error}");
}
