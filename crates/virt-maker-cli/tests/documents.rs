//! The reference documents against the program: every event and every snippet.

use std::path::Path;

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
}

/// Every variant of the event type stands in its table, by its name on the wire, and nothing else does.
#[test]
fn every_event_is_described() {
    let source = document("crates/virt-maker/src/event.rs");
    let from = source.find("pub enum Event {").unwrap();
    let body = &source[from..from + source[from..].find("\n}").unwrap()];
    let variants = body.lines().filter_map(|line| {
        let line = line.strip_prefix("    ")?;
        let name: String = line.chars().take_while(|character| character.is_alphanumeric()).collect();
        let rest = &line[name.len()..];
        (name.starts_with(char::is_uppercase) && (rest.starts_with(" {") || rest.starts_with('('))).then_some(name)
    });
    let snake = |name: String| {
        let mut text = String::new();
        for character in name.chars() {
            if character.is_uppercase() && !text.is_empty() {
                text.push('_');
            }
            text.extend(character.to_lowercase());
        }
        text
    };
    let mut variants: Vec<_> = variants.map(snake).collect();
    let text = document("docs/events.md");
    let mut described: Vec<_> = text
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .filter(|name| name != "type")
        .collect();
    variants.sort();
    described.sort();
    assert!(variants.len() > 15, "{variants:?}");
    assert_eq!(variants, described);
}

#[test]
fn the_snippet_of_the_template_reference_loads() {
    let text = document("docs/templates.md");
    let snippet = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("template.yml");
    std::fs::write(&path, snippet).unwrap();
    let spec = virt_maker::spec::load(&path, &[("name".into(), "other".into())]).unwrap();
    let steps: Vec<_> = spec.steps.iter().map(|step| step.runner.summary()).collect();
    assert_eq!(steps, ["other", "echo 'Welcome to other' > /etc/motd"]);
    assert_eq!(spec.exports[0].runner.target(), folder.path().join("other.qcow2"));
}
