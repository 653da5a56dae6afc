//! The store under real builds: names of layers, what keeps them, and collecting while others build.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{Bench, run};
use serde_json::Value;
use testkit::{Fs, HostState, TinyOptions, tiny_guest};

fn json(bench: &Bench, arguments: &[&str]) -> Value {
    let ran = bench.run(&[arguments, &["--json"]].concat()).exits(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Keys of the layers that `cache ls` has, and which of them are marked.
fn listed(bench: &Bench) -> Vec<Value> {
    json(bench, &["cache", "ls"])["layers"].as_array().unwrap().clone()
}

fn two_branches(bench: &Bench) -> Vec<String> {
    let steps = [run("echo one > /one"), "{name: second, run: 'echo two > /two'}".into(), run("echo three > /three")];
    let first = bench.build("chroot", &bench.template("a.yml", &steps, ""), &[]).exits(0).sealed();
    let steps = [run("echo one > /one"), run("echo other > /other")];
    let second = bench.build("chroot", &bench.template("b.yml", &steps, ""), &[]).exits(0).sealed();
    [first, second].concat()
}

#[test]
fn a_layer_is_named_by_tag_key_template_and_step() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let keys = two_branches(&bench);
    assert_eq!(keys.len(), 5);
    let named = |name: &str| {
        bench.run(&["tag", name, "probe"]).exits(0);
        json(&bench, &["tag"])["tags"][0]["key"].as_str().unwrap().to_owned()
    };
    for (name, key) in [
        (&keys[2][..9], 2),
        (&keys[1], 1),
        ("a.yml", 3),
        ("./a.yml:0", 0),
        ("a.yml:2", 2),
        ("a.yml:second", 2),
        ("b.yml", 4),
        ("b.yml:download", 0),
        ("probe", 0),
    ] {
        assert_eq!(named(name), keys[key], "{name}");
    }
    // The template is not needed any more: it counts as it was last built.
    std::fs::remove_file(bench.path("b.yml")).unwrap();
    assert_eq!(named("b.yml:2"), keys[4]);
    assert_eq!(named(&bench.path("b.yml").display().to_string()), keys[4]);

    for (name, words) in [
        ("nothing", "means no layer"),
        ("ffffffffffff", "means no layer"),
        ("a.yml:7", "has 3 steps"),
        ("a.yml:run", "means 3 layers"),
    ] {
        let ran = bench.run(&["tag", name, "probe"]).exits(1);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    for name in ["abcd", "a:b", "x.yml", ".hidden", "../up", ""] {
        let ran = bench.run(&["tag", &keys[0], name]).exits(1);
        assert!(ran.stderr.contains("cannot be a tag"), "{}", ran.stderr);
    }
    bench.run(&["tag", "--remove", "probe"]).exits(0);
    bench.run(&["tag", "--remove", "probe"]).exits(2);
    assert_eq!(json(&bench, &["tag"])["tags"], Value::Array(Vec::new()));
}

#[test]
fn what_several_layers_are_called_is_refused_with_all_of_them() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let keys = two_branches(&bench);
    // No two real keys begin with the same four digits for sure, so one of them gets a neighbour.
    let ninth = if keys[1].as_bytes()[8] == b'0' { "1" } else { "0" };
    let twin = format!("{}{}", &keys[1][..8], ninth.repeat(56));
    std::fs::create_dir(bench.store().join("layers").join(twin)).unwrap();
    let ran = bench.run(&["tag", &keys[1][..6], "probe"]).exits(1);
    for word in ["means 2 layers", &keys[1][..12], "run: echo one > /one"] {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    let ran = bench.run(&["tag", "a.yml:run", "probe"]).exits(1);
    for key in &keys[1..3] {
        assert!(ran.stderr.contains(&key[..12]), "{}", ran.stderr);
    }
    bench.run(&["tag", &keys[1][..9], "probe"]).exits(0);
}

#[test]
fn usage_tells_what_is_shared_and_what_each_template_holds_alone() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let keys = two_branches(&bench);
    let bytes = |key: &str| {
        let found = listed(&bench).into_iter().find(|layer| layer["key"] == key).unwrap();
        found["bytes"].as_u64().unwrap()
    };
    let usage = json(&bench, &["cache", "usage"]);
    let shared = bytes(&keys[0]) + bytes(&keys[1]);
    assert_eq!(usage["shared"]["bytes"], shared);
    assert_eq!(usage["shared"]["layers"], 2);
    assert_eq!(usage["templates"][0]["alone"]["bytes"], bytes(&keys[2]) + bytes(&keys[3]));
    assert_eq!(usage["templates"][1]["all"]["bytes"], shared + bytes(&keys[4]));
    assert_eq!(usage["unclaimed"]["layers"], 0);
    // A step is changed: what it was belongs to nobody then.
    let steps = [run("echo one > /one"), run("echo changed > /other")];
    bench.build("chroot", &bench.template("b.yml", &steps, ""), &[]).exits(0);
    let usage = json(&bench, &["cache", "usage"]);
    assert_eq!(usage["unclaimed"], serde_json::json!({"layers": 1, "bytes": bytes(&keys[4])}));
    let text = bench.run(&["cache", "usage", "-H"]).exits(0).stdout;
    assert!(text.contains("KiB") && text.contains("b.yml"), "{text}");
    let text = bench.run(&["cache", "usage"]).exits(0).stdout;
    assert!(text.lines().next().unwrap().contains(&usage["all"]["bytes"].to_string()), "{text}");
}

#[test]
fn gc_takes_what_was_not_used_and_spares_what_is_kept() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let keys = two_branches(&bench);
    bench.run(&["cache", "pin", "b.yml"]).exits(0);
    bench.run(&["tag", "a.yml:2", "mine"]).exits(0);
    let dry = json(&bench, &["cache", "gc", "--max-size", "0", "--dry-run"]);
    assert_eq!(dry["layers"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&dry["layers"][0]["key"], &dry["layers"][0]["why"]["reason"]),
        (&keys[3].clone().into(), &"max_size".into())
    );
    assert_eq!(dry["unmet"][0], "max_size");
    assert_eq!(listed(&bench).len(), 5);
    let said = bench.run(&["cache", "gc", "--max-size", "0"]).exits(0).stdout;
    for words in [&keys[3][..12], "1 layer gone", "4 left", "--max-size is not met"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(listed(&bench).len(), 4);
    // What remains is whole: a build takes it and makes only what went.
    let again = bench.build("chroot", &bench.path("a.yml"), &[]).exits(0);
    assert_eq!(again.steps("layer_started"), [3]);

    bench.run(&["tag", "--remove", "mine"]).exits(0);
    bench.run(&["cache", "unpin", "b.yml"]).exits(0);
    let said = bench.run(&["cache", "clean"]).exits(0).stdout;
    assert!(said.contains("5 layers gone"), "{said}");
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(bench.store().join("builds")).unwrap().count(), 0);
}

