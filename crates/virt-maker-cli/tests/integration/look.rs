//! Looking into layers, on chroot and vm: the same answers, nothing changed, nothing left, and no name obeyed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::{Bench, run};
use serde_json::{Value, json};
use testkit::{HostState, TinyOptions, tiny_guest};

on_chroot_and_vm!(files_are_listed_shown_and_copied, two_layers_are_compared);

/// What a verb says with an engine.
fn said(bench: &Bench, engine: &str, arguments: &[&str]) -> String {
    bench.run(&[arguments, &["--engine", engine]].concat()).exits(0).stdout
}

fn document(bench: &Bench, engine: &str, arguments: &[&str]) -> Value {
    serde_json::from_str(&said(bench, engine, &[arguments, &["--json"]].concat())).unwrap()
}

fn files_are_listed_shown_and_copied(engine: &str) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let secret = bench.path("secret");
    fs::write(&secret, "of the host").unwrap();
    let steps = [run(&format!(
        "echo hello; mkdir -p /d/sub; echo one > /d/one; echo two > /d/sub/two; chown 7:8 /d/one; chmod 6750 /d/one; \
         ln -s {0} /d/leads-out; ln -s /d/one /d/within; mkfifo /d/pipe; touch \"/d/$(printf 'a\\033[31mb\\nc')\"; \
         dd if=/dev/zero of=/large bs=1M count=3; chmod 500 /d/sub",
        secret.display()
    ))];
    bench.build(engine, &bench.template("t.yml", &steps, ""), &[]).exits(0);
    let sums: Vec<_> = bench.layers().iter().map(|(_, image)| testkit::md5(&fs::read(image).unwrap())).collect();

    assert!(bench.run(&["log", "t.yml"]).exits(0).stdout.starts_with("hello\n"));
    let listing = document(&bench, engine, &["ls", "t.yml", "/d"]);
    let names: Vec<_> =
        listing["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["/d/a\u{1b}[31mb\nc", "/d/leads-out", "/d/one", "/d/pipe", "/d/sub", "/d/within"]);
    let one = &listing["entries"][2];
    assert_eq!(
        (&one["mode"], &one["uid"], &one["gid"], &one["size"]),
        (&"6750".into(), &7.into(), &8.into(), &4.into())
    );
    let text = said(&bench, engine, &["ls", "t.yml", "/d"]);
    assert!(text.contains("-rwsr-s---     7     8            4"), "{text}");
    assert!(text.contains("a\\u{1b}[31mb c") && !text.contains('\u{1b}'), "{text}");
    // A file is listed by itself, and the root can be.
    assert_eq!(document(&bench, engine, &["ls", "t.yml", "/d/one"])["entries"].as_array().unwrap().len(), 1);
    assert!(said(&bench, engine, &["ls", "t.yml"]).contains(" large\n"));

    assert_eq!(said(&bench, engine, &["cat", "t.yml", "/d/within"]), "one\n");
    assert_eq!(said(&bench, engine, &["cat", "t.yml", "/large"]).len(), 3 << 20);
    for path in ["/d/leads-out", "/d/pipe", "/nothing", "/d"] {
        let ran = bench.run(&["cat", "t.yml", path, "--engine", engine]);
        assert!(matches!(ran.status, Some(1..)) && !ran.stdout.contains("of the host"), "{path}: {}", ran.stderr);
    }

    let out = bench.path("out");
    said(&bench, engine, &["cp", "t.yml:1:/d/one", out.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "one\n");
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o7777, 0o750 & !0o022);
    // Nothing is replaced, and no link on the host is followed.
    fs::remove_file(&out).unwrap();
    std::os::unix::fs::symlink(&secret, &out).unwrap();
    bench.run(&["cp", "t.yml:/d/one", out.to_str().unwrap(), "--engine", engine]).exits(1);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "of the host");
    let tree = bench.path("tree");
    said(&bench, engine, &["cp", "t.yml:/d", tree.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(tree.join("sub/two")).unwrap(), "two\n");
    assert_eq!(fs::metadata(tree.join("sub")).unwrap().permissions().mode() & 0o777, 0o500);
    assert_eq!(fs::read_link(tree.join("leads-out")).unwrap(), secret);
    assert!(!tree.join("pipe").exists());

    let after: Vec<_> = bench.layers().iter().map(|(_, image)| testkit::md5(&fs::read(image).unwrap())).collect();
    assert_eq!(after, sums, "a layer was changed by looking");
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

fn two_layers_are_compared(engine: &str) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let steps = [
        run(
            "echo same > /same; echo old > /text; echo x > /gone; echo 12345 > /bytes; echo m > /mode; ln -s a /link; mkdir /kept",
        ),
        run(
            "echo new > /text; rm /gone; echo 54321 > /bytes; chmod 600 /mode; chown 5:6 /mode; rm /link; ln -s b /link; \
             mkdir /made; echo inside > /made/file; touch /same; echo x > /kept/x; rm /kept/x; printf '\\000' > /made/binary",
        ),
    ];
    bench.build(engine, &bench.template("t.yml", &steps, ""), &[]).exits(0);
    let found = document(&bench, engine, &["diff", "t.yml:1", "t.yml:2", "--content"]);
    let changes: Vec<(String, String)> = found["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["path"].as_str().unwrap().into(), change["change"].as_str().unwrap().into()))
        .collect();
    let expected = [
        ("/bytes", "changed"),
        ("/gone", "removed"),
        ("/link", "changed"),
        ("/made", "added"),
        ("/made/binary", "added"),
        ("/made/file", "added"),
        ("/mode", "changed"),
        ("/text", "changed"),
    ];
    // What is only touched, or only was different in between, is no difference.
    assert_eq!(changes, expected.map(|(path, change)| (path.to_owned(), change.to_owned())));
    let of = |path: &str| found["changes"].as_array().unwrap().iter().find(|change| change["path"] == path).unwrap();
    assert_eq!(of("/text")["diff"], "@@ -1 +1 @@\n-old\n+new\n");
    assert_eq!(of("/made/binary")["diff"], Value::Null);
    assert_eq!((&of("/link")["before"]["target"], &of("/link")["after"]["target"]), (&"a".into(), &"b".into()));
    assert_eq!(of("/mode")["after"]["mode"], 0o600);
    let text = said(&bench, engine, &["diff", "t.yml:1", "t.yml:2", "--content"]);
    for words in ["C /mode  (2 B, -rw-r--r-- -> -rw-------, 0:0 -> 5:6)", "D /gone  (2 B, -rw-r--r--, 0:0)", "    +new"]
    {
        assert!(text.contains(words), "{text}");
    }
    // The other way round, and with itself.
    let back = document(&bench, engine, &["diff", "t.yml:2", "t.yml:1"]);
    assert_eq!(back["changes"].as_array().unwrap().len(), expected.len());
    assert_eq!(document(&bench, engine, &["diff", "t.yml", "t.yml"])["changes"], json!([]));
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

/// Layers that have no common ancestor: every file was written twice.
#[test]
fn unrelated_layers_are_compared_by_content() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let other = Bench::new(tiny_guest(&TinyOptions { size_mib: 96, ..TinyOptions::default() }));
    bench.build("chroot", &bench.template("one.yml", &[run("echo a > /own")], ""), &[]).exits(0);
    let template = other.template("two.yml", &[run("echo b > /own")], "");
    fs::copy(template, bench.path("two.yml")).unwrap();
    bench.build("chroot", &bench.path("two.yml"), &[]).exits(0);
    let found = document(&bench, "chroot", &["diff", "one.yml", "two.yml"]);
    let paths: Vec<_> =
        found["changes"].as_array().unwrap().iter().map(|change| change["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"/own") && !paths.contains(&"/bin/busybox"), "{paths:?}");
}

/// `script` (of Debian's base system) gives the program a terminal and types into it.
pub fn type_into(bench: &Bench, arguments: &str, typed: &str) -> String {
    use std::io::Write;
    let program = env!("CARGO_BIN_EXE_virt-maker");
    let mut child = std::process::Command::new("script")
        .args(["-qec", &format!("{program} {arguments}"), "/dev/null"])
        .env("VIRT_MAKER_STORE", bench.store())
        .env("XDG_CACHE_HOME", bench.path("xdg-cache"))
        .env("XDG_STATE_HOME", bench.path("xdg-state"))
        .current_dir(bench.folder.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(input);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// The default of everybody but root: `shell`, `shell --keep-as` and `--on-failure shell` open in the appliance, too, and a guest that
/// was kept there is opened again.
#[test]
fn the_appliance_opens_shells() {
    let _lock = testkit::appliance_lock();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let ours = |words: &str| format!("tty; : > /dev/tty && echo has-\"{words}\"\nexit\n");
    bench.build("vm", &bench.template("t.yml", &[run("echo one > /one")], ""), &[]).exits(0);
    let said = type_into(&bench, "shell t.yml --engine vm --keep-as mine", &ours("one"));
    assert!(said.contains("has-one") && said.contains("/dev/pts/0") && said.contains("kept as mine"), "{said}");
    bench.template("f.yml", &[run("echo left > /left; echo it-fails; exit 3")], "");
    let failing = "build f.yml --engine vm --on-failure shell --progress plain; test $? = 4 && echo four #";
    let said = type_into(&bench, failing, &format!("cat /left\n{}", ours("two")));
    let greeted =
        said.contains("Step 1 of 1 failed: the script ended with exit status 3") && said.contains("| it-fails");
    assert!(greeted && said.contains("has-two") && said.contains("left\r\n"), "{said}");
    assert!(!said.contains("job control") && !said.contains("process group"), "{said}");
    let failing = bench.path("f.yml");
    bench.build("vm", &failing, &["--on-failure", "keep"]).exits(4);
    let said = type_into(&bench, "shell f.yml:1 --engine vm", &format!("cat /left\n{}", ours("three")));
    assert!(said.contains("as the failed step left it") && said.contains("has-three"), "{said}");
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

#[test]
fn a_shell_is_thrown_away_or_kept() {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    bench.build("chroot", &bench.template("t.yml", &[run("echo one > /one")], ""), &[]).exits(0);
    let layers = bench.layers().len();
    type_into(&bench, "shell t.yml --engine chroot", "echo lost > /lost\nexit\n");
    assert_eq!(bench.layers().len(), layers);
    let said = type_into(&bench, "shell t.yml --engine chroot --keep-as mine", "echo kept > /kept\nexit\n");
    assert!(said.contains("kept as mine"), "{said}");
    assert_eq!(bench.layers().len(), layers + 1);
    let found = document(&bench, "chroot", &["diff", "t.yml", "mine"]);
    let paths: Vec<_> = found["changes"].as_array().unwrap().iter().map(|change| &change["path"]).collect();
    assert!(paths.contains(&&json!("/kept")) && !paths.contains(&&json!("/lost")), "{paths:?}");
    for (key, image) in bench.layers() {
        testkit::fsck_clean(&image, crate::common::format_of(&image));
        assert!(!key.is_empty());
    }
    // Its tag keeps it, and all below.
    bench.run(&["cache", "clean"]).exits(0);
    assert_eq!(bench.layers().len(), layers + 1);
    bench.run(&["shell", "t.yml"]).exits(2);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

/// After a build that failed, each verb says which step failed, which was never built, and what is there; the guest that was kept
/// can be looked at by all of them.
#[test]
fn what_a_failed_build_left_is_named() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let steps =
        [run("echo one > /one"), "{run: 'echo two > /two; update-grub', name: menu}".to_owned(), run("echo three")];
    let template = bench.template("t.yml", &steps, "");
    let ran = bench.build("chroot", &template, &[]).exits(4);
    // A program that is missing names its package: this guest says that it is a Debian.
    assert!(ran.stderr.contains("hint: the guest has no `update-grub`: `install: grub2-common`"), "{}", ran.stderr);
    let fails = |arguments: &[&str]| bench.run(arguments).exits(1).stderr;
    let out = bench.path("out").display().to_string();
    for (step, what) in [
        ("t.yml:2", "step 2 (`run: menu`) of t.yml has no layer, for it failed: "),
        ("t.yml:menu", "step 2 (`run: menu`) of t.yml has no layer, for it failed: "),
        ("t.yml:3", "step 3 (`run: echo three`) of t.yml was never built, for step 2 (`run: menu`) failed"),
        ("t.yml", "step 3 (`run: echo three`) of t.yml was never built, for step 2 (`run: menu`) failed"),
    ] {
        let path = format!("{step}:/one");
        for verb in [&["ls", step][..], &["cat", step, "/one"], &["diff", "t.yml:1", step], &["cp", &path, &out]] {
            let said = fails(&[verb, &["--engine", "chroot"]].concat());
            assert!(said.contains(what), "{verb:?}: {said}");
            assert!(
                said.contains("`log t.yml:2` shows what it said; the last one that is there is `t.yml:1`"),
                "{said}"
            );
        }
    }
    let log = bench.run(&["log", "t.yml:menu"]).exits(0);
    assert!(log.stdout.contains("update-grub: not found"), "{} {}", log.stdout, log.stderr);
    assert!(fails(&["log", "t.yml:3"]).contains("was never built"));

    let ran = bench.build("chroot", &template, &["--on-failure", "keep"]).exits(4);
    assert!(ran.stderr.contains("look inside with: virt-maker shell /"), "{}", ran.stderr);
    assert!(said(&bench, "chroot", &["diff", "t.yml:1", "t.yml:2"]).contains("A /two "), "the guest that was kept");
    assert_eq!(said(&bench, "chroot", &["cat", "t.yml:2", "/two"]), "two\n");
    let difference = document(&bench, "chroot", &["diff", "t.yml:1", "t.yml:menu"]);
    assert!(difference["two"].as_str().unwrap().ends_with("/overlay.qcow2"), "{difference}");
    // Another store than the usual one has to be named.
    let other = bench.path("other store");
    let ran = bench.build("chroot", &template, &["--on-failure", "keep", "--store", other.to_str().unwrap()]).exits(4);
    let named = format!("look inside with: virt-maker shell --store '{}' '{}/kept/", other.display(), other.display());
    assert!(ran.stderr.contains(&named), "{}", ran.stderr);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

/// A layer that has a tag is the base of a template, under its own key, whoever made it.
#[test]
fn a_tagged_layer_is_a_base() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let steps = [run("echo one > /one"), run("echo two > /two")];
    bench.build("chroot", &bench.template("t.yml", &steps, ""), &[]).exits(0);
    bench.run(&["tag", "t.yml:1", "golden"]).exits(0);
    let template = bench.path("on.yml");
    let text = "format: 2\nspec:\n  import: {layer: {tag: golden}}\n  steps: [run: 'cat /one; ls /two || echo none']\n  export: {raw: {path: a.img}}\n";
    fs::write(&template, text).unwrap();
    let plan = bench.run(&["plan", "on.yml"]).exits(0);
    assert!(plan.stdout.contains("golden"), "{}", plan.stdout);
    let ran = bench.build("chroot", &template, &[]).exits(0);
    let said = ran.said();
    assert!(said.starts_with("one\n") && said.ends_with("none\n"), "{said}");
    let record = |key: &str| -> Value {
        serde_json::from_slice(&fs::read(bench.store().join("layers").join(key).join("layer.json")).unwrap()).unwrap()
    };
    let first = ran.sealed();
    assert_eq!(first.len(), 1, "nothing but the step is made");
    let keys: Vec<_> = ran.of("layer_cached").iter().map(|event| event["key"].as_str().unwrap().to_owned()).collect();
    assert!(record(&first[0]).to_string().contains(&keys[0]), "the parent is the layer itself");
    assert!(testkit::tree::tree_of_image(&bench.path("a.img"), "raw").contains_key("/one"));
    // Unchanged; with `--force` its step is made again, and the layer stays as it is.
    assert!(bench.build("chroot", &template, &[]).exits(0).sealed().is_empty());
    assert_eq!(bench.build("chroot", &template, &["--force"]).exits(0).sealed(), first);
    // Another layer under that name is another base.
    bench.run(&["tag", "t.yml:2", "golden"]).exits(0);
    let ran = bench.build("chroot", &template, &[]).exits(0);
    assert_ne!(ran.sealed(), first);
    // What lies under it is kept while the tag is there, and without the tag there is nothing to build on.
    bench.run(&["cache", "gc", "--max-size", "0"]).exits(0);
    bench.run(&["tag", "--remove", "golden"]).exits(0);
    let ran = bench.build("chroot", &template, &[]).exits(1);
    assert!(
        ran.stderr.contains("no layer of the store has the tag `golden`") && ran.stderr.contains("on.yml:3:"),
        "{}",
        ran.stderr
    );
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

/// What libguestfs lists, copies and compares is what chroot does, in a guest with a second file system; an appliance takes seconds
/// to start, so it is asked for little.
#[test]
fn libguestfs_sees_what_chroot_sees() {
    let _lock = testkit::appliance_lock();
    let before = HostState::capture();
    let options = TinyOptions { partitioned: true, separate_home: true, ..TinyOptions::default() };
    let bench = Bench::new(tiny_guest(&options));
    let steps = [
        run(
            "mkdir -p /home/d/sub; echo one > /home/d/one; echo two > /home/d/sub/two; chown 7:8 /home/d/one; chmod 6750 /home/d/one; \
             ln -s one /home/d/link; mkfifo /home/d/pipe; touch \"/home/d/$(printf 'a\\033[31mb\\nc')\"; ln -s /home/d /linked; \
             echo same > /same; echo text > /text",
        ),
        run(
            "echo ONE > /home/d/one; rm /home/d/sub/two; echo new > /home/new; touch /same; echo other > /text; mkdir /made",
        ),
    ];
    bench.build("chroot", &bench.template("t.yml", &steps, ""), &[]).exits(0);
    let diff = |engine| document(&bench, engine, &["diff", "t.yml:1", "t.yml:2"]);
    let found = diff("libguestfs");
    assert_eq!(found, diff("chroot"));
    let changes: Vec<_> = found["changes"].as_array().unwrap().iter().map(|change| &change["path"]).collect();
    for path in ["/home/d/one", "/home/d/sub/two", "/home/new", "/made", "/text"] {
        assert!(changes.contains(&&json!(path)), "{path}: {found}");
    }
    assert!(!changes.contains(&&json!("/same")), "{found}");
    let target = bench.path("copied");
    // By way of a link, which is followed in the guest.
    said(&bench, "libguestfs", &["cp", "t.yml:1:/linked/", target.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(target.join("sub/two")).unwrap(), "two\n");
    assert_eq!(fs::read_link(target.join("link")).unwrap(), std::path::Path::new("one"));
    before.assert_nothing_left();
}

/// A process that serves a mount, and the mount as it is seen.
struct Mounted {
    child: std::process::Child,
    at: std::path::PathBuf,
}

impl Mounted {
    fn start(bench: &Bench, layer: &str, engine: &str) -> Mounted {
        let at = bench.path("mounted");
        std::fs::create_dir_all(&at).unwrap();
        let mut command = bench.command(&["mount", layer, at.to_str().unwrap(), "--engine", engine]);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let line = lines.next().expect("it says where the layer is").unwrap();
        assert!(line.contains("Ctrl-C"), "{line}");
        Mounted { child, at }
    }

    fn is_there(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.at.to_str())
    }
}

#[test]
fn a_layer_is_mounted_for_reading_and_nothing_is_left_however_it_ends() {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let steps =
        [run("mkdir -p /d/e; echo one > /d/e/one; ln -s ../d/e/one /d/link; chmod 640 /d/e/one; seq 200000 > /d/long")];
    let template = bench.template("t.yml", &steps, "");
    bench.build("chroot", &template, &[]).exits(0);
    let layer = template.to_str().unwrap();
    for signal in ["-INT", "-KILL", "umount"] {
        let mut mounted = Mounted::start(&bench, layer, "chroot");
        let read = |name: &str| std::fs::read_to_string(mounted.at.join(name)).unwrap();
        assert_eq!(read("d/e/one"), "one\n");
        assert_eq!(std::fs::read_link(mounted.at.join("d/link")).unwrap(), std::path::Path::new("../d/e/one"));
        assert_eq!(read("d/link"), "one\n");
        assert_eq!(read("d/long").lines().count(), 200_000);
        let stat = std::fs::metadata(mounted.at.join("d/e/one")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&stat.permissions()) & 0o7777, 0o640);
        let mut names: Vec<_> =
            std::fs::read_dir(mounted.at.join("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["e", "link", "long"]);
        let denied = std::fs::write(mounted.at.join("d/new"), "x").unwrap_err();
        assert_eq!(denied.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        // In use, so it is not collected.
        bench.run(&["cache", "gc", "--max-size", "0"]).exits(0);
        assert_eq!(read("d/e/one"), "one\n");
        let done = match signal {
            "umount" => std::process::Command::new("umount").arg(&mounted.at).status(),
            signal => std::process::Command::new("kill").args([signal, &mounted.child.id().to_string()]).status(),
        };
        assert!(done.unwrap().success());
        let status = mounted.child.wait().unwrap();
        assert_eq!(status.code(), if signal == "-KILL" { None } else { Some(0) }, "{signal}");
        before.assert_nothing_left();
        assert!(!mounted.is_there());
        // The folder of a killed process goes with the next one.
        bench.run(&["tree"]).exits(0);
        assert_eq!(bench.left_in_store(), Vec::<String>::new());
    }
    let ran = bench.run(&["mount", layer, bench.path("nowhere").to_str().unwrap()]).exits(5);
    assert!(ran.stderr.contains("/nowhere"), "{}", ran.stderr);
}
