//! The step `boot`: a guest boots in a machine, steps run in it, and its layer has what they did and nothing else.
//!
//! Machines are emulated here, so what can be tried in one boot is tried in one.

use std::path::{Path, PathBuf};

use crate::common::{Bench, image_of, run};
use testkit::tree::{difference, tree_of_image};
use testkit::{HostState, appliance_lock};

fn guest() -> PathBuf {
    testkit::bootable_debian(Path::new(env!("CARGO_BIN_EXE_virt-maker")))
}

/// What a booted Debian writes by itself, whatever is done in it; the table of `docs/booting.md` has it.
pub const BY_ITSELF: [&str; 3] = ["/var/backups/", "/var/cache/", "/var/log/"];

#[test]
fn a_guest_takes_steps_while_it_runs_and_keeps_what_they_did_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(guest());
    std::fs::write(bench.path("page.html"), "<h1>served</h1>\n").unwrap();
    let within = [
        run("[ \"$(cat /proc/1/comm)\" = systemd ] && systemctl is-active ssh; echo kept > /etc/kept; systemctl stop ssh"),
        "expect: {user: sshd, package: openssh-server, file: {path: /etc/kept, mode: '0644', owner: root, content: '^kept$'}}".into(),
        "copy: {dest: /srv/page.html, source: page.html}".into(),
        run("echo in memory > /run/gone; cat /proc/sys/kernel/random/boot_id > /root/first; systemctl start ssh"),
        "wait_for: {screen: 'login:'}".into(),
        "keys: 'nobody-of-this-name<enter>'".into(),
        "wait_for: {screen: '^Password:$', timeout: 1m}".into(),
        "screenshot: password".into(),
        "reboot:".into(),
        // What a boot leaves besides, and would not stay.
        run("touch /etc/cloud/cloud-init.disabled; mkdir -p /var/lib/systemd/linger; touch /var/lib/systemd/linger/root"),
        run("[ ! -e /run/gone ] && ! cmp /proc/sys/kernel/random/boot_id /root/first && rm /root/first; echo again"),
        "expect: {unit: ssh.service, port: 22, listening_only: [22, 5355], no_failed_units: true, command: {run: 'exit 3', exit: 3}}".into(),
    ];
    let list: String = within.iter().map(|step| format!("\n          - {step}")).collect();
    let steps = [
        run("echo offline > /etc/offline; mkdir /etc/cloud"),
        format!(
            "boot:\n        cpus: 1\n        wait_for: {{unit: ssh.service, console: 'login:'}}\n        steps:{list}"
        ),
    ];
    let template = bench.template("t.yml", &steps, "");
    let ran = bench.build("chroot", &template, &[]).exits(0);
    assert!(ran.said().contains("active\n") && ran.said().contains("again\n"), "{}", ran.said());
    ran.told_boots(2, &["firmware", "loader", "kernel", "initramfs", "services"]);
    let keys = ran.sealed();
    let picture = bench.store().join("layers").join(&keys[2]).join("password.png");
    assert_eq!(std::fs::read(picture).unwrap()[..4], *b"\x89PNG");
    let image = |depth: usize| {
        let image = image_of(&bench.store(), &keys[depth]);
        testkit::fsck_clean(&image, "qcow2");
        tree_of_image(&image, "qcow2")
    };
    let mut changed = difference(&image(1), &image(2));
    let linger = ["/var/lib/systemd/linger", "/var/lib/systemd/linger/root"];
    let of_steps = [&["/etc/kept", "/srv/page.html", "/etc/cloud/cloud-init.disabled"], &linger[..]].concat();
    for path in of_steps {
        assert!(changed.remove(path).is_some_and(|(before, after)| before.is_none() && after.is_some()), "{path}");
    }
    changed.retain(|path, _| !BY_ITSELF.iter().any(|own| path.starts_with(own)));
    assert!(changed.is_empty(), "a boot leaves nothing else: {changed:#?}");
    assert_eq!(bench.left_in_store(), Vec::<String>::new());

    // It is a layer as every other one.
    let ran = bench.build("chroot", &template, &[]).exits(0);
    assert_eq!(ran.sealed(), Vec::<String>::new());
    before.assert_nothing_left();
}

/// A guest whose first sector is this program of a PC: what happens before any kernel can be tried in seconds.
fn sector(bench: &Bench, name: &str, code: &[u8], text: &str) -> PathBuf {
    let files = vec![("/etc/inittab".to_owned(), b"::sysinit:/bin/true\n".to_vec(), 0o644)];
    let guest = testkit::tiny_guest(&testkit::TinyOptions { files, ..testkit::TinyOptions::default() });
    let mut disk = std::fs::read(guest).unwrap();
    if !code.is_empty() {
        disk[..code.len()].copy_from_slice(code);
        disk[0x40..0x40 + text.len()].copy_from_slice(text.as_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    }
    let path = bench.path(name);
    std::fs::write(&path, disk).unwrap();
    path
}

/// Writes the text by the BIOS, letter by letter, and stands still.
const SAYS: [u8; 24] = [
    0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x40, 0x7c, 0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xac, 0x08, 0xc0, 0x74, 0x04, 0xcd, 0x10,
    0xeb, 0xf7, 0xf4, 0xeb, 0xfd,
];
/// Resets the machine by its keyboard controller.
const RESETS: [u8; 7] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];
/// Powers the machine off: 0x2000 to the port of its power management.
const POWERS_OFF: [u8; 10] = [0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd];

