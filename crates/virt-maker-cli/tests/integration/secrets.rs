//! Secrets: the steps that name one find it, and nobody else finds it anywhere: not in a layer, a log, a record, an event,
//! nor in the host's list of processes while the build runs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::common::Bench;
use memchr::memmem;
use testkit::{TinyOptions, count_in, files_with, tiny_guest};

/// Long enough that it is found by chance nowhere; another one for each engine, whose tests may run at the same time.
fn secret(engine: &str) -> String {
    format!("correct-horse-battery-staple-7731-{engine}")
}

fn bench() -> Bench {
    Bench::new(tiny_guest(&TinyOptions::default()))
}

/// Reads the host's list of processes again and again.
struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What it had.
#[derive(Default)]
struct Seen {
    /// Arguments of all processes of the host.
    arguments: BTreeSet<Vec<u8>>,
    /// Environments with the arguments, of all processes of the host that may be looked into.
    environments: BTreeSet<(Vec<u8>, Vec<u8>)>,
}

impl Watch {
    fn start() -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let flag = over.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !flag.load(Ordering::Relaxed) {
                for entry in fs::read_dir("/proc").unwrap().flatten() {
                    let process = entry.path();
                    // Others end while they are looked at.
                    let Ok(arguments) = fs::read(process.join("cmdline")) else { continue };
                    if let Ok(environment) = fs::read(process.join("environ")) {
                        seen.environments.insert((environment, arguments.clone()));
                    }
                    seen.arguments.insert(arguments);
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            seen
        });
        Watch { over, thread }
    }

    /// Ends it: it has seen the build, and the secret nowhere.
    #[track_caller]
    fn end(self, engine: &str) {
        self.over.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap();
        let has = |bytes: &[u8], text: &str| memmem::find(bytes, text.as_bytes()).is_some();
        let with = |text: &str| seen.arguments.iter().any(|arguments| has(arguments, text));
        assert!(with("build\0t.yml\0"), "the build was seen");
        let secret = secret(engine);
        assert!(!with(&secret), "the secret was an argument of a program");
        let mut holders = seen.environments.iter().filter(|(environment, _)| has(environment, &secret)).peekable();
        assert!(holders.peek().is_some(), "the environment of the build was seen");
        // The build itself was given it there. libguestfs starts its appliance by itself, with what the build has.
        for (_, arguments) in holders.filter(|_| engine != "libguestfs") {
            let arguments = String::from_utf8_lossy(arguments);
            assert!(arguments.contains("build\0t.yml\0"), "the secret was in the environment of {arguments:?}");
        }
        if engine == "chroot" {
            let guest = |(environment, _): &(Vec<u8>, Vec<u8>)| has(environment, "WATCHED=yes");
            assert!(seen.environments.iter().any(guest), "a command of the guest was seen");
        }
    }
}

/// Builds `t.yml` on `chroot` with this value in the variable `TEST_TOKEN`, and one more option.
fn with_token(bench: &Bench, value: &str, more: &str) -> crate::common::Ran {
    let options = ["--allow", "env=TEST_TOKEN", "--engine", "chroot", "--progress", "json", more];
    let mut command = bench.command(&[&["build", "t.yml"][..], &options].concat());
    crate::common::Ran::from(command.env("TEST_TOKEN", value).output().unwrap())
}

#[test]
fn the_watch_sees_arguments() {
    let watch = Watch::start();
    let mut child = std::process::Command::new("sleep").args(["0.3", "0", "0.0"]).spawn().unwrap();
    child.wait().unwrap();
    watch.over.store(true, Ordering::Relaxed);
    let seen = watch.thread.join().unwrap();
    assert!(seen.arguments.contains(b"sleep\x000.3\x000\x000.0\0".as_slice()));
}

