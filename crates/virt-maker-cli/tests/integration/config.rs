//! Settings: which of several wins, where a value comes from, what a project may not decide, and what mistakes look like.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::{Bench, Ran};
use serde_json::Value;

/// A folder with settings of a user and of a project; commands run below the project.
struct World {
    bench: Bench,
}

impl World {
    fn new() -> World {
        let bench = Bench::new(PathBuf::from("/nonexistent"));
        fs::create_dir_all(bench.path("xdg-config/virt-maker")).unwrap();
        fs::create_dir_all(bench.path("project/deep/er")).unwrap();
        World { bench }
    }

    fn user(&self, text: &str) -> &World {
        fs::write(self.bench.path("xdg-config/virt-maker/config.toml"), text).unwrap();
        self
    }

    fn project(&self, text: &str) -> &World {
        fs::write(self.bench.path("project/virt-maker.toml"), text).unwrap();
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bench.command(arguments);
        command.env_remove("VIRT_MAKER_STORE").current_dir(self.bench.path("project/deep/er"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }

    /// `config show --json`, with variables.
    fn show(&self, variables: &[(&str, &str)]) -> Value {
        let mut command = self.command(&["config", "show", "--json"]);
        command.envs(variables.iter().copied());
        let ran = Ran::from(command.output().unwrap()).exits(0);
        serde_json::from_str(&ran.stdout).unwrap()
    }
}

/// Value and origin of a setting.
fn setting<'a>(shown: &'a Value, name: &str) -> (&'a Value, &'a str) {
    let all = shown["settings"].as_array().unwrap();
    let found = all.iter().find(|setting| setting["name"] == name).unwrap();
    (&found["value"], found["from"].as_str().unwrap())
}

#[test]
fn the_nearest_one_who_says_something_wins() {
    let world = World::new();
    let shown = world.show(&[]);
    let store = world.bench.path("xdg-cache/virt-maker/store");
    assert_eq!(setting(&shown, "store"), (&Value::from(store.to_str().unwrap()), "default"));
    assert_eq!(setting(&shown, "engine"), (&Value::from("auto"), "default"));
    assert_eq!(setting(&shown, "jobs"), (&Value::Null, "default"));
    assert_eq!(setting(&shown, "cache.max_depth"), (&64.into(), "default"));

    world.user("engine = 'libguestfs'\njobs = 3\nstore = '/srv/mine'\n[cache]\nmax_size = '2G'\nmax_age = '30d'\nmax_depth = 10\n");
    let shown = world.show(&[]);
    assert_eq!(setting(&shown, "store"), (&"/srv/mine".into(), "user"));
    assert_eq!(setting(&shown, "engine"), (&"libguestfs".into(), "user"));
    assert_eq!(setting(&shown, "cache.max_size"), (&(2u64 << 30).into(), "user"));
    assert_eq!(setting(&shown, "cache.max_age"), (&2_592_000.into(), "user"));
    assert_eq!(setting(&shown, "cache.max_depth"), (&10.into(), "user"));

    world.project("engine = 'vm'\nstore = '.layers'\n[cache]\nmin_free = '1G'\n");
    let shown = world.show(&[]);
    let store = world.bench.path("project/.layers");
    assert_eq!(setting(&shown, "store"), (&Value::from(store.to_str().unwrap()), "project"));
    assert_eq!(setting(&shown, "engine"), (&"vm".into(), "project"));
    assert_eq!(setting(&shown, "jobs"), (&3.into(), "user"));
    assert_eq!(setting(&shown, "cache.min_free"), (&(1u64 << 30).into(), "project"));
    let position = &shown["settings"][0]["position"];
    assert_eq!((&position["line"], &position["column"]), (&2.into(), &9.into()));

    let variables = [("VIRT_MAKER_STORE", "/srv/other"), ("VIRT_MAKER_ENGINE", "auto"), ("VIRT_MAKER_JOBS", "9")];
    let shown = world.show(&variables);
    assert_eq!(setting(&shown, "store"), (&"/srv/other".into(), "environment"));
    assert_eq!(setting(&shown, "engine"), (&"auto".into(), "environment"));
    assert_eq!(setting(&shown, "jobs"), (&9.into(), "environment"));
    // Its limits are for its own store.
    assert_eq!(setting(&shown, "cache.min_free"), (&Value::Null, "default"));

    // The command line is above all; a store that is used is there afterwards.
    let given = world.bench.path("given");
    let mut tree = world.command(&["tree", "--store", given.to_str().unwrap()]);
    Ran::from(tree.env("VIRT_MAKER_STORE", world.bench.path("variable")).output().unwrap()).exits(0);
    assert!(given.join("store.json").exists() && !world.bench.path("variable").exists());
    world.run(&["tree"]).exits(0);
    assert!(world.bench.path("project/.layers/store.json").exists());

    let text = world.run(&["config", "show"]).exits(0).stdout;
    assert!(text.contains("cache.max_size  2.0 GiB") && text.contains("cache.max_age   30 d"), "{text}");
    assert!(text.contains("/project/virt-maker.toml:2:9"), "{text}");

    let wrong = Ran::from(world.command(&["config", "show"]).env("VIRT_MAKER_ENGINE", "chrot").output().unwrap());
    assert!(wrong.exits(2).stderr.contains("VIRT_MAKER_ENGINE: there is no engine `chrot`"));
}

/// A project that came from somewhere has a store in its folder: links lead out of it, or all of it fits together. No command
/// uses it, and nothing behind the links is touched; a store that its user makes there is theirs.
#[test]
fn the_store_of_a_cloned_project_is_not_used() {
    let world = World::new();
    world.project("store = 'cache'\n");
    let (keys, store) = (world.bench.path("home/keys"), world.bench.path("project/cache"));
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("id_ed25519"), "a key").unwrap();
    let whole = || fs::read_to_string(keys.join("id_ed25519")).unwrap() == "a key";
    let verbs: [&[&str]; 5] =
        [&["tree"], &["cache", "gc"], &["cache", "clean"], &["cache", "ls"], &["plan", "../../t.yml"]];
    fs::write(world.bench.path("project/t.yml"), "spec: {import: {download: {url: x.img}}, steps: []}\n").unwrap();
    for name in ["locks", "leases", "tmp", "images", "layers", "cache", "logs", "kept"] {
        for mark in [None, Some("{\"format\": 4}")] {
            fs::create_dir_all(&store).unwrap();
            std::os::unix::fs::symlink(&keys, store.join(name)).unwrap();
            mark.into_iter().for_each(|mark| fs::write(store.join("store.json"), mark).unwrap());
            for verb in verbs {
                let ran = world.run(verb).exits(6);
                let said = ran.stderr.contains("is a link") || ran.stderr.contains("is not empty and not a store");
                assert!(said && whole(), "{name}: {}", ran.stderr);
            }
            fs::remove_dir_all(&store).unwrap();
        }
    }
    // One that somebody made, as it is shipped; then one that its user makes there.
    let theirs = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env("XDG_STATE_HOME", world.bench.path("theirs"));
        Ran::from(command.output().unwrap())
    };
    theirs(&["tree"]).exits(0);
    for verb in verbs {
        let ran = world.run(verb).exits(6);
        assert!(ran.stderr.contains("is not known to be yours: its mark is of another user"), "{}", ran.stderr);
    }
    let ran = world.run(&["cache", "adopt"]).exits(2);
    assert!(ran.stderr.contains("--store"), "a project's file does not say what is adopted: {}", ran.stderr);
    let ran = world.run(&["cache", "adopt", "--store", store.to_str().unwrap()]).exits(0);
    assert!(ran.stdout.contains("count as made by you"), "{}", ran.stdout);
    world.run(&["tree"]).exits(0);
    assert!(theirs(&["tree"]).exits(6).stderr.contains("not known to be yours"));
    fs::remove_dir_all(&store).unwrap();
    world.run(&["tree"]).exits(0);
    world.run(&["tree"]).exits(0);
}

