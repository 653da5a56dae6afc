//! The schema that editors use, by another implementation of JSON Schema: good templates fit it, wrong ones do not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Bench;

/// Names of those that do not fit, with what a validator says.
fn refused(bench: &Bench, templates: &[(String, String)]) -> Vec<String> {
    let schema = bench.path("schema.json");
    fs::write(&schema, bench.run(&["schema"]).exits(0).stdout).unwrap();
    let mut checker = Command::new("/usr/bin/python3");
    checker.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema/check.py")).arg(&schema);
    let folder = bench.path("templates");
    fs::create_dir_all(&folder).unwrap();
    for (index, (_, text)) in templates.iter().enumerate() {
        let path = folder.join(format!("{index}.yml"));
        fs::write(&path, text).unwrap();
        checker.arg(path);
    }
    let output = checker.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let named = |line: &str| {
        let (path, message) = line.split_once(".yml: ").unwrap();
        let index: usize = path.rsplit('/').next().unwrap().parse().unwrap();
        format!("{}: {message}", templates[index].0)
    };
    said.lines().map(named).collect()
}

/// The template of each case in a folder of cases, by the case's name; no template of an importer that is known and not
/// built yet, and none that the loader refuses.
fn cases(folder: &Path) -> Vec<(String, String)> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        for case in fs::read_to_string(path).unwrap().split("\n#### ").skip(1) {
            let (name, _) = case.split_once('\n').unwrap();
            let rest = &case[name.len()..];
            let is_said = |mark: &str| rest.lines().any(|line| line.starts_with(mark));
            if is_said("!! ") || rest.contains("isoboot") {
                continue;
            }
            let arguments = rest.lines().find_map(|line| line.strip_prefix("$ ")).unwrap_or_default();
            let main = arguments.split(' ').find(|word| word.ends_with(".yml")).unwrap_or("t.yml");
            let files = rest.split("\n== ").skip(1).filter_map(|file| file.split_once('\n'));
            let text = files.filter(|(file, _)| file.trim() == main).map(|(_, text)| text);
            let belongs = |line: &&str| !line.starts_with("=> ") && !line.starts_with("$ ");
            let text: Vec<&str> = text.flat_map(str::lines).filter(belongs).collect();
            assert!(!text.is_empty(), "{name}");
            found.push((name.trim().to_owned(), text.join("\n")));
        }
    }
    found
}

#[test]
fn good_templates_fit_the_schema() {
    let bench = Bench::new(PathBuf::from("/nonexistent"));
    let mut templates = cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus"));
    assert!(templates.len() > 50, "{}", templates.len());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for name in ["quickstart", "web-server"] {
        let example = root.join("examples").join(name).join(name).with_extension("yml");
        templates.push((name.into(), fs::read_to_string(&example).unwrap()));
        bench.run(&["validate", example.to_str().unwrap()]).exits(0);
    }
    let pages = ["README.md", "docs/templates.md", "docs/tutorial.md", "docs/booting.md"];
    for page in pages {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block));
        let whole = |block: &&str| block.lines().any(|line| line == "spec:");
        let named = |(index, block): (usize, &str)| (format!("{page} {}", index + 1), block.to_owned());
        templates.extend(blocks.filter(whole).enumerate().map(named));
    }
    let blocks = templates.iter().filter(|(name, _)| name.contains(".md")).count();
    assert!(blocks >= 10, "{blocks} templates in {pages:?}");
    assert_eq!(refused(&bench, &templates), Vec::<String>::new());
}

#[test]
fn wrong_templates_do_not() {
    let bench = Bench::new(PathBuf::from("/nonexistent"));
    let import = "import: {download: {url: x}}";
    let wrong: Vec<(String, String)> = [
        "steps: []",
        "sepc: {}",
        "name: [x]",
        "spec: {import: {download: {}}}",
        "spec: {import: {downlaod: {url: x}}}",
        "spec: {import: {download: {url: x, ulr: x}}}",
        "spec: {import: {download: {url: x}, disk: {path: x}}}",
        "from: x\nspec: {import: {download: {url: x, ulr: x}}}",
        &format!("spec: {{{import}, steps: [x]}}"),
        &format!("spec: {{{import}, steps: [{{copy: {{dest: /x, mod: 1}}}}]}}"),
        &format!("spec: {{{import}, steps: [{{run: ls, network: maybe}}]}}"),
        &format!("spec: {{{import}, export: {{raw: {{}}}}}}"),
        &format!("from: x\nspec: {{{import}, export: [{{raw: {{}}}}]}}"),
        &format!("spec: {{{import}, export: {{raw: {{path: x, clean: perhaps}}}}}}"),
    ]
    .map(|text| (text.to_owned(), format!("{text}\n")))
    .into();
    let refused: BTreeSet<String> =
        refused(&bench, &wrong).into_iter().map(|line| line.split(": $").next().unwrap().to_owned()).collect();
    let missed: Vec<&String> = wrong.iter().map(|(text, _)| text).filter(|text| !refused.contains(*text)).collect();
    assert_eq!(missed, Vec::<&String>::new(), "{refused:?}");
}

/// What an import or an export must have may come from the template below or on top.
#[test]
fn a_template_on_another_one_may_have_a_part_of_the_arguments() {
    let bench = Bench::new(PathBuf::from("/nonexistent"));
    let parts = ["from", "to"].map(|key| {
        let text = format!(
            "{key}: base.yml\nspec: {{import: {{download: {{checksum: x}}}}, export: {{raw: {{clean: true}}}}}}\n"
        );
        (key.to_owned(), text)
    });
    assert_eq!(refused(&bench, &parts), Vec::<String>::new());
}
