//! Commands in the guest: what they see, what they may do, and that they leave nothing behind.

mod bounds;
mod traces;
mod walls;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;

use virt_maker_agent::protocol::{Exit, FailureKind, Request, Run, TerminalSize};

use crate::support::*;

fn guest() -> (Lab, Agent) {
    let lab = Lab::new();
    let disk = lab.guest();
    let (agent, _) = lab.mounted(&disk);
    (lab, agent)
}

fn script(text: &str, arguments: &[&str]) -> Run {
    Run {
        script: Some(text.to_string()),
        argv: arguments.iter().map(|argument| argument.to_string()).collect(),
        ..Run::default()
    }
}

fn networked(command: &str) -> Run {
    Run {
        argv: vec!["sh".into(), "-c".into(), command.into()],
        network: true,
        resolv_conf: Some("nameserver 192.0.2.1\n".into()),
        ..Run::default()
    }
}

#[test]
fn status_signal_and_output() {
    let (_lab, mut agent) = guest();
    assert_eq!(agent.shell("echo out; echo err >&2; exit 3"), (Exit::Status(3), "out\nerr\n".into()));
    assert_eq!(agent.shell("exit 0").0, Exit::Status(0));
    assert_eq!(agent.shell("exit 255").0, Exit::Status(255));
    assert_eq!(agent.shell("kill -9 $$").0, Exit::Signal(9));
    assert_eq!(agent.shell("kill -TERM $$").0, Exit::Signal(15));
    let (exit, output) = agent.shell("seq 1 200000");
    assert_eq!(exit, Exit::Status(0));
    assert_eq!(output.lines().count(), 200_000);
    assert!(output.ends_with("\n200000\n"));
    // Standard input is empty, not the stream.
    assert_eq!(agent.ok("cat; echo end"), "end\n");
}

#[test]
fn output_comes_as_it_is_made() {
    let (_lab, mut agent) = guest();
    // The command waits for a file that is made when its first line is seen: a buffering agent would never end.
    let mut other = Vec::new();
    let root = fs::read_to_string(format!("/proc/{}/mountinfo", agent_id(&agent))).unwrap();
    assert!(root.contains("/root "), "the guest is mounted in the agent's namespace: {root}");
    let folder = format!("/proc/{}/root{}", agent_id(&agent), _lab.text("agent/root"));
    let run = Run {
        argv: ["sh", "-c", "echo one; while [ ! -e /go ]; do usleep 1000; done; echo two"].map(String::from).into(),
        ..Run::default()
    };
    let exit = agent
        .client
        .run(&run, &mut |bytes| {
            if other.is_empty() {
                fs::write(format!("{folder}/go"), "").unwrap();
            }
            other.extend_from_slice(bytes);
        })
        .unwrap();
    assert_eq!((exit, other.as_slice()), (Exit::Status(0), &b"one\ntwo\n"[..]));
}

#[test]
fn scripts_run_by_their_first_line() {
    let (lab, mut agent) = guest();
    assert_eq!(
        agent.run(&script("#!/bin/sh\necho \"$0 $1|$2\"\n", &["a b", "c"])),
        (Exit::Status(0), "/run/virt-maker/script a b|c\n".into())
    );
    assert_eq!(agent.run(&script("#!/bin/awk -f\nBEGIN { print 6*7 }\n", &[])).1, "42\n");
    // Without a first line: the shell, as everywhere.
    assert_eq!(agent.run(&script("echo plain", &[])).1, "plain\n");
    // By a shell that the caller names, so that its first line is the first of the text.
    let by = |shell: &[&str]| Run {
        shell: shell.iter().map(ToString::to_string).collect(),
        ..script("echo \"$0 $1|$-\"\n/no/such/program\n", &["a"])
    };
    let (_, said) = agent.run(&by(&["/bin/sh", "-e"]));
    assert!(
        said.contains("script a|")
            && said.contains('e')
            && (said.contains("script: 2: ") || said.contains("script: line 2: ")),
        "{said}"
    );
    let problem = failed(agent.client.run(&by(&["/bin/missing"]), &mut |_| {}));
    assert_eq!(problem.message, "cannot run the script in the guest: the guest has no /bin/missing");
    let problem = failed(agent.client.run(&script("#!/bin/missing\n", &[]), &mut |_| {}));
    assert_eq!(problem.kind, FailureKind::NotFound);
    assert!(problem.message.contains("interpreter"), "{problem:?}");
    // Larger than a pipe's buffer.
    let long = format!("#!/bin/sh\n{}echo done\n", "# filler filler filler filler\n".repeat(10_000));
    assert_eq!(agent.run(&script(&long, &[])).1, "done\n");
    drop(agent);
    assert!(!debugfs(&lab.text("disk"), "ls /run").contains("virt-maker"));
}