/// The user's own store from before there were marks is taken over by itself where it is by default, and nowhere else.
#[test]
fn a_store_of_an_older_version_is_taken_over() {
    let world = World::new();
    world.run(&["tree"]).exits(0);
    let store = world.bench.path("xdg-cache/virt-maker/store");
    fs::write(store.join("store.json"), "{\"format\": 4}\n").unwrap();
    world.run(&["tree"]).exits(0);
    let mark = fs::read_to_string(store.join("store.json")).unwrap();
    assert!(mark.contains("\"mark\""), "{mark}");
    world.run(&["tree"]).exits(0);
    assert_eq!(fs::read_to_string(store.join("store.json")).unwrap(), mark);
    let elsewhere = world.bench.path("elsewhere");
    fs::rename(&store, &elsewhere).unwrap();
    world.run(&["tree", "--store", elsewhere.to_str().unwrap()]).exits(0);
    fs::write(elsewhere.join("store.json"), "{\"format\": 4}\n").unwrap();
    let ran = world.run(&["tree", "--store", elsewhere.to_str().unwrap()]).exits(6);
    assert!(
        ran.stderr.contains("it has no mark of yours") && ran.stderr.contains("cache adopt --store"),
        "{}",
        ran.stderr
    );
}

/// A project that came from somewhere cannot give itself what its user did not give it.
#[test]
fn a_project_cannot_harm_its_user() {
    let world = World::new();
    let evil = "allow = ['host-exec', 'net', 'read=/']\nengine = 'chroot'\nkernel = 'vmlinuz'\nstore = '../../elsewhere'\n\
                [cache]\nmax_size = '1K'\n";
    world.project(evil);
    let path = world.bench.path("project/t.yml");
    fs::write(&path, "spec: {import: {download: {url: x}}, steps: [{'exec:./evil': }]}\n").unwrap();
    let validate = || world.run(&["validate", path.to_str().unwrap()]);
    let ran = validate().exits(1);
    assert!(ran.stderr.contains("error: `exec:./evil` runs a program on this host"), "{}", ran.stderr);
    for word in ["host-exec", "net", "read=/", "engine chroot", "the kernel of", "a store outside", "drops"] {
        let told = ran
            .stderr
            .lines()
            .filter(|line| line.starts_with("warning: a project cannot"))
            .any(|line| line.contains(word));
        assert!(told, "{word}: {}", ran.stderr);
    }
    let shown = world.show(&[]);
    assert_eq!(shown["refused"].as_array().unwrap().len(), 7);
    for name in ["store", "engine", "kernel", "allow", "cache.max_size"] {
        assert_eq!(setting(&shown, name).1, "default", "{name}");
    }

    // Nor by a link that leads out of it.
    world.project("store = 'link'\n");
    std::os::unix::fs::symlink(world.bench.path("xdg-config"), world.bench.path("project/link")).unwrap();
    assert_eq!(setting(&world.show(&[]), "store").1, "default");
    world.project("trust = ['.']\n");
    assert!(world.run(&["tree"]).exits(1).stderr.contains("a project cannot say that it is trusted"));

    // Who trusts its folder obeys it. What the user allows anyway needs no trust.
    world.project(evil).user("allow = ['net']\n");
    assert_eq!(world.show(&[])["refused"].as_array().unwrap().len(), 6);
    world.user(&format!("trust = ['{}']\n", world.bench.path("project").display()));
    let shown = world.show(&[]);
    assert_eq!((&shown["refused"], &shown["files"]["project_trusted"]), (&serde_json::json!([]), &true.into()));
    for name in ["store", "engine", "kernel", "allow", "cache.max_size"] {
        assert_eq!(setting(&shown, name).1, "project", "{name}");
    }
    let ran = validate().exits(1);
    assert!(ran.stderr.contains("error: cannot run ") && ran.stderr.contains("evil"), "it may: {}", ran.stderr);
}

