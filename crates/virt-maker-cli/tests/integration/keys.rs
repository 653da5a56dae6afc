//! Keys name layers in users' stores: those of every step are pinned here, with all arguments and options that enter them.
//!
//! A key that changes makes its layers misses for everybody. Where that is wanted, a runner's version says it:
//! `UPDATE_EXPECTED=1 cargo test -p virt-maker-cli --test integration keys`, and read the difference.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::Bench;

#[test]
#[expect(clippy::disallowed_methods, reason = "whoever runs the test says whether to write the file anew")]
fn no_key_of_a_step_changes() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keys");
    let bench = Bench::new(PathBuf::from("none"));
    testkit::run(Command::new("cp").arg("-r").arg(fixtures.join(".")).arg(bench.folder.path()));
    fs::write(bench.folder.path().join("base.img"), vec![0; 1 << 20]).unwrap();
    let mut found = String::new();
    for template in ["template.yml", "older.yml", "installer.yml", "installer-uefi.yml"] {
        let plan = bench.run(&["plan", "--json", template, "--allow", "host-exec"]).exits(0);
        let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
        for node in plan["nodes"].as_array().unwrap() {
            let layer = &node["layer"];
            let text = |name: &str| layer[name].as_str().unwrap().to_owned();
            let summary = text("summary");
            let summary = summary.strip_prefix(&format!("{}/", bench.folder.path().display())).unwrap_or(&summary);
            found.push_str(&format!("{} {}: {summary}\n", text("key"), text("kind")));
        }
        found.push('\n');
    }
    let place = fixtures.join("expected.txt");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&place, &found).unwrap();
    }
    assert_eq!(fs::read_to_string(place).unwrap(), found);
    // Whoever adds a step adds it there.
    let template = fs::read_to_string(fixtures.join("template.yml")).unwrap();
    // What `local_run` does, it does to one folder of one host, so its key is not the same on another.
    let missing: Vec<_> = virt_maker::step::KINDS
        .iter()
        .filter(|kind| kind.name != "local_run" && !template.contains(&format!("- {}:", kind.name)))
        .map(|kind| kind.name)
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}