#[test]
fn a_build_with_limits_collects_when_it_has_ended() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let keys = two_branches(&bench);
    let limit = listed(&bench).iter().map(|layer| layer["bytes"].as_u64().unwrap()).sum::<u64>();
    let steps = [run("echo one > /one"), run("echo third > /third")];
    let template = bench.template("c.yml", &steps, "");
    let ran = bench.build("chroot", &template, &["--max-size", &limit.to_string()]).exits(0);
    let collected = ran.of("store_collected");
    assert_eq!((collected.len(), &collected[0]["layers"]), (1, &1.into()));
    // A leaf of an earlier template. Which one hangs on what each took to make.
    let left: Vec<_> = listed(&bench).iter().map(|layer| layer["key"].as_str().unwrap().to_owned()).collect();
    let gone: Vec<_> = keys.iter().filter(|key| !left.contains(key)).collect();
    assert!(gone == [&keys[3]] || gone == [&keys[4]], "{gone:?} of {keys:?}");
    assert!(left.contains(&ran.sealed()[0]));
    assert!(bench.build("chroot", &template, &[]).exits(0).of("store_collected").is_empty());
}

/// What builds found counts, for what they lie on too; eight builds at once are eight; who only looks counts nothing.
#[test]
fn hits_are_counted() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let keys = two_branches(&bench);
    let hits = || -> Vec<u64> {
        let listed = listed(&bench);
        let of = |key: &String| listed.iter().find(|layer| layer["key"] == **key).unwrap()["hits"].as_u64().unwrap();
        keys.iter().map(of).collect()
    };
    // The second template was built on the first step of the first one.
    assert_eq!(hits(), [1, 1, 0, 0, 0]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| bench.build("chroot", &bench.path("a.yml"), &[]).exits(0));
        }
    });
    bench.build("chroot", &bench.path("b.yml"), &[]).exits(0);
    assert_eq!(hits(), [10, 10, 8, 8, 1]);
    bench.run(&["log", "a.yml"]).exits(0);
    bench.run(&["ls", "a.yml", "/", "--engine", "chroot"]).exits(0);
    assert_eq!(hits(), [10, 10, 8, 8, 1]);
    let tree = json(&bench, &["tree"]);
    let first = tree["layers"].as_array().unwrap().iter().find(|layer| layer["key"] == keys[1]).unwrap();
    assert_eq!((&tree["version"], &first["hits"]), (&2.into(), &10.into()));
    let text = bench.run(&["cache", "ls"]).exits(0).stdout;
    assert!(text.lines().any(|line| line.starts_with(&keys[1][..12]) && line.contains("10 hits, used")), "{text}");
}