#[test]
fn a_program_that_is_not_there() {
    let (_lab, mut agent) = guest();
    let problem = failed(agent.client.run(&Run { argv: vec!["nosuch".into()], ..Run::default() }, &mut |_| {}));
    assert_eq!(problem.kind, FailureKind::NotFound);
    assert!(problem.message.contains("nosuch"), "{problem:?}");
    let problem = failed(agent.client.run(&Run::default(), &mut |_| {}));
    assert_eq!(problem.kind, FailureKind::Protocol);
    let env = BTreeMap::from([("A=B".to_string(), String::new())]);
    let problem = failed(agent.client.run(&Run { argv: vec!["true".into()], env, ..Run::default() }, &mut |_| {}));
    assert_eq!(problem.kind, FailureKind::Protocol);
    assert_eq!(agent.ok("echo still here"), "still here\n");
}

#[test]
fn the_environment_is_fixed() {
    let (_lab, mut agent) = guest();
    let env = BTreeMap::from([
        ("GREETING".to_string(), "a b\n'c'".to_string()),
        ("LD_PRELOAD".to_string(), "/x".to_string()),
    ]);
    let (_, output) = agent.run(&Run { argv: vec!["env".into()], env, ..Run::default() });
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort();
    let expected = [
        "'c'",
        "DEBIAN_FRONTEND=noninteractive",
        "GREETING=a b",
        "HOME=/root",
        "LANG=C.UTF-8",
        "LD_PRELOAD=/x",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD=/",
        "SYSTEMD_DEVICE_VERIFY_SYSFS=0",
        "SYSTEMD_OFFLINE=1",
        "TERM=dumb",
    ];
    assert_eq!(lines, expected);
    assert_eq!(agent.ok("umask; pwd; hostname; id -u; ulimit -c"), "0022\n/\nguest-name\n0\n0\n");
}

#[test]
fn secrets_do_not_show_in_the_hosts_process_list() {
    let (lab, mut agent) = guest();
    let folder = format!("/proc/{}/root{}", agent_id(&agent), lab.text("agent/root"));
    let env = BTreeMap::from([("TOKEN".to_string(), "s3cr3t-value".to_string())]);
    let argv = ["sh", "-c", "echo ready; while [ ! -e /go ]; do usleep 1000; done"].map(String::from).into();
    let mut seen = false;
    agent
        .client
        .run(&Run { argv, env, ..Run::default() }, &mut |_| {
            for entry in fs::read_dir("/proc").unwrap().flatten() {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                seen |= line.windows(12).any(|part| part == b"s3cr3t-value");
            }
            fs::write(format!("{folder}/go"), "").unwrap();
        })
        .unwrap();
    assert!(!seen);
}

#[test]
fn a_full_guest_is_the_commands_own_failure() {
    let (_lab, mut agent) = guest();
    let (exit, output) = agent.shell("dd if=/dev/zero of=/big bs=1M");
    assert_eq!(exit, Exit::Status(1));
    assert!(output.contains("No space left"), "{output}");
    let mut endless = std::io::repeat(7);
    let problem =
        failed(agent.client.write("/more", &mut std::io::Read::take(&mut endless, 8 << 20), Default::default()));
    assert_eq!(problem.kind, FailureKind::GuestFull);
    assert_eq!(agent.client.stat("/more").unwrap(), None);
    // Still clean, and usable again.
    agent.client.done(&Request::Freeze).unwrap();
    agent.client.done(&Request::Thaw).unwrap();
    agent.ok("rm /big; echo fine >/x; ls -A / | grep -c virt-maker || true");
}

#[test]
fn a_terminal() {
    let (_lab, mut agent) = guest();
    let run = Run { argv: vec!["sh".into()], terminal: Some(TerminalSize { rows: 33, columns: 77 }), ..Run::default() };
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"stty size; tty; test -c /dev/console && echo a-\"console\"; test -t 0 && test -t 1 && : > /dev/tty && echo is-a-\"tty\"; exit 5\n").unwrap();
    let mut output = Vec::new();
    let exit = agent.client.terminal(&run, std::os::fd::AsFd::as_fd(&reader), &mut output).unwrap();
    let text = String::from_utf8_lossy(&output);
    assert_eq!(exit, Exit::Status(5), "{text}");
    assert!(text.contains("33 77") && text.contains("is-a-tty"), "{text}");
    // Of a devpts that has no other.
    assert!(text.contains("\n/dev/pts/0\r\n") && text.contains("a-console"), "{text}");
    // It is the terminal of the program's own session, which a shell needs to give it to a job and to take it back.
    assert!(!text.contains("job control") && !text.contains("process group"), "{text}");
    // The end of the person's input hangs up, whatever runs; what was typed late is dropped.
    drop(writer);
    let run = Run { argv: ["sh", "-c", "trap '' HUP; sleep 1000000"].map(String::from).into(), ..run };
    let exit = agent.client.terminal(&run, std::os::fd::AsFd::as_fd(&reader), &mut Vec::new()).unwrap();
    assert!(matches!(exit, Exit::Signal(_)), "{exit:?}");
    assert_eq!(agent.ok("echo after"), "after\n");
}

/// Process id of the agent itself; the child of the test is its keeper.
fn agent_id(agent: &crate::support::Agent) -> u32 {
    let keeper = agent.child.id();
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("the keeper has one child, not {children:?}"))
}
