//! Steps that are `privileged`: all rights, in a machine of their own only.

use serde_json::json;
use testkit::{TinyOptions, appliance_lock, tiny_guest};

use crate::common::{Bench, run};

/// Mounts, puts one file system over another, and looks for groups of processes: what programs that make containers do.
const MOUNTS: &str = "cd /run && mkdir -p t && mount -t tmpfs none t && cd t && mkdir below above work whole && \
                      mount -t overlay -o lowerdir=below,upperdir=above,workdir=work none whole && \
                      touch whole/made && ls above && test -e /sys/fs/cgroup/cgroup.procs";

fn privileged(script: &str) -> String {
    json!({ "run": script, "privileged": true }).to_string()
}

/// The layers that steps leave are those of any engine: only how they are made differs.
#[test]
fn a_privileged_step_mounts_in_its_machine_with_vm_appliance() {
    let _lock = appliance_lock();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let without =
        format!("if {{ {MOUNTS}; }} 2>/dev/null; then echo mounted; else echo refused; fi; echo kept > /root/kept");
    // What it changes of its machine is not for the step after it, and a file system that it froze is thawed.
    let setting = "/proc/sys/vm/overcommit_memory";
    let with = format!("{MOUNTS} && cat /root/kept && id -u && echo 1 >{setting} && sync && fsfreeze --freeze /");
    let after = format!("echo overcommit $(cat {setting})");
    let template = bench.template("t.yml", &[run(&without), privileged(&with), run(&after)], "");
    // Whoever may take `chroot` is not offered it for this.
    let ran = bench.build("auto", &template, &[]).exits(0);
    assert_eq!(ran.said(), "refused\nmade\nkept\n0\novercommit 0\n");
    assert!(ran.of("warning").is_empty(), "nothing was tried in vain: {:?}", ran.events);
    // All there, so no machine is needed.
    bench.build("chroot", &template, &[]).exits(0);
}

#[test]
fn a_privileged_step_is_refused_where_the_kernel_is_the_host_s() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.template("t.yml", &[run("true"), privileged(MOUNTS)], "");
    // Before anything is done: a base made anew would take the layers of others along.
    let other = bench.template("other.yml", &[run("true")], "");
    bench.build("chroot", &other, &[]).exits(0);
    let before = bench.layers();
    bench.build("chroot", &template, &["--force"]).exits(5);
    assert_eq!(bench.layers(), before);
    let ran = bench.build("chroot", &template, &[]).exits(5);
    assert!(ran.stderr.contains("t.yml:6:"), "the place of the step: {}", ran.stderr);
    // A step that says otherwise than what is around it has none.
    let inner = json!({ "run": "true", "privileged": false });
    let around = json!({ "for": {"i": ["a"]}, "privileged": true, "steps": [inner] }).to_string();
    let around = bench.template("around.yml", &[around], "");
    bench.build("chroot", &around, &[]).exits(0);
    for words in ["a step is `privileged`, and only engine `vm` has that", "--engine vm"] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    // It is another layer than that of the same script without.
    let plain = bench.template("plain.yml", &[run("true"), run(MOUNTS)], "");
    let keys = |template: &std::path::Path| {
        let ran = bench.run(&["plan", template.to_str().unwrap(), "--json"]).exits(0);
        let said: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let nodes = said["nodes"].as_array().unwrap();
        nodes.iter().map(|node| node["layer"]["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (one, other) = (keys(&template), keys(&plain));
    assert_eq!(one[..2], other[..2]);
    assert_ne!(one[2], other[2]);
}
