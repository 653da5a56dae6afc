//! The main job, end to end, with engines `chroot` and `vm`: one session, a layer per step, nothing twice.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::{Bench, run};
use testkit::{HostState, TinyOptions, fsck_clean, read_file_from_image, tiny_guest};

on_chroot_and_vm!(
    two_builds_on_one_base_at_once,
    ten_steps_take_one_session_and_an_edit_runs_only_what_follows,
    every_layer_is_a_clean_file_system_with_the_data_that_was_written,
    a_failing_step_says_where_and_why_and_is_not_stored,
    force_makes_every_layer_again_and_children_of_the_old_ones_are_misses,
    two_processes_make_each_layer_once,
    a_damaged_layer_is_a_miss_with_a_warning,
    a_deep_chain_is_opened_again,
);

fn ten_steps(seventh: &str) -> Vec<String> {
    (1..=10)
        .map(|number| run(&if number == 7 { seventh.to_owned() } else { format!("echo {number} >> /steps") }))
        .collect()
}

fn ten_steps_take_one_session_and_an_edit_runs_only_what_follows(engine: &str) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.template("ten.yml", &ten_steps("echo 7 >> /steps"), "");
    let first = bench.build(engine, &template, &[]).exits(0);
    assert_eq!(first.of("session_started").len(), 1);
    assert_eq!(first.steps("layer_started"), (0..=10).collect::<Vec<_>>());

    let second = bench.build(engine, &template, &[]).exits(0);
    assert_eq!(second.of("session_started").len(), 0);
    assert_eq!(second.steps("layer_started"), Vec::<u64>::new());
    assert_eq!(second.steps("layer_cached"), (0..=10).collect::<Vec<_>>());

    let edited = bench.template("ten.yml", &ten_steps("echo seven >> /steps"), "");
    let third = bench.build(engine, &edited, &[]).exits(0);
    assert_eq!(third.of("session_started").len(), 1);
    assert_eq!(third.steps("layer_started"), [7, 8, 9, 10]);

    let mut shares = ten_steps("other");
    shares.truncate(6);
    shares.push(run("echo only this runs"));
    let other = bench.template("other.yml", &shares, "");
    assert_eq!(bench.build(engine, &other, &[]).exits(0).steps("layer_started"), [7]);

    // What each made is what its own steps wrote.
    let tip = third.sealed().pop().unwrap();
    let image = bench.image(&tip);
    let text = read_file_from_image(&image, "/steps");
    assert_eq!(String::from_utf8(text).unwrap(), "1\n2\n3\n4\n5\n6\nseven\n8\n9\n10\n");
    // Its record says the digest of its image, also that of the base, which is known from copying it.
    for (key, image) in bench.layers() {
        let record = fs::read(bench.store().join("layers").join(&key).join("layer.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let sum = std::process::Command::new("sha256sum").arg(&image).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        assert_eq!(sum.split(' ').next(), record["digest"].as_str(), "{key}");
    }
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

/// Known data, written by the guest at several depths, read back from each sealed layer by other programs. This is
/// the test that would catch a loop device with direct I/O over FUSE, or anything else that corrupts silently.
fn every_layer_is_a_clean_file_system_with_the_data_that_was_written(engine: &str) {
    for options in [
        TinyOptions::default(),
        TinyOptions { partitioned: true, ..TinyOptions::default() },
        TinyOptions { fs: testkit::Fs::Xfs, size_mib: 320, ..TinyOptions::default() },
    ] {
        let bench = Bench::new(tiny_guest(&options));
        // Many small files, a large one, overwrites and deletions: metadata and data in many places.
        let steps: Vec<String> = (0..6)
            .map(|number| {
                run(&format!(
                    "set -e; mkdir /d{number}; i=0; while [ $i -lt 200 ]; do echo {number}-$i > /d{number}/$i; i=$((i+1)); done; \
                     dd if=/dev/urandom of=/big{number} bs=64k count=96 2>/dev/null; \
                     dd if=/dev/urandom of=/same bs=4k count=300 2>/dev/null; \
                     rm -rf /d$(({number} - 2)); md5sum /big{number} /same | tee -a /sums"
                ))
            })
            .collect();
        let ran = bench.build(engine, &bench.template("t.yml", &steps, ""), &[]).exits(0);
        let sealed = ran.sealed();
        assert_eq!(sealed.len(), 7);
        for (depth, key) in sealed.iter().enumerate().skip(1) {
            let image = bench.image(key);
            fsck_clean(&image, "qcow2");
            let log = fs::read_to_string(bench.store().join("layers").join(key).join("log.txt")).unwrap();
            for line in log.lines() {
                let (sum, path) = line.split_once("  ").unwrap();
                assert_eq!(testkit::md5(&read_file_from_image(&image, path)), sum, "{path} at depth {depth}");
            }
            assert_eq!(log.lines().count(), 2);
        }
    }
}

fn a_failing_step_says_where_and_why_and_is_not_stored(engine: &str) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let steps = [run("echo one > /one"), run("echo some output; echo more >&2; exit 3"), run("echo three")];
    let template = bench.template("fails.yml", &steps, "");
    for _ in 0..2 {
        let ran = bench.build(engine, &template, &[]).exits(4);
        let failed = ran.of("step_failed");
        assert_eq!(failed.len(), 1);
        let failure = &failed[0]["failure"];
        assert_eq!(failure["position"]["line"], 6);
        assert_eq!(failure["last_lines"], serde_json::json!(["some output", "more"]));
        assert!(failure["exit"].as_str().unwrap().contains("exit status 3"), "{failure}");
        let log = fs::read_to_string(failure["log"].as_str().unwrap()).unwrap();
        assert_eq!(log, "some output\nmore\n");
        assert!(ran.stderr.contains("fails.yml:6:"), "{}", ran.stderr);
    }
    assert_eq!(bench.layers().len(), 2, "the base and the first step");
    assert_eq!(bench.left_in_store(), Vec::<String>::new());

    let kept = bench.build(engine, &template, &["--on-failure", "keep"]).exits(4);
    let overlay = kept.of("step_failed")[0]["failure"]["kept"].as_str().unwrap().to_owned();
    fsck_clean(overlay.as_ref(), "qcow2");
    assert_eq!(read_file_from_image(overlay.as_ref(), "/one"), b"one\n");

    let mended = bench.template("fails.yml", &[steps[0].clone(), run("true"), steps[2].clone()], "");
    assert_eq!(bench.build(engine, &mended, &[]).exits(0).steps("layer_started"), [2, 3]);
    before.assert_nothing_left();
}

fn force_makes_every_layer_again_and_children_of_the_old_ones_are_misses(engine: &str) {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let stamp = run("cat /proc/sys/kernel/random/uuid > /stamp");
    let short = bench.template("short.yml", std::slice::from_ref(&stamp), "raw: {path: short.img}");
    let long = bench.template("long.yml", &[stamp, run("cat /stamp > /copy")], "raw: {path: long.img}");
    bench.build(engine, &long, &[]).exits(0);
    let first = read_file_from_image(&bench.path("long.img"), "/stamp");
    let forced = bench.build(engine, &short, &["--force"]).exits(0);
    assert_eq!(forced.steps("layer_started"), [0, 1]);
    let second = read_file_from_image(&bench.path("short.img"), "/stamp");
    assert_ne!(first, second);
    // The old child lies on bytes that are gone: it must not be taken for a hit.
    let again = bench.build(engine, &long, &[]).exits(0);
    assert_eq!(again.steps("layer_started"), [2]);
    assert_eq!(read_file_from_image(&bench.path("long.img"), "/stamp"), second);
    assert_eq!(read_file_from_image(&bench.path("long.img"), "/copy"), second);
}

/// Whoever comes second waits for the layer that the first one makes, and then uses it.
fn two_processes_make_each_layer_once(engine: &str) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let steps: Vec<String> = (0..5).map(|number| run(&format!("sleep 0.3; echo {number}"))).collect();
    let template = bench.template("t.yml", &steps, "");
    let arguments = ["build", template.to_str().unwrap(), "--engine", engine, "--progress", "json"];
    let both: Vec<_> = (0..2)
        .map(|_| bench.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let mut started = Vec::new();
    let mut awaited = 0;
    for child in both {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            match event["type"].as_str().unwrap() {
                "layer_started" => started.push(event["index"].as_u64().unwrap()),
                "layer_awaited" => awaited += 1,
                _ => {}
            }
        }
    }
    started.sort_unstable();
    assert_eq!(started, [0, 1, 2, 3, 4, 5]);
    assert!(awaited > 0);
    before.assert_nothing_left();
}

