//! Secrets: the steps that name one find it, and nobody else finds it anywhere: not in a layer, a log, a record, an event,
//! nor in the host's list of processes while the build runs.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::Bench;
use memchr::memmem;
use testkit::{TinyOptions, tiny_guest};

/// Long enough that it is found by chance nowhere; another one for each engine, whose tests may run at the same time.
fn secret(engine: &str) -> String {
    format!("correct-horse-battery-staple-7731-{engine}")
}

fn bench() -> Bench {
    Bench::new(tiny_guest(&TinyOptions::default()))
}

/// Files below a folder that contain a text. Holes of sparse files have none and are not read.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let finder = memmem::Finder::new(text);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if path.is_file() && data(&path).iter().any(|part| finder.find(part).is_some()) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// The parts of a file that are no holes.
fn data(path: &Path) -> Vec<Vec<u8>> {
    use std::os::unix::fs::FileExt;

    use rustix::fs::{SeekFrom, seek};
    let file = fs::File::open(path).unwrap();
    let (mut parts, mut at) = (Vec::new(), 0);
    while let Ok(start) = seek(file.as_fd(), SeekFrom::Data(at)) {
        at = seek(file.as_fd(), SeekFrom::Hole(start)).unwrap();
        let mut part = vec![0; usize::try_from(at - start).unwrap()];
        file.read_exact_at(&mut part, start).unwrap();
        parts.push(part);
    }
    parts
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
    assert_eq!(holding(&bench.store(), &secret), Vec::<String>::new());
    assert_eq!(holding(&bench.path("xdg-cache"), &secret), Vec::<String>::new());

    // A new value is no new layer; a new version is one, and a failure quotes the mask.
    template(2, "    - {run: 'cat /run/secrets/token; sleep 1; exit 3', secrets: token, env: {WATCHED: 'yes'}}\n");
    let (code, out, err) = build();
    assert_eq!(code, Some(4), "{out}\n{err}");
    assert!(err.contains("| ***"), "{err}");
    assert_eq!(holding(&bench.store(), &secret), Vec::<String>::new());
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
