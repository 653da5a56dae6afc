//! Downloads over TLS: whom the host believes, and nobody else.

use std::fs;
use std::path::Path;

use crate::common::{Bench, Ran, run};
use testkit::{TinyOptions, TlsServer, copy_image, tiny_guest};

/// A server whose authority only this test knows is believed by each way to name the authority, and by no other; what
/// the user says of it enters no guest.
#[test]
fn a_server_is_believed_as_the_host_and_the_user_say() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let server = TlsServer::start();
    copy_image(&bench.base, &server.folder().join("disk.img"));
    let template = bench.path("t.yml");
    let text = format!(
        "spec:\n  import:\n    download: {{url: '{}'}}\n  steps:\n    - {}\n      network: true\n",
        server.url("disk.img"),
        run("env | grep -c CERT || true"),
    );
    fs::write(&template, &text).unwrap();
    let settings = bench.path("xdg-config/virt-maker/config.toml");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    let build = |variable: Option<(&str, &Path)>, store: &str| {
        let path = template.to_str().unwrap();
        let arguments = ["build", path, "--engine", "chroot", "--progress", "json", "--allow", "host-network"];
        let mut command = bench.command(&arguments);
        command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").envs(variable);
        command.env("VIRT_MAKER_STORE", bench.path(store));
        Ran::from(command.output().unwrap())
    };

    let ran = build(None, "store").exits(1);
    assert!(ran.stderr.contains("UnknownIssuer") && ran.stderr.contains("SSL_CERT_FILE"), "{}", ran.stderr);
    assert!(!ran.stdout.contains("trying again"), "{}", ran.stdout);

    let ran = build(Some(("SSL_CERT_FILE", &server.authority())), "one").exits(0);
    let said = ran.said();
    assert_eq!(said.trim(), "0", "variables of the host are in the guest");
    build(Some(("SSL_CERT_DIR", &server.authorities())), "two").exits(0);
    let setting = format!("certificates = \"{}\"\n", server.authority().display());
    fs::write(&settings, &setting).unwrap();
    build(None, "three").exits(0);
    fs::remove_file(&settings).unwrap();

    // A project decides nothing of this.
    fs::write(bench.path("virt-maker.toml"), &setting).unwrap();
    let ran = build(None, "store").exits(1);
    assert!(ran.stderr.contains("a project cannot decide this by itself: whom downloads believe"), "{}", ran.stderr);
    fs::remove_file(bench.path("virt-maker.toml")).unwrap();

    // A certificate that is believed, and that a server may not show.
    let authority = TlsServer::start_as_authority();
    copy_image(&bench.base, &authority.folder().join("disk.img"));
    fs::write(&template, text.replace(&server.url("disk.img"), &authority.url("disk.img"))).unwrap();
    let ran = build(Some(("SSL_CERT_FILE", &authority.authority())), "four").exits(1);
    assert!(ran.stderr.contains("CaUsedAsEndEntity") && ran.stderr.contains("CA:FALSE"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("name their file with") && !ran.stdout.contains("trying again"), "{}", ran.stderr);
    fs::write(&template, &text).unwrap();

    for (file, expected) in [("disk.img", "holds no certificate"), ("none", "cannot read")] {
        let ran = build(Some(("SSL_CERT_FILE", &server.folder().join(file))), "store").exits(5);
        assert!(ran.stderr.contains(expected) && ran.stderr.contains("SSL_CERT_FILE"), "{}", ran.stderr);
    }
}
