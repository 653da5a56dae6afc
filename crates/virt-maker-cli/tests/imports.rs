//! Where a base comes from: another template, a list of checksums that somebody signed.

mod common;

use std::fs;
use std::process::Command;

use common::Bench;
use testkit::{TinyOptions, tiny_guest};

fn gpg(bench: &Bench, arguments: &[&str]) {
    let home = bench.path("gnupg");
    let mut command = Command::new("gpg");
    command.args(["--batch", "--quiet"]);
    testkit::run(command.args(arguments).env("GNUPGHOME", &home).current_dir(bench.folder.path()));
}

#[test]
fn a_chain_of_templates_is_one_tree() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    fs::create_dir(bench.path("bases")).unwrap();
    let base = format!(
        "params: {{text: nothing, list: []}}\nsecrets: {{token: {{env: TOKEN}}}}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    - run: echo {{{{ text }}}} > /base\n    - run: echo {{{{ list | length }}}} > /length\n  export:\n    raw: {{path: base.img}}\n",
        bench.base.display()
    );
    fs::write(bench.path("bases/base.yml"), base).unwrap();
    let middle = "params: {word: hello}\nspec:\n  import:\n    layer: {template: bases/base.yml, with: {text: '{{ word }}', list: [1, 2]}}\n  steps:\n    - run: cat /base > /middle\n";
    fs::write(bench.path("middle.yml"), middle).unwrap();
    let top = "spec:\n  import:\n    layer: {template: middle.yml}\n  steps:\n    - run: cat /base /length /middle\n  export:\n    raw: {path: top.img}\n";
    fs::write(bench.path("top.yml"), top).unwrap();

    let whole = bench.build("chroot", &bench.path("top.yml"), &[]).exits(0);
    assert_eq!(whole.sealed().len(), 5);
    assert_eq!(whole.of("session_started").len(), 1, "one path, one session");
    let said: String = whole.of("output").iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert!(said.contains("hello\n2\nhello"), "{said}");
    assert!(!bench.path("bases/base.img").exists(), "exports of a base are its own affair");
    // What is below is made once, whoever asks for it.
    let middle = bench.build("chroot", &bench.path("middle.yml"), &[]).exits(0);
    assert!(middle.sealed().is_empty());
    let base =
        bench.build("chroot", &bench.path("bases/base.yml"), &["-p", "text=hello", "-p", "list=[1, 2]"]).exits(0);
    assert!(base.sealed().is_empty() && bench.path("bases/base.img").exists());
    // A change in the middle leaves what is below it.
    fs::write(
        bench.path("middle.yml"),
        fs::read_to_string(bench.path("middle.yml")).unwrap().replace("cat /base >", "cp /base"),
    )
    .unwrap();
    assert_eq!(bench.build("chroot", &bench.path("top.yml"), &[]).exits(0).sealed().len(), 2);
}

#[test]
fn wrong_bases_are_refused() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let import = format!("import:\n    download: {{url: 'file://{}'}}\n", bench.base.display());
    fs::write(
        bench.path("two.yml"),
        format!("matrix: {{x: [1, 2]}}\nspec:\n  {import}  steps: [{{run: 'echo {{{{ x }}}}'}}]\n"),
    )
    .unwrap();
    fs::write(bench.path("bad.yml"), format!("spec:\n  {import}  steps:\n    - rnu: x\n")).unwrap();
    fs::write(bench.path("secret.yml"), format!("secrets: {{a: {{env: ONE}}}}\nspec:\n  {import}")).unwrap();
    fs::write(bench.path("itself.yml"), "spec: {import: {layer: {template: other.yml}}}\n").unwrap();
    fs::write(bench.path("other.yml"), "spec: {import: {layer: {template: itself.yml}}}\n").unwrap();
    for (text, expected) in [
        ("spec: {import: {layer: {template: two.yml}}}", "asks for several images"),
        ("spec: {import: {layer: {template: two.yml, with: {y: 1}}}}", "no parameter `y`"),
        ("spec: {import: {layer: {template: bad.yml}}}", "unknown step `rnu`"),
        ("spec: {import: {layer: {template: none.yml}}}", "is no file"),
        ("spec: {import: {layer: {template: itself.yml}}}", "is its own base"),
        ("spec: {import: {layer: {template: two.yml, with: [x]}}}", "expected a mapping of parameters"),
        ("secrets: {a: {env: TWO}}\nspec: {import: {layer: {template: secret.yml}}}", "the secret `a` is another one"),
    ] {
        fs::write(bench.path("t.yml"), text).unwrap();
        let ran = bench.build("chroot", &bench.path("t.yml"), &[]).exits(1);
        assert!(ran.stderr.contains(expected), "{text}: {}", ran.stderr);
    }
    fs::write(bench.path("t.yml"), "spec: {import: {layer: {template: two.yml, with: {x: 2}}}}").unwrap();
    bench.build("chroot", &bench.path("t.yml"), &[]).exits(0);
}

