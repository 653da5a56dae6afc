//! Options beside a runner: what they do to a step, and what they do to its key.

use std::fs;

use crate::common::{Bench, Ran};
use testkit::{HostState, TinyOptions, tiny_guest};

on_chroot_and_vm!(
    env_network_and_names,
    a_timeout_ends_a_step,
    retries_try_again,
    caching_can_be_limited,
    a_program_makes_steps
);

fn bench() -> Bench {
    Bench::new(tiny_guest(&TinyOptions::default()))
}

/// Builds a template with this text after `spec.import`.
fn build(engine: &str, bench: &Bench, head: &str, steps: &str, more: &[&str]) -> Ran {
    let path = bench.path("t.yml");
    let text = format!(
        "{head}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n{steps}",
        bench.base.display()
    );
    fs::write(&path, text).unwrap();
    bench.build(engine, &path, more)
}

fn env_network_and_names(engine: &str) {
    let bench = bench();
    let ran = build(
        engine,
        &bench,
        "defaults: {env: {ALL: every}}",
        "    - {run: 'echo $ALL $ONE; grep -c : /proc/net/dev', env: {ONE: 1}, network: off, name: say it}\n",
        &[],
    )
    .exits(0);
    assert_eq!(ran.said(), "every 1\n1\n");
    assert_eq!(ran.of("layer_started")[1]["summary"], "say it");
    let key = ran.sealed().pop().unwrap();

    // A name is no part of the key; the environment and the network are.
    let again = build(
        engine,
        &bench,
        "defaults: {env: {ALL: every}}",
        "    - {run: 'echo $ALL $ONE; grep -c : /proc/net/dev', env: {ONE: 1}, network: off}\n",
        &[],
    )
    .exits(0);
    assert_eq!(again.sealed().len(), 0);
    let other = build(
        engine,
        &bench,
        "",
        "    - {run: 'echo $ALL $ONE; grep -c : /proc/net/dev', env: {ONE: 1}, network: off}\n",
        &[],
    )
    .exits(0);
    assert_ne!(other.sealed().pop().unwrap(), key);
    let online = build(
        engine,
        &bench,
        "defaults: {env: {ALL: every}}",
        "    - {run: 'echo $ALL $ONE; grep -c : /proc/net/dev', env: {ONE: 1}, network: on}\n",
        &[],
    )
    .exits(0);
    assert_eq!(online.sealed().len(), 1);
    // `on` is what `run` does anyway.
    let usual = build(
        engine,
        &bench,
        "defaults: {env: {ALL: every}}",
        "    - {run: 'echo $ALL $ONE; grep -c : /proc/net/dev', env: {ONE: 1}}\n",
        &[],
    )
    .exits(0);
    assert_eq!(usual.sealed().len(), 0);
}

fn a_timeout_ends_a_step(engine: &str) {
    let before = HostState::capture();
    let bench = bench();
    let ran = build(engine, &bench, "", "    - {run: 'echo begun; sleep 1000', timeout: 1s}\n", &[]).exits(4);
    let failure = &ran.of("step_failed")[0]["failure"];
    assert!(failure["exit"].as_str().unwrap().contains("timeout"), "{failure}");
    assert_eq!(ran.said(), "begun\n");
    before.assert_nothing_left();
}

fn retries_try_again(engine: &str) {
    let bench = bench();
    // The guest is as the attempt before left it.
    let step = "run: 'echo x >> /tries; test $(wc -l < /tries) = 3'";
    let ran = build(engine, &bench, "format: 2", &format!("    - {{{step}, retries: 1}}\n"), &[]).exits(4);
    assert_eq!(ran.of("warning").len(), 1);
    let ran = build(engine, &bench, "format: 2", &format!("    - {{{step}, retries: 2}}\n"), &[]).exits(0);
    assert_eq!(ran.of("warning").len(), 2);
}

fn caching_can_be_limited(engine: &str) {
    let bench = bench();
    let steps = "    - {run: 'true', cache: always-run}\n    - run: echo after\n";
    assert_eq!(build(engine, &bench, "", steps, &[]).exits(0).steps("layer_started"), [0, 1, 2]);
    // What lies on a layer that is made again is made again too.
    assert_eq!(build(engine, &bench, "", steps, &[]).exits(0).steps("layer_started"), [1, 2]);
    let plan = bench.run(&["plan", "t.yml"]).exits(0);
    assert!(plan.stdout.contains("(always run)"), "{}", plan.stdout);

    let steps = "    - {run: echo old, cache: {ttl: 1s}}\n";
    build(engine, &bench, "", steps, &[]).exits(0);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(build(engine, &bench, "", steps, &[]).exits(0).steps("layer_started"), [1]);
    // A longer time is enough: it is no part of the key.
    assert_eq!(
        build(engine, &bench, "", "    - {run: echo old, cache: {ttl: 1h}}\n", &[])
            .exits(0)
            .steps("layer_started")
            .len(),
        0
    );

    build(engine, &bench, "", "    - {run: echo k, cache_key: one}\n", &[]).exits(0);
    assert_eq!(
        build(engine, &bench, "", "    - {run: echo k, cache_key: two}\n", &[]).exits(0).steps("layer_started"),
        [1]
    );
}

