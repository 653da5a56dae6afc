//! `virt-maker.lock`: what a URL without a checksum gave, and what the release file of a suite was, is written down,
//! demanded, and looked at again.

#[allow(dead_code, reason = "shared with the tests of downloads, which use all of it")]
use std::fs;
use std::path::PathBuf;

use crate::common::{Bench, Ran};
use testkit::http_server::Server;
use virt_maker::disk::ImageFormat;
use virt_maker::event::Events;
use virt_maker::host::Cancel;
use virt_maker::import::{self, ImportContext};
use virt_maker::key::{Digest, LayerKey};
use virt_maker::plan::{PlanContext, make};
use virt_maker::spec::{HostAccess, Release, load_all, load_options};
use virt_maker::store::{Outcome, Store};

/// The servers of these tests are on the loopback.
const LOCAL: [&str; 2] = ["--allow", "host-network"];

#[test]
fn sources_are_locked() {
    let image = |byte: u8| vec![byte; 1 << 20];
    let sum = |bytes: &[u8]| format!("sha256:{}", Digest::of(bytes));
    let server = Server::new(&image(1));
    let bench = Bench::new(PathBuf::from("/nonexistent"));
    let build = |more: &[&str]| {
        let mut arguments = vec!["build", "sub/t.yml", "--progress", "plain", "--engine", "chroot", LOCAL[0], LOCAL[1]];
        arguments.extend_from_slice(more);
        bench.run(&arguments)
    };
    fs::create_dir(bench.path("sub")).unwrap();
    fs::write(
        bench.path("sub/t.yml"),
        format!("spec:\n  import: {{download: {{url: '{}', format: raw}}}}\n", server.url()),
    )
    .unwrap();
    let file = bench.path("sub/virt-maker.lock");
    let locked = || -> serde_json::Value { serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap() };

    // Without a file there is nothing to hold on to.
    let ran = build(&["--locked"]).exits(1);
    assert!(ran.stderr.contains("is not in sub/virt-maker.lock"), "{}", ran.stderr);
    build(&["--lock", "--locked"]).exits(2);
    build(&["--lock"]).exits(0);
    assert_eq!(locked()["sources"][server.url()], sum(&image(1)));
    build(&["--locked"]).exits(0);

    // What the URL gives now is looked at only when asked for.
    server.change(&image(2), "\"two\"");
    build(&["--locked"]).exits(0);
    let ran = build(&["--pull", "--locked"]).exits(1);
    let words = format!("{} has {}, and sub/virt-maker.lock says {}", server.url(), sum(&image(2)), sum(&image(1)));
    assert!(ran.stderr.contains(&words), "{}", ran.stderr);
    assert_eq!(locked()["sources"][server.url()], sum(&image(1)));

    let update = |more: &[&str]| {
        let mut arguments = vec!["update", "--lock-file", "sub/virt-maker.lock", LOCAL[0], LOCAL[1]];
        arguments.extend_from_slice(more);
        bench.run(&arguments)
    };
    update(&["another"]).exits(2);
    let ran = update(&[]).exits(0);
    assert!(ran.stdout.contains("is now") && ran.stdout.contains(&sum(&image(2))), "{}", ran.stdout);
    assert!(update(&["127.0.0.1"]).exits(0).stdout.contains("as it was"));
    build(&["--locked"]).exits(0);
    assert_eq!(bench.layers().len(), 2, "a base for each content");

    fs::write(&file, "{").unwrap();
    assert!(build(&["--locked"]).exits(1).stderr.contains("no lock file"));
    fs::remove_file(&file).unwrap();
    assert!(update(&[]).exits(1).stderr.contains("build --lock"));
}

