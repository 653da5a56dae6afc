//! Several images in one build: common layers once, branches side by side, failures that end only what needs them.

use std::path::PathBuf;

use crate::common::{Bench, Ran, run};
use serde_json::Value;
use testkit::{HostState, TinyOptions, read_file_from_image, tiny_guest};

on_chroot_and_vm!(
    a_common_prefix_is_made_once_and_branches_run_side_by_side,
    a_failure_ends_the_images_that_need_it_and_no_other,
);

/// Templates `one`, `two`, ... with common steps and one or more of their own each.
fn templates(bench: &Bench, common: &[String], own: &[&[String]]) -> Vec<PathBuf> {
    let names = ["one", "two", "three", "four"];
    own.iter()
        .zip(names)
        .map(|(own, name)| {
            let steps: Vec<String> = common.iter().chain(*own).cloned().collect();
            let target = bench.path(&format!("{name}.raw"));
            bench.template(&format!("{name}.yml"), &steps, &format!("raw: {{path: '{}'}}", target.display()))
        })
        .collect()
}

fn build(bench: &Bench, engine: &str, templates: &[PathBuf], more: &[&str]) -> Ran {
    let mut arguments = vec!["build", "--engine", engine, "--progress", "json"];
    arguments.extend(templates.iter().map(|path| path.to_str().unwrap()));
    arguments.extend_from_slice(more);
    bench.run(&arguments)
}

/// Where in the events something of a layer with this summary is said.
fn place(ran: &Ran, kind: &str, summary: &str) -> usize {
    let started = |event: &&Value| event["type"] == "layer_started" && event["summary"] == summary;
    let key = ran.events.iter().find(started).unwrap_or_else(|| panic!("{summary}"))["key"].clone();
    ran.events.iter().position(|event| event["type"] == kind && event["key"] == key).unwrap()
}

fn outcomes(ran: &Ran) -> Vec<&str> {
    let images = ran.events.last().unwrap()["images"].as_array().unwrap();
    images.iter().map(|image| image["outcome"].as_str().unwrap()).collect()
}

