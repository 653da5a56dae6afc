//! Mirrors over the network, with the real apt and dnf: what a redirect leads to is judged, proxies of the user are used.
//!
//! All is in a network of its own, where an address stands for somebody else.

use std::net::TcpListener;
use std::path::Path;

use testkit::{Asked, Attack, Elsewhere, Targets, Web, read_file_from_image, rpm_repository, serve};
use virt_maker::event::Events;

use super::bench::Bench;

/// Arguments for packages of a mirror.
type Arguments = fn(&str) -> String;

fn of_debian(mirror: &str) -> String {
    format!("{{suite: own, size: 512M, mirror: 'deb [trusted=yes] {mirror} own main', packages: [attack]}}")
}

fn of_rpm(mirror: &str) -> String {
    format!(
        "{{suite: rocky9, size: 1G, mirror: ['{mirror}/system/repository', '{mirror}/rpm'], signed: false, packages: [attack]}}"
    )
}

fn bench(env: &[(&str, String)]) -> Bench {
    let mut bench = Bench::new();
    bench.host_network = false;
    bench.env = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    bench
}

fn url(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().unwrap())
}

fn is_asked(asked: &Asked) -> bool {
    !asked.lock().unwrap().is_empty()
}

/// Makes a guest from there; its packages were installed.
fn makes(network: &Elsewhere, bench: Bench, arguments: String) -> Bench {
    let bench = network.here(move || {
        let made = bench.make(&arguments, Events::none());
        made.unwrap_or_else(|error| panic!("{error}: {:?}\n{}", error.hint(), bench.log()));
        bench
    });
    assert_eq!(read_file_from_image(&bench.image(), Attack::REPORT), b"done\n", "{}", bench.log());
    bench
}

fn redirects_are_judged(packages: &Path, arguments: Arguments) {
    let network = Elsewhere::new();
    let files = network.listen_there();
    let real = url(&files);
    let asked = serve(files, Web::Files(packages.to_owned()));

    // As deb.debian.org does it.
    let leads = network.listen_there();
    let mirror = url(&leads);
    let led = serve(leads, Web::Leads(real.clone()));
    let made = makes(&network, bench(&[]), arguments(&mirror));
    assert!(is_asked(&led));
    // Another time what it has is asked for, and no package of it is fetched again.
    let heads = || std::mem::take(&mut *asked.lock().unwrap());
    let is_package = |head: &String| head.contains(".deb ") || head.contains(".rpm ");
    assert!(heads().iter().any(is_package));
    std::fs::remove_file(made.image()).unwrap();
    makes(&network, made, arguments(&mirror));
    let again = heads();
    assert!(!again.is_empty() && !again.iter().any(is_package), "{again:?}");

    // To the host: its loopback, and where a cloud keeps its credentials.
    let own = network.listen("0.0.0.0", 0);
    let port = own.local_addr().unwrap().port();
    let reached = serve(own, Web::Files(packages.to_owned()));
    for (target, why) in
        [(format!("http://localhost:{port}"), "the host's loopback"), ("http://169.254.169.254".into(), "link-local")]
    {
        let leads = network.listen_there();
        let mirror = url(&leads);
        let led = serve(leads, Web::Leads(target.clone()));
        let text = arguments(&mirror);
        let error = network.here(move || {
            let bench = bench(&[]);
            let error = bench.make(&text, Events::none()).unwrap_err();
            assert_eq!(bench.strays(), Vec::<String>::new());
            error
        });
        assert!(is_asked(&led), "{target}");
        assert!(error.to_string().contains(why), "{target}: {error}");
        assert!(error.hint().unwrap().contains("--allow host-network"), "{target}: {:?}", error.hint());
    }
    assert!(!is_asked(&reached), "the host itself was asked");

    // A proxy of the user's is used, on the host too, and gets what opens it.
    let proxy = network.listen("127.0.0.1", 0);
    let address = url(&proxy).replace("//", "//me:word@");
    let through = serve(proxy, Web::Proxy(packages.to_owned()));
    let nowhere = arguments("http://mirror.invalid");
    makes(&network, bench(&[("http_proxy", address.clone())]), nowhere);
    let heads = through.lock().unwrap().clone();
    let opened = |head: &String| {
        head.contains("http://mirror.invalid/") && head.contains("Proxy-Authorization: Basic bWU6d29yZA==")
    };
    assert!(heads.iter().all(opened), "{heads:?}");
}

#[test]
fn what_a_mirror_of_debian_leads_to_is_judged() {
    let (folder, targets) = (tempfile::tempdir().unwrap(), Targets::new());
    let packages = folder.path().join("packages");
    targets.attack().deb_repository(&packages, folder.path());
    redirects_are_judged(&packages, of_debian);
}

#[test]
fn what_a_mirror_of_rpm_packages_leads_to_is_judged() {
    let (folder, targets) = (tempfile::tempdir().unwrap(), Targets::new());
    rpm_repository(&folder.path().join("system"));
    targets.attack().rpm_repository(&folder.path().join("rpm"), folder.path());
    redirects_are_judged(folder.path(), of_rpm);
}
