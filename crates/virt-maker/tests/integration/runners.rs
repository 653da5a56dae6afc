//! What every kind of runner says of itself: an example that it reads, and a schema that describes each argument.

use std::fs;
use std::path::Path;

use serde_json::Value;
use virt_maker::template::{Kind, Node, parse};
use virt_maker::{export, import, step};

/// The arguments in an example, which names its kind.
fn arguments(folder: &Path, name: &str, example: &str) -> Node {
    let path = folder.join("example.yml");
    fs::write(&path, example).unwrap();
    let node = parse(&path).unwrap();
    assert_eq!(node.members().len(), 1, "{example}");
    // What is done to a machine that runs is shown where it has to stand.
    let within = node.get("boot").and_then(|boot| boot.get("steps")).filter(|_| name != "boot");
    let within = within.and_then(|steps| match &steps.kind {
        Kind::List(steps) => steps.first().cloned(),
        _ => None,
    });
    let node = within.unwrap_or(node);
    node.get(name).unwrap_or_else(|| panic!("the example of `{name}` is of another kind: {example}")).clone()
}

fn check(name: &str, about: &str, schema: &Value) {
    assert!(about.ends_with('.'), "{name}: {about}");
    for (member, schema) in schema["properties"].as_object().into_iter().flatten() {
        let says = schema["description"].as_str().unwrap_or_default();
        assert!(!says.is_empty(), "{name}: the argument `{member}` has no description");
    }
    assert!(schema.get("type").or(schema.get("anyOf")).or(schema.get("oneOf")).is_some(), "{name}: {schema}");
}

#[test]
fn every_kind_describes_itself() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // The other template that the example of `layer` names, and the playbook of `ansible`.
    fs::write(folder.join("base.yml"), "spec: {}\n").unwrap();
    fs::create_dir(folder.join("ansible")).unwrap();
    fs::write(folder.join("ansible/site.yml"), "[]\n").unwrap();
    for kind in import::KINDS {
        check(kind.name, kind.about, &(kind.arguments)());
        assert!((kind.parse)(&arguments(folder, kind.name, kind.example)).is_ok(), "{}", kind.example);
    }
    for kind in step::KINDS {
        check(kind.name, kind.about, &(kind.arguments)());
        assert!((kind.parse)(&arguments(folder, kind.name, kind.example)).is_ok(), "{}", kind.example);
    }
    for kind in export::KINDS {
        check(kind.name, kind.about, &(kind.arguments)());
        assert!((kind.parse)(&arguments(folder, kind.name, kind.example)).is_ok(), "{}", kind.example);
    }
}
