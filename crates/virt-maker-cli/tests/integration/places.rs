//! Where artifacts go, and what is not left there: known before a build does anything, and after what it refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::{Bench, run};
use serde_json::{Value, json};
use testkit::{TinyOptions, tiny_guest};

/// A place that no artifact can be put in is said by `validate`, by `plan`, and by `build` before its first step.
#[test]
fn a_place_that_cannot_be_is_known_before_the_first_step() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    fs::write(bench.path("file"), "").unwrap();
    fs::create_dir(bench.path("folder.img")).unwrap();
    for (export, expected) in [
        ("raw: {path: missing/a.img}", "missing of the artifact does not exist"),
        ("raw: {path: file/a.img}", "file is a file; the artifact wants it to be a folder"),
        ("raw: {path: file/b/a.img, create_dir: true}", "Not a directory"),
        ("raw: {path: folder.img}", "no regular file"),
        ("[{raw: {path: fine.img}}, {qcow2: {path: missing/a.img}}]", "missing of the artifact does not exist"),
    ] {
        let template = bench.template("t.yml", &[run("true")], export);
        let text = template.to_str().unwrap();
        for arguments in [&["validate", text][..], &["plan", text], &["build", text, "--engine", "chroot"]] {
            let ran = bench.run(arguments).exits(1);
            let all = format!("{}{}", ran.stdout, ran.stderr);
            assert!(ran.stderr.contains(expected) && ran.stderr.contains("t.yml:"), "{arguments:?} {export}: {all}");
            assert!(arguments[0] != "plan" || ran.stdout.contains("2 to make"), "the plan is shown too: {all}");
        }
        assert_eq!(bench.layers().len(), 0, "{export}");
    }
    // Somebody's file in the way: only who knows the store can tell.
    fs::write(bench.path("theirs.img"), "work").unwrap();
    let template = bench.template("t.yml", &[run("true")], "raw: {path: theirs.img}");
    let ran = bench.build("chroot", &template, &[]).exits(1);
    assert!(ran.stderr.contains("was not exported with this store") && bench.layers().is_empty(), "{}", ran.stderr);
    bench.run(&["plan", template.to_str().unwrap()]).exits(1);
    assert_eq!(fs::read_to_string(bench.path("theirs.img")).unwrap(), "work");

    // A folder that the same build makes is none that is missing; nor one that a step on the host may make.
    let both = "[{raw: {path: new/a/one.img, create_dir: true}}, {raw: {path: new/two.img}}]";
    let template = bench.template("t.yml", &[run("true")], both);
    bench.run(&["validate", template.to_str().unwrap()]).exits(0);
    bench.build("chroot", &template, &[]).exits(0);
    let steps = [r#"local_run: "mkdir by-a-step""#.to_owned()];
    let template = bench.template("t.yml", &steps, "raw: {path: by-a-step/one.img}");
    bench.build("chroot", &template, &["--allow", "host-exec"]).exits(0);
}

/// The same for a folder in which this user may write nothing.
#[test]
fn a_folder_that_cannot_be_written_is_known_before() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let folder = bench.path("closed");
    fs::create_dir(&folder).unwrap();
    let template = bench.template("t.yml", &[], "raw: {path: closed/new/a.img, create_dir: true}");
    fs::set_permissions(bench.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_virt-maker")]);
    let output = command.args(["validate", template.to_str().unwrap()]).env("HOME", "/nonexistent").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("no artifact can be written in"), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
}