/// What `now()` gave can be had again, and `plan` says where it has a part.
#[test]
fn changing_values_can_be_frozen() {
    let bench = bench();
    let head = "params: {word: '{{ random_word(16, 4) }}-{{ random_word(16, 4) }}-{{ now() }}'}";
    let steps = "    - run: echo still\n    - run: echo {{ word }}\n";
    let path = bench.path("t.yml");
    let first = {
        let text = format!(
            "{head}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n{steps}",
            bench.base.display()
        );
        fs::write(&path, text).unwrap();
        let none = bench.run(&["plan", "t.yml", "--freeze"]).exits(2);
        assert!(none.stderr.contains("--freeze needs a build"), "{}", none.stderr);
        bench.build("chroot", &path, &[]).exits(0)
    };
    assert_eq!(first.steps("layer_started"), [0, 1, 2]);
    let plan = bench.run(&["plan", "t.yml"]).exits(0);
    let line = |words: &str| plan.stdout.lines().find(|line| line.contains(words)).unwrap().to_owned();
    assert!(line("run: echo ").starts_with("hit "), "{}", plan.stdout);
    let changing = plan.stdout.lines().find(|line| line.contains("changes each time")).unwrap();
    assert!(changing.starts_with("miss") && changing.contains("now, random_word"), "{}", plan.stdout);
    let frozen = bench.run(&["plan", "t.yml", "--freeze"]).exits(0);
    assert!(frozen.stdout.contains("3 layers: 3 there"), "{}", frozen.stdout);
    assert_eq!(bench.build("chroot", &path, &["--freeze"]).exits(0).steps("layer_started").len(), 0);
    assert_eq!(bench.build("chroot", &path, &[]).exits(0).steps("layer_started"), [2]);

    let mut records = fs::read_dir(bench.path("xdg-cache/virt-maker/frozen")).unwrap();
    let record = records.next().unwrap().unwrap().path();
    fs::write(&record, "{").unwrap();
    let ran = bench.run(&["plan", "t.yml", "--freeze"]).exits(6);
    assert!(ran.stderr.contains(&format!("error: {} is damaged", record.display())), "{}", ran.stderr);
}

/// A program of the host makes steps, where that is allowed; it is run again when it changes.
fn a_program_makes_steps(engine: &str) {
    use std::os::unix::fs::PermissionsExt;
    let bench = bench();
    fs::create_dir(bench.path("tools")).unwrap();
    let tool = |text: &str| {
        let path = bench.path("tools/greet");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    // `{{ }}` in what it answers is data.
    tool(
        "#!/bin/sh\nread arguments\necho \"[{\\\"run\\\": \\\"echo '$arguments' '{{ 1 }}'\\\"}, {\\\"hostname\\\": \\\"made\\\"}]\" | sed 's/{\"who/{who/; s/who\":\"web\"}/who:web}/'\n",
    );
    let steps = "    - {'exec:tools/greet': {who: web}, name: greet}\n";
    build(engine, &bench, "", steps, &[]).exits(1);
    let ran = build(engine, &bench, "", steps, &["--allow", "host-exec"]).exits(0);
    assert_eq!(ran.said(), "{who:web} {{ 1 }}\n");
    assert_eq!(ran.steps("layer_started"), [0, 1, 2]);
    assert_eq!(build(engine, &bench, "", steps, &["--allow", "host-exec"]).exits(0).steps("layer_started").len(), 0);
    // The same answer of another program is another layer.
    let text = fs::read_to_string(bench.path("tools/greet")).unwrap();
    tool(&format!("{text}# changed\n"));
    assert_eq!(build(engine, &bench, "", steps, &["--allow", "host-exec"]).exits(0).steps("layer_started"), [1, 2]);

    // The user's own settings may allow it.
    fs::create_dir_all(bench.path("xdg-config/virt-maker")).unwrap();
    fs::write(bench.path("xdg-config/virt-maker/config.toml"), "allow = [\"host-exec\"]\n").unwrap();
    bench.run(&["validate", "t.yml"]).exits(0);
    tool("#!/bin/sh\necho '{}'\n");
    let wrong = bench.run(&["validate", "t.yml", "--allow", "host-exec"]).exits(1);
    assert!(wrong.stderr.contains("has to answer with a list of steps"), "{}", wrong.stderr);
}

/// What works on the host is bounded too, and nothing of it goes on; what it put into the background does not hold it up.
#[test]
fn a_timeout_ends_a_step_that_works_on_the_host() {
    let before = HostState::capture();
    let bench = bench();
    // A server that takes a request and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://u:pass-word-77@{}/tool?token=tok-en-88", silent.local_addr().unwrap());
    let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let allow = ["--allow", "host-exec", "--allow", "net", "--allow", "host-network"];
    for step in [
        "local_run: 'setsid sleep 1000 & sleep 1000'".to_owned(),
        format!("download_to: {{url: '{url}', dest: /x, checksum: '{empty}'}}"),
    ] {
        let ran = build("chroot", &bench, "", &format!("    - {{{step}, timeout: 1s}}\n"), &allow).exits(4);
        assert!(ran.stderr.contains("timeout of 1 s"), "{}", ran.stderr);
        for secret in ["pass-word-77", "tok-en-88"] {
            assert!(!ran.stdout.contains(secret), "{}", ran.stdout);
        }
    }
    let daemon = "setsid sh -c \"echo daemon; touch said; exec sleep 1000\"";
    let step = format!("    - local_run: '{daemon} & until [ -e said ]; do sleep 0.05; done; echo over'\n");
    let ran = build("chroot", &bench, "", &step, &allow).exits(0);
    assert_eq!(ran.said(), "daemon\nover\n");
    before.assert_nothing_left();
}
