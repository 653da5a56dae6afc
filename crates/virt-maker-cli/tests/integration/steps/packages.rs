//! Package managers and service managers that cannot be had here, as fake programs that note what they are told; and
//! the real ones of a Debian guest.

use testkit::tree::{difference, tree_of_image};
use testkit::{Mirror, TinyOptions, appliance_lock, tiny_guest};

use super::fixtures::Difference;
use super::{case, check, fixtures, host_files};
use crate::common::{Bench, format_of, image_of, run};
use crate::engines_agree::ENGINES;

on_chroot_and_vm!(
    package_managers_are_told_what_to_do,
    service_managers_are_told_what_to_do,
    sources_of_dnf_and_zypper
);

/// A program that notes its arguments, one line a call.
const FAKE: &str = "#!/bin/sh\necho \"${0##*/} $*\" >> /told\n";

/// A guest that says it is `id` and has these programs, and nothing else of it is real.
fn fake(id: &str, programs: &[&str]) -> Bench {
    let mut files: Vec<_> =
        programs.iter().map(|name| (format!("/usr/bin/{name}"), FAKE.as_bytes().to_vec(), 0o755)).collect();
    files.push(("/etc/os-release".to_owned(), format!("ID={id}\nPRETTY_NAME=\"a fake {id}\"\n").into_bytes(), 0o644));
    Bench::new(tiny_guest(&TinyOptions { files, ..TinyOptions::default() }))
}

fn package_managers_are_told_what_to_do(engine: &str) {
    for (id, programs, expected) in [
        (
            "debian",
            &["apt-get"][..],
            r#"~ /told file 0644 0:0 "apt-get -o APT::Update::Error-Mode=any -q -o Acquire::Retries=0 update\napt-get -q -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install -- a b\napt-get -q -y remove -- c\napt-get -o APT::Update::Error-Mode=any -q -o Acquire::Retries=0 update\napt-get -q -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold dist-upgrade\n""#,
        ),
        (
            "fedora",
            &["dnf"][..],
            r#"~ /told file 0644 0:0 "dnf -y install -- a b\ndnf -y remove -- c\ndnf -y upgrade --refresh\n""#,
        ),
        (
            "rocky",
            &["dnf", "yum"][..],
            r#"~ /told file 0644 0:0 "dnf -y install -- a b\ndnf -y remove -- c\ndnf -y upgrade --refresh\n""#,
        ),
        (
            "centos",
            &["yum"][..],
            r#"~ /told file 0644 0:0 "yum -y install -- a b\nyum -y remove -- c\nyum -y update\n""#,
        ),
        (
            "opensuse-leap",
            &["zypper"][..],
            r#"~ /told file 0644 0:0 "zypper --non-interactive install -- a b\nzypper --non-interactive remove -- c\nzypper --non-interactive refresh\nzypper --non-interactive update\n""#,
        ),
        (
            "alpine",
            &["apk"][..],
            r#"~ /told file 0644 0:0 "apk add --update-cache a b\napk del c\napk upgrade --update-cache\n""#,
        ),
        (
            "arch",
            &["pacman"][..],
            r#"~ /told file 0644 0:0 "pacman -Sy --noconfirm --needed a b\npacman -R --noconfirm c\npacman -Syu --noconfirm\n""#,
        ),
    ] {
        let bench = fake(id, programs);
        let expected: &'static str = expected;
        let first = "+ /told file 0644 0:0 ...";
        let middle = "~ /told file 0644 0:0 ...";
        check(
            &bench,
            engine,
            &[case("install: [a, b]", first), case("remove: c", middle), case("update:", expected)],
            &[],
        );
    }
}

