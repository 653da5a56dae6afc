//! Caches that steps mount: what is in one is there for the next build, in no layer, and never for two at once.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::common::{Bench, run};
use testkit::{HostState, Mirror, TinyOptions, appliance_lock, tiny_guest};

fn kept(engine: &str) {
    let before = HostState::capture();
    // What a hostile guest may have in the place of a folder: a link to a folder of the host, and one that goes up.
    let links = vec![("/var/cache".to_owned(), "/../../../../usr/kept".to_owned())];
    let bench = Bench::new(tiny_guest(&TinyOptions { links, ..TinyOptions::default() }));
    let step = |text: &str, mounts: &str| format!("{}\n      mounts: {mounts}", run(text));
    let steps = [
        run("mkdir /usr/kept; echo own > /usr/kept/own"),
        step(
            "ls /var/cache/; echo one > /var/cache/file; echo two > /deep/new/place/file; echo x > /srv/file",
            "[{cache: first, target: /var/cache}, {cache: second, target: /deep/new/place}, {cache: third, target: /srv}]",
        ),
        step("cat /var/cache/file; ls /deep/new/place", "{cache: first, target: /var/cache/}"),
        run("cat /usr/kept/own; ls /usr/kept; ls /deep/new/place"),
    ];
    let ran = bench.build(engine, &bench.template("t.yml", &steps, ""), &[]).exits(0);
    assert_eq!(ran.said(), "one\nown\nown\n", "{engine}: a cache is there for its step alone");
    assert_eq!(ran.of("session_started").len(), 1, "{engine}");
    // One that a machine left in a mess is made again.
    let row = if engine == "chroot" { "cache/mounts/third/host" } else { "cache/mounts/third" };
    let disk = bench.store().join(row).join("0.raw");
    let file = fs::File::options().write(true).open(&disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xa5; 1 << 20], 0).unwrap();
    // Another template finds what was left in the others; nothing of it is in a layer.
    let steps = [step(
        "cat /srv/file /mnt/file; ls /opt; echo fresh > /opt/fresh; cat /opt/fresh",
        "[{cache: first, target: /srv}, {cache: second, target: /mnt}, {cache: third, target: /opt}]",
    )];
    let ran = bench.build(engine, &bench.template("u.yml", &steps, "raw: {path: a.img}"), &[]).exits(0);
    let said = ran.said();
    assert!(said.starts_with("one\ntwo\n") && said.ends_with("fresh\n") && !said.contains("file"), "{engine}: {said}");
    let tree = testkit::tree::tree_of_image(&bench.path("a.img"), "raw");
    for file in ["/srv/file", "/mnt/file", "/opt/fresh"] {
        assert!(!tree.contains_key(file), "{engine}: {file}");
    }
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

#[test]
fn a_cache_is_there_for_the_next_build_with_chroot() {
    kept("chroot");
}

#[test]
fn a_cache_is_there_for_the_next_build_with_vm_appliance() {
    let _lock = appliance_lock();
    kept("vm");
}

#[test]
fn a_cache_is_there_for_the_next_build_with_libguestfs() {
    let _lock = appliance_lock();
    kept("libguestfs");
}

/// A disk that a guest in a virtual machine may have written to, or one that an earlier version left.
#[test]
fn the_hosts_kernel_mounts_no_cache_of_a_machine() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    bench.build("chroot", &bench.template("first.yml", &[run("true")], ""), &[]).exits(0);
    let row = bench.store().join("cache/mounts/shared");
    fs::create_dir_all(&row).unwrap();
    let (disk, files) = (row.join("0.raw"), bench.path("files/srv"));
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("planted"), "by a guest").unwrap();
    fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    testkit::run(
        std::process::Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(bench.path("files")).arg(&disk),
    );
    let before = fs::read(&disk).unwrap();
    let step = format!("{}\n      mounts: {{cache: shared, target: /srv}}", run("ls /srv; echo own > /srv/file"));
    let ran = bench.build("chroot", &bench.template("t.yml", &[step], ""), &[]).exits(0);
    assert_eq!(ran.said(), "");
    assert!(fs::read(&disk).unwrap() == before, "the disk of machines was touched");
    assert!(row.join("host/0.raw").exists());
}

