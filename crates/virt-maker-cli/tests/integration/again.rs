//! Steps that are made again on purpose, what that costs; and where a step comes from.

use std::fs;

use crate::common::{Bench, run};
use serde_json::Value;
use testkit::{TinyOptions, tiny_guest};

/// `--force-from STEP`: that step and what lies on it, and nothing below; `plan` says what it would be and what it took.
#[test]
fn a_step_and_what_lies_on_it_are_made_again() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let steps =
        [run("echo one > /one"), "{run: date +%s%N > /two, name: the second}".to_owned(), "hostname: three".to_owned()];
    let template = bench.template("t.yml", &steps, "");
    let text = template.to_str().unwrap();
    let first = bench.build("chroot", &template, &[]).exits(0).sealed();
    for (step, made) in [("2", 2), ("the second", 2), ("hostname", 1), ("t.yml:3", 1), ("1", 3), ("0", 4)] {
        let plan = bench.run(&["plan", text, "--force-from", step]).exits(0).stdout;
        let line = plan.lines().last().unwrap();
        assert!(
            line.starts_with(&format!("4 layers: {} there, {made} to make, which took ", 4 - made)),
            "{step}: {plan}"
        );
        assert!(plan.contains("(forced)") && !line.contains("of them"), "{step}: {plan}");
        let ran = bench.build("chroot", &template, &["--force-from", step]).exits(0);
        assert_eq!(ran.of("layer_started").len(), made, "{step}");
        assert!(
            bench.build("chroot", &template, &[]).exits(0).of("layer_started").is_empty(),
            "{step}: it is there now"
        );
    }
    let again = bench.build("chroot", &template, &["--refresh", "2"]).exits(0).sealed();
    assert_eq!(again, first[2..], "under the same keys");
    let ran = bench.build("chroot", &template, &["--force-from", "nothing"]).exits(1);
    assert!(ran.stderr.contains("`nothing` means no step of these templates"), "{}", ran.stderr);
    // A word for several steps is no choice.
    for verb in ["plan", "build"] {
        let ran = bench.run(&[verb, text, "--force-from", "run"]).exits(1);
        for words in ["`run` means several steps: 1 (", "t.yml:", "), 2 (", "say the number: `--force-from 1`"] {
            assert!(ran.stderr.contains(words) && !ran.stderr.contains("), 3 ("), "no {words} in\n{}", ran.stderr);
        }
    }
    // In one template only.
    let other = bench.template("o.yml", &[run("echo one > /one"), run("echo other > /two")], "");
    bench.build("chroot", &other, &[]).exits(0);
    let ran = bench.run(&[
        "build",
        text,
        other.to_str().unwrap(),
        "--engine",
        "chroot",
        "--progress",
        "json",
        "--force-from",
        "o.yml:2",
    ]);
    let started = ran.exits(0);
    // Once, although another worker exports it: who comes for it knows that it was made just now.
    assert_eq!(started.of("layer_started").len(), 1);
    bench.run(&["build", text, "--force", "--force-from", "1"]).exits(2);
}

/// A layer of an unrelated template is no older state of this one's: what differs from it says nothing.
#[test]
fn what_differs_is_told_of_the_same_template_and_not_of_one_with_the_same_base() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let elsewhere = bench.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let reason = |template: &std::path::Path| {
        let ran = bench.run(&["plan", template.to_str().unwrap(), "--json"]).exits(0);
        let document: Value = serde_json::from_str(&ran.stdout).unwrap();
        document["nodes"][1]["state"]["reason"]["reason"].as_str().unwrap().to_owned()
    };
    let one = bench.template("one.yml", &[run("echo one")], "");
    bench.build("chroot", &one, &[]).exits(0);
    // Elsewhere, and beside it, with nothing in common but the base.
    let other = bench.template("other.yml", &[run("echo other")], "");
    let far = elsewhere.join("other.yml");
    fs::copy(&other, &far).unwrap();
    assert_eq!(reason(&far), "never_made");
    assert_eq!(reason(&other), "never_made");
    let much = bench.template("much.yml", &["{run: echo much, env: {A: b}, network: off}".to_owned()], "");
    assert_eq!(reason(&much), "never_made");
    bench.template("one.yml", &["{run: echo much, env: {A: b}, network: off}".to_owned()], "");
    assert_eq!(reason(&one), "changed", "the same template");
}

/// The names of the steps that a step is a part of stand in the plan, in the tree and in errors, there with the caller's line first.
#[test]
fn a_step_says_where_it_came_from() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let define = "define:\n  inner: {params: [word], steps: [{run: 'echo {{ word }} > /inner; test {{ word }} = good'}]}\n  outer: {params: [word], steps: [{inner: '{{ word }}'}]}\n";
    let path = |word: &str| {
        let path = bench.template("t.yml", &[format!("outer: {word}")], "");
        let text = fs::read_to_string(&path).unwrap();
        let define = define.replace("params: [word]", "params: {word: {type: string}}");
        fs::write(&path, format!("{define}{text}")).unwrap();
        path
    };
    let good = path("good");
    let plan = bench.run(&["plan", good.to_str().unwrap()]).exits(0).stdout;
    assert!(plan.contains("[outer › inner, "), "{plan}");
    let ran = bench.build("chroot", &good, &[]).exits(0);
    assert_eq!(ran.of("layer_started")[1]["within"][0]["name"], "outer");
    let tree = bench.run(&["tree"]).exits(0).stdout;
    assert!(tree.contains("[outer › inner]"), "{tree}");
    let ran = bench.build("chroot", &path("bad"), &[]).exits(4);
    let places: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("  --> ")).collect();
    assert!(
        places.len() == 3 && places[0].ends_with(": `outer`") && places[1].ends_with(": `inner`"),
        "{}",
        ran.stderr
    );
}
