//! What is put where a boot, or the kernel, hides it is said, with the place of the step.

use std::fs;

use crate::common::{Bench, run};
use testkit::{TinyOptions, tiny_guest};

#[test]
fn what_lands_where_nobody_sees_it_is_told() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    fs::create_dir_all(bench.path("tree/var/run/x")).unwrap();
    fs::create_dir_all(bench.path("tree/srv")).unwrap();
    fs::write(bench.path("tree/var/run/x/a"), "a").unwrap();
    fs::write(bench.path("tree/srv/b"), "b").unwrap();
    testkit::run(std::process::Command::new("tar").args(["-cf", "a.tar", "tree"]).current_dir(bench.folder.path()));
    let steps = [
        // 5: as guests have it.
        run("set -e; rm -rf /var/run; ln -s /run /var/run; mkdir -p /var/lock/x /opt"),
        "copy: {dest: /var/run/app.pid, content: '1'}".to_owned(),
        "file: {path: /run/app/conf, content: '1'}".to_owned(),
        "mkdir: /dev/mine".to_owned(),
        "link: {path: /proc/mine, target: x}".to_owned(),
        // 10
        "unpack: {source: a.tar, dest: /sys/x}".to_owned(),
        "copy: {dest: /, source: tree}".to_owned(),
        // Fine: later steps see it; no link leads elsewhere; names that only begin so.
        "copy: {dest: /tmp/script, content: '1'}".to_owned(),
        "file: {path: /var/lock/x/y, content: '1'}".to_owned(),
        "file: {path: /running/x, content: '1'}".to_owned(),
        // 15
        "move: {from: /tmp/script, to: /tmp/other}".to_owned(),
    ];
    let template = bench.template("t.yml", &steps, "raw: {path: a.img}");
    let ran = bench.build("chroot", &template, &[]).exits(0);
    let said: Vec<_> = ran.of("warning").iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect();
    let said: Vec<_> = said.iter().filter(|text| text.contains("t.yml:")).collect();
    let expected = [
        ("t.yml:6:", "/var/run/app.pid (it leads to /run/app.pid): what lies in /run on the disk is hidden"),
        ("t.yml:7:", "/run/app/conf: what lies in /run on the disk is hidden"),
        ("t.yml:8:", "/dev/mine: what lies in /dev on the disk"),
        ("t.yml:9:", "/proc/mine: what lies in /proc on the disk"),
        ("t.yml:10:", "what lies in /sys on the disk"),
        ("t.yml:11:", "/var/run/x/a (it leads to /run/x/a): what lies in /run on the disk"),
        ("t.yml:15:", "/tmp/other: no step follows that could use it, and a boot empties /tmp"),
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (text, (place, words)) in said.iter().zip(expected) {
        assert!(text.contains(place) && text.contains(words), "{place} {words}: {said:#?}");
    }
    let tree = testkit::tree::tree_of_image(&bench.path("a.img"), "raw");
    assert!(tree.contains_key("/srv/b") && tree.contains_key("/run/x/a") && !tree.contains_key("/tree"));
}
