//! An engine is no part of a key. That holds only while all engines leave the same: every kind of step, on each.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::common::{Bench, format_of, image_of, run};
use testkit::tree::{difference, tree_of_image};
use testkit::{HostState, TinyOptions, appliance_lock, tiny_guest};

pub const ENGINES: [&str; 3] = ["chroot", "vm", "libguestfs"];

/// The steps, and a path that each must have changed (so that two engines that both do nothing do not agree).
fn steps(bench: &Bench) -> Vec<(String, &'static str)> {
    let folder = bench.path("site");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("index.html"), "<h1>hello</h1>\n").unwrap();
    fs::write(folder.join("sub/tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(folder.join("sub/tool"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("index.html", folder.join("start")).unwrap();
    vec![
        (
            run("echo plain > /plain; mkdir -m 2755 /made; ln -s /plain /link; ln /plain /hard; chown 3:4 /made"),
            "/made",
        ),
        (run("umask > /umask; id -u > /id; pwd > /cwd; echo $HOME > /home-is; echo $PATH > /path"), "/umask"),
        (run("#!/bin/sh -eu\necho \"$0 $#\" | sed 's,.*/,,' > /script"), "/script"),
        (run("touch /run/gone /tmp/stays; rm -rf /etc/removed"), "/tmp/stays"),
        (run("cat /etc/resolv.conf > /dev/null; ls /usr/sbin/policy-rc.d; exit 0"), ""),
        ("hostname: agreed.example.org".into(), "/etc/hostname"),
        (format!("copy: {{dest: /srv/site, source: '{}'}}", folder.display()), "/srv/site/sub/tool"),
        ("copy: {dest: /etc/motd, content: \"hello\\n\", chmod: '0640', chown: '1:2'}".into(), "/etc/motd"),
        ("copy: {dest: /link, content: \"replaces the link\\n\"}".into(), "/link"),
    ]
}

#[test]
fn every_step_leaves_the_same_on_each_engine() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let steps = steps(&bench);
    let lines: Vec<String> = steps.iter().map(|(step, _)| step.clone()).collect();
    let template = bench.template("t.yml", &lines, "");
    let built: Vec<_> = ENGINES
        .iter()
        .map(|engine| {
            let store = bench.path(&format!("store-{engine}"));
            let ran = bench.build(engine, &template, &["--store", store.to_str().unwrap()]).exits(0);
            assert_eq!(ran.of("session_started").len(), 1, "{engine}");
            assert_eq!(ran.of("session_started")[0]["engine"], *engine);
            (store, ran.sealed())
        })
        .collect();
    let image = |(store, keys): &(std::path::PathBuf, Vec<String>), depth: usize| {
        let image = image_of(store, &keys[depth]);
        testkit::fsck_clean(&image, format_of(&image));
        tree_of_image(&image, format_of(&image))
    };
    let changes = |built: &(std::path::PathBuf, Vec<String>)| {
        let mut last = image(built, 0);
        let made = (1..=steps.len()).map(|depth| {
            let next = image(built, depth);
            let changed = difference(&last, &next);
            last = next;
            changed
        });
        made.collect::<Vec<_>>()
    };
    let first = changes(&built[0]);
    for (made, (step, must_change)) in first.iter().zip(&steps) {
        assert!(must_change.is_empty() || made.contains_key(*must_change), "`{step}` changed {:?}", made.keys());
    }
    for (engine, other) in ENGINES.iter().zip(&built).skip(1) {
        assert_eq!(built[0].1, other.1, "keys do not depend on the engine");
        for ((made, others), (step, _)) in first.iter().zip(changes(other)).zip(&steps) {
            assert_eq!(*made, others, "what {} and {engine} made of `{step}`", ENGINES[0]);
        }
    }
    before.assert_nothing_left();
}
