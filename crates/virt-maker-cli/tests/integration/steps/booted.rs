//! What steps do in a guest that runs is what they do in one that stands still.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use testkit::tree::{Entry, difference, tree_of_image};
use testkit::{HostState, Mirror, appliance_lock};

use super::fixtures::Difference;
use super::{fixtures, host_files};
use crate::common::{Bench, Ran, image_of, run};
use crate::machines::BY_ITSELF;

/// Steps that are not tried here, and why not.
const OTHERS: [(&str, &str); 19] = [
    ("boot", "there is none within one"),
    ("inject_qemu_ga", "works on a disk"),
    ("inject_virtio_win", "works on a disk"),
    ("click", "in a machine alone"),
    ("expect", "in a machine alone"),
    ("keys", "in a machine alone"),
    ("reboot", "in a machine alone"),
    ("screenshot", "in a machine alone"),
    ("type", "in a machine alone"),
    ("wait_for", "in a machine alone"),
    ("local_run", "knows no guest"),
    ("ca_cert", "a `copy` and a `run`, with a package that the mirror lacks"),
    ("cloud_init", "an `install` and `file`s, with a package that the mirror lacks"),
    ("docker_engine", "an `install`, with a package that the mirror lacks"),
    ("keyboard", "a `file` and a `run`, with a package that the mirror lacks"),
    ("locale", "a `file` and a `run`, with a package that the mirror lacks"),
    ("qemu_guest_agent", "an `install`, with a package that the mirror lacks"),
    ("timezone", "a `link`, with a package that the mirror lacks"),
    ("unattended_upgrades", "an `install` and a `file`, with a package that the mirror lacks"),
];

/// Those that no set of cases has; what differs from run to run is looked at by [`LOOK`].
const MORE: [&str; 12] = [
    "sysctl: {settings: {net.ipv4.ip_forward: 1}}",
    "kernel_module: {name: floppy, blacklist: true}",
    "append_line: {path: /etc/hosts, line: 10.0.0.1 db}",
    "ssh_key: {key: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE me@there'}",
    "swap_file: 64",
    "motd: Welcome",
    "update:",
    "install: [tini, uuid-runtime, sudo]",
    "user: {name: keeper, sudo: true, shell: /bin/sh}",
    "ssh_keygen: keeper",
    "ansible: {source: play, playbook: site.yml}",
    "run: ls -d /var/tmp/.virt* /root/.ansible; id uuidd | tr -d '\\n'",
];

const PLAYBOOK: &str = "
- hosts: all
  gather_facts: false
  tasks:
    - copy: {content: by a playbook, dest: /etc/by-ansible, mode: '0640'}
    - command: sh -c 'id -u > /srv/by-command; pwd >> /srv/by-command'
";

/// Prints what has changed since it was asked last: path, kind, mode, owner, and the target or the digest of what is in it.
/// Commands that stand still have another `resolv.conf`, with a name of the moment beside it.
const LOOK: &str = r#"set -e; cd /; new=/var/tmp/look.new; mark=/var/tmp/look.mark
  [ -e $mark ] || touch $mark
  touch $new
  find etc srv opt home root boot usr/local -xdev -cnewer $mark ! -path 'etc/.virt-maker*' ! -path etc/resolv.conf ! -path etc \
    -printf '%p %y %m %U:%G %l\n' | sort | while read -r path kind rest; do
      [ $kind != f ] || rest="$rest $(sha256sum <"$path" | cut -c1-16)"
      echo "seen $path $kind $rest"
    done
  mv $new $mark
  echo looked"#;

/// What has a salt or a key in it.
const RANDOM: [&str; 4] = ["etc/shadow", "etc/shadow-", "home/keeper/.ssh/id_rsa", "home/keeper/.ssh/id_rsa.pub"];

/// What was seen after each step, and what was seen before the first.
fn seen(ran: &Ran) -> Vec<Vec<String>> {
    let said = ran.said();
    let parts = said.split("looked\n");
    let lines = |part: &str| {
        let lines = part.lines().filter_map(|line| line.strip_prefix("seen "));
        let known = |line: &str| {
            let path = line.split(' ').next().unwrap();
            if RANDOM.contains(&path) { line.rsplit_once(' ').unwrap().0.to_owned() } else { line.to_owned() }
        };
        lines.map(known).collect()
    };
    parts.map(lines).collect()
}

