//! `virt-maker.lock`: what a URL without a checksum gave is written down, demanded, and looked at again.

mod common;
#[allow(dead_code, reason = "shared with the tests of downloads, which use all of it")]
#[path = "../../virt-maker/tests/http_server/mod.rs"]
mod http_server;

use std::fs;
use std::path::PathBuf;

use common::Bench;
use http_server::Server;
use virt_maker::key::Digest;

#[test]
fn sources_are_locked() {
    let image = |byte: u8| vec![byte; 1 << 20];
    let sum = |bytes: &[u8]| format!("sha256:{}", Digest::of(bytes));
    let server = Server::new(&image(1));
    let bench = Bench::new(PathBuf::from("/nonexistent"));
    let build = |more: &[&str]| {
        let mut arguments = vec!["build", "sub/t.yml", "--progress", "plain", "--engine", "chroot"];
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
    assert!(ran.stderr.contains(&sum(&image(2))) && ran.stderr.contains(&sum(&image(1))), "{}", ran.stderr);
    assert_eq!(locked()["sources"][server.url()], sum(&image(1)));

    let update = |more: &[&str]| {
        let mut arguments = vec!["update", "--lock-file", "sub/virt-maker.lock"];
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
