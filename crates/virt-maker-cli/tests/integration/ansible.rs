//! Playbooks: the host's real `ansible-playbook` on a guest with a real Python.

use std::fs;
use std::path::PathBuf;

use crate::common::Bench;
use testkit::HostState;

#[test]
fn a_playbook_does_its_work_with_chroot() {
    a_playbook_does_its_work("chroot");
}

/// With an emulated CPU Python is slow: it takes a minute.
#[test]
fn a_playbook_does_its_work_with_vm_appliance() {
    let _lock = testkit::appliance_lock();
    a_playbook_does_its_work("vm");
}

#[test]
fn a_playbook_does_its_work_with_libguestfs() {
    let _lock = testkit::appliance_lock();
    a_playbook_does_its_work("libguestfs");
}

/// A Debian with Python, made once.
fn with_python(bench: &Bench) -> PathBuf {
    let install = "install: [python3-minimal, python3-apt]";
    let recipe = format!("{install} on {}", bench.base.file_name().unwrap().display());
    testkit::fixture("debian-12-python", "qcow2", recipe.as_bytes(), |target, _| {
        let export = "qcow2: {path: python.qcow2, compress: zstd}";
        let template = bench.template("python.yml", &[install.to_owned()], export);
        bench.build("chroot", &template, &[]).exits(0);
        fs::copy(bench.path("python.qcow2"), target).unwrap();
    })
}

/// What an engine has a part in: programs that run, with their output and errors; files that get there, and come back. A task takes an
/// emulated CPU tens of seconds, so there are no others where there is one.
const SHORT: &str = "
- hosts: all
  gather_facts: false
  tasks:
    - include_role: {name: extra}
    - copy: {content: 'word {{ word }} {{ list | length }}', dest: /etc/by-ansible, mode: '0640'}
    - command: sh -c 'id -u; pwd; echo to stderr >&2'
      register: ran
    - debug: {msg: 'stdout {{ ran.stdout_lines }} stderr {{ ran.stderr }}'}
    - fetch: {src: /etc/by-ansible, dest: '{{ out }}/', flat: true}
";

/// The role comes first, so that its failure is one of few tasks; and of the facts only those that are used are gathered.
const PLAYBOOK: &str = "
- hosts: all
  gather_facts: false
  tasks:
    - include_role: {name: extra}
    - setup: {gather_subset: ['!all', '!min', distribution]}
    - copy: {content: 'word {{ word }} {{ list | length }}', dest: /etc/by-ansible, mode: '0640'}
    - template: {src: t.j2, dest: /etc/templated}
    - command: sh -c 'id -u; pwd; echo to stderr >&2'
      register: ran
    - debug: {msg: 'stdout {{ ran.stdout_lines }} stderr {{ ran.stderr }}'}
    - user: {name: made, shell: /bin/sh}
    - lineinfile: {path: /etc/issue.net, line: 10.0.0.1 one}
    - fetch: {src: /etc/by-ansible, dest: '{{ out }}/', flat: true}
";

fn a_playbook_does_its_work(engine: &str) {
    let before = HostState::capture();
    let mut bench = Bench::new(testkit::debian_guest());
    bench.base = with_python(&bench);
    fs::create_dir_all(bench.path("play/roles/extra/tasks")).unwrap();
    let whole = engine == "chroot";
    fs::write(bench.path("play/site.yml"), if whole { PLAYBOOK } else { SHORT }).unwrap();
    fs::write(bench.path("play/t.j2"), "on {{ ansible_facts.distribution }} {{ word }}\n").unwrap();
    let role = bench.path("play/roles/extra/tasks/main.yml");
    fs::write(&role, "- file: {path: /srv/role, state: directory, mode: '0755'}\n").unwrap();
    let out = bench.path("fetched");
    let step = |vars: &str| format!("ansible: {{source: play, playbook: site.yml, vars: {vars}}}");
    let vars = format!("{{word: \"it's\", list: [1, 2], out: '{}'}}", out.display());
    let check = crate::common::run(
        "cat /etc/by-ansible; cat /etc/templated /etc/issue.net; id made; stat -c '%a %u' /etc/by-ansible; ls -d /srv/role /var/tmp/.virt* /root/.ansible",
    );
    let template = bench.template("t.yml", &[step(&vars), format!("{check}\n      retries: 0")], "");
    let allow = ["--allow", "host-exec"];
    let ran = bench.build(engine, &template, &[]).exits(1);
    assert!(ran.stderr.contains("--allow host-exec"), "{}", ran.stderr);
    let ran = bench.build(engine, &template, &allow);
    let said = ran.said();
    let of_others: &[&str] = if whole { &["on Debian it's", "10.0.0.1 one", "(made)"] } else { &[] };
    for expected in ["word it's 2", "640 0", "/srv/role", "stderr to stderr", "'0', '/'"].iter().chain(of_others) {
        assert!(said.contains(*expected), "{engine}: {expected}: {said}\n{}", ran.stderr);
    }
    // `ls` fails for what is not there, and so does the last step: nothing of Ansible stays in the guest.
    assert_eq!(ran.status, Some(4), "{said}");
    assert!(
        said.contains("cannot access '/var/tmp/.virt*'") && said.contains("cannot access '/root/.ansible'"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(out.join("by-ansible")).unwrap(), "word it's 2");

    // A change of anything in the folder is another step.
    fs::write(&role, "- fail: {msg: 'no $(way) \"here\"'}\n").unwrap();
    let ran = bench.build(engine, &template, &allow).exits(4);
    let said = ran.said();
    assert!(ran.stderr.contains("the playbook failed") && said.contains("no $(way)"), "{}\n{said}", ran.stderr);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

#[test]
fn wrong_playbooks_are_refused() {
    let bench = Bench::new(testkit::tiny_guest(&testkit::TinyOptions::default()));
    fs::create_dir(bench.path("play")).unwrap();
    fs::write(bench.path("play/site.yml"), "- hosts: all\n").unwrap();
    for (arguments, code, expected) in [
        ("{source: none, playbook: site.yml}", 1, "is not a folder of the host"),
        ("{source: play, playbook: none.yml}", 1, "is not a file of the host"),
        ("{source: play, playbook: ../t.yml}", 1, "the name of a file in the folder"),
        ("{source: play, playbook: site.yml, vars: [x]}", 1, "expected a mapping of variables"),
        ("{source: play}", 1, "`playbook` is missing"),
        ("{source: play, playbook: site.yml}", 4, "the guest has no program `python3`"),
    ] {
        let template = bench.template("t.yml", &[format!("ansible: {arguments}")], "");
        let ran = bench.build("chroot", &template, &["--allow", "host-exec"]).exits(code);
        assert!(ran.stderr.contains(expected), "{arguments}: {}", ran.stderr);
    }
}