fn a_damaged_layer_is_a_miss_with_a_warning(engine: &str) {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.template("t.yml", &[run("echo 1 > /a"), run("echo 2 > /b")], "");
    let first = bench.build(engine, &template, &[]).exits(0);
    let key = &first.sealed()[1];
    let image = bench.image(key);
    fs::remove_file(&image).unwrap();
    fs::write(&image, "short").unwrap();
    let second = bench.build(engine, &template, &[]).exits(0);
    assert_eq!(second.steps("layer_started"), [1, 2]);
    assert!(second.of("warning").iter().any(|event| event["message"].as_str().unwrap().contains("is made again")));
}

/// Far deeper than a chain could be whose links are paths from folder to folder: it is opened again by every reader.
fn a_deep_chain_is_opened_again(engine: &str) {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let mut steps: Vec<String> = (1..=130).map(|number| run(&format!("echo {number} >> /steps"))).collect();
    bench.build(engine, &bench.template("t.yml", &steps, ""), &[]).exits(0);
    steps.push(run("echo last >> /steps"));
    let deeper = bench.template("deeper.yml", &steps, "qcow2: {path: out.qcow2}");
    let ran = bench.build(engine, &deeper, &[]).exits(0);
    assert_eq!(ran.steps("layer_started"), [131]);
    let expected: String = (1..=130).map(|number| format!("{number}\n")).chain(["last\n".into()]).collect();
    for image in [bench.image(&ran.sealed()[0]), bench.path("out.qcow2")] {
        fsck_clean(&image, "qcow2");
        assert_eq!(String::from_utf8(read_file_from_image(&image, "/steps")).unwrap(), expected);
    }
}

