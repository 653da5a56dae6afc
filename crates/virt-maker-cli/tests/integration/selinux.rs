//! SELinux labels: what steps touched, and what had none, has the label of the guest's own rules in every export, on each
//! engine; layers stay as they are, and nothing is labelled twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Bench, Ran, run};
use testkit::tree::{Entry, tree_of_folder, tree_of_image};
use testkit::{HostState, TinyOptions, appliance_lock, tiny_guest};

const CONFIG: &str = "# what is on\nSELINUX=enforcing\nSELINUXTYPE=targeted\n";
const RULES: &str = r"
/.*                     system_u:object_r:default_t:s0
/               -d      system_u:object_r:root_t:s0
/etc(/.*)?              system_u:object_r:etc_t:s0
/etc/hostname   --      system_u:object_r:hostname_etc_t:s0
/etc/.*\.conf   --      system_u:object_r:conf_t:s0
/bin/(busybox|sh)       system_u:object_r:bin_t:s0
/srv/web(/.*)?  --      system_u:object_r:web_file_t:s0
/srv/web(/.*)?  -d      system_u:object_r:web_dir_t:s0
/srv/web(/.*)?  -l      system_u:object_r:web_link_t:s0
/tmp/.*                 <<none>>
";

/// A guest that enforces a small policy. Some of its files have labels, as an administrator left them.
fn guest(bench: &mut Bench) {
    let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec(), 0o644);
    let rules = "/etc/selinux/targeted/contexts";
    let base = tiny_guest(&TinyOptions {
        files: vec![
            file("/etc/selinux/config", CONFIG),
            file(&format!("{rules}/files/file_contexts"), RULES),
            file(&format!("{rules}/files/file_contexts.local"), "/opt/ours(/.*)? system_u:object_r:ours_t:s0\n"),
            file(&format!("{rules}/files/file_contexts.subs_dist"), "/srv/alias /srv/web\n"),
            file(&format!("{rules}/customizable_types"), "by_hand_t\n"),
            file("/etc/by-hand", ""),
            file("/etc/staff.conf", ""),
            file("/etc/right", ""),
        ],
        ..TinyOptions::default()
    });
    let image = bench.path("base.raw");
    testkit::copy_image(&base, &image);
    let commands = "ea_set /etc/by-hand security.selinux system_u:object_r:by_hand_t:s0\n\
        ea_set /etc/staff.conf security.selinux staff_u:object_r:tmp_t:s0:c1\n\
        ea_set /etc/right security.selinux staff_u:object_r:etc_t:s0\n";
    testkit::run_with_input(Command::new("debugfs").args(["-w", "-f", "-"]).arg(&image), commands.as_bytes());
    bench.base = image;
}

/// The label of each file that has one. A kernel that wrote it ends it by a NUL; debugfs did not.
fn labels(tree: &BTreeMap<String, Entry>) -> BTreeMap<&str, String> {
    let text = |hex: &String| {
        let bytes = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        let bytes: Vec<u8> = bytes.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        String::from_utf8(bytes).unwrap().trim_end_matches('\0').to_owned()
    };
    let labelled = tree.iter().filter_map(|(path, entry)| Some((&**path, entry.xattrs.get("security.selinux")?)));
    labelled.map(|(path, hex)| (path, text(hex))).collect()
}

fn said(ran: &Ran) -> Vec<&str> {
    let traces = ran.of("trace").into_iter().filter(|event| event["source"] == "selinux");
    traces.map(|event| event["message"].as_str().unwrap()).collect()
}