/// A secret is read by the steps that name it, and is found nowhere afterwards.
fn secrets_stay_secret(engine: &str) {
    let (bench, secret) = (bench(), secret(engine));
    let bench = &bench;
    fs::create_dir(bench.path("outside")).unwrap();
    fs::write(bench.path("outside/key"), format!("{secret}-of-file\n")).unwrap();
    let template = |version: u32, steps: &str| {
        let text = format!(
            "secrets:\n  token: {{env: TEST_TOKEN, version: {version}}}\n  key: {{file: outside/key}}\nspec:\n  import:\n    \
             download: {{url: 'file://{}'}}\n  steps:\n{steps}",
            bench.base.display()
        );
        fs::write(bench.path("t.yml"), text).unwrap();
    };
    let build = || {
        let watch = Watch::start();
        let output = bench
            .command(&["build", "t.yml", "--engine", engine, "--progress", "json", "-vv", "--allow", "env=TEST_TOKEN"])
            .env("TEST_TOKEN", &secret)
            .output()
            .unwrap();
        watch.end(engine);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(!out.contains(&secret) && !err.contains(&secret), "the secret shows:\n{out}\n{err}");
        (output.status.code(), out, err)
    };
    let script = "cat /run/secrets/token /run/secrets/key; ls -ld /run/secrets/token; ps axww -o args 2>/dev/null || ps; \
                  printf %s $(cat /run/secrets/token) | wc -c; sleep 1";
    let step = format!(
        "    - {{run: '{script}', secrets: [token, key], env: {{WATCHED: 'yes'}}}}\n    - run: ls /run/secrets || echo gone\n"
    );
    template(1, &step);
    let (code, out, err) = build();
    assert_eq!(code, Some(0), "{out}\n{err}");
    let texts: String = out
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|event| event["type"] == "output")
        .map(|event| event["text"].as_str().unwrap().to_owned())
        .collect();
    assert!(texts.starts_with("******"), "{texts}");
    assert!(texts.contains("-r--------"), "{texts}");
    assert!(texts.contains(&format!("\n{}\n", secret.len())), "the script had the value: {texts}");
    assert!(texts.contains("gone"), "{texts}");
    assert_eq!(files_with(&bench.store(), &secret), Vec::<PathBuf>::new());
    assert_eq!(files_with(&bench.path("xdg-cache"), &secret), Vec::<PathBuf>::new());
    // The folder of saved machines is a link to one of all tests.
    assert_eq!(files_with(&testkit::cache_dir().join("vm"), &secret), Vec::<PathBuf>::new());

    // A new value is no new layer; a new version is one, and a failure quotes the mask.
    template(2, "    - {run: 'cat /run/secrets/token; sleep 1; exit 3', secrets: token, env: {WATCHED: 'yes'}}\n");
    let (code, out, err) = build();
    assert_eq!(code, Some(4), "{out}\n{err}");
    assert!(err.contains("| ***"), "{err}");
    assert_eq!(files_with(&bench.store(), &secret), Vec::<PathBuf>::new());
}

#[test]
fn secrets_stay_secret_on_chroot() {
    secrets_stay_secret("chroot");
}

#[test]
fn secrets_stay_secret_in_the_appliance() {
    secrets_stay_secret("vm");
}

#[test]
fn secrets_stay_secret_on_libguestfs() {
    secrets_stay_secret("libguestfs");
}

#[test]
fn secrets_have_to_be_there() {
    let bench = bench();
    let path = bench.template("t.yml", &["{run: 'true', secrets: [token]}".to_owned()], "");
    let ran = bench.build("chroot", &path, &[]).exits(1);
    assert!(ran.stderr.contains("no secret `token`"), "{}", ran.stderr);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("secrets: {{token: {{env: NOT_SET_ANYWHERE}}}}\n{text}")).unwrap();
    let ran = bench.build("chroot", &path, &["--allow", "env=NOT_SET_ANYWHERE"]).exits(1);
    assert!(ran.stderr.contains("NOT_SET_ANYWHERE"), "{}", ran.stderr);
}