fn service_managers_are_told_what_to_do(engine: &str) {
    let step = "service: {enable: [a, b], disable: c}";
    for (program, expected) in [
        ("systemctl", r#"+ /told file 0644 0:0 "systemctl enable -- a b\nsystemctl disable -- c\n""#),
        (
            "rc-update",
            r#"+ /told file 0644 0:0 "rc-update add a default\nrc-update add b default\nrc-update del c default\n""#,
        ),
        (
            "update-rc.d",
            r#"+ /told file 0644 0:0 "update-rc.d a enable\nupdate-rc.d b enable\nupdate-rc.d c disable\n""#,
        ),
        ("chkconfig", r#"+ /told file 0644 0:0 "chkconfig a on\nchkconfig b on\nchkconfig c off\n""#),
    ] {
        check(&fake("debian", &[program]), engine, &[case(step, expected)], &[]);
    }
    let bench = fake("debian", &["chkconfig"]);
    let template = bench.template("t.yml", &["service: {mask: a}".to_owned()], "");
    let ran = bench.build(engine, &template, &[]).exits(4);
    assert!(ran.stderr.contains("needs systemd"), "{}", ran.stderr);
}

fn sources_of_dnf_and_zypper(engine: &str) {
    let step = "repo: {name: ours, url: 'https://packages.example.org/$releasever', unsigned: true}";
    for (id, program, expected) in [
        (
            "fedora",
            "dnf",
            "+ /etc/yum.repos.d directory 0755 0:0\n+ /etc/yum.repos.d/ours.repo file 0644 0:0 \"[ours]\\nname=ours\\nbaseurl=https://packages.example.org/$releasever\\nenabled=1\\ngpgcheck=0\\n\"",
        ),
        (
            "opensuse-leap",
            "zypper",
            "+ /etc/zypp directory 0755 0:0\n+ /etc/zypp/repos.d directory 0755 0:0\n+ /etc/zypp/repos.d/ours.repo file 0644 0:0 ...",
        ),
    ] {
        check(&fake(id, &[program]), engine, &[case(step, expected)], &[]);
    }
}

/// What a package manager writes anew each time: times in logs, and caches with times in them.
const VOLATILE: [&str; 4] = ["/var/log/", "/var/cache/", "/var/lib/apt/", "/var/lib/dpkg/status-old"];

/// The steps that need a real guest's programs, on a real Debian; with a mirror of this host, but for one that uses the network as it is.
/// What packages and accounts changed, and what was said of rights, is for a comparison.
fn on_debian(engine: &str, mirror: bool) -> (Difference, Vec<String>) {
    let mut bench = Bench::new(testkit::debian_guest());
    bench.mirror = mirror.then(Mirror::start);
    let trust = if mirror { Mirror::TRUST } else { "true" };
    let cases = fixtures::load("steps/debian", &host_files::make(&bench));
    // What is another thing tomorrow is looked at in the guest; packages while their lists are there, for `sysprep` removes them.
    let before = [run(trust), "update:".to_owned(), "install: openssh-client".to_owned()];
    let after = [
        "ssh_keygen: deploy".to_owned(),
        run(
            "id deploy; cd ~deploy/.ssh; stat -c '%n %a %U:%G' id_*; ssh-keygen -y -f id_rsa | cut -c 1-8; systemctl is-enabled virt-maker-firstboot.service; systemd-analyze verify virt-maker-firstboot.service; true",
        ),
        // Last of all: it makes a user, and that moves the numbers of others.
        "install: [tini, uuid-runtime, sudo]".to_owned(),
        "user: {name: keeper, sudo: true, shell: /bin/sh}".to_owned(),
        run("command -v tini uuidd; id uuidd; ls -l /usr/sbin/policy-rc.d; true"),
        // Root goes to another user, and nobody comes back: the same words on each engine.
        run("su - keeper -c 'id -un; sudo -n id; echo ended with $?'"),
    ];
    let steps: Vec<String> =
        before.iter().cloned().chain(cases.iter().map(|case| case.step.clone())).chain(after).collect();
    let template = bench.template("t.yml", &steps, "");
    let ran = bench.build(engine, &template, &[]).exits(0);
    let keys = ran.sealed();
    fixtures::compare_by_diff(&bench, engine, &cases, &keys[before.len()..=before.len() + cases.len()]);
    let said = ran.said();
    for expected in [
        "uid=1500(deploy) gid=1500(deploy) groups=1500(deploy),4(adm),100(users)",
        "id_rsa 600 deploy:deploy\nid_rsa.pub 644 deploy:deploy\nssh-rsa ",
        "enabled",
        "/usr/bin/tini",
        "(uuidd)",
    ] {
        assert!(said.contains(expected), "{engine}: {expected}: {said}");
    }
    assert!(!said.contains("virt-maker-firstboot.service:"), "{said}");
    let rights: Vec<String> = said.lines().skip_while(|line| *line != "keeper").map(str::to_owned).collect();
    assert!(rights.iter().any(|line| line.contains("no new privileges")), "{engine}: {said}");
    assert_eq!(rights.last().map(String::as_str), Some("ended with 1"), "{engine}: {said}");
    let tree = |depth: usize| {
        let image = image_of(&bench.store(), &keys[depth]);
        tree_of_image(&image, format_of(&image))
    };
    // Behind the keys, which are others each time: the packages and the account.
    let mut changed = difference(&tree(before.len() + cases.len() + 2), &tree(keys.len() - 1));
    changed.retain(|path, _| !VOLATILE.iter().any(|volatile| path.starts_with(volatile)));
    for path in ["/usr/bin/tini", "/etc/passwd", "/etc/sudoers.d/90-keeper"] {
        assert!(changed.contains_key(path), "{engine}: {:?}", changed.keys());
    }
    for path in ["/etc/resolv.conf", "/usr/sbin/policy-rc.d"] {
        assert!(!changed.contains_key(path), "{engine}: {path}");
    }
    (changed, rights)
}

#[test]
fn real_accounts_services_and_packages_with_chroot() {
    on_debian("chroot", false);
}

/// Packages come over the network, into a real Debian: their files, owners, scripts' effects, and what is not there (no service was
/// started, no resolv.conf or policy stays).
#[test]
fn packages_leave_the_same_on_each_engine() {
    let _lock = appliance_lock();
    let [first, others @ ..] = ENGINES.map(|engine| (engine, on_debian(engine, true)));
    let (changed, said) = &first.1;
    for (engine, (found, words)) in &others {
        assert_eq!(said, words, "{engine}");
        let paths = |changed: &Difference| changed.keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths(changed), paths(found), "{engine}");
        for (path, (before, after)) in changed {
            let (theirs, others) = &found[path];
            // What had another content before, such as the digest of a password with its salt, has another one after it.
            let same = before != theirs || after == others;
            assert!(same, "{engine}: {path}: {after:?}, and {others:?}");
        }
        // And few things have.
        let salted =
            changed.iter().filter(|(path, (before, _))| *before != found[*path].0).map(|(path, _)| path.as_str());
        let salted: Vec<&str> = salted.collect();
        assert!(salted.iter().all(|path| path.starts_with("/etc/shadow")), "{engine}: {salted:?}");
    }
}
