//! Packages of a stranger: their scripts run as root, and nothing of that reaches the host.

use std::fs;

use testkit::{Attack, HostState, Targets, read_file_from_image, rpm_repository};
use virt_maker::event::Events;

use super::bench::Bench;

/// Makes a repository with `repository`, and a guest of it by the arguments that `arguments` gives; then nothing was reached.
fn attacked(repository: impl Fn(&Attack<'_>, &Bench), arguments: impl Fn(&Bench) -> String) {
    let before = HostState::capture();
    let (bench, mut targets) = (Bench::new(), Targets::new());
    repository(&targets.attack(), &bench);
    let made = bench.make(&arguments(&bench), Events::none());
    made.unwrap_or_else(|error| panic!("{error}: {:?}\n{}", error.hint(), bench.log()));
    let report = String::from_utf8(read_file_from_image(&bench.image(), Attack::REPORT)).unwrap();
    assert_eq!(report, "done\n", "{}", bench.log());
    targets.assert_missed("a script of a package");
    drop(targets);
    assert_eq!(bench.strays(), Vec::<String>::new());
    before.assert_nothing_left();
}

/// A key that comes with a template vouches for its author, and for nobody else.
#[test]
fn what_no_key_of_the_host_vouches_for_needs_a_permission() {
    let mut bench = Bench::new();
    fs::write(bench.folder.path().join("key.asc"), "").unwrap();
    let key = bench.folder.path().join("key.asc");
    let signed_by = format!("suite: own\nmirror: 'deb [signed-by={}] http://x.example own main'\n", key.display());
    for (arguments, line) in [
        ("suite: own\nmirror: 'deb [trusted=yes] http://x.example ./'\n", 2),
        (&signed_by, 2),
        ("suite: rocky9\nmirror: http://x.example\nsigned: false\n", 3),
        ("suite: rocky9\nmirror: http://x.example\ngpg: key.asc\n", 3),
    ] {
        bench.unverified = false;
        bench.refuses(arguments, line, &["no key of a distribution", "--allow unverified"]);
        bench.unverified = true;
        assert!(bench.parse(arguments).is_ok(), "{arguments}");
    }
}

#[test]
fn scripts_of_debian_packages_reach_nothing_of_the_host() {
    attacked(
        |attack, bench| attack.deb_repository(&bench.folder.path().join("packages"), bench.folder.path()),
        |bench| {
            let mirror = bench.folder.path().join("packages");
            format!(
                "{{suite: own, size: 512M, mirror: 'deb [trusted=yes] copy:{} own main', packages: [attack]}}",
                mirror.display()
            )
        },
    );
}

#[test]
fn scripts_of_rpm_packages_reach_nothing_of_the_host() {
    attacked(
        |attack, bench| {
            rpm_repository(&bench.folder.path().join("packages"));
            attack.rpm_repository(&bench.folder.path().join("more"), bench.folder.path());
        },
        |bench| {
            let folder = bench.folder.path().display();
            format!(
                "{{suite: rocky9, size: 1G, mirror: ['file:{folder}/packages/repository', 'file:{folder}/more'], \
                 signed: false, packages: [attack]}}"
            )
        },
    );
}
