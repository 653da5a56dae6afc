//! Options beside a runner: what they do to a step, and what they do to its key.

mod common;

use std::fs;
use std::path::Path;

use common::{Bench, Ran};
use testkit::{HostState, TinyOptions, tiny_guest};

/// Long enough that it is found by chance nowhere.
const SECRET: &str = "correct-horse-battery-staple-7731";

fn bench() -> Bench {
    Bench::new(tiny_guest(&TinyOptions::default()))
}

/// Builds a template with this text after `spec.import`.
fn build(bench: &Bench, head: &str, steps: &str, more: &[&str]) -> Ran {
    let path = bench.path("t.yml");
    let text = format!(
        "{head}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n{steps}",
        bench.base.display()
    );
    fs::write(&path, text).unwrap();
    bench.build("chroot", &path, more)
}

fn output(ran: &Ran) -> String {
    ran.of("output").iter().map(|event| event["text"].as_str().unwrap()).collect()
}

#[test]
fn env_network_and_names() {
    let bench = bench();
    let ran = build(
        &bench,
        "defaults: {env: {ALL: every}}",
        "    - {run: 'echo $ALL $ONE; grep -c : /proc/net/dev', env: {ONE: 1}, network: off, name: say it}\n",
        &[],
    )
    .exits(0);
    assert_eq!(output(&ran), "every 1\n1\n");
    assert_eq!(ran.of("layer_started")[1]["summary"], "say it");
    let key = ran.sealed().pop().unwrap();

    // A name is no part of the key; the environment and the network are.
    let again = build(
        &bench,
        "defaults: {env: {ALL: every}}",
        "    - {run: 'echo $ALL $ONE; grep -c : /proc/net/dev', env: {ONE: 1}, network: off}\n",
        &[],
    )
    .exits(0);
    assert_eq!(again.sealed().len(), 0);
    let other =
        build(&bench, "", "    - {run: 'echo $ALL $ONE; grep -c : /proc/net/dev', env: {ONE: 1}, network: off}\n", &[])
            .exits(0);
    assert_ne!(other.sealed().pop().unwrap(), key);
    let online = build(
        &bench,
        "defaults: {env: {ALL: every}}",
        "    - {run: 'echo $ALL $ONE; grep -c : /proc/net/dev', env: {ONE: 1}, network: on}\n",
        &[],
    )
    .exits(0);
    assert_eq!(online.sealed().len(), 1);
    // `on` is what `run` does anyway.
    let usual = build(
        &bench,
        "defaults: {env: {ALL: every}}",
        "    - {run: 'echo $ALL $ONE; grep -c : /proc/net/dev', env: {ONE: 1}}\n",
        &[],
    )
    .exits(0);
    assert_eq!(usual.sealed().len(), 0);
}

#[test]
fn a_timeout_ends_a_step() {
    let before = HostState::capture();
    let bench = bench();
    let ran = build(&bench, "", "    - {run: 'echo begun; sleep 1000', timeout: 1s}\n", &[]).exits(4);
    let failure = &ran.of("step_failed")[0]["failure"];
    assert!(failure["exit"].as_str().unwrap().contains("timeout"), "{failure}");
    assert_eq!(output(&ran), "begun\n");
    before.assert_nothing_left();
}

#[test]
fn retries_try_again() {
    let bench = bench();
    // The guest is as the attempt before left it.
    let step = "run: 'echo x >> /tries; test $(wc -l < /tries) = 3'";
    let ran = build(&bench, "", &format!("    - {{{step}, retries: 1}}\n"), &[]).exits(4);
    assert_eq!(ran.of("warning").len(), 1);
    let ran = build(&bench, "", &format!("    - {{{step}, retries: 2}}\n"), &[]).exits(0);
    assert_eq!(ran.of("warning").len(), 2);
}

