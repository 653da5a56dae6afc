//! A program that embeds the library brings a step of its own: the one that `docs/architecture.md` shows is that of
//! `examples/own_step.rs`, and runs in a real guest on engine `chroot`.

use std::fs;
use std::path::Path;

#[path = "../../examples/own_step.rs"]
mod own_step;

#[test]
fn a_step_of_its_own_runs_and_is_cached() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let agent = target.join("debug/virt-maker-agent");
    assert!(agent.exists(), "{} is not built (make debug)", agent.display());
    let base = testkit::tiny_guest(&testkit::TinyOptions::default());
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("toy.yml");
    let text = format!(
        "format: 2\nspec:\n  import: {{disk: {{path: '{}'}}}}\n  steps:\n    - touch: /etc/toy\n    - run: test -f /etc/toy\n",
        base.display()
    );
    fs::write(&template, text).unwrap();
    let build = || own_step::run(template.clone(), agent.clone(), folder.path());
    let counts = |summary: virt_maker::build::Summary| (summary.built, summary.cached);
    assert_eq!(counts(build().unwrap()), (3, 0));
    assert_eq!(counts(build().unwrap()), (0, 3));

    fs::write(&template, fs::read_to_string(&template).unwrap().replace("touch: /etc", "touch: etc")).unwrap();
    let error = build().unwrap_err().to_string();
    assert!(error.contains("expected an absolute path in the guest"), "{error}");
}

/// In the library itself `crate` stands in the place of `virt_maker`.
#[test]
fn the_page_shows_the_step_of_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("../../docs/architecture.md")).unwrap();
    let (_, rest) = page.split_once("```rust\n").unwrap();
    let (shown, _) = rest.split_once("```").unwrap();
    let example = fs::read_to_string(root.join("examples/own_step.rs")).unwrap();
    let (_, rest) = example.split_once("mod touch {\n").unwrap();
    let (step, _) = rest.split_once("\n}\n").unwrap();
    let step: String = step.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    assert_eq!(shown, step);
}