/// What does not boot is told, with what was seen, long before the deadline, and nothing stays; without steps, a guest that powers itself
/// off is a layer.
#[test]
fn what_comes_to_nothing_is_told_and_nothing_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let mut bench = Bench::new(PathBuf::from("none"));
    let steps = "{steps: [{run: 'true'}]}";
    for (name, code, text, boot, code_of_exit, expected) in [
        ("none", &[][..], "", steps, 4, "the firmware found nothing to boot on its disk"),
        ("rescue", &SAYS[..], "grub rescue> ", steps, 4, "shows its rescue prompt"),
        (
            "emergency",
            &SAYS[..],
            "You are in emergency mode.",
            steps,
            4,
            "the guest did not boot, and is in emergency mode",
        ),
        ("no root", &SAYS[..], "(initramfs) ", steps, 4, "the initramfs did not find the root file system"),
        ("resets", &RESETS[..], "", steps, 4, "the guest restarted 7 times"),
        ("off", &POWERS_OFF[..], "", steps, 4, "the guest powered off, and was not told to"),
        ("still", &SAYS[..], "I stay.", "{timeout: 4s}", 4, "the guest did not power off within 4 s"),
        (
            "waits",
            &SAYS[..],
            "I wait.",
            "{timeout: 4s, steps: [{run: 'true'}]}",
            4,
            "waited 4 s for its agent to answer",
        ),
        ("fine", &POWERS_OFF[..], "", "{}", 0, ""),
    ] {
        bench.base = sector(&bench, &format!("{name}.img"), code, text);
        let template = bench.template(&format!("{name}.yml"), &[format!("boot: {boot}")], "");
        let ran = bench.build("chroot", &template, &[]).exits(code_of_exit);
        assert!(ran.stderr.contains(expected), "{name}: {}", ran.stderr);
        assert!(text.is_empty() || ran.stderr.contains(text.trim()), "{name}: its screen is told: {}", ran.stderr);
        let picture = ran.stderr.split_whitespace().find(|word| word.trim_end_matches(',').ends_with(".png"));
        assert_eq!(picture.is_some(), !expected.is_empty(), "{name}: {}", ran.stderr);
        if let Some(picture) = picture {
            assert_eq!(std::fs::read(picture.trim_end_matches(',')).unwrap()[..4], *b"\x89PNG", "{name}");
        }
        assert_eq!(bench.left_in_store(), Vec::<String>::new(), "{name}");
    }
    before.assert_nothing_left();
}

/// What the older tool said of a screen is taken, and told to be of no use.
#[test]
fn an_older_template_that_boots_is_read() {
    let bench = Bench::new(PathBuf::from("none"));
    let template = bench.path("old.yml");
    std::fs::write(
        &template,
        "spec:\n  import: {disk: {path: b.img}}\n  steps:\n    - boot: {display: vnc, serial: x, memory: 512}\n",
    )
    .unwrap();
    let ran = bench.run(&["validate", template.to_str().unwrap()]);
    let note = "`display` is not used: it has no part in the image";
    assert!(ran.stderr.contains(note) || ran.stdout.contains(note), "{}{}", ran.stdout, ran.stderr);
}

/// What a program of the host prints.
fn said_by(command: &mut std::process::Command) -> String {
    String::from_utf8(testkit::run(command).stdout).unwrap()
}

/// A template's beginning whose guest boots in a few seconds: busybox, a kernel of the host, and what our agent needs.
pub fn small(bench: &mut Bench) -> String {
    bench.base = testkit::small_guest(&Path::new(env!("CARGO_BIN_EXE_virt-maker")).with_file_name("virt-maker-agent"));
    let tree = bench.template("tree.yml", &[run(testkit::SMALL_GUEST_STEP)], "tar: {path: tree.tar}");
    bench.build("chroot", &tree, &[]).exits(0);
    format!("format: 2\nspec:\n  import: {}\n", testkit::small_import("tree.tar"))
}

/// What a template that begins so may read.
pub fn allowed() -> [String; 4] {
    let ours = format!("read={}", testkit::cache_dir().display());
    ["--allow".to_owned(), "read=/boot".to_owned(), "--allow".to_owned(), ours]
}

