//! Commands end, and take no more of the machine than they may.

use std::fs;

use virt_maker_agent::client::ClientError;
use virt_maker_agent::groups;
use virt_maker_agent::protocol::{Exit, FailureKind, Request, Run};

use super::{agent_id, guest};
use crate::support::*;

#[test]
fn a_command_that_takes_too_long_is_stopped_with_all_that_it_started() {
    let (_lab, mut agent) = guest();
    let limited = |command: &str, seconds| Run {
        argv: vec!["sh".into(), "-c".into(), command.into()],
        timeout: Some(seconds),
        ..Run::default()
    };
    // One that would take for ever and minds no signal, one that leaves a child behind, and one that never stops writing.
    for command in [
        "trap '' TERM INT HUP; echo begun; while :; do sleep 1000; done",
        "setsid sh -c 'trap \"\" TERM; sleep 1000' & echo begun; wait",
        "echo begun; yes",
    ] {
        let mut output = Vec::new();
        let ended = agent.client.run(&limited(command, 1), &mut |bytes| output.extend_from_slice(bytes));
        match ended {
            Err(ClientError::Failed(failure)) => {
                assert_eq!(failure.kind, FailureKind::TimedOut, "{failure:?}");
                assert!(failure.message.contains("after 1 s"), "{}", failure.message);
            }
            other => panic!("{other:?}"),
        }
        assert!(output.starts_with(b"begun\n"));
        // No process of it is left, or its namespace would hold the file system and it could not be frozen.
        assert_eq!(agent.run(&limited("exit 4", 1000)).0, Exit::Status(4));
        agent.client.done(&Request::Freeze).unwrap();
        agent.client.done(&Request::Thaw).unwrap();
    }
}

/// A command that multiplies ends as an error, and the host goes on; so does the session.
#[test]
fn the_number_of_processes_has_a_bound() {
    if groups::place().is_none() && !groups::process_numbers_have_bounds() {
        return;
    }
    let of_host = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let (_lab, mut agent) = guest();
    let (exit, output) = agent.shell("while :; do sleep 1000 & done");
    assert_eq!(exit, Exit::Status(2), "{output}");
    assert!(output.contains("can't fork"), "{output}");
    assert_eq!(agent.ok("echo on"), "on\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/pid_max").unwrap(), of_host);
}

#[test]
fn memory_has_a_bound() {
    let (_lab, mut agent) = guest();
    // The kernel looks here first when there is none left.
    assert_eq!(agent.ok("cat /proc/self/oom_score_adj"), "1000\n");
    // What is written to memory through these has a bound in any case.
    let kibibytes = fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = kibibytes.lines().next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    for place in ["/run", "/dev/shm"] {
        let size = agent.ok(&format!("df -k {place} | tail -n 1 | awk '{{print $2}}'")).trim().parse::<u64>().unwrap();
        assert!(size <= total / 4 + 8, "{place}: {size} of {total} KiB");
    }
    let Some(place) = groups::place() else { return };
    let (exit, output) = agent.shell("exec tail /dev/zero");
    assert_eq!(exit, Exit::Signal(9), "{output}");
    assert!(output.contains("MiB of memory that it may"), "{output}");
    assert_eq!(agent.ok("echo on"), "on\n");
    drop(agent);
    let left = fs::read_dir(place)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("virt-maker-"));
    assert_eq!(left.count(), 0);
}

#[test]
fn daemons_are_gone_when_the_command_has_ended() {
    let (lab, mut agent) = guest();
    let mark = format!("98765{}", std::process::id());
    let commands = [
        // Holds the output open, ignores what can be ignored.
        format!("trap '' HUP TERM INT; sleep {mark} & echo started"),
        // A session of its own, all descriptors closed.
        format!("setsid sh -c 'exec sleep {mark} </dev/null >/dev/null 2>&1' & echo started"),
        // Twice forked, and writing for ever.
        "(setsid sh -c 'while :; do echo x >>/log; done' &) & echo started".to_string(),
        // A full pipe that nobody reads.
        "(while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy >&2; done) & echo started".to_string(),
    ];
    for command in &commands {
        assert!(agent.ok(command).contains("started"));
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent_id(&agent))).unwrap();
        assert_eq!(children, "", "{command}");
    }
    let running = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| line.windows(mark.len()).any(|part| part == mark.as_bytes()))
    });
    assert!(!running);
    // Nothing writes any more: the file systems can be made read-only.
    agent.client.done(&Request::Freeze).unwrap();
    agent.client.done(&Request::Thaw).unwrap();
    drop(lab);
}

#[test]
fn a_command_dies_when_the_host_goes() {
    let (lab, mut agent) = guest();
    let disk = lab.text("disk");
    let stream = agent.client.stream().try_clone().unwrap();
    let result = agent.client.run(
        &Run { argv: ["sh", "-c", "echo ready; sleep 1000000"].map(String::from).into(), ..Run::default() },
        &mut |_| stream.shutdown(std::net::Shutdown::Both).unwrap(),
    );
    assert!(matches!(result, Err(ClientError::Closed)), "{result:?}");
    assert!(matches!(agent.client.stat("/"), Err(ClientError::Closed)));
    assert!(!agent.child.wait().unwrap().success());
    assert_eq!(loops_on(&disk), "");
}