/// What one step left in the guest another one prints, as it is and encoded; and what fails is quoted everywhere.
#[test]
fn a_secret_is_masked_in_what_every_step_says() {
    let (bench, secret) = (bench(), "correct-horse 'battery' staple-9942");
    let template = |last: &str| {
        let text = format!(
            "secrets: {{token: {{env: TEST_TOKEN}}}}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    \
             - {{run: 'cp /run/secrets/token /etc/token', secrets: token}}\n    - run: {}\n",
            bench.base.display(),
            serde_json::to_string(last).unwrap()
        );
        fs::write(bench.path("t.yml"), text).unwrap();
    };
    let build = || with_token(&bench, secret, "-vv");
    let prints =
        "cat /etc/token; echo; base64 /etc/token; set -x; : \"$(cat /etc/token)\"; printf %s abc-; cat /etc/token";
    template(prints);
    let ran = build().exits(0);
    let said = ran.said();
    assert!(
        said.starts_with("***\n***") && said.contains("abc-***") || said.contains("abc-+ cat /etc/token\n***"),
        "{said}"
    );
    for part in ["horse", "battery", "Y29ycmVjdC1ob3JzZS"] {
        assert!(!said.contains(part), "{said}");
    }
    // The layer is there now: the value is read all the same, for the step that is not.
    template("cat /etc/token >&2; exit 3");
    let ran = build().exits(4);
    assert!(ran.stderr.contains("| ***"), "{}", ran.stderr);
    assert!(!ran.stdout.contains("battery") && !ran.stderr.contains("battery"), "{}\n{}", ran.stdout, ran.stderr);
    let texts = ["logs", "layers", "builds"].map(|folder| files_with(&bench.store().join(folder), "battery"));
    assert!(texts.iter().all(Vec::is_empty), "{texts:?}");
}