/// A secret in a `clean` image: the artifact is not made, what the same layer gave before is taken away, and the next build
/// refuses it again. Without `clean` the warning comes with every build that says that the artifact is unchanged.
#[test]
fn a_secret_that_was_found_is_found_again_and_its_image_is_not_there() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    fs::write(bench.path("token"), "correct-horse-battery").unwrap();
    let template = |clean: bool| {
        let steps = ["{run: cp /run/secrets/token /etc/token, secrets: [token]}".to_owned()];
        let path = bench.template("t.yml", &steps, &format!("raw: {{path: a.img, clean: {clean}, checksum: true}}"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("secrets: {{token: {{file: token}}}}\n{text}")).unwrap();
        path
    };
    for current in [false, true] {
        let ran = bench.build("chroot", &template(false), &[]).exits(0);
        assert_eq!(ran.of("export_finished")[0]["current"], current);
        let warned =
            ran.of("warning").iter().any(|event| event["message"].as_str().unwrap().contains("is in the result"));
        assert!(warned, "current: {current}: {}", ran.stdout);
    }
    for _ in 0..2 {
        let ran = bench.build("chroot", &template(true), &[]).exits(1);
        assert!(ran.stderr.contains("the secret `token` is in the result: /etc/token"), "{}", ran.stderr);
        assert!(!bench.path("a.img").exists());
        assert_eq!(fs::read_to_string(bench.path("SHA256SUMS")).unwrap(), "");
    }
}

/// A manifest goes where the image goes: passwords among parameters, and what a step takes as one, stand nowhere in it.
#[test]
fn a_manifest_holds_no_password() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let steps =
        ["rootpass: 'password:{{ root }}'".to_owned(), "run: echo {{ db.password }} {{ port }} > /dev/null".to_owned()];
    let template = bench.template("t.yml", &steps, "raw: {path: a.img, manifest: true}");
    let text = fs::read_to_string(&template).unwrap();
    let head = "params: {root: swordfish-9, db: {password: hunter2-long, user: web}, port: 5432}\n";
    fs::write(&template, format!("{head}{text}")).unwrap();
    bench.build("chroot", &template, &[]).exits(0);
    let text = fs::read_to_string(bench.path("a.img.manifest.json")).unwrap();
    assert!(!text.contains("swordfish") && !text.contains("hunter2"), "{text}");
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({"root": "***", "db": {"password": "***", "user": "web"}, "port": 5432});
    assert_eq!(manifest["parameters"], expected);
    assert_eq!(manifest["layers"][2]["summary"], "echo *** 5432 > /dev/null");
}

/// Whoever looks does not use: what was built first goes first, whatever was looked at meanwhile.
#[test]
fn looks_do_not_count_as_use() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.template("t.yml", &[run("echo one > /one")], "");
    let key = bench.build("chroot", &template, &[]).exits(0).sealed().pop().unwrap();
    let used = || {
        let ran = bench.run(&["cache", "ls", "--json"]).exits(0);
        let document: Value = serde_json::from_str(&ran.stdout).unwrap();
        let layers = document["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["used"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    // As if it was last used long ago.
    for (key, _) in bench.layers() {
        testkit::run(
            std::process::Command::new("touch")
                .args(["-d", "2020-01-01"])
                .args(fs::read_dir(bench.store().join("layers").join(key)).unwrap().map(|entry| entry.unwrap().path())),
        );
    }
    let before = used();
    assert!(before.iter().all(|used| *used < 1_600_000_000), "{before:?}");
    let text = template.to_str().unwrap();
    for arguments in [
        &["plan", text, "--explain"][..],
        &["tree"],
        &["tree", "--html", "t.html", "--diffs", "--engine", "chroot"],
        &["ls", &key, "/", "--engine", "chroot"],
        &["cat", &key, "/one", "--engine", "chroot"],
        &["diff", "t.yml:0", "t.yml:1", "--engine", "chroot"],
        &["log", &key],
        &["cp", "t.yml:/one", "copied", "--engine", "chroot"],
        &["cache", "verify"],
        &["tag", "t.yml", "mine"],
    ] {
        bench.run(arguments).exits(0);
        assert_eq!(used(), before, "{arguments:?}");
    }
    bench.build("chroot", &template, &[]).exits(0);
    assert!(used().iter().all(|used| *used > 1_700_000_000), "a build uses");
}
