//! Deep chains: layers that get an image right on the base, under real builds, on each engine.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Bench, run};
use serde_json::Value;
use testkit::{HostState, TinyOptions, read_file_from_image, tiny_guest};

/// How many images are in the chain of one, by its headers.
fn images(image: &Path) -> usize {
    let output =
        Command::new("qemu-img").args(["info", "--backing-chain", "--output=json"]).arg(image).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Value>(&output.stdout).unwrap().as_array().unwrap().len()
}

fn steps(count: usize) -> Vec<String> {
    (1..=count).map(|number| run(&format!("set -e; echo {number} >> /steps; echo {number} > /step{number}"))).collect()
}

fn lines(count: usize) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}

/// A chain that is built without any flattening is flattened later: all keys and every byte stay.
#[test]
fn a_deep_chain_is_flattened_and_stays_what_it_was() {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let (one, two) = (bench.path("one.raw"), bench.path("two.raw"));
    let template = bench.template("t.yml", &steps(9), &format!("raw: {{path: '{}'}}", one.display()));
    let keys = bench.build("chroot", &template, &[]).exits(0).sealed();
    assert_eq!(images(&bench.image(&keys[9])), 10);
    bench.run(&["cache", "flatten"]).exits(0);
    assert_eq!(images(&bench.image(&keys[9])), 10, "a default of 64 leaves it alone");

    let ran = bench.run(&["cache", "flatten", "--max-depth", "3", "--json"]).exits(0);
    let done: Value = serde_json::from_str(&ran.stdout).unwrap();
    let outcomes: Vec<_> = done["layers"].as_array().unwrap().iter().map(|one| one["outcome"].clone()).collect();
    assert_eq!(outcomes, ["done", "done", "done", "done"], "{done}");
    let depths: Vec<usize> = keys.iter().map(|key| images(&bench.image(key))).collect();
    assert_eq!(depths, [1, 2, 3, 2, 3, 2, 3, 2, 3, 2]);

    let again = bench.template("t.yml", &steps(9), &format!("raw: {{path: '{}'}}", two.display()));
    let ran = bench.build("chroot", &again, &["--max-depth", "3"]).exits(0);
    assert_eq!((ran.sealed().len(), ran.of("layer_flattened").len(), ran.of("warning").len()), (0, 0, 0));
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap(), "the export has other bytes");
    let verified = bench.run(&["cache", "verify", "--json"]).exits(0);
    let verified: Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!((&verified["layers"], &verified["file_systems"]), (&10.into(), &10.into()), "{verified}");
    let listed = bench.run(&["cache", "ls"]).exits(0).stdout;
    assert_eq!(listed.matches("[flat]").count(), 4, "{listed}");
    // Those that lie on a flat one read through it.
    assert_eq!(bench.run(&["cat", "t.yml:7", "/steps", "--engine", "chroot"]).exits(0).stdout, lines(7));

    let named = bench.run(&["cache", "flatten", "t.yml:5", "t.yml:8"]).exits(0).stdout;
    assert_eq!(named.matches("lies on its base already").count(), 1, "{named}");
    assert!(named.contains("3 images became 2"), "{named}");
    assert_eq!(bench.run(&["cache", "gc", "--max-size", "0"]).exits(0).stderr, "");
    assert_eq!((bench.layers().len(), bench.left_in_store()), (0, Vec::new()));
    before.assert_nothing_left();
}

/// Three times the limit, in one build and in single steps: sessions begin anew where the chain has got too deep, and no chain
/// that is left is deeper than twice the limit.
fn a_build_keeps_its_chains_short(engine: &str, count: usize) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let target = bench.path("out.raw");
    let export = format!("raw: {{path: '{}'}}", target.display());
    let template = bench.template("t.yml", &steps(count), &export);
    let first = bench.build(engine, &template, &["--max-depth", "3"]).exits(0);
    assert_eq!(first.sealed().len(), count + 1);
    assert!(first.of("session_started").len() >= 2, "one session has all images open");
    assert_eq!(first.of("warning").len(), 0, "{:?}", first.of("warning"));
    for key in first.sealed() {
        assert!(images(&bench.image(&key)) <= 6, "{key}");
    }
    assert_eq!(String::from_utf8_lossy(&read_file_from_image(&target, "/steps")), lines(count));

    // One step more: what was not flattened beside the work is before it.
    let template = bench.template("t.yml", &steps(count + 1), &export);
    let ran = bench.build(engine, &template, &["--max-depth", "3"]).exits(0);
    assert_eq!((ran.sealed().len(), ran.of("warning").len()), (1, 0));
    assert!(images(&bench.image(&ran.sealed()[0])) <= 6);
    assert_eq!(String::from_utf8_lossy(&read_file_from_image(&target, "/steps")), lines(count + 1));
    bench.run(&["cache", "verify"]).exits(0);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

#[test]
fn a_build_keeps_its_chains_short_on_chroot() {
    a_build_keeps_its_chains_short("chroot", 9);
}

#[test]
fn a_build_keeps_its_chains_short_on_vm_appliance() {
    let _lock = testkit::appliance_lock();
    a_build_keeps_its_chains_short("vm", 9);
}

/// Its appliance takes seconds to start, so it gets a chain that was flattened before, and one step to add.
#[test]
fn libguestfs_builds_on_a_flat_layer() {
    let _lock = testkit::appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let keys = bench.build("chroot", &bench.template("t.yml", &steps(5), ""), &[]).exits(0).sealed();
    bench.run(&["cache", "flatten", &keys[4]]).exits(0);
    assert_eq!(images(&bench.image(&keys[5])), 3);
    let target = bench.path("out.raw");
    let template = bench.template("t.yml", &steps(6), &format!("raw: {{path: '{}'}}", target.display()));
    let ran = bench.build("libguestfs", &template, &[]).exits(0);
    assert_eq!(ran.sealed().len(), 1);
    assert_eq!(String::from_utf8_lossy(&read_file_from_image(&target, "/steps")), lines(6));
    bench.run(&["cache", "verify"]).exits(0);
    before.assert_nothing_left();
}

/// A build that is one step on a chain far too deep flattens first, and says so; one that is a little too deep does not wait.
#[test]
fn who_comes_to_a_chain_that_is_far_too_deep_waits_until_it_is_shorter() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    bench.build("chroot", &bench.template("t.yml", &steps(7), ""), &[]).exits(0);
    let ran = bench.build("chroot", &bench.template("t.yml", &steps(8), ""), &["--max-depth", "4"]).exits(0);
    let waited: Vec<_> = ran.of("layer_flattened").into_iter().filter(|event| event["waited"] == true).collect();
    assert_eq!(waited.len(), 1, "{:?}", ran.of("layer_flattened"));
    assert_eq!(waited[0]["images"], 8);
    assert!(images(&bench.image(&ran.sealed()[0])) <= 4);

    for (limit, words) in [("2", "3 to 256"), ("257", "3 to 256"), ("x", "3 to 256")] {
        let ran = bench.run(&["build", "t.yml", "--max-depth", limit]).exits(2);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
}