/// One that cannot be read ends a build before anything is done, with its place; where nothing is to do, none is read.
#[test]
fn a_secret_that_cannot_be_read_ends_a_build_before_it_begins() {
    let bench = bench();
    let pipe = bench.path("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    fs::write(bench.path("empty"), "\n").unwrap();
    let template = |source: &str| {
        let text = format!(
            "secrets:\n  token: {source}\n  unused: {{env: NOT_SET_AND_NOT_USED}}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  \
             steps:\n    - run: echo first\n    - {{run: 'true', secrets: token}}\n  export:\n    raw: {{path: a.img, clean: true}}\n",
            bench.base.display()
        );
        fs::write(bench.path("t.yml"), text).unwrap();
    };
    let build = |value: Option<&str>| {
        let mut command = bench.command(&[
            "build",
            "t.yml",
            "--allow",
            "env=TEST_TOKEN",
            "--allow",
            "env=NOT_SET_AND_NOT_USED",
            "--engine",
            "chroot",
            "--progress",
            "json",
        ]);
        value.map(|value| command.env("TEST_TOKEN", value));
        crate::common::Ran::from(command.output().unwrap())
    };
    for (source, value, says) in [
        ("{env: TEST_TOKEN}", None, "the variable TEST_TOKEN is not set"),
        ("{env: TEST_TOKEN}", Some(" "), "the secret `token` is empty"),
        ("{file: missing}", None, "No such file"),
        ("{file: pipe}", None, "it is not a regular file"),
        ("{file: empty}", None, "the secret `token` is empty"),
    ] {
        template(source);
        let ran = build(value).exits(1);
        assert!(ran.stderr.contains(says) && ran.stderr.contains("t.yml:2:"), "{}", ran.stderr);
        assert_eq!(ran.of("layer_started").len(), 0, "{}", ran.stdout);
    }
    template("{env: TEST_TOKEN}");
    build(Some("a-value-that-is-there")).exits(0);
    build(None).exits(0);
    // With all layers there, an artifact that has to be made again needs it.
    fs::remove_file(bench.path("a.img")).unwrap();
    let ran = build(None).exits(1);
    assert!(ran.stderr.contains("TEST_TOKEN is not set") && ran.stderr.contains("t.yml:2:"), "{}", ran.stderr);
}

/// A layer under a cached key was made with the value of before: what it wrote is found all the same.
#[test]
fn a_value_of_the_past_that_a_layer_holds_is_found() {
    let bench = bench();
    let (old, new) = ("correct-horse-battery-staple-1177", "another-horse-another-staple-2288");
    let template = |last: &str, clean: bool| {
        let text = format!(
            "secrets: {{token: {{env: TEST_TOKEN}}}}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    \
             - {{run: 'cp /run/secrets/token /etc/token', secrets: token}}\n    - run: {last}\n  export:\n    \
             raw: {{path: a.img, clean: {clean}}}\n",
            bench.base.display()
        );
        fs::write(bench.path("t.yml"), text).unwrap();
    };
    let build = |value: &str| {
        let ran = with_token(&bench, value, "--force-export");
        for value in [old, new] {
            assert!(!ran.stdout.contains(value) && !ran.stderr.contains(value), "{}\n{}", ran.stdout, ran.stderr);
        }
        ran
    };
    let warnings = |ran: &crate::common::Ran| -> String {
        ran.of("warning").into_iter().map(|event| format!("{}\n", event["message"].as_str().unwrap())).collect()
    };
    let of_now = "the secret `token` is in the result: /etc/token";
    let of_the_past = "a value that the secret `token` had before is in the result: /etc/token; layer ";

    template("echo one", false);
    let text = warnings(&build(old).exits(0));
    assert!(text.contains(of_now) && !text.contains("before"), "{text}");
    let held: Vec<_> = fs::read_dir(bench.store().join("layers"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("secrets.json"))
        .filter(|path| path.exists())
        .collect();
    let [held] = &held[..] else { panic!("{held:?}") };
    assert_eq!(fs::metadata(held).unwrap().permissions().mode() & 0o7777, 0o600);
    let texts =
        ["layers", "logs", "builds", "exports", "cache"].map(|folder| files_with(&bench.store().join(folder), old));
    assert!(texts.iter().all(Vec::is_empty), "{texts:?}");

    // The value is another one, and no step runs again for that.
    let ran = build(new).exits(0);
    assert_eq!(ran.of("layer_started").len(), 0);
    let text = warnings(&ran);
    assert!(text.contains(of_the_past) && !text.contains(of_now), "{text}");
    // Also where the chain was flattened, and goes on in another template.
    let steps = (0..6).map(|number| format!("    - run: echo {number} > /etc/number\n")).collect::<String>();
    let text = "spec:\n  import:\n    layer: {template: t.yml}\n  steps:\n".to_owned()
        + &steps
        + "  export:\n    raw: {path: b.img}\n";
    fs::write(bench.path("upper.yml"), text).unwrap();
    let upper = |more: &[&str]| {
        let arguments = ["build", "upper.yml", "--allow", "env=TEST_TOKEN", "--engine", "chroot", "--progress", "json"];
        let mut command = bench.command(&arguments);
        crate::common::Ran::from(command.args(more).env("TEST_TOKEN", new).output().unwrap()).exits(0)
    };
    let text = warnings(&upper(&[]));
    assert!(text.contains(of_the_past), "{text}");
    bench.run(&["cache", "flatten", "--max-depth", "3"]).exits(0);
    assert!(bench.layers().iter().any(|(key, _)| is_flat(&bench, key)));
    let text = warnings(&upper(&["--force-export"]));
    assert!(text.contains(of_the_past), "{text}");

    // With `clean` it ends the export, and what a later step has removed is nowhere.
    template("echo one", true);
    let ran = build(new).exits(1);
    assert!(ran.stderr.contains(of_the_past) && ran.stderr.contains("with another `version`"), "{}", ran.stderr);
    template("rm /etc/token", true);
    let text = warnings(&build(new).exits(0));
    assert!(!text.contains("token"), "{text}");

    // One that cannot be read is told, and one that is not there is of an older version.
    template("echo one", false);
    let before = fs::read(held).unwrap();
    fs::write(held, &before[..before.len() - 9]).unwrap();
    let text = warnings(&build(new).exits(0));
    assert!(text.contains("secrets.json is damaged") && !text.contains("had before is in"), "{text}");
    fs::remove_file(held).unwrap();
    let text = warnings(&build(new).exits(0));
    assert!(!text.contains("before"), "{text}");
}

fn is_flat(bench: &Bench, key: &str) -> bool {
    let record = fs::read(bench.store().join("layers").join(key).join("layer.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&record).unwrap().get("flat").is_some()
}

/// The raw bytes of an artifact: a qcow2 is unpacked by qemu.
fn raw(bench: &Bench, artifact: &str) -> std::path::PathBuf {
    let (from, to) = (bench.path(artifact), bench.path(&format!("{artifact}.raw")));
    let mut convert = std::process::Command::new("qemu-img");
    assert!(convert.args(["convert", "-O", "raw"]).args([&from, &to]).status().unwrap().success());
    to
}

/// With `clean`, a secret that a step wrote to files and removed is not in the bytes of the artifact; without it is.
fn a_deleted_secret_is_not_in_an_artifact(engine: &str, options: &TinyOptions, extra: &str) {
    let bench = Bench::new(tiny_guest(options));
    let secret = "correct-horse-battery-staple-5518";
    // Small files and one of some blocks, all in their places on the disk before they go; and one that another step removes.
    let write = "for i in $(seq 1 40); do cat /run/secrets/token > /home/f$i; head -c 700 /dev/zero >> /home/f$i; done; \
                 for i in $(seq 1 400); do cat /run/secrets/token; done > /home/long; cp /home/long /home/later; sync; \
                 rm /home/f* /home/long; sync";
    let text = format!(
        "secrets: {{token: {{env: TEST_TOKEN}}}}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    \
         - {{run: '{write}', secrets: token}}\n    - run: echo kept > /home/kept; rm /home/later\n  export:\n    \
         - raw: {{path: plain.img}}\n    - raw: {{path: clean.img, clean: true}}\n    \
         - qcow2: {{path: clean.qcow2, clean: true, compress: zstd}}\n{extra}",
        bench.base.display()
    );
    fs::write(bench.path("t.yml"), text).unwrap();
    let mut command =
        bench.command(&["build", "t.yml", "--allow", "env=TEST_TOKEN", "--engine", engine, "--progress", "json"]);
    let ran = crate::common::Ran::from(command.env("TEST_TOKEN", secret).output().unwrap()).exits(0);
    let has = |path: &Path| count_in(path, secret) > 0;
    assert!(has(&bench.path("plain.img")), "it was never there");
    for artifact in ["clean.img", "clean.qcow2"] {
        assert!(!has(&bench.path(artifact)) && !has(&raw(&bench, artifact)), "{artifact} has it");
    }
    let left: Vec<_> = ran.of("warning").into_iter().map(|event| event["message"].to_string()).collect();
    assert!(!left.iter().any(|text| text.contains("may still be in the image")), "{left:?}");
}

#[test]
fn a_deleted_secret_is_not_in_an_artifact_on_chroot() {
    a_deleted_secret_is_not_in_an_artifact("chroot", &TinyOptions::default(), "");
}

/// Through the journal with its data; and blocks of 1 KiB, which no discard reaches.
#[test]
fn a_deleted_secret_is_not_in_the_journal_or_in_small_blocks_on_chroot() {
    for size_mib in [64, 600] {
        let mut base = TinyOptions { size_mib, ..TinyOptions::default() };
        base.files.push(("/etc/made-for".into(), b"the test of secrets".to_vec(), 0o644));
        let image = tiny_guest(&base);
        let bench = Bench::new(image.clone());
        // Another file, whose file system says by itself that data goes through the journal.
        let own = bench.path("journal.img");
        fs::copy(&image, &own).unwrap();
        let tuned = std::process::Command::new("tune2fs").args(["-o", "journal_data"]).arg(&own).output().unwrap();
        assert!(tuned.status.success(), "{tuned:?}");
        check_journal(&own);
    }
}

fn check_journal(base: &Path) {
    let bench = Bench::new(base.to_owned());
    let secret = "correct-horse-battery-staple-6629";
    let text = format!(
        "secrets: {{token: {{env: TEST_TOKEN}}}}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    \
         - {{run: 'cat /run/secrets/token > /home/f; sync; rm /home/f; sync', secrets: token}}\n  export:\n    \
         - raw: {{path: plain.img}}\n    - raw: {{path: clean.img, clean: true}}\n",
        base.display()
    );
    fs::write(bench.path("t.yml"), text).unwrap();
    let mut command =
        bench.command(&["build", "t.yml", "--allow", "env=TEST_TOKEN", "--engine", "chroot", "--progress", "json"]);
    crate::common::Ran::from(command.env("TEST_TOKEN", secret).output().unwrap()).exits(0);
    let count = |path: &Path| count_in(path, secret);
    assert!(count(&bench.path("plain.img")) >= 2, "in the block and in the journal");
    assert_eq!(count(&bench.path("clean.img")), 0);
}

#[test]
fn a_deleted_secret_is_not_in_an_artifact_on_xfs_on_chroot() {
    let options = TinyOptions { fs: testkit::Fs::Xfs, size_mib: 400, ..TinyOptions::default() };
    a_deleted_secret_is_not_in_an_artifact("chroot", &options, "");
}

#[test]
fn a_deleted_secret_is_not_in_an_artifact_of_the_appliance() {
    let _lock = testkit::appliance_lock();
    a_deleted_secret_is_not_in_an_artifact("vm", &TinyOptions::default(), "");
}

/// A URL with a password and a token, as a template may have it in its arguments.
const URL: &str = "http://user:hunter2@127.0.0.1:1/x?token=tok-abc";

#[track_caller]
fn shows_nothing_of_the_url(text: &str) {
    assert!(!text.contains("hunter2") && !text.contains("tok-abc"), "{text}");
}

#[test]
fn an_error_of_plan_shows_no_password_of_a_url() {
    let bench = bench();
    fs::write(bench.path("t.yml"), format!("spec:\n  import:\n    download: {{url: '{URL}'}}\n")).unwrap();
    for more in [&["--allow", "host-network"][..], &[]] {
        let ran = bench.run(&[&["plan", "t.yml"], more].concat());
        assert!(ran.status != Some(0) && ran.stderr.contains("http://127.0.0.1:1/x?token=***"), "{}", ran.stderr);
        shows_nothing_of_the_url(&ran.stderr);
    }
    // Also where the line of the template is shown, and as data.
    let wrong = format!("spec:\n  import:\n    download: {{url: '{URL}', chekcsum: x}}\n");
    fs::write(bench.path("t.yml"), wrong).unwrap();
    let ran = bench.run(&["plan", "t.yml"]).exits(1);
    assert!(ran.stderr.contains("chekcsum: x}"), "{}", ran.stderr);
    shows_nothing_of_the_url(&ran.stderr);
    let ran = bench.run(&["validate", "t.yml", "--json"]).exits(1);
    assert!(ran.stdout.contains("chekcsum"), "{}", ran.stdout);
    shows_nothing_of_the_url(&ran.stdout);
}

#[test]
fn the_tree_page_shows_no_password_of_a_url() {
    let bench = bench();
    let template = |word: &str| bench.template("t.yml", &[format!("run: 'echo {word} \"{URL}\"'")], "");
    bench.build("chroot", &template("one"), &[]).exits(0);
    bench.run(&["tree", "--html", "tree.html"]).exits(0);
    let page = fs::read_to_string(bench.path("tree.html")).unwrap();
    assert!(page.contains("http://127.0.0.1:1/x?token=***"), "{page}");
    shows_nothing_of_the_url(&page);
    bench.run(&["tag", "t.yml", "it"]).exits(0);
    template("two");
    for arguments in [
        &["tree"][..],
        &["tree", "--json"],
        &["plan", "t.yml", "--explain"],
        &["plan", "t.yml", "--json"],
        &["log", "it"],
        &["cache", "ls"],
        &["cache", "ls", "--json"],
    ] {
        let ran = bench.run(arguments).exits(0);
        assert!(ran.stdout.contains("127.0.0.1:1/x?token=***"), "{arguments:?}: {}", ran.stdout);
        shows_nothing_of_the_url(&(ran.stdout + &ran.stderr));
    }
}