/// A lock file tells two URLs apart and holds nothing that lets somebody in; one of before is understood.
#[test]
fn a_lock_file_holds_no_passwords_and_no_parameters() {
    let server = Server::new(&vec![1; 1 << 20]);
    let bench = Bench::new(PathBuf::from("/nonexistent"));
    let with = |token: &str| format!("{}?token={token}", server.url().replace("://", "://user:hunter2@"));
    let template = |token: &str| {
        let text = format!("spec:\n  import: {{download: {{url: '{}', format: raw}}}}\n", with(token));
        fs::write(bench.path("t.yml"), text).unwrap();
    };
    let run = |arguments: &[&str]| {
        let ran = bench.run(&[arguments, &LOCAL].concat());
        let file = fs::read_to_string(bench.path("virt-maker.lock")).unwrap_or_default();
        for text in [&ran.stdout, &ran.stderr, &file] {
            assert!(!text.contains("hunter2") && !text.contains("tok-"), "{text}");
        }
        ran
    };
    let build = |more: &[&str]| run(&[&["build", "t.yml", "--progress", "plain", "--engine", "chroot"], more].concat());
    let sources = || -> serde_json::Map<String, serde_json::Value> {
        let text = fs::read_to_string(bench.path("virt-maker.lock")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["sources"].as_object().unwrap().clone()
    };
    template("tok-1");
    build(&["--locked"]).exits(1);
    build(&["--lock"]).exits(0);
    build(&["--locked"]).exits(0);
    template("tok-2");
    build(&["--locked"]).exits(1);
    build(&["--lock"]).exits(0);
    assert_eq!(sources().len(), 2, "{:?}", sources());
    server.change(&vec![2; 1 << 20], "\"two\"");
    let ran = build(&["--pull", "--locked"]).exits(1);
    assert!(ran.stderr.contains("?token=*** ") && ran.stderr.contains("virt-maker.lock says"), "{}", ran.stderr);
    // What is fetched needs the whole URL, which the template has.
    let ran = run(&["update"]).exits(1);
    assert!(ran.stderr.contains("--pull --lock"), "{}", ran.stderr);
    build(&["--pull", "--lock"]).exits(0);

    // As an older version wrote it.
    let digest = format!("sha256:{}", Digest::of(&vec![2; 1 << 20]));
    let old = serde_json::json!({"version": 1, "sources": {with("tok-2"): digest}});
    fs::write(bench.path("virt-maker.lock"), old.to_string()).unwrap();
    let arguments = ["build", "t.yml", "--progress", "plain", "--engine", "chroot", "--locked", LOCAL[0], LOCAL[1]];
    bench.run(&arguments).exits(0);
    let ran = run(&["update"]).exits(0);
    assert!(ran.stdout.contains("as it was"), "{}", ran.stdout);
    assert_eq!(sources().len(), 1);
    build(&["--locked"]).exits(0);
}

/// A mirror whose suite has a release file and nothing else: what asks it for packages fails.
struct Suite {
    bench: Bench,
    server: Server,
    source: String,
}

impl Suite {
    fn new() -> Suite {
        let (bench, server) = (Bench::new(PathBuf::from("/nonexistent")), Server::new(b"one"));
        let mirror = format!("http://{}/debian", server.address);
        let import = format!("{{suite: own, mirror: '{mirror}', size: 512M}}");
        fs::write(bench.path("t.yml"), format!("spec:\n  import: {{bootstrap: {import}}}\n")).unwrap();
        Suite { bench, server, source: format!("bootstrap:{mirror}/dists/own/InRelease") }
    }

    fn run(&self, verb: &str, more: &[&str]) -> Ran {
        let rest: &[&str] = if verb == "build" { &["t.yml", "--progress", "plain"] } else { &[] };
        let mut command = self.bench.command(&[&[verb], rest, more, &LOCAL].concat());
        Ran::from(command.env("no_proxy", "127.0.0.1").output().unwrap())
    }

    fn key(&self) -> String {
        let ran = self.bench.run(&["plan", "t.yml", "--json"]).exits(0);
        let plan: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        plan["tips"][0].as_str().unwrap().to_owned()
    }

    /// Whether the release file was asked for since the last call; apt has a name of its own.
    fn looked(&self) -> usize {
        let mine =
            |request: &testkit::http_server::Request| request.line.starts_with("GET /debian/dists/own/InRelease");
        self.server.requests().iter().filter(|request| mine(request)).count()
    }

    /// Puts the base of such a release in the store, as a build would.
    fn seal(&self, release: Release) {
        let store = Store::open(&self.bench.store(), &self.bench.owner()).unwrap();
        let (events, cancel) = (Events::none(), Cancel::default());
        let access = HostAccess {
            cache_dir: store.cache_dir(),
            permissions: Default::default(),
            homes: Vec::new(),
            env: Default::default(),
            certificates: Default::default(),
            events: events.clone(),
            cancel: cancel.clone(),
        };
        let mut loaded = load_all(&[self.bench.path("t.yml")], &load_options(&[], None, &access)).unwrap();
        loaded.specs[0].import.release = release;
        let import = ImportContext { host_network: true, ..access.import_context() };
        let context = PlanContext {
            store: &store,
            import,
            force: false,
            again: &[],
            explain: false,
            events: &events,
            cancel: &cancel,
        };
        let plan = make(&loaded.specs, &context).unwrap();
        let workspace = store.workspace().unwrap();
        let folder = workspace.subfolder("base").unwrap();
        let node = &plan.nodes()[0];
        let lock = store.try_lock(node.info.key).unwrap().unwrap();
        let draft = store.scratch_base(folder, node.material.clone(), ImageFormat::Raw, 1 << 20).unwrap();
        let draft = draft.into_draft(lock);
        fs::write(draft.image(), vec![0; 1 << 20]).unwrap();
        let outcome = Outcome { summary: "own".into(), ..Outcome::default() };
        draft.commit(&store, outcome, |_| {}).unwrap();
    }
}

#[test]
fn a_suite_is_locked_by_its_release_file() {
    let sum = |text: &str| format!("sha256:{}", Digest::of(text.as_bytes()));
    let suite = Suite::new();
    let file = suite.bench.path("virt-maker.lock");
    let locked = || {
        let lock: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        lock["sources"][&suite.source].as_str().unwrap_or_default().to_owned()
    };
    let plain = suite.key();
    assert_eq!(suite.looked(), 0);
    assert!(suite.run("build", &["--locked"]).exits(1).stderr.contains("is not in virt-maker.lock"));

    // The file is there before the base, which this mirror cannot give.
    suite.run("build", &["--lock"]).exits(1);
    assert_eq!(locked(), sum("one"));
    suite.looked();
    let one = suite.key();
    assert_ne!(one, plain);
    assert_eq!(suite.looked(), 0, "a plan asks nobody");

    // The mirror goes on: nothing changes, except that a base cannot be made of what is locked any more.
    suite.server.change(b"two", "\"two\"");
    assert_eq!(suite.key(), one);
    let ran = suite.run("build", &["--locked"]).exits(1);
    assert!(ran.stderr.contains(&sum("two")) && ran.stderr.contains(&sum("one")), "{}", ran.stderr);
    let ran = suite.run("build", &[]).exits(1);
    assert!(ran.stderr.contains(&sum("two")) && ran.stderr.contains("cannot bootstrap"), "{}", ran.stderr);
    suite.seal(Release::Locked { digest: Digest::of(b"one"), refuse: true });
    suite.looked();
    suite.run("build", &["--locked"]).exits(0);
    suite.run("build", &["--lock"]).exits(0);
    assert_eq!(suite.looked(), 0, "the base is there");
    assert!(suite.run("build", &["--locked", "--pull"]).exits(1).stderr.contains(&sum("two")));
    // Once, without a word in the file.
    suite.run("build", &["--pull"]).exits(1);
    assert_eq!(locked(), sum("one"));

    let ran = suite.run("update", &["own"]).exits(0);
    assert!(ran.stdout.contains("is now") && ran.stdout.contains(&sum("two")), "{}", ran.stdout);
    assert_eq!(locked(), sum("two"));
    assert!(![&one, &plain].contains(&&suite.key()), "another release, another base");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("sha256:", "md5:")).unwrap();
    assert!(suite.run("build", &[]).exits(1).stderr.contains("is no digest"));
    fs::remove_file(&file).unwrap();
    assert_eq!(suite.key(), plain);
}

#[test]
fn a_pulled_suite_is_made_again_when_it_changed() {
    let suite = Suite::new();
    suite.seal(Release::Any);
    suite.run("build", &[]).exits(0);
    assert_eq!(suite.looked(), 0);
    // Nobody knows of which release it is.
    assert!(suite.run("build", &["--pull"]).exits(1).stderr.contains("cannot bootstrap"));
    let (events, cancel, env) = (Events::none(), Cancel::default(), Default::default());
    let cache_dir = suite.bench.store().join("cache");
    let context = ImportContext {
        cache_dir: &cache_dir,
        events: &events,
        cancel: &cancel,
        env: &env,
        certificates: &Default::default(),
        host_network: true,
    };
    let key = LayerKey(Digest::parse(&suite.key()).unwrap());
    import::note_release(key, Digest::of(b"one"), &context);
    suite.looked();
    suite.run("build", &["--pull"]).exits(0);
    assert_eq!(suite.looked(), 1);
    suite.server.change(b"two", "\"two\"");
    suite.run("build", &[]).exits(0);
    assert!(suite.run("build", &["--pull"]).exits(1).stderr.contains("cannot bootstrap"));
}