#[test]
fn a_signed_list_says_what_a_download_is() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let home = bench.path("gnupg");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for name in ["publisher", "stranger"] {
        gpg(&bench, &["--passphrase", "", "--quick-generate-key", &format!("{name}@example.org"), "ed25519", "sign"]);
        gpg(&bench, &["--armor", "--output", &format!("{name}.asc"), "--export", &format!("{name}@example.org")]);
        gpg(&bench, &["--output", &format!("{name}.gpg"), "--export", &format!("{name}@example.org")]);
    }
    testkit::copy_image(&bench.base, &bench.path("image.raw"));
    let sums = testkit::run(Command::new("sha256sum").args(["image.raw"]).current_dir(bench.folder.path())).stdout;
    fs::write(bench.path("SUMS"), &sums).unwrap();
    gpg(&bench, &["--local-user", "publisher@example.org", "--output", "SUMS.signed", "--clearsign", "SUMS"]);
    gpg(&bench, &["--local-user", "publisher@example.org", "--output", "SUMS.sig", "--detach-sign", "SUMS"]);
    let text = fs::read_to_string(bench.path("SUMS.signed")).unwrap();
    // A line in front of what is signed is no part of it.
    let forged = format!("{}  image.raw\n{text}", "0".repeat(64));
    fs::write(bench.path("SUMS.forged"), forged).unwrap();
    fs::write(bench.path("SUMS.changed"), text.replace("image.raw", "other.raw")).unwrap();
    let build = |checksums: &str| {
        let text = format!("spec: {{import: {{download: {{url: image.raw, checksums: {checksums}}}}}}}");
        fs::write(bench.path("t.yml"), text).unwrap();
        bench.build(
            "chroot",
            &bench.path("t.yml"),
            &["--store", bench.path(&format!("store-{}", checksums.len())).to_str().unwrap()],
        )
    };
    let file = |name: &str| format!("file://{}", bench.path(name).display());
    build("{url: SUMS.signed, gpg: publisher.asc}").exits(0);
    build(&format!("{{url: '{}', gpg: publisher.gpg}}", file("SUMS.signed"))).exits(0);
    build("{url: SUMS, signature: SUMS.sig, gpg: publisher.gpg}").exits(0);
    build("{url: SUMS.forged, gpg: publisher.gpg}").exits(0);
    for (checksums, expected) in [
        ("{url: SUMS.signed, gpg: stranger.gpg}", "is not signed by a key of"),
        ("{url: SUMS, signature: SUMS.sig, gpg: stranger.asc}", "is not signed by a key of"),
        ("{url: SUMS.changed, gpg: publisher.gpg }", "is not signed by a key of"),
        ("{url: SUMS, gpg: publisher.gpg}", "is not signed by a key of"),
        ("{url: SUMS.signed, gpg: none.gpg}", "cannot read the keys"),
        ("{url: none, gpg: publisher.gpg}", "cannot read"),
        ("{url: SUMS.signed}", "`gpg` is missing"),
        ("{url: '', gpg: publisher.gpg}", "expected a URL or a path"),
    ] {
        let ran = build(checksums).exits(1);
        assert!(ran.stderr.contains(expected), "{checksums}: {}", ran.stderr);
    }
    // The image is another one than the list says.
    fs::write(bench.path("image.raw"), "something else").unwrap();
    let ran = build("{url: SUMS.signed,  gpg:  publisher.asc}").exits(1);
    assert!(ran.stderr.contains("wrong checksum"), "{}", ran.stderr);
    let _ = Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", &home).status();
}