/// A build is stopped in the middle of a step, all else is collected: what it uses stays, and it goes on.
#[test]
fn a_running_build_keeps_its_layers() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let keys = two_branches(&bench);
    let steps = [run("echo one > /one"), run("while [ ! -e /go ]; do sleep 0.1; done"), run("echo last")];
    let template = bench.template("waits.yml", &steps, "");
    let mut build = bench
        .command(&["build", template.to_str().unwrap(), "--engine", "chroot", "--progress", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while !listed(&bench).iter().any(|layer| layer["in_use"] == true) {
        assert!(begin.elapsed() < Duration::from_secs(60), "no layer is ever in use");
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = bench.run(&["cache", "clean"]).exits(0);
    assert!(said.stderr.contains("the store is in use"), "{}", said.stderr);
    let left: Vec<_> = listed(&bench).iter().map(|layer| layer["key"].clone()).collect();
    assert!(left.contains(&keys[0].clone().into()) && left.contains(&keys[1].clone().into()), "{left:?}");
    assert!(!left.contains(&keys[2].clone().into()), "{left:?}");
    kill(&build);
    build.wait().unwrap();
    assert!(listed(&bench).iter().all(|layer| layer["in_use"] == false), "a killed build has a lease");
    let said = bench.run(&["cache", "clean"]).exits(0).stdout;
    assert!(said.contains("2 layers gone"), "{said}");
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

fn kill(child: &std::process::Child) {
    std::process::Command::new("kill").args(["-KILL", &child.id().to_string()]).status().unwrap();
}

/// Builds of several templates over and over, with a collector that never rests and wants everything: no build fails,
/// and each leaves what it should.
#[test]
fn builds_and_collecting_at_the_same_time() {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let templates: Vec<_> = (0..3)
        .map(|number| {
            let steps = [run("echo shared > /shared"), run(&format!("echo {number} > /own")), run("cat /shared /own")];
            let target = bench.path(&format!("out-{number}.raw"));
            bench.template(&format!("{number}.yml"), &steps, &format!("raw: {{path: {}}}", target.display()))
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(12);
    let (rounds, collected) = std::thread::scope(|scope| {
        let builders: Vec<_> =
            templates.iter().map(|template| scope.spawn(|| build_until(&bench, template, end))).collect();
        let collector = scope.spawn(|| {
            let mut collected = 0;
            while Instant::now() < end {
                collected += json(&bench, &["cache", "gc", "--max-size", "0"])["layers"].as_array().unwrap().len();
            }
            collected
        });
        let rounds: u32 = builders.into_iter().map(|builder| builder.join().unwrap()).sum();
        (rounds, collector.join().unwrap())
    });
    assert!(rounds >= 3 && collected > 0, "{rounds} builds, {collected} layers collected");
    bench.run(&["cache", "clean"]).exits(0);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

fn build_until(bench: &Bench, template: &Path, end: Instant) -> u32 {
    let mut rounds = 0;
    while Instant::now() < end {
        bench.build("chroot", template, &["--force-export"]).exits(0);
        rounds += 1;
    }
    rounds
}

/// Changes bytes of a layer's image, in place.
fn change(image: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(image).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[test]
fn verify_finds_damage_and_repair_drops_it_with_all_above() {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions { partitioned: true, ..TinyOptions::default() }));
    let keys = two_branches(&bench);
    let whole = json(&bench, &["cache", "verify"]);
    assert_eq!((&whole["layers"], &whole["bad"]), (&5.into(), &Value::Array(Vec::new())), "{whole}");
    assert!(whole["file_systems"].as_u64().unwrap() >= 5, "{whole}");
    before.assert_nothing_left();

    // A flipped bit in a layer that another lies on. It is tagged, and goes all the same.
    bench.run(&["tag", &keys[2], "mine"]).exits(0);
    let image = bench.image(&keys[2]);
    change(&image, std::fs::metadata(&image).unwrap().len() - 1, b"X");
    let found = bench.run(&["cache", "verify"]).exits(6).stdout;
    // Found by the look at the file that every use takes, and with it what lies on it.
    assert!(found.contains(&keys[2][..12]) && found.contains("not what was sealed"), "{found}");
    assert!(found.contains("2 layers bad"), "{found}");
    assert_eq!(bench.layers().len(), 5, "verify alone removes nothing");
    let found = json(&bench, &["cache", "verify", "--repair"]);
    let removed: Vec<_> = found["removed"].as_array().unwrap().iter().map(|gone| gone["key"].clone()).collect();
    assert_eq!(removed, [keys[3].clone(), keys[2].clone()], "{found}");
    assert_eq!(json(&bench, &["cache", "verify"])["bad"], Value::Array(Vec::new()));
    let ran = bench.run(&["cat", "mine", "/one"]).exits(1);
    assert!(ran.stderr.contains("collected at 20") && ran.stderr.contains("verify --repair"), "{}", ran.stderr);
    assert_eq!(bench.build("chroot", &bench.path("a.yml"), &[]).exits(0).steps("layer_started"), [2, 3]);

    // An overlay whose header names another file below it.
    let image = bench.image(&keys[4]);
    let name = std::fs::read(&image).unwrap();
    let place = name.windows(12).position(|window| window == &keys[1].as_bytes()[..12]).unwrap();
    change(&image, place as u64, b"../../../etc");
    let found = bench.run(&["cache", "verify"]).exits(6).stdout;
    assert!(found.contains(&keys[4][..12]) && found.contains("not what was sealed"), "{found}");
    bench.run(&["cache", "verify", "--repair"]).exits(0);

    bench.run(&["cache", "clean"]).exits(0);
    before.assert_nothing_left();
}

/// A base that came with a damaged file system: its digest is right, and only the checker finds it.
#[test]
fn verify_looks_into_file_systems() {
    let before = HostState::capture();
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("broken.raw");
    let mut bytes = std::fs::read(tiny_guest(&TinyOptions { partitioned: true, ..TinyOptions::default() })).unwrap();
    let magic = bytes.chunks(512).position(|sector| sector.len() > 57 && sector[56..58] == [0x53, 0xef]).unwrap() * 512;
    // The count of free blocks.
    bytes[magic + 12..magic + 16].copy_from_slice(&[1, 2, 0, 0]);
    std::fs::write(&image, bytes).unwrap();
    let bench = Bench::new(image);
    bench.build("chroot", &bench.template("t.yml", &[], ""), &[]).exits(0);
    let found = bench.run(&["cache", "verify"]).exits(6).stdout;
    assert!(found.contains("is damaged") && found.contains("ext"), "{found}");
    bench.run(&["cache", "verify", "--repair"]).exits(0);
    assert!(bench.layers().is_empty());
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

/// The same of XFS: what was built on it is clean, and one whose superblock is damaged is found.
#[test]
fn verify_looks_into_xfs() {
    let before = HostState::capture();
    let guest = tiny_guest(&TinyOptions { partitioned: true, ..TinyOptions::with_fs(Fs::Xfs) });
    let bench = Bench::new(guest.clone());
    let steps = [run("echo one > /one"), run("dd if=/dev/urandom of=/two bs=64k count=8; rm /one")];
    bench.build("chroot", &bench.template("t.yml", &steps, ""), &[]).exits(0);
    let whole = json(&bench, &["cache", "verify"]);
    assert_eq!((&whole["layers"], &whole["file_systems"]), (&3.into(), &3.into()), "{whole}");
    assert_eq!((&whole["bad"], &whole["unchecked"]), (&Value::Array(Vec::new()), &Value::Array(Vec::new())));

    let image = bench.path("broken.raw");
    let mut bytes = std::fs::read(guest).unwrap();
    let magic = bytes.chunks(512).position(|sector| sector.starts_with(b"XFSB")).unwrap() * 512;
    // The count of inodes.
    bytes[magic + 128..magic + 136].copy_from_slice(&77u64.to_be_bytes());
    std::fs::write(&image, bytes).unwrap();
    let broken = Bench::new(image);
    broken.build("chroot", &broken.template("t.yml", &[], ""), &[]).exits(0);
    let found = broken.run(&["cache", "verify"]).exits(6).stdout;
    assert!(found.contains("xfs is damaged") && found.contains("1 layer bad"), "{found}");
    before.assert_nothing_left();
}
