//! Every miss says what changed, in the plan and while it is built.

use std::fs;

use crate::common::{Bench, run};
use serde_json::{Value, json};
use testkit::{TinyOptions, tiny_guest};

/// For each node of the plan its state, as data.
fn plan(bench: &Bench, template: &str) -> Vec<Value> {
    let ran = bench.run(&["plan", template, "--json"]).exits(0);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    document["nodes"].as_array().unwrap().iter().map(|node| node["state"].clone()).collect()
}

fn reasons(states: &[Value]) -> Vec<&str> {
    states.iter().map(|state| state["reason"]["reason"].as_str().unwrap_or("hit")).collect()
}

#[test]
fn what_changed_is_said_with_old_and_new_values() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    fs::create_dir_all(bench.path("site/deep")).unwrap();
    fs::write(bench.path("site/index.html"), "one").unwrap();
    fs::write(bench.path("site/deep/style.css"), "a").unwrap();
    let copy = format!("copy: {{source: '{}', dest: /srv}}", bench.path("site").display());
    let script = |word: &str| run(&format!("set -e\necho first\necho {word}\necho last\n"));
    let steps = |word: &str, last: &str| [script(word), copy.clone(), run(last)];
    let template = |word: &str, last: &str| bench.template("t.yml", &steps(word, last), "");
    let first = bench.build("chroot", &template("hello", "true"), &[]).exits(0);
    assert!(first.of("layer_missing").iter().all(|event| event["miss"]["reason"] != "changed"));
    assert_eq!(reasons(&plan(&bench, "t.yml")), ["hit", "hit", "hit", "hit"]);

    // A script: its lines. What lies on it is only missing with it, also the copy, whose files are the same.
    template("goodbye", "true");
    let states = plan(&bench, "t.yml");
    assert_eq!(reasons(&states), ["hit", "changed", "parent_missing", "parent_missing"]);
    let change = &states[1]["reason"]["changes"];
    assert_eq!(change.as_array().unwrap().len(), 1);
    assert_eq!(
        (&change[0]["field"], &states[1]["reason"]["other"]),
        (&"arguments.script".into(), &first.sealed()[1].clone().into())
    );
    let said = bench.run(&["plan", "t.yml", "--explain"]).exits(0).stdout;
    for line in [
        "         arguments.script:\n",
        "           - echo hello\n",
        "           + echo goodbye\n",
        "             echo first\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(!bench.run(&["plan", "t.yml"]).exits(0).stdout.contains("+ echo goodbye"));
    let built = bench.run(&["build", "t.yml", "--engine", "chroot", "--progress", "plain"]).exits(0).stderr;
    assert!(built.contains("+ echo goodbye") && built.contains("- echo hello"), "{built}");

    // Two steps at once: each is compared with what it was.
    template("third", "echo and this");
    let states = plan(&bench, "t.yml");
    assert_eq!(reasons(&states), ["hit", "changed", "parent_missing", "changed"]);
    assert_eq!(states[3]["reason"]["changes"][0]["new"], "echo and this");
    bench.build("chroot", &bench.path("t.yml"), &[]).exits(0);

    // One file of a folder changed, one is new, one is gone.
    fs::write(bench.path("site/index.html"), "two").unwrap();
    fs::write(bench.path("site/new.txt"), "new").unwrap();
    fs::remove_file(bench.path("site/deep/style.css")).unwrap();
    let states = plan(&bench, "t.yml");
    assert_eq!(reasons(&states), ["hit", "hit", "changed", "parent_missing"]);
    let fields: Vec<_> = states[2]["reason"]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["field"].as_str().unwrap(), change["old"].is_null(), change["new"].is_null()))
        .collect();
    let mut fields: Vec<_> = fields.into_iter().filter(|(field, ..)| field.contains("inputs[")).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            ("inputs[deep/style.css].digest", false, true),
            ("inputs[index.html].digest", false, false),
            ("inputs[new.txt].digest", true, false),
        ]
    );
}

#[test]
fn a_step_put_in_between_moves_the_others_down() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let two = [run("echo one"), run("echo two")];
    bench.build("chroot", &bench.template("t.yml", &two, ""), &[]).exits(0);
    bench.template("t.yml", &[run("echo zero"), run("echo one"), run("echo two")], "");
    assert_eq!(reasons(&plan(&bench, "t.yml")), ["hit", "changed", "parent_missing", "parent_missing"]);
}

#[test]
fn bases_options_age_damage_and_collecting_are_reasons() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let steps = ["{run: 'echo one', env: {A: one}}".to_owned(), "{run: 'echo two', cache: {ttl: 1s}}".into()];
    let first = bench.build("chroot", &bench.template("t.yml", &steps, ""), &[]).exits(0).sealed();
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let states = plan(&bench, "t.yml");
    assert_eq!(reasons(&states), ["hit", "hit", "expired"]);
    assert_eq!(states[2]["reason"]["ttl"], 1);
    let steps = [steps[0].replace("A: one", "A: two"), steps[1].clone()];
    bench.template("t.yml", &steps, "");
    let states = plan(&bench, "t.yml");
    assert_eq!(states[1]["reason"]["changes"], json!([{"field": "options.env.A", "old": "one", "new": "two"}]));

    // Another template with another base, or with the same one and nothing else, is no changed state of this one.
    let other = Bench::new(tiny_guest(&TinyOptions { size_mib: 96, ..TinyOptions::default() }));
    fs::copy(other.template("o.yml", &steps, ""), bench.path("o.yml")).unwrap();
    assert_eq!(reasons(&plan(&bench, "o.yml"))[0], "never_made");
    bench.template("o.yml", &[steps[0].replace("A: two", "A: three"), run("echo else")], "");
    assert_eq!(reasons(&plan(&bench, "o.yml")), ["hit", "never_made", "parent_missing"]);
    // One with a step in common may be.
    bench.template("o.yml", &["{run: 'echo one', env: {A: one}}".to_owned(), run("echo else")], "");
    assert_eq!(reasons(&plan(&bench, "o.yml")), ["hit", "hit", "changed"]);
    // Another base under the same template.
    fs::copy(other.path("o.yml"), bench.path("t.yml")).unwrap();
    let states = plan(&bench, "t.yml");
    assert_eq!(reasons(&states)[0], "changed");
    let change = &states[0]["reason"]["changes"][0];
    assert!(change["field"].as_str().unwrap().contains("digest"), "{change}");
    assert_ne!(change["old"], change["new"]);

    // Collected, and damaged.
    bench.template("t.yml", &steps, "");
    bench.build("chroot", &bench.path("t.yml"), &[]).exits(0);
    bench.run(&["cache", "pin", &first[0]]).exits(0);
    bench.run(&["cache", "gc", "--max-size", "0"]).exits(0);
    let states = plan(&bench, "t.yml");
    assert_eq!(reasons(&states), ["hit", "collected", "collected"]);
    assert_eq!(states[1]["reason"]["why"], "--max-size");
    let said = bench.run(&["build", "t.yml", "--engine", "chroot", "--progress", "plain"]).exits(0).stderr;
    assert!(said.contains("collected at 20") && said.contains("(--max-size)"), "{said}");
    let key = plan_key(&bench, 1);
    fs::write(bench.store().join("layers").join(key).join("layer.json"), "{").unwrap();
    assert_eq!(reasons(&plan(&bench, "t.yml"))[1], "damaged");
}

fn plan_key(bench: &Bench, index: usize) -> String {
    let ran = bench.run(&["plan", "t.yml", "--json"]).exits(0);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    document["nodes"][index]["layer"]["key"].as_str().unwrap().to_owned()
}
