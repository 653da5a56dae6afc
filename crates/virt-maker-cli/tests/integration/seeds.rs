//! `seed` of a `boot`: what cloud-init is told, what of it stays, and what goes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Bench, image_of, run};
use testkit::tree::{difference, tree_of_image};
use testkit::{HostState, appliance_lock};

/// What cloud-init changes with the seed of the test: files that it writes, an account, the name of the machine.
const ASKED_FOR: [&str; 8] = [
    "/etc/by-command",
    "/etc/by-seed",
    "/etc/by-vendor",
    "/etc/hostname",
    "/etc/passwd",
    "/etc/shadow",
    "/home/ann",
    "/home/ann/.bashrc",
];
/// What else there is: of the account, of a boot, of packages that it asks about themselves, and empty folders.
const BESIDES: [&str; 9] = [
    "/etc/group",
    "/etc/gshadow",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/sub",
    "/home/ann/",
    "/root/.ssh/authorized_keys",
    "/var/cache/",
    "/var/log/",
];

#[test]
fn cloud_init_does_what_its_seed_says_and_leaves_that_alone_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(testkit::bootable_debian(Path::new(env!("CARGO_BIN_EXE_virt-maker"))));
    fs::write(bench.path("vendor.sh"), "#!/bin/sh\necho vendor >/etc/by-vendor\n").unwrap();
    let seed = "{user_data: {write_files: [{path: /etc/by-seed, content: \"ä: b\\n\", permissions: 0640}], \
                users: [{name: ann, shell: /bin/sh}], runcmd: [[touch, /etc/by-command]]}, \
                meta_data: {local-hostname: seeded}, vendor_data: {source: vendor.sh}}";
    // All of it is done before the first step.
    let check = run(
        "[ -e /etc/by-command ] && [ \"$(hostname)\" = seeded ] && cat /etc/by-seed /etc/by-vendor && id -un ann && \
         stat -c %a /etc/by-seed && ls /etc/ssh/ssh_host_*_key",
    );
    let install = run("apt-get update && apt-get install -y --no-install-recommends cloud-init");
    let steps = [install, format!("boot: {{cpus: 1, seed: {seed}, steps: [{{{check}}}]}}")];
    let template = bench.template("t.yml", &steps, "");
    let ran = bench.build("chroot", &template, &[]).exits(0);
    assert!(
        ran.said().contains("ä: b\r\nvendor\r\nann\r\n640\r\n") || ran.said().contains("ä: b\nvendor\nann\n640\n"),
        "{}",
        ran.said()
    );
    let keys = ran.sealed();
    let image = |depth: usize| {
        let image = image_of(&bench.store(), &keys[depth]);
        testkit::fsck_clean(&image, "qcow2");
        tree_of_image(&image, "qcow2")
    };
    let mut changed = difference(&image(1), &image(2));
    for path in ASKED_FOR {
        assert!(changed.remove(path).is_some_and(|(_, after)| after.is_some()), "{path}: {changed:#?}");
    }
    let cloud: Vec<&String> = changed.keys().filter(|path| path.starts_with("/var/lib/cloud/instance")).collect();
    assert_eq!(cloud, ["/var/lib/cloud/instances"]);
    let is_empty_folder = |path: &str| path.starts_with("/var/lib/cloud");
    changed.retain(|path, _| !BESIDES.iter().any(|own| path.starts_with(own)) && !is_empty_folder(path));
    assert!(changed.is_empty(), "nothing else stays, neither of one instance nor of ours: {changed:#?}");
    assert_eq!(bench.left_in_store(), Vec::<String>::new());

    // It is a layer as every other one; another seed is another layer, and no boot is a seed's.
    assert_eq!(bench.build("chroot", &template, &[]).exits(0).sealed(), Vec::<String>::new());
    fs::write(bench.path("vendor.sh"), "#!/bin/sh\n").unwrap();
    let planned = bench.run(&["plan", "t.yml", "--explain"]).exits(0).stdout;
    assert!(planned.contains("seed/vendor-data"), "{planned}");

    // A guest that would not look at it is told before it boots.
    let disabled = [steps[0].clone(), run("touch /etc/cloud/cloud-init.disabled"), steps[1].clone()];
    let ran = bench.build("chroot", &bench.template("t.yml", &disabled, ""), &[]).exits(4);
    assert!(ran.stderr.contains("the guest has /etc/cloud/cloud-init.disabled"), "{}", ran.stderr);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

#[test]
fn a_guest_without_cloud_init_gets_no_seed() {
    let bench = Bench::new(testkit::tiny_guest(&testkit::TinyOptions::default()));
    let steps = ["boot: {seed: {user_data: \"#!/bin/sh\\n\"}}".to_owned()];
    let ran = bench.build("chroot", &bench.template("t.yml", &steps, ""), &[]).exits(4);
    for expected in ["the guest has no cloud-init", "`install: cloud-init` before the `boot`"] {
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    }
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    let ran = Bench::new(PathBuf::from("none")).run(&["run", "none", "--seed", "gone"]).exits(2);
    assert!(ran.stderr.contains("cannot read gone"), "{}", ran.stderr);
}