#[test]
fn two_builds_at_once_have_a_disk_each() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let build = |name: &str| {
        let text = format!("cd /srv; test ! -e busy; echo {name} > busy; sleep 4; cat busy; rm busy");
        let step = format!("{}\n      mounts: {{cache: shared, target: /srv}}", run(&text));
        let template = bench.template(&format!("{name}.yml"), &[step], "");
        let mut command =
            bench.command(&["build", template.to_str().unwrap(), "--engine", "chroot", "--progress", "json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [build("one"), build("two")];
    for (child, name) in both.into_iter().zip(["one", "two"]) {
        let ran = crate::common::Ran::from(child.wait_with_output().unwrap()).exits(0);
        assert_eq!(ran.said(), format!("{name}\n"));
    }
    let disks = fs::read_dir(bench.store().join("cache/mounts/shared/host")).unwrap();
    let disks = disks.filter(|entry| entry.as_ref().unwrap().path().extension() == Some(Path::new("raw").as_os_str()));
    assert_eq!(disks.count(), 2);
}

/// Real packages, for `chroot` from the real mirror: the second time, in another template, nothing is downloaded.
fn installed(engine: &str) {
    let mut bench = Bench::new(testkit::debian_guest());
    bench.mirror = (engine != "chroot").then(Mirror::start);
    let trust = if bench.mirror.is_some() { Mirror::TRUST } else { "true" };
    let build = |name: &str, first: &str| {
        let steps = [
            run(&format!("{trust}; {first}")),
            "install: [tini, tree]\n      mounts: [{cache: apt}]".to_owned(),
            run("command -v tini; command -v tree; ls /var/cache/apt/archives/*.deb; true"),
        ];
        bench.build(engine, &bench.template(name, &steps, ""), &[]).exits(0)
    };
    let first = build("one.yml", "echo first").said();
    assert!(first.contains("/usr/bin/tini\n/usr/bin/tree") && !first.contains("archives/tini_0"), "{engine}: {first}");
    assert!(
        first.lines().any(|line| line.starts_with("Need to get ") && !line.starts_with("Need to get 0 B")),
        "{first}"
    );
    let second = build("two.yml", "echo second").said();
    assert!(second.contains("Need to get 0 B/"), "{engine}: {second}");
    // What apt asks for is whether the release file is still the same; some mirrors answer with the file.
    let fetched = second.lines().filter(|line| line.starts_with("Get:") && !line.contains("InRelease"));
    assert_eq!(fetched.count(), 0, "{engine}: {second}");
    assert!(second.contains("/usr/bin/tini\n/usr/bin/tree"), "{second}");
}

#[test]
fn nothing_is_downloaded_twice_with_chroot() {
    installed("chroot");
}

#[test]
fn nothing_is_downloaded_twice_with_vm_appliance() {
    let _lock = appliance_lock();
    installed("vm");
}

#[test]
fn wrong_mounts_are_refused() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    for (step, expected) in [
        ("run: x\n      mounts: [{cache: own}]", "needs a `target`"),
        ("run: x\n      mounts: [{cache: apt, target: /x}]", "has its own places"),
        ("run: x\n      mounts: [{target: /x}]", "`cache` is missing"),
        ("run: x\n      mounts: [{cache: '../x', target: /x}]", "a name of at most 32"),
        ("run: x\n      mounts: [{cache: x, target: x}]", "an absolute path"),
        ("run: x\n      mounts: [{cache: x, target: /a/../b}]", "without `.` and `..`"),
        ("run: x\n      mounts: [{cache: x, targt: /x}]", "unknown key `targt`"),
        ("run: x\n      mounts: apt", "a mapping such as"),
        ("mkdir: /x\n      mounts: [{cache: apt}]", "has no use for `mounts`"),
    ] {
        let template = bench.template("t.yml", &[step.to_owned()], "");
        let ran = bench.build("chroot", &template, &[]).exits(1);
        assert!(ran.stderr.contains(expected), "{step}: {}", ran.stderr);
    }
}