/// A build keeps the limits that the settings have for its store, unless the command line has others.
#[test]
fn a_build_keeps_the_limits() {
    let mut world = World::new();
    world.bench.base = testkit::tiny_guest(&testkit::TinyOptions::default());
    let template = world.bench.template("t.yml", &[crate::common::run("echo one > /one")], "");
    let layers = |more: &[&str]| {
        let mut arguments = vec!["build", template.to_str().unwrap(), "--engine", "chroot"];
        arguments.extend_from_slice(more);
        world.run(&arguments).exits(0);
        fs::read_dir(world.bench.path("project/.layers/layers")).unwrap().count()
    };
    world.project("store = '.layers'\n");
    assert_eq!(layers(&[]), 2);
    world.project("store = '.layers'\n[cache]\nmax_size = '1K'\n");
    assert_eq!(layers(&["--max-size", "10G"]), 2);
    assert_eq!(layers(&[]), 0);
    assert_eq!(layers(&["--max-size", "10G"]), 2);
    world.run(&["cache", "gc"]).exits(0);
    assert_eq!(fs::read_dir(world.bench.path("project/.layers/layers")).unwrap().count(), 0);
}

#[test]
fn mistakes_have_their_places() {
    let world = World::new();
    world.user(
        "stroe = 'x'\nengine = 'chrot'\njobs = 0\nallow = ['nett']\nkernel = '~/k'\ntrust = 'x'\n\n[cache]\nmaxsize = 1\n\
         max_age = 'soon'\nmin_free = 'three'\nmax_depth = 2\n",
    );
    let ran = world.run(&["config", "show"]).exits(1);
    let file = world.bench.path("xdg-config/virt-maker/config.toml");
    for (message, line, column) in [
        ("there is no setting called `stroe`", 1, 1),
        ("there is no engine `chrot`", 2, 10),
        ("expected a number, at least 1, found `0`", 3, 8),
        (
            "expected one of `read=DIR`, `write=DIR`, `env=NAME`, `host-exec`, `net`, `host-network`, `unverified`, found `nett`",
            4,
            10,
        ),
        ("`~` does not stand for the home folder here; write the path out", 5, 10),
        ("expected a list, found `x`", 6, 9),
        ("there is no setting in `[cache]` called `maxsize`", 9, 1),
        ("expected a time such as `12h`, `30d` or `8w`, found `soon`", 10, 11),
        ("expected a size such as `500M`, `20G` or `1T`, found `three`", 11, 12),
        ("expected a number of images, 3 to 256, found `2`", 12, 13),
    ] {
        let place = format!("error: {message}\n --> {}:{line}:{column}\n", file.display());
        // The margin is as wide as the number of the line.
        assert!(ran.stderr.replace("  -->", " -->").contains(&place), "{place}{}", ran.stderr);
    }
    for hint in ["did you mean `store`?", "did you mean `chroot`?", "did you mean `max_size`?"] {
        assert!(ran.stderr.contains(hint), "{hint}: {}", ran.stderr);
    }
    world.user("a = [\n");
    assert!(world.run(&["tree"]).exits(1).stderr.contains("error: this is not TOML: "));
    world.user("cache = 3\n");
    assert!(world.run(&["tree"]).exits(1).stderr.contains("expected a table"));
}