fn a_common_prefix_is_made_once_and_branches_run_side_by_side(engine: &str) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let common = [run("echo a >> /steps"), run("echo b >> /steps")];
    // Each of two branches waits until it sees the other's sign on its output, so only two at once come to an end.
    // Guests cannot see each other: what shows that they overlap is the order of the events.
    let branch =
        |name: &str| [run(&format!("echo {name} >> /steps; sleep 2")), run(&format!("echo {name}2 >> /steps"))];
    let (one, two, three) = (branch("one"), branch("two"), branch("three"));
    let templates = templates(&bench, &common, &[&one, &two, &three]);
    let ran = build(&bench, engine, &templates, &["--jobs", "3"]).exits(0);

    assert_eq!(ran.of("layer_started").len(), 1 + 2 + 3 * 2, "the base and the common steps are made once");
    assert_eq!(ran.of("layer_sealed").len(), 9);
    assert_eq!(ran.of("session_started").len(), 3, "the first branch goes on in the session of the common steps");
    assert_eq!(outcomes(&ran), ["built", "built", "built"]);
    let texts = ["echo one >> /steps; sleep 2", "echo two >> /steps; sleep 2", "echo three >> /steps; sleep 2"];
    let last_begin = texts.iter().map(|text| place(&ran, "layer_started", text)).max().unwrap();
    let first_end = texts.iter().map(|text| place(&ran, "step_finished", text)).min().unwrap();
    assert!(last_begin < first_end, "all three branches run before the first of them ends");
    for name in ["one", "two", "three"] {
        let text = read_file_from_image(&bench.path(&format!("{name}.raw")), "/steps");
        assert_eq!(String::from_utf8(text).unwrap(), format!("a\nb\n{name}\n{name}2\n"));
    }
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();

    let again = build(&bench, engine, &templates, &["--jobs", "3"]).exits(0);
    assert_eq!(again.of("session_started").len(), 0);
    assert_eq!(outcomes(&again), ["cached", "cached", "cached"]);
    // One after another gives the same layers.
    let other = Bench::new(tiny_guest(&TinyOptions::default()));
    for template in &templates {
        std::fs::copy(template, other.path(template.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let alone = build(&other, engine, &templates, &["--jobs", "1", "--force-export"]).exits(0);
    assert_eq!(sorted(alone.sealed()), sorted(ran.sealed()));
}

fn sorted(mut keys: Vec<String>) -> Vec<String> {
    keys.sort();
    keys
}

fn a_failure_ends_the_images_that_need_it_and_no_other(engine: &str) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let common = [run("echo a >> /steps")];
    let own = [
        [run("echo one >> /steps"), run("echo sorry; exit 7")],
        [run("echo two >> /steps"), run("echo two2 >> /steps")],
        [run("echo one >> /steps"), run("true after one")],
        [run("exit 9"), run("never")],
    ];
    let own: Vec<&[String]> = own.iter().map(|steps| &steps[..]).collect();
    let templates = templates(&bench, &common, &own);
    let ran = build(&bench, engine, &templates, &["--jobs", "2"]).exits(4);
    assert_eq!(outcomes(&ran), ["failed", "built", "built", "failed"], "{}", ran.stderr);
    assert_eq!(ran.events.last().unwrap()["type"], "build_failed");
    assert!(bench.path("two.raw").exists() && bench.path("three.raw").exists());
    assert!(!bench.path("one.raw").exists() && !bench.path("four.raw").exists());
    for expected in ["exit status 7", "    | sorry", "exit status 9", "one.yml:", "four.yml:"] {
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
    before.assert_nothing_left();
    assert_eq!(bench.left_in_store(), Vec::<String>::new());

    // What was made is not made again, and the rest is tried again.
    let again = build(&bench, engine, &templates, &["--jobs", "1"]).exits(4);
    assert_eq!(outcomes(&again), ["failed", "cached", "cached", "failed"]);

    // The plain report ends with a line for each image, the ones to look at last.
    let mut arguments = vec!["build", "--engine", engine, "--progress", "plain"];
    arguments.extend(templates.iter().map(|path| path.to_str().unwrap()));
    let plain = bench.run(&arguments).exits(4);
    let lines: Vec<&str> =
        plain.stderr.lines().filter_map(|line| line.split_once("]   ")).map(|(_, text)| text).collect();
    let summary = &lines[lines.len() - 4..];
    let words: Vec<Vec<&str>> = summary.iter().map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(
        words,
        [["two", "cached"], ["three", "cached"], ["one", "failed:"], ["four", "failed:"]],
        "{}",
        plain.stderr
    );
}

#[test]
fn fail_fast_stops_what_else_is_under_way() {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let (slow, bad) = ([run("echo slow; sleep 600")], [run("sleep 1; exit 3")]);
    let templates = templates(&bench, &[run("true")], &[&slow, &bad]);
    let ran = build(&bench, "chroot", &templates, &["--jobs", "2", "--fail-fast"]).exits(4);
    assert_eq!(outcomes(&ran), ["stopped", "failed"], "{}", ran.stderr);
    assert!(ran.stderr.contains("exit status 3") && !ran.stderr.contains("stopped on request"), "{}", ran.stderr);
    before.assert_nothing_left();
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

#[test]
fn the_combinations_of_a_matrix_are_branches() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.path("matrix.yml");
    let text = format!(
        "matrix: {{role: [web, db], size: [1, 2]}}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    \
         - run: echo base\n    - run: echo {{{{ role }}}} > /role\n    - run: echo {{{{ size }}}} > /size\n  export:\n    \
         raw: {{path: '{}/{{{{ role }}}}-{{{{ size }}}}.raw'}}\n",
        bench.base.display(),
        bench.folder.path().display()
    );
    std::fs::write(&template, text).unwrap();
    let ran = build(&bench, "chroot", &[template], &[]).exits(0);
    assert_eq!(ran.of("layer_sealed").len(), 1 + 1 + 2 + 4);
    for (role, size) in [("web", 1), ("web", 2), ("db", 1), ("db", 2)] {
        let image = bench.path(&format!("{role}-{size}.raw"));
        let read = |path: &str| String::from_utf8(read_file_from_image(&image, path)).unwrap();
        assert_eq!((read("/role"), read("/size")), (format!("{role}\n"), format!("{size}\n")));
    }
    let images = ran.events.last().unwrap()["images"].as_array().unwrap();
    assert_eq!(images[3]["matrix"], serde_json::json!({"role": "db", "size": "2"}));
}

#[test]
fn a_shell_on_failure_and_several_jobs_do_not_go_together() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.template("t.yml", &[], "");
    let arguments = ["build", template.to_str().unwrap(), "--on-failure", "shell", "--jobs", "2"];
    let ran = bench.run(&arguments).exits(2);
    assert!(ran.stderr.contains("terminal"), "{}", ran.stderr);
}