fn labelled(engine: &str) {
    let before = HostState::capture();
    let mut bench = Bench::new(Path::new("/nonexistent").to_owned());
    guest(&mut bench);
    let steps = [
        "selinux: relabel".to_owned(),
        "copy: {dest: /srv/web/index.html, content: hello}".to_owned(),
        "link: {path: /srv/web/start, target: index.html}".to_owned(),
        "hostname: web.example.org".to_owned(),
        "move: {from: /etc/right, to: /srv/web/moved}".to_owned(),
        run(
            "set -e; touch /tmp/left; mkdir -p /opt/ours; printf x > \"/opt/ours/a b\\\\c$(printf '\\n\\351')\"; echo > /etc/new.conf; mkdir /srv/alias",
        ),
    ];
    let template = bench.template("t.yml", &steps, "[{raw: {path: a.img, sparsify: true}}, {tar: {path: a.tar}}]");
    let planned = bench.run(&["plan", template.to_str().unwrap()]).exits(0);
    assert!(!planned.stdout.contains("SELinux labels"), "{}", planned.stdout);
    let planned = bench.run(&["plan", "--explain", template.to_str().unwrap()]).exits(0);
    assert!(planned.stdout.contains("SELinux labels: for 1 image, at each export if the guest"), "{}", planned.stdout);

    let ran = bench.build(engine, &template, &["-vv"]).exits(0);
    assert_eq!(ran.of("warning").len(), 0, "{}", ran.stdout);
    let done = said(&ran);
    let labelled = "files labelled by the policy `targeted`: ";
    assert!(done.len() == 2 && done[0] == done[1] && done[0].starts_with(labelled), "{done:?}");
    testkit::fsck_clean(&bench.path("a.img"), "raw");
    let tree = tree_of_image(&bench.path("a.img"), "raw");
    let found = labels(&tree);
    let odd = "/opt/ours/a b\\c\n\u{fffd}";
    for (path, expected) in [
        ("/etc/by-hand", "system_u:object_r:by_hand_t:s0"),
        ("/etc/staff.conf", "staff_u:object_r:conf_t:s0:c1"),
        ("/etc/hostname", "system_u:object_r:hostname_etc_t:s0"),
        ("/etc/new.conf", "system_u:object_r:conf_t:s0"),
        ("/srv", "system_u:object_r:default_t:s0"),
        ("/srv/web", "system_u:object_r:web_dir_t:s0"),
        ("/srv/alias", "system_u:object_r:web_dir_t:s0"),
        ("/srv/web/index.html", "system_u:object_r:web_file_t:s0"),
        ("/srv/web/moved", "staff_u:object_r:web_file_t:s0"),
        ("/srv/web/start", "system_u:object_r:web_link_t:s0"),
        ("/bin/busybox", "system_u:object_r:bin_t:s0"),
        (odd, "system_u:object_r:ours_t:s0"),
    ] {
        assert_eq!(found.get(path).map(String::as_str), Some(expected), "{path} on {engine}");
    }
    let without: Vec<_> = tree.keys().filter(|path| !found.contains_key(path.as_str())).collect();
    assert_eq!(without, ["/tmp/left"], "{engine}");
    assert!(!tree.contains_key("/.autorelabel"));
    // A capability, a mode, an owner: nothing else of a file changes.
    let tip = ran.sealed().last().unwrap().clone();
    let layer = tree_of_image(&bench.image(&tip), "qcow2");
    assert!(labels(&layer).len() <= 3 && layer.contains_key("/.autorelabel"), "layers stay as they are");
    let bare = |tree: &BTreeMap<String, Entry>| {
        let entries = tree.iter().filter(|(path, _)| *path != "/.autorelabel");
        let entries = entries.map(|(path, entry)| (path.clone(), Entry { xattrs: BTreeMap::new(), ..entry.clone() }));
        entries.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(bare(&layer), bare(&tree));
    // The archive has them too.
    fs::create_dir(bench.path("tree")).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--xattrs", "--xattrs-include=*", "--exclude=./dev/*", "-xf"]).arg(bench.path("a.tar"));
    testkit::run(tar.arg("-C").arg(bench.path("tree")));
    let unpacked = tree_of_folder(&bench.path("tree"));
    assert_eq!(labels(&unpacked), found.into_iter().filter(|(path, _)| unpacked.contains_key(*path)).collect());

    let planned = bench.run(&["plan", template.to_str().unwrap()]).exits(0);
    assert!(
        planned.stdout.contains("SELinux labels: for the files of 1 image, once at each export"),
        "{}",
        planned.stdout
    );
    let planned = bench.run(&["plan", "--json", template.to_str().unwrap()]).exits(0);
    let document: serde_json::Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(document["selinux_labels"], serde_json::json!([true]));
    // What is there is current; and once SELinux is off, nobody labels.
    let again = bench.build(engine, &template, &[]).exits(0);
    assert!(again.of("export_finished").iter().all(|event| event["current"] == true), "{}", again.stdout);
    // The library takes seconds to start, and whether there is anything to label is read from the layer on each engine.
    let quick = if engine == "libguestfs" { "chroot" } else { engine };
    let off = bench.template("off.yml", &["selinux: disabled".to_owned()], "raw: {path: off.img}");
    let ran = bench.build(quick, &off, &["-vv"]).exits(0);
    assert_eq!(said(&ran), [""; 0]);
    assert_eq!(labels(&tree_of_image(&bench.path("off.img"), "raw")).len(), 3);
    before.assert_nothing_left();
}

#[test]
fn exports_are_labelled_with_chroot() {
    labelled("chroot");
}

#[test]
fn exports_are_labelled_with_vm_appliance() {
    let _lock = appliance_lock();
    labelled("vm");
}

#[test]
fn exports_are_labelled_with_libguestfs() {
    let _lock = appliance_lock();
    labelled("libguestfs");
}

#[test]
fn a_policy_without_rules_is_an_error() {
    let bench = Bench::new(tiny_guest(&TinyOptions {
        files: vec![("/etc/selinux/config".into(), CONFIG.into(), 0o644)],
        ..TinyOptions::default()
    }));
    let template = bench.template("t.yml", &["hostname: x".to_owned()], "raw: {path: a.img}");
    let ran = bench.build("chroot", &template, &[]).exits(1);
    for expected in ["/etc/selinux/targeted/contexts/files/file_contexts is not there", "selinux: disabled"] {
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
    assert!(!bench.path("a.img").exists());
}

/// What cannot be read says nothing: the steps are kept, and nobody labels.
#[test]
fn a_configuration_that_leads_nowhere_is_a_warning() {
    let bench = Bench::new(tiny_guest(&TinyOptions {
        files: vec![("/etc/selinux/here".into(), CONFIG.into(), 0o644)],
        links: vec![("/etc/selinux/config".into(), "/no/such/file".into())],
        ..TinyOptions::default()
    }));
    let template = bench.template("t.yml", &["hostname: x".to_owned()], "raw: {path: a.img}");
    let ran = bench.build("chroot", &template, &["-vv"]).exits(0);
    assert!(ran.stdout.contains("whether the guest has SELinux is not known"), "{}", ran.stdout);
    assert_eq!(said(&ran), [""; 0]);
    // A link within the guest is followed.
    let steps = ["link: {path: /etc/selinux/config, target: here}".to_owned()];
    let ran = bench.build("chroot", &bench.template("u.yml", &steps, "raw: {path: b.img}"), &[]).exits(1);
    assert!(ran.stderr.contains("no rules for it"), "{}", ran.stderr);
}

/// The policy of Debian, with its 5,600 rules, on a real guest; the guest's own `setfiles` then finds nothing to relabel.
#[test]
fn the_setfiles_of_a_real_guest_agrees() {
    let mut bench = Bench::new(testkit::debian_guest());
    let steps = [
        run("set -e; apt-get -q update && apt-get -qy install --no-install-recommends selinux-policy-default"),
        "user: {name: joe, home: /home/joe, shell: /bin/bash}".to_owned(),
        "copy: {dest: /etc/nginx/nginx.conf, content: x}".to_owned(),
        "copy: {dest: /usr/local/bin/tool, content: x, chmod: '0755'}".to_owned(),
        run("set -e; touch /root/x /var/log/new.log /var/www; mkdir -p /var/lib/mysql; ln -s /x /lib64/link"),
    ];
    let template = bench.template("t.yml", &steps, "qcow2: {path: a.qcow2}");
    let ran = bench.build("chroot", &template, &["-vv"]).exits(0);
    assert!(said(&ran)[0].starts_with("files labelled by the policy `default`: "), "{:?}", said(&ran));
    assert_eq!(ran.of("warning").len(), 0, "{}", ran.stdout);
    bench.base = bench.path("a.qcow2");
    let rules = "/etc/selinux/default/contexts/files/file_contexts";
    let look = run(&format!("setfiles -n -v -e /proc -e /sys -e /dev -e /run -e /tmp {rules} / && echo agreed"));
    let ran = bench.build("chroot", &bench.template("look.yml", &[look], ""), &[]).exits(0);
    let output = ran.said();
    // What only this very command sees in the place of the guest's own.
    let meanwhile =
        |line: &str| ["/etc/.virt-maker-", "/etc/resolv.conf", "policy-rc.d"].iter().any(|name| line.contains(name));
    let other: Vec<_> = output.lines().filter(|line| line.contains("relabel") && !meanwhile(line)).collect();
    assert!(output.contains("agreed") && other.is_empty(), "{output}");
}