#[test]
fn caching_can_be_limited() {
    let bench = bench();
    let steps = "    - {run: 'true', cache: always-run}\n    - run: echo after\n";
    assert_eq!(build(&bench, "", steps, &[]).exits(0).steps("layer_started"), [0, 1, 2]);
    // What lies on a layer that is made again is made again too.
    assert_eq!(build(&bench, "", steps, &[]).exits(0).steps("layer_started"), [1, 2]);
    let plan = bench.run(&["plan", "t.yml"]).exits(0);
    assert!(plan.stdout.contains("(always run)"), "{}", plan.stdout);

    let steps = "    - {run: echo old, cache: {ttl: 1s}}\n";
    build(&bench, "", steps, &[]).exits(0);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(build(&bench, "", steps, &[]).exits(0).steps("layer_started"), [1]);
    // A longer time is enough: it is no part of the key.
    assert_eq!(
        build(&bench, "", "    - {run: echo old, cache: {ttl: 1h}}\n", &[]).exits(0).steps("layer_started").len(),
        0
    );

    build(&bench, "", "    - {run: echo k, cache_key: one}\n", &[]).exits(0);
    assert_eq!(build(&bench, "", "    - {run: echo k, cache_key: two}\n", &[]).exits(0).steps("layer_started"), [1]);
}

/// Files below a folder that contain a text.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if fs::read(&path).unwrap_or_default().windows(text.len()).any(|window| window == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// A secret is read by the steps that name it, and is found nowhere afterwards.
fn secrets_stay_secret(engine: &str) {
    let bench = bench();
    fs::create_dir(bench.path("outside")).unwrap();
    fs::write(bench.path("outside/key"), format!("{SECRET}-of-file\n")).unwrap();
    let template = |version: u32, steps: &str| {
        let text = format!(
            "secrets:\n  token: {{env: TEST_TOKEN, version: {version}}}\n  key: {{file: outside/key}}\nspec:\n  import:\n    \
             download: {{url: 'file://{}'}}\n  steps:\n{steps}",
            bench.base.display()
        );
        fs::write(bench.path("t.yml"), text).unwrap();
    };
    let build = || {
        let output = bench
            .command(&["build", "t.yml", "--engine", engine, "--progress", "json", "-vv"])
            .env("TEST_TOKEN", SECRET)
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(!out.contains(SECRET) && !err.contains(SECRET), "the secret shows:\n{out}\n{err}");
        (output.status.code(), out, err)
    };
    let script = "cat /run/secrets/token /run/secrets/key; ls -ld /run/secrets/token; ps axww -o args 2>/dev/null || ps; \
                  printf %s $(cat /run/secrets/token) | wc -c";
    let step = format!("    - {{run: '{script}', secrets: [token, key]}}\n    - run: ls /run/secrets || echo gone\n");
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
    assert!(texts.contains(&format!("\n{}\n", SECRET.len())), "the script had the value: {texts}");
    assert!(texts.contains("gone"), "{texts}");
    assert_eq!(holding(&bench.store(), SECRET), Vec::<String>::new());
    assert_eq!(holding(&bench.path("xdg-cache"), SECRET), Vec::<String>::new());

    // A new value is no new layer; a new version is one, and a failure quotes the mask.
    template(2, "    - {run: 'cat /run/secrets/token; exit 3', secrets: token}\n");
    let (code, out, err) = build();
    assert_eq!(code, Some(4), "{out}\n{err}");
    assert!(err.contains("| ***"), "{err}");
    assert_eq!(holding(&bench.store(), SECRET), Vec::<String>::new());
}

#[test]
fn secrets_stay_secret_on_chroot() {
    secrets_stay_secret("chroot");
}

#[test]
fn secrets_stay_secret_on_libguestfs() {
    secrets_stay_secret("libguestfs");
}

#[test]
fn secrets_have_to_be_there() {
    let bench = bench();
    let ran =
        build(&bench, "secrets: {token: {env: NOT_SET_ANYWHERE}}", "    - {run: 'true', secrets: [token]}\n", &[])
            .exits(1);
    assert!(ran.stderr.contains("NOT_SET_ANYWHERE"), "{}", ran.stderr);
    let ran = build(&bench, "", "    - {run: 'true', secrets: [token]}\n", &[]).exits(1);
    assert!(ran.stderr.contains("no secret `token`"), "{}", ran.stderr);
}