/// A test that fails keeps the image from being exported, one that passed is not run again, and CI can read it all.
#[test]
fn tests_keep_a_broken_image_from_being_exported_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let mut bench = Bench::new(PathBuf::from("none"));
    let begin = small(&mut bench);
    let template = bench.path("web.yml");
    let write = |last: &str| {
        let text = format!(
            "{begin}  steps:\n    - hostname: web\n  tests:\n    - name: web <1>\n      boot: {{memory: 256M, cpus: 1}}\n      steps:\n        \
             - run: busybox httpd -p 8080 -h /srv; echo tested > /etc/tested\n        \
             - expect: {{boot_time: 5m, port: 8080, http: {{port: 8080, body: served}}, file: {{path: /etc/hostname, content: web}}}}\n{last}  \
             export:\n    raw: {{path: web.img}}\n"
        );
        std::fs::write(&template, text).unwrap();
    };
    let outcomes = |ran: &crate::common::Ran| -> Vec<String> {
        let ended = ran.of("test_finished");
        let mut outcomes: Vec<String> = ended
            .iter()
            .map(|event| format!("{} {}", event["name"].as_str().unwrap(), event["outcome"].as_str().unwrap()))
            .collect();
        outcomes.sort();
        outcomes
    };
    let allowed = allowed();
    let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
    write("    - name: broken\n      steps:\n        - expect: {command: {run: 'echo no; exit 3'}, timeout: 1s}\n");
    let ran = bench.build("chroot", &template, &allowed).exits(4);
    assert_eq!(outcomes(&ran), ["broken failed", "web <1> passed"]);
    assert!(ran.stderr.contains("the test `broken` failed") && ran.stderr.contains("web.yml:12:7"), "{}", ran.stderr);
    let kept = ran.stderr.split_whitespace().find(|word| word.trim_end_matches(',').ends_with(".png"));
    assert_eq!(std::fs::read(kept.unwrap().trim_end_matches(',')).unwrap()[..4], *b"\x89PNG");
    assert!(!bench.path("web.img").exists());
    assert_eq!(bench.left_in_store(), Vec::<String>::new());

    let planned = bench.run(&[&["plan", "web.yml"], &allowed[..]].concat()).exits(0).stdout;
    assert!(planned.contains("web <1>: passed before\n") && planned.contains("broken: to run\n"), "{planned}");

    // The same for CI: what passed is known, what failed is tried again.
    let arguments = ["test", "web.yml", "--engine", "chroot", "--progress", "json", "--junit", "junit.xml"];
    let ran = bench.run(&[&arguments[..], &allowed[..]].concat()).exits(4);
    assert_eq!(outcomes(&ran), ["broken failed", "web <1> cached"]);
    let script = "import sys, xml.etree.ElementTree as e; r = e.parse(sys.argv[1]).getroot(); \
                  print(r.tag, *[r.get(k) for k in ('tests', 'failures', 'errors')]); \
                  [print(s.get('name'), c.get('name'), [x.tag for x in c]) for s in r for c in s]; \
                  print(r.find('.//failure').get('message'), r.find('.//failure').text)";
    let read = said_by(std::process::Command::new("python3").args(["-c", script]).arg(bench.path("junit.xml")));
    assert!(
        read.starts_with(
            "testsuites 2 1 0\nweb web <1> ['system-out']\nweb broken ['failure']\nthe test `broken` failed"
        ),
        "{read}"
    );
    assert!(read.contains("the whole log: "), "{read}");
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/junit/junit-10.xsd");
    let mut xmllint = std::process::Command::new("xmllint");
    testkit::run(xmllint.args(["--nonet", "--noout", "--schema"]).arg(schema).arg(bench.path("junit.xml")));

    // Left out, it is said; with none that fails, the image is there, without what a test wrote.
    let ran = bench.build("chroot", &template, &[&allowed[..], &["--no-tests"]].concat()).exits(0);
    let said = ran
        .of("warning")
        .iter()
        .any(|event| event["message"].as_str().unwrap().contains("tests left out: `web <1>`, `broken`"));
    assert!(said && outcomes(&ran).is_empty(), "{}", ran.stdout);
    std::fs::remove_file(bench.path("web.img")).unwrap();
    write("");
    let ran = bench.build("chroot", &template, &allowed).exits(0);
    assert_eq!(outcomes(&ran), ["web <1> cached"]);
    assert!(testkit::find_file_in_image(&bench.path("web.img"), "/etc/tested").is_none());
    assert!(testkit::find_file_in_image(&bench.path("web.img"), "/etc/hostname").is_some());
    // It has not passed with less.
    let less = std::fs::read_to_string(&template).unwrap().replace("memory: 256M", "memory: 200M");
    std::fs::write(bench.path("less.yml"), less).unwrap();
    let planned = bench.run(&[&["plan", "less.yml"], &allowed[..]].concat()).exits(0).stdout;
    assert!(planned.contains("web <1>: to run\n"), "{planned}");
    let ran = bench.run(&["test", "tree.yml"]).exits(1);
    assert!(ran.stderr.contains("tree.yml has no `tests`"), "{}", ran.stderr);
    // With the layers, verdicts go.
    let verdicts = || std::fs::read_dir(bench.store().join("tests")).unwrap().count();
    assert_eq!(verdicts(), 1);
    bench.run(&["cache", "gc", "--max-size", "0"]).exits(0);
    assert_eq!(verdicts(), 0);
    before.assert_nothing_left();
}