/// Two guests of one base have file systems of one UUID, which the host's kernel sees at once.
fn two_builds_on_one_base_at_once(engine: &str) {
    let before = HostState::capture();
    for fs in [testkit::Fs::Xfs, testkit::Fs::Btrfs, testkit::Fs::Ext4] {
        let benches = [(); 2].map(|()| Bench::new(tiny_guest(&TinyOptions::with_fs(fs))));
        let children: Vec<_> = benches
            .iter()
            .enumerate()
            .map(|(number, bench)| {
                let steps =
                    [run(&format!("echo {number} > /number; sync; sleep 2")), run("sleep 1; cat /number > /copy")];
                let template = bench.template("t.yml", &steps, "");
                let arguments = ["build", template.to_str().unwrap(), "--engine", engine, "--progress", "json"];
                bench.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for ((number, child), bench) in children.into_iter().enumerate().zip(&benches) {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{fs:?}: {}", String::from_utf8_lossy(&output.stderr));
            let ran = crate::common::Ran::from(output);
            let image = bench.image(&ran.sealed()[2]);
            fsck_clean(&image, "qcow2");
            assert_eq!(read_file_from_image(&image, "/copy"), format!("{number}\n").as_bytes(), "{fs:?}");
        }
    }
    before.assert_nothing_left();
}

/// A caller that has something open (`exec 5</; virt-maker build …`) does not give it to steps, nor its input.
#[test]
fn a_descriptor_of_the_caller_reaches_no_step() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let open = bench.path("open");
    fs::create_dir(&open).unwrap();
    // A shell has the script that it reads open by itself, as 10.
    let look = "ls /proc/$$/fd; readlink /proc/$$/fd/0; touch /proc/self/fd/5/x || true";
    let template = bench.template("t.yml", &[run(look)], "");
    let program = bench.command(&["build", template.to_str().unwrap(), "--engine", "chroot", "--progress", "json"]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec 5<open 9</; exec \"$0\" \"$@\""]).arg(program.get_program()).args(program.get_args());
    shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(bench.folder.path());
    let ran = crate::common::Ran::from(shell.stdin(fs::File::open(&open).unwrap()).output().unwrap()).exits(0);
    let said = ran.said();
    assert!(said.starts_with("0\n1\n10\n2\n/dev/null\n"), "{said}");
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
}
