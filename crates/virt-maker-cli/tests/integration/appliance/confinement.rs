//! qemu and its surroundings while a guest runs in it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use testkit::{HostState, TinyOptions, appliance_lock, tiny_guest};

use crate::common::{Bench, machine_of, run};

/// Seccomp is on, its memory is bounded, it has no display, monitor, or device that was not asked for, and nobody but
/// virt-maker can connect to anything of it.
#[test]
fn the_appliance_is_confined() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.template("t.yml", &[run("echo started; sleep 600")], "");
    let arguments = ["build", template.to_str().unwrap(), "--engine", "vm", "--progress", "json"];
    let mut child = bench.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("\"text\":\"started")).unwrap().unwrap();
    let machine = machine_of(child.id()).unwrap();
    let proc = |name: &str| fs::read_to_string(format!("/proc/{machine}/{name}")).unwrap();

    let status = proc("status");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("Seccomp:"), "2", "a filter of system calls");
    assert_eq!(field("NoNewPrivs:"), "1");
    let limits = proc("limits");
    let space = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
    let bytes: Vec<u64> = space.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(bytes.len() == 2 && bytes.iter().all(|bytes| *bytes <= 6 << 30), "{space}");

    let command = proc("cmdline");
    let words: Vec<&str> = command.split('\0').collect();
    for needed in ["-nodefaults", "-no-user-config", "-display", "-sandbox"] {
        assert!(words.contains(&needed), "{needed} in {words:?}");
    }
    for forbidden in ["-vnc", "-monitor", "-qmp", "-serial", "-spice", "-gdb", "-s"] {
        assert!(!words.contains(&forbidden), "{forbidden} in {words:?}");
    }
    // The one monitor speaks on a descriptor, so there is no path at all that leads to it.
    let monitors: Vec<_> = words.iter().filter(|word| word.contains("mode=control")).collect();
    assert_eq!(monitors.len(), 1);
    assert!(words.contains(&"socket,id=qmp,fd=3"), "{words:?}");

    // None of its sockets has a name or waits for connections.
    let sockets: BTreeSet<String> = fs::read_dir(format!("/proc/{machine}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    assert!(sockets.len() >= 5, "{sockets:?}");
    for line in proc("net/unix").lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (flags, inode, path) = (words[3], words[6], words.get(7));
        let listens = u32::from_str_radix(flags, 16).unwrap() & 0x10000 != 0;
        assert!(!sockets.contains(inode) || !listens && path.is_none(), "{line}");
    }
    for table in ["net/tcp", "net/tcp6", "net/udp", "net/udp6"] {
        for line in fs::read_to_string(format!("/proc/{machine}/{table}")).unwrap_or_default().lines().skip(1) {
            let inode = line.split_whitespace().nth(9).unwrap();
            assert!(!sockets.contains(inode), "{table}: {line}");
        }
    }

    // It dies with its parent, by whatever the parent dies.
    child.kill().unwrap();
    child.wait().unwrap();
    before.assert_nothing_left();
}