#[test]
fn steps_leave_in_a_debian_that_runs_what_they_leave_in_one_that_stands_still_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let mut bench = Bench::new(testkit::bootable_debian(Path::new(env!("CARGO_BIN_EXE_virt-maker"))));
    bench.mirror = Some(Mirror::start());
    fs::create_dir(bench.path("play")).unwrap();
    fs::write(bench.path("play/site.yml"), PLAYBOOK).unwrap();
    let cases = fixtures::load("steps/debian", &host_files::make(&bench));
    let steps: Vec<String> =
        cases.iter().map(|case| case.step.clone()).chain(MORE.iter().map(|step| (*step).to_owned())).collect();
    every_kind_is_there(&bench, &steps);
    // A look before the first, so that what the boot itself wrote is not taken for its own.
    let look = run(LOOK);
    let within: Vec<String> =
        std::iter::once(look.clone()).chain(steps.iter().flat_map(|step| [step.clone(), look.clone()])).collect();
    let prepare = [run(Mirror::TRUST), "update:".to_owned(), "install: openssh-client".to_owned()];
    let build = |name: &str, steps: &[String]| {
        let template = bench.template(name, &[&prepare[..], steps].concat(), "");
        bench.build("chroot", &template, &["--allow", "host-exec"]).exits(0)
    };
    let still = build("still.yml", &within);
    let list: String = within.iter().map(|step| format!("\n          - {}", step.replace('\n', "\n    "))).collect();
    let runs = build("runs.yml", &[format!("boot:\n        cpus: 1\n        steps:{list}")]);

    let (of_still, of_runs) = (seen(&still), seen(&runs));
    assert_eq!(of_still.len(), within.len() / 2 + 2);
    assert_eq!(of_still.len(), of_runs.len());
    for (step, (still, runs)) in steps.iter().zip(of_still.iter().zip(&of_runs).skip(1)) {
        assert_eq!(still, runs, "`{step}`: what it changed in a guest that stands still, and in one that runs");
    }
    let changes = of_still[1..].iter().filter(|lines| !lines.is_empty()).count();
    assert!(changes > steps.len() * 2 / 3, "most steps change something: {changes} of {}", steps.len());

    // And so does the whole disk, after the shutdown.
    let image = |ran: &Ran, depth: usize| {
        let image = image_of(&bench.store(), &ran.sealed()[depth]);
        testkit::fsck_clean(&image, "qcow2");
        tree_of_image(&image, "qcow2")
    };
    let base = image(&still, prepare.len());
    let left = |ran: &Ran| -> BTreeMap<String, (bool, Option<Entry>)> {
        let tree = image(ran, ran.sealed().len() - 1);
        let mut changed: Difference = difference(&base, &tree);
        changed.retain(|path, _| !BY_ITSELF.iter().any(|own| path.starts_with(own)));
        let random = |path: &str| RANDOM.contains(&&path[1..]) || path.starts_with("/var/lib/dpkg/");
        let known = |path: &str, entry: Entry| match random(path) {
            true => Entry { content: String::new(), text: None, ..entry },
            false => entry,
        };
        let entry = |(path, (before, after)): (String, (Option<Entry>, Option<Entry>))| {
            let after = after.map(|after| known(&path, after));
            (path, (before.is_some(), after))
        };
        changed.into_iter().map(entry).collect()
    };
    // The first build made the layers that both have.
    let (of_still, of_runs) = (left(&still), left(&runs));
    let differ = of_still.keys().chain(of_runs.keys()).filter(|path| of_still.get(*path) != of_runs.get(*path));
    let differ: Vec<_> = differ.map(|path| (path, of_still.get(path), of_runs.get(path))).collect();
    assert!(differ.is_empty(), "in a guest that stood still, and in one that ran: {differ:#?}");
    before.assert_nothing_left();
}

/// Every kind of step is tried, or it is said why not.
fn every_kind_is_there(bench: &Bench, steps: &[String]) {
    let listed = bench.run(&["runners", "steps"]).exits(0).stdout;
    let kinds = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let mut count = 0;
    for kind in kinds {
        let tried = steps.iter().any(|step| step.split(':').next() == Some(kind));
        let other = OTHERS.iter().any(|(name, _)| *name == kind);
        assert!(
            tried != other,
            "the step `{kind}`: tried in a booted guest: {tried}, named as one that is not: {other}"
        );
        count += 1;
    }
    assert!(count > OTHERS.len(), "{listed}");
}
