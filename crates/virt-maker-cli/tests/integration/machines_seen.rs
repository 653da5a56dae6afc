//! What a person sees of a machine: how long each phase of its boot took, pictures of its screen on both pages, and how a failure is told.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::common::Bench;
use crate::machines::{allowed, small};
use crate::pages::{opened, text};
use testkit::{HostState, appliance_lock};

fn is_picture(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG"))
}

#[test]
fn what_machines_showed_is_on_the_pages_and_in_the_error_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let mut bench = Bench::new(PathBuf::from("none"));
    let begin = small(&mut bench);
    let template = bench.path("web.yml");
    let hostile = "</script><img src=x onerror=alert(1)>";
    let text_of = format!(
        "{begin}  steps:\n    - boot:\n        memory: 256M\n        cpus: 1\n        steps:\n          - screenshot: begin\n          - run: echo done\n  \
         tests:\n    - name: good\n      boot: {{memory: 256M, cpus: 1}}\n      steps:\n        - screenshot: tested\n    \
         - name: bad {hostile}\n      boot: {{memory: 256M, cpus: 1}}\n      steps:\n        - run: \"echo '{hostile}' > /dev/tty1; exit 3\"\n"
    );
    std::fs::write(&template, text_of).unwrap();
    let allowed = allowed();
    let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
    let report = bench.path("report.html");
    let more = [&allowed[..], &["--report", report.to_str().unwrap()]].concat();
    let ran = bench.build("chroot", &template, &more).exits(4);

    // It has no systemd that could say when the initramfs was done.
    ran.told_boots(3, &["firmware", "loader", "kernel", "initramfs+services"]);
    let layer = ran.sealed().pop().unwrap();
    let log = std::fs::read_to_string(bench.store().join("layers").join(&layer).join("log.txt")).unwrap();
    assert!(log.contains("virt-maker: the guest has booted after ") && log.contains(" s, kernel "), "{log}");
    let pictures: Vec<PathBuf> =
        ran.of("screenshot").iter().map(|event| event["path"].as_str().unwrap().into()).collect();
    assert!(pictures.len() == 2 && pictures.iter().all(|path| is_picture(path)), "{pictures:?}");
    assert_eq!(pictures[0], bench.store().join("layers").join(&layer).join("begin.png"));

    // The error says what there is to look at, once, and how to boot the image.
    let failed = ran.of("step_failed");
    let machine = &failed[0]["failure"]["machine"];
    for (kept, is_good) in [("screen", true), ("console", false)] {
        let path = machine[kept].as_str().unwrap();
        assert!(is_picture(Path::new(path)) == is_good, "{path}");
        assert_eq!(ran.stderr.matches(path).count(), 1, "{path}: {}", ran.stderr);
    }
    let screen = machine["shown"].as_array().unwrap();
    assert!(screen.iter().any(|line| line.as_str().unwrap().contains("<img src=x")), "{machine}");
    let run = format!("boot what it began with: virt-maker run {}\n", &layer[..12]);
    for expected in ["exit status 3", "on its screen last:\n    | ", &run, "look inside with: --on-failure shell"] {
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }

    let pictures_in = |dom: &str| -> BTreeSet<String> {
        let images = dom.split("<img ").skip(1).map(|rest| rest.split_once('>').unwrap().0);
        let alt = |image: &str| {
            assert!(image.starts_with("src=\"data:image/png;base64,iVBOR"), "{image}");
            image.split_once("\" alt=\"").unwrap().1.trim_end_matches('"').to_owned()
        };
        images.map(alt).collect()
    };
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let (dom, complaints) = opened(&report);
    assert_eq!(complaints, "", "the page's own policy lets its pictures in");
    assert_eq!(pictures_in(&dom), named(&["begin", "tested", "the screen at the end"]));
    assert!(dom.contains("<title>virt-maker build</title>"), "{dom}");
    let shown = text(&dom);
    for expected in ["Boots", "Tests", "passed", "Screenshots", "initramfs+services", "&lt;img src=x"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }

    // The tree shows those of the layer that is chosen: the boot's, and then the failure's.
    let tree = bench.path("tree.html");
    bench.run(&["tree", "--html", tree.to_str().unwrap()]).exits(0);
    let page = std::fs::read_to_string(&tree).unwrap();
    let chosen = "if (rows.length > 0) choose(rows[0]);";
    for (wanted, expected) in [("row.node.kind === 'boot'", "begin"), ("row.node.failed", "-boot-")] {
        assert!(page.contains(chosen));
        let other = page.replace(chosen, &format!("choose(rows.find((row) => {wanted}));"));
        std::fs::write(&tree, other).unwrap();
        let (dom, complaints) = opened(&tree);
        assert_eq!(complaints, "");
        let found = pictures_in(&dom);
        assert!(found.len() == 1 && found.iter().all(|name| name.contains(expected)), "{expected}: {found:?}");
    }
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}
