//! Commands in the guest: what they see, what they may do, and that they leave nothing behind.

use crate::support::*;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Command;

use virt_maker_agent::client::ClientError;
use virt_maker_agent::groups;
use virt_maker_agent::protocol::{Exit, FailureKind, Request, Run, Sandbox, TerminalSize};

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
fn what_a_command_may_do() {
    let (_lab, mut agent) = guest();
    agent.ok("touch /f && chown 12:34 /f && chmod 6755 /f && mknod /node b 7 0 && mknod /pipe p && chroot / true");
    assert_eq!(agent.ok("stat -c '%u %g %a' /f"), "12 34 6755\n");
    assert_eq!(agent.ok("su user -c 'id -u'"), "1000\n");
    agent.ok("echo x >/dev/null; head -c 8 /dev/urandom >/dev/zero; echo t >/dev/shm/x; touch /run/lock/x /tmp/y");
    agent.ok("su user -c 'touch /dev/shm/u /run/lock/u'");
}

/// Each of these would change, or reach, the host.
#[test]
fn what_a_command_may_not_do() {
    let (_lab, mut agent) = guest();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for command in [
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "echo x >/proc/sys/kernel/core_pattern",
        "echo 1 >/proc/sys/vm/drop_caches",
        "echo b >/proc/sysrq-trigger",
        "echo 1 >/sys/kernel/mm/ksm/run",
        "mount -o remount,rw /sys",
        "mknod /tmp/disk b 254 0; head -c 1 /tmp/disk",
        "mknod /dev/disk b 254 0; head -c 1 /dev/disk",
        "mknod /dev/shm/disk b 254 0; head -c 1 /dev/shm/disk",
        "mknod /run/disk b 254 0; head -c 1 /run/disk",
        "mknod /kmsg c 1 11; echo x >/kmsg",
        "date -s 2001-01-01 2>&1 | grep -v 'not permitted' | grep denied",
        "hostname other",
        "ip link add dummy0 type dummy",
        "swapoff -a && swapon /f",
        "dmesg -c",
        "reboot -f",
        "chroot /proc/1/root ls /work",
    ] {
        let (exit, output) = agent.shell(command);
        assert_ne!(exit, Exit::Status(0), "{command}: {output}");
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    // Capabilities: exactly the table's. SYS_ADMIN is bit 21, DAC_READ_SEARCH bit 2, NET_RAW bit 13, MKNOD bit 27.
    let status = agent.ok("grep -E '^(CapEff|CapPrm|NoNewPrivs)' /proc/self/status");
    let effective =
        u64::from_str_radix(status.lines().find(|line| line.starts_with("CapEff")).unwrap()[7..].trim(), 16).unwrap();
    for (bit, kept) in [
        (0, true),
        (1, true),
        (2, false),
        (13, false),
        (12, false),
        (16, false),
        (17, false),
        (19, false),
        (21, false),
        (22, false),
        (25, false),
        (27, true),
        (31, true),
        (39, false),
    ] {
        assert_eq!(effective >> bit & 1 == 1, kept, "capability {bit} in {effective:x}");
    }
    assert!(status.contains("NoNewPrivs:\t1"));
}

/// What a package script does to a device node stays with its command: neither the host nor the next command sees it.
#[test]
fn a_command_has_device_nodes_of_its_own() {
    let (_lab, mut agent) = guest();
    let names = ["null", "zero", "full", "random", "urandom", "tty"];
    let of_host = || {
        names.map(|name| {
            let metadata = fs::metadata(format!("/dev/{name}")).unwrap();
            (metadata.mode(), metadata.uid(), metadata.gid(), metadata.mtime())
        })
    };
    let before = of_host();
    for name in names {
        // A time that the node of the host has already, and its own mode and owner: harmless where it is the host's.
        agent.ok(&format!("chmod 666 /dev/{name} && chown 0:0 /dev/{name}"));
    }
    let seen = agent.ok(
        "cd /dev; echo *; stat -c '%n %t:%T %a %u:%g' null zero full random urandom tty shm; for link in fd stdin ptmx; do readlink $link; done",
    );
    assert_eq!(
        seen,
        "block disk fd full null ptmx pts random sda shm stderr stdin stdout tty urandom zero\n\
         null 1:3 666 0:0\nzero 1:5 666 0:0\nfull 1:7 666 0:0\nrandom 1:8 666 0:0\nurandom 1:9 666 0:0\n\
         tty 5:0 666 0:0\nshm 0:0 1777 0:0\n/proc/self/fd\nfd/0\npts/ptmx\n"
    );
    // The device of the folder that a node is in tells whose it is.
    let own = agent.ok("stat -c %d /dev/null").trim().parse::<u64>().unwrap();
    assert_ne!(own, fs::metadata("/dev/null").unwrap().dev(), "the node is the host's");
    agent.ok(
        "chmod 600 /dev/null; chown 5:6 /dev/zero; touch -d @1000000000 /dev/full; rm -f /dev/stdin; echo x >/dev/null",
    );
    assert_eq!(of_host(), before);
    assert_eq!(agent.ok("stat -c '%a %u:%g' /dev/null /dev/zero; readlink /dev/stdin"), "666 0:0\n666 0:0\nfd/0\n");
    assert!(!agent.ok("stat -c %Y /dev/full").starts_with("1000000000"));
    // A node can be made and not opened, also over one of these.
    let others = agent.ok(
        "for at in /dev /dev/shm /run; do mknod $at/other c 1 3 && ! true <$at/other && echo $at; done 2>/dev/null",
    );
    assert_eq!(others, "/dev\n/dev/shm\n/run\n");
    // Nor does what is put into shared memory reach the next one, however deep.
    agent.ok("mkdir /dev/shm/a && sleep 1 && echo x >/dev/shm/a/b");
    assert_eq!(agent.ok("ls /dev/shm; mkdir /dev/more; chmod 700 /dev/shm"), "");
    assert_eq!(agent.ok("ls -d /dev/more 2>/dev/null; stat -c %a /dev/shm"), "1777\n");
}

/// Package scripts write down what they see of the machine: nothing of it may be the host's.
#[test]
fn a_command_sees_nothing_of_the_host() {
    let (lab, mut agent) = guest();
    let uuid = tool("blkid", &["-p", "-o", "value", "-s", "UUID", &lab.text("disk")]);
    assert_eq!(agent.ok("cat /proc/cmdline"), format!("root=UUID={} ro\n", uuid.trim()));
    for (file, content) in [
        ("swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"),
        ("diskstats", ""),
        ("modules", ""),
        ("keys", ""),
        ("key-users", ""),
    ] {
        assert_eq!(
            agent.ok(&format!("[ ! -e /proc/{file} ] || cat /proc/{file}")),
            if fs::exists(format!("/proc/{file}")).unwrap() { content } else { "" },
            "{file}"
        );
    }
    assert_eq!(agent.ok("[ ! -e /proc/config.gz ] || zcat /proc/config.gz"), "");
    assert_eq!(
        agent.ok("ls /proc/bus /proc/driver /proc/fs /proc/irq 2>/dev/null | grep -v '^/proc' | grep . || true"),
        ""
    );
    let boot_id = agent.ok("cat /proc/sys/kernel/random/boot_id");
    assert_eq!(boot_id.len(), 37);
    assert_ne!(boot_id, fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap());
    assert_eq!(agent.ok("cat /proc/sys/kernel/random/boot_id"), boot_id);
    assert_eq!(agent.ok("sed 's/^[0-9]*:[^:]*://' /proc/self/cgroup | sort -u"), "/\n");
    // The machine has processors and the guest's disk, and no other devices, firmware or modules.
    assert_eq!(agent.ok("ls /sys/class/net /sys/firmware /sys/bus/*/* /sys/module | grep -v : | grep . || true"), "");
    assert_eq!(agent.ok("echo $(ls /sys/block /sys/class/block)"), "/sys/block: sda /sys/class/block: sda\n");
    assert_eq!(agent.ok("sed 1,2d /proc/partitions | grep -cv ' sda$' || true"), "0\n");
    assert_eq!(agent.ok("ls /sys/class"), "block\nnet\n");
    assert_eq!(
        agent.ok("cat /sys/devices/system/cpu/online"),
        fs::read_to_string("/sys/devices/system/cpu/online").unwrap()
    );
    // Of mounts, all that the host has is gone, and the agent's folders with it.
    let mounts = agent.ok("cut -d' ' -f4,5 /proc/self/mountinfo");
    assert!(!mounts.contains("oldroot") && !mounts.contains(lab.folder.path().to_str().unwrap()), "{mounts}");
    assert!(!mounts.contains("/work") && !mounts.contains("/home"), "{mounts}");
}

/// Root changes the host through files of `/proc` and `/sys` without any capability, where it may write them.
#[test]
fn nothing_of_the_kernel_can_be_written() {
    let (_lab, mut agent) = guest();
    // What is opened is not written to. To ask for the right would not do: this shell says yes for root without looking.
    let look = "cd /proc; for top in [a-z]* /sys; do [ -L $top ] || find $top -type f -perm /222; done | grep -vE '^(mtrr|pressure/)' \
                | while read -r file; do true >>$file && echo $file; done 2>/dev/null | head -n 5; ls -d /proc/sys /sys";
    assert_eq!(agent.ok(look), "/proc/sys\n/sys\n");
    for command in
        ["ls /proc/irq/default_smp_affinity", "echo x >/proc/cmdline", "echo x >/sys/x", "mkdir /sys/class/x"]
    {
        assert_ne!(agent.shell(command).0, Exit::Status(0), "{command}");
    }
}

/// The agent puts in place what a command sees of the machine while it holds bubblewrap; where it cannot, bubblewrap is told
/// to. Here it cannot, since bubblewrap is given another name for the file by which it is held.
#[test]
fn a_command_sees_the_same_whoever_puts_it_in_place() {
    let (lab, mut agent) = guest();
    let wrapper = lab.path("wrapper");
    let text = "#!/bin/sh\nhow=told\nfor word; do shift\n  case $word in /sys/hold) word=/sys/other how=held ;; esac\n  \
                set -- \"$@\" \"$word\"\ndone\necho $how >>LOG\nexec /usr/bin/bwrap \"$@\"\n";
    let log = lab.path("log");
    fs::write(&wrapper, text.replace("LOG", log.to_str().unwrap())).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let look = "awk '{ print $5, $6, $(NF-2) }' /proc/self/mountinfo | grep -v '^/sys ro.* tmpfs' | sort; cat /proc/cmdline; \
                ls /sys /sys/class /proc/irq /dev";
    let held = agent.ok(look);
    let mut agent = Agent::start_silent(&lab.path("other"));
    agent.client.hello(Sandbox::Bubblewrap { program: wrapper.to_str().unwrap().into() }).unwrap();
    agent.client.mount(&lab.text("disk")).unwrap();
    let terminal = Run { terminal: Some(TerminalSize { rows: 24, columns: 80 }), ..script("echo on", &[]) };
    assert_eq!(agent.run(&terminal).1, "on\r\n");
    assert_eq!(agent.ok(look), held.replacen("/sys rw,nosuid,nodev,relatime tmpfs\n", "", 1));
    assert_eq!(fs::read_to_string(log).unwrap(), "held\ntold\ntold\n");
}

/// System calls by their numbers, in both ABIs of this processor; gives the error of each.
const CALLS: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>
static long call(char abi, long n, long a, long b, long c) {
#ifdef __x86_64__
    if (abi == 'i') { long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c), "S"(0L), "D"(0L) : "memory", "r8", "r9", "r10", "r11"); return (int)r; }
#endif
    long r = syscall(n, a, b, c, 0L, 0L, 0L);
    return r < 0 ? -errno : r;
}
int main(int count, char **words) {
    for (int i = 1; i < count; i++) {
        char abi; long n, a = 0, b = 0, c = 0;
        if (sscanf(words[i], "%c%ld,%ld,%ld,%ld", &abi, &n, &a, &b, &c) < 2) return 9;
        pid_t own = getpid();
        long r = call(abi, n, a, b, c);
        if (getpid() != own) _exit(0);
        printf("%ld\n", r < 0 ? -r : 0);
    }
}
"#;

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_that_reach_beyond_the_sandbox_give_an_error() {
    let lab = Lab::new();
    fs::write(lab.path("calls.c"), CALLS).unwrap();
    tool("cc", &["-static", "-o", &lab.text("calls"), &lab.text("calls.c")]);
    let tree = lab.tree(|at| {
        fs::copy(lab.path("calls"), at.join("bin/calls")).unwrap();
    });
    let disk = lab.ext("disk", "ext4", &[], &tree);
    let (mut agent, _) = lab.mounted(&disk);
    let (new_user, audit, events) = (libc::CLONE_NEWUSER, libc::NETLINK_AUDIT, libc::NETLINK_KOBJECT_UEVENT);
    let cases = [
        (format!("n{},0,0", libc::SYS_keyctl), libc::ENOSYS),
        (format!("n{}", libc::SYS_add_key), libc::ENOSYS),
        (format!("n{}", libc::SYS_request_key), libc::ENOSYS),
        (format!("n{}", libc::SYS_bpf), libc::EPERM),
        (format!("n{},8,0", libc::SYS_io_uring_setup), libc::ENOSYS),
        (format!("n{}", libc::SYS_fsopen), libc::ENOSYS),
        (format!("n{},-100,0,0", libc::SYS_open_tree), libc::ENOSYS),
        (format!("n{}", libc::SYS_clone3), libc::ENOSYS),
        (format!("n{},{new_user}", libc::SYS_unshare), libc::EPERM),
        (format!("n{},{}", libc::SYS_clone, new_user | libc::SIGCHLD), libc::EPERM),
        (format!("n{},{}", libc::SYS_clone, libc::SIGCHLD), 0),
        (format!("n{}", libc::SYS_userfaultfd), libc::ENOSYS),
        (format!("n{}", libc::SYS_perf_event_open), libc::EPERM),
        (format!("n{},3,0,0", libc::SYS_syslog), libc::EPERM),
        (format!("n{},0,{}", libc::SYS_ioctl, libc::TIOCSTI), libc::EPERM),
        (format!("n{},{},1,0", libc::SYS_socket, libc::AF_VSOCK), libc::EAFNOSUPPORT),
        (format!("n{},{},5,0", libc::SYS_socket, libc::AF_ALG), libc::EAFNOSUPPORT),
        (format!("n{},{},3,{audit}", libc::SYS_socket, libc::AF_NETLINK), 0),
        (format!("n{},{},3,{events}", libc::SYS_socket, libc::AF_NETLINK), libc::EPROTONOSUPPORT),
        (format!("n{},{},1,0", libc::SYS_socket, libc::AF_UNIX), 0),
        (format!("n{},{},3,0", libc::SYS_socket, libc::AF_NETLINK), 0),
        (format!("n{},4294967295", libc::SYS_personality), 0),
        // The ABI `x32` of `getpid`.
        (format!("n{}", 0x4000_0000 + libc::SYS_getpid), libc::ENOSYS),
        ("i288,0,0".to_string(), libc::ENOSYS),
        ("i357".to_string(), libc::EPERM),
        (format!("i310,{new_user}"), libc::EPERM),
        (format!("i359,{},1,0", libc::AF_VSOCK), libc::EAFNOSUPPORT),
        ("i20".to_string(), 0),
    ];
    // Kernels without the older ABI kill who asks for it.
    let old = agent.shell("calls i20").0 == Exit::Status(0);
    for (call, error) in cases.iter().filter(|(call, _)| old || !call.starts_with('i')) {
        assert_eq!(agent.ok(&format!("calls {call}")).trim(), error.to_string(), "{call}");
    }
}

/// In the place of bubblewrap: looks for a key in its session's keyring, notes what it finds, and becomes bubblewrap.
const KEYS: &str = r#"
#include <errno.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/syscall.h>
int main(int count, char **words) {
    long found = syscall(SYS_keyctl, 10L, -3L, "user", "virt-maker-test", 0L);
    FILE *log = fopen(LOG, "w");
    fprintf(log, "%d", found < 0 ? errno : 0);
    fclose(log);
    words[0] = "/usr/bin/bwrap";
    execv(words[0], words);
    return 1;
}
"#;

/// Keys of whoever starts a build are none of a command's: it cannot ask for any, and is in a session without them.
#[test]
fn a_command_has_no_key_of_the_caller() {
    let lab = Lab::new();
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    const READ: libc::c_long = 11;
    const SESSION: libc::c_long = -3;
    // Of this thread and of what it starts.
    // SAFETY: no name of a keyring is given; the strings live as long as the program, and their lengths are right.
    let key = unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0 as libc::c_long);
        let (kind, name, value) = (c"user".as_ptr(), c"virt-maker-test".as_ptr(), c"a secret".as_ptr());
        libc::syscall(libc::SYS_add_key, kind, name, value, 8 as libc::c_long, SESSION)
    };
    if key < 0 {
        eprintln!("this kernel has no keys, or this container none of its own: {}", std::io::Error::last_os_error());
        return;
    }
    let log = lab.path("log");
    fs::write(lab.path("keys.c"), KEYS.replace("LOG", &format!("{log:?}"))).unwrap();
    fs::write(lab.path("calls.c"), CALLS).unwrap();
    for name in ["keys", "calls"] {
        tool("cc", &["-static", "-o", &lab.text(name), &lab.text(&format!("{name}.c"))]);
    }
    // The means work: this process's child finds it.
    let _ = Command::new(lab.path("keys")).arg("--version").output().unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "0");

    let tree = lab.tree(|at| {
        fs::copy(lab.path("calls"), at.join("bin/calls")).unwrap();
    });
    let disk = lab.ext("disk", "ext4", &[], &tree);
    let mut agent = Agent::start_silent(&lab.path("agent"));
    agent.client.hello(Sandbox::Bubblewrap { program: lab.text("keys") }).unwrap();
    agent.client.mount(&disk).unwrap();
    // By its number, which root could guess.
    let read = format!("calls n{},{READ},{key},0 n{},{SESSION},0,0", libc::SYS_keyctl, libc::SYS_keyctl);
    assert_eq!(agent.ok(&read), format!("{0}\n{0}\n", libc::ENOSYS));
    assert_eq!(fs::read_to_string(&log).unwrap(), libc::ENOKEY.to_string());
    assert_eq!(agent.ok("cat /proc/keys /proc/key-users 2>/dev/null || true"), "");
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

/// The agent of these tests was started with descriptor 5 open on the host's root (`support`).
#[test]
fn a_command_has_no_descriptor_that_it_was_not_given() {
    let (_lab, mut agent) = guest();
    let own = "ls /proc/$$/fd; readlink /proc/$$/fd/0";
    assert_eq!(agent.ok(own), "0\n1\n2\n/dev/null\n");
    // A shell has the script that it reads open by itself.
    assert_eq!(agent.run(&script(own, &[])).1, "0\n1\n10\n2\n/dev/null\n");
    // The namespace's first process waits on descriptors of the kernel's own; none is a file or a folder.
    let first = agent.ok("for file in /proc/1/fd/*; do readlink $file; done; true");
    assert!(!first.lines().any(|line| line.starts_with('/') && line != "/dev/null"), "{first}");
    for number in 3..16 {
        let (exit, output) = agent.shell(&format!("touch /proc/self/fd/{number}/x || touch /proc/1/fd/{number}/x"));
        assert_ne!(exit, Exit::Status(0), "{number}: {output}");
    }
}

#[test]
fn without_network_there_is_only_loopback() {
    let (_lab, mut agent) = guest();
    assert_eq!(agent.ok("ls /sys/class/net; grep -c : /proc/net/dev").lines().last(), Some("1"));
    let (_, output) = agent.run(&networked("readlink /proc/self/ns/net"));
    // That of the agent, not the host's.
    assert_ne!(output.trim(), fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
    assert_eq!(agent.run(&networked("readlink /proc/self/ns/net")).1, output);
    assert_ne!(agent.ok("readlink /proc/self/ns/net"), output);
    // A pid namespace of its own, in both cases.
    assert!(agent.ok("ls /proc | grep -c '^[0-9]'").trim().parse::<u32>().unwrap() < 8);
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

/// What `/etc` of a guest looks like from outside: names, inode numbers, content, times.
fn etc(disk: &str) -> String {
    let listing = debugfs(disk, "ls -l /etc");
    let own = debugfs(disk, "stat /etc/resolv.conf");
    let own: Vec<&str> = own.lines().filter(|line| !line.contains("ctime") && !line.contains("checksum")).collect();
    let times = debugfs(disk, "stat /etc");
    let times: Vec<&str> = times.lines().filter(|line| line.contains("mtime")).collect();
    format!("{listing}\n{}\n{}\n{}", own.join("\n"), debugfs(disk, "cat /etc/resolv.conf"), times.join("\n"))
}

#[test]
fn resolv_conf_leaves_no_trace() {
    type Change = fn(&std::path::Path);
    let cases: [(&str, Change); 4] = [
        ("nothing", |_| {}),
        ("a file", |at| {
            fs::write(at.join("etc/resolv.conf"), "own\n").unwrap();
            fs::set_permissions(at.join("etc/resolv.conf"), std::os::unix::fs::PermissionsExt::from_mode(0o640))
                .unwrap();
        }),
        ("a link that leads nowhere", |at| {
            symlink("../run/systemd/resolve/stub-resolv.conf", at.join("etc/resolv.conf")).unwrap()
        }),
        ("a link out of the root", |at| symlink("/../../../../../tmp/outside", at.join("etc/resolv.conf")).unwrap()),
    ];
    for (case, change) in cases {
        let lab = Lab::new();
        let tree = lab.tree(change);
        let disk = lab.ext("disk", "ext4", &[], &tree);
        let before = etc(&disk);
        let (mut agent, _) = lab.mounted(&disk);
        assert_eq!(
            agent.run(&networked("cat /etc/resolv.conf")),
            (Exit::Status(0), "nameserver 192.0.2.1\n".into()),
            "{case}"
        );
        // A command that fails, one that is killed, one that cannot be started.
        assert_eq!(agent.run(&networked("exit 7")).0, Exit::Status(7));
        assert_eq!(agent.run(&networked("kill -9 $$")).0, Exit::Signal(9));
        failed(agent.client.run(&Run { argv: vec!["nosuch".into()], ..networked("") }, &mut |_| {}));
        agent.client.done(&Request::Unmount).unwrap();
        assert_eq!(etc(&disk), before, "{case}");
    }
}

#[test]
fn a_change_of_resolv_conf_is_not_kept_and_said() {
    let lab = Lab::new();
    let tree = lab.tree(|at| {
        fs::write(at.join("etc/resolv.conf"), "own\n").unwrap();
        with_program(at, "/usr/bin/chattr");
    });
    let disk = lab.ext("disk", "ext4", &[], &tree);
    let (mut agent, _) = lab.mounted(&disk);
    for command in [
        "echo changed >/etc/resolv.conf",
        "rm /etc/resolv.conf",
        "rm /etc/resolv.conf; mkdir -p /etc/resolv.conf/deep/er; touch /etc/resolv.conf/deep/x",
        "chattr +i /etc/resolv.conf",
        "chattr +i /etc",
        "chmod 600 /etc/resolv.conf",
    ] {
        let (exit, output) = agent.run(&networked(command));
        assert_eq!(exit, Exit::Status(0), "{command}: {output}");
        // An attribute of the folder is no change of the file; it is kept.
        let of_folder = command == "chattr +i /etc";
        assert_eq!(
            output.contains("/etc/resolv.conf is not kept") && output.contains("copy"),
            !of_folder && !command.starts_with("chattr"),
            "{command}: {output}"
        );
        assert_eq!(
            agent.ok("cat /etc/resolv.conf; ls -A /etc"),
            "own\nhostname\nos-release\npasswd\nresolv.conf\n",
            "{command}"
        );
        agent.ok("chattr -i /etc");
    }
    // Without the network the file is the guest's own, and a change is kept.
    assert_eq!(agent.ok("cat /etc/resolv.conf; echo new >/etc/resolv.conf"), "own\n");
    assert_eq!(agent.ok("cat /etc/resolv.conf"), "new\n");
    // A change of the folder beside it is kept, with its time.
    let (_, output) = agent.run(&networked("touch /etc/other; touch -d @1000000000 /etc"));
    assert_eq!(output, "");
    assert_eq!(agent.ok("stat -c %Y /etc; ls /etc/other"), "1000000000\n/etc/other\n");
    // What packages of resolvers do: a backup of what they find, which is not the guest's own, and a link, which stays. That
    // the file cannot be changed is no matter while a command runs, and is so afterwards.
    agent.ok("echo own >/etc/resolv.conf; mkdir -p /etc/resolvconf/resolv.conf.d; chattr +i /etc/resolv.conf");
    let (_, output) = agent.run(&networked(
        "cp /etc/resolv.conf /etc/.resolv.conf.bak; cp /etc/resolv.conf /etc/resolvconf/resolv.conf.d/original",
    ));
    assert_eq!(output, "");
    let look = "cat /etc/.resolv.conf.bak /etc/resolvconf/resolv.conf.d/original; rm -f /etc/resolv.conf; cat /etc/resolv.conf";
    let (_, output) = agent.shell(look);
    assert!(
        output.starts_with("own\nown\n") && output.contains("not permitted") && output.ends_with("own\n"),
        "{output}"
    );
    let (_, output) =
        agent.run(&networked("mv /etc/resolv.conf /etc/resolv.conf.old; ln -s ../run/stub /etc/resolv.conf"));
    assert_eq!(output, "");
    assert_eq!(agent.ok("readlink /etc/resolv.conf; cat /etc/resolv.conf.old"), "../run/stub\nown\n");
    // The link as it is now is the guest's own: it stays, whatever a command does.
    let (_, output) = agent.run(&networked("ln -sf ../run/stub /etc/resolv.conf"));
    assert_eq!((output.as_str(), agent.ok("readlink /etc/resolv.conf").as_str()), ("", "../run/stub\n"));
    agent.ok("rm /etc/resolv.conf; echo own >/etc/resolv.conf");
    let problem = failed(agent.client.run(&networked("rm -f /etc/.virt-maker-*"), &mut |_| {}));
    assert!(problem.message.contains("/etc/resolv.conf"), "{problem:?}");
}

#[test]
fn services_are_forbidden_without_a_trace() {
    let lab = Lab::new();
    let tree = lab.tree(|at| fs::write(at.join("usr/sbin/policy-rc.d"), "own\n").unwrap());
    let own = lab.ext("own", "ext4", &[], &tree);
    let none = lab.guest();
    for disk in [own, none] {
        let before = debugfs(&disk, "ls -l /usr/sbin");
        let lab = Lab::new();
        let (mut agent, _) = lab.mounted(&disk);
        assert_eq!(agent.shell("/usr/sbin/policy-rc.d nginx start").0, Exit::Status(101));
        assert_eq!(agent.ok("stat -c '%a %u %g' /usr/sbin/policy-rc.d"), "755 0 0\n");
        agent.client.done(&Request::Unmount).unwrap();
        assert_eq!(debugfs(&disk, "ls -l /usr/sbin"), before);
    }
    // A guest without the folder does without.
    let lab = Lab::new();
    let tree = lab.tree(|at| fs::remove_dir_all(at.join("usr/sbin")).unwrap());
    let disk = lab.ext("disk", "ext4", &[], &tree);
    let (mut agent, _) = lab.mounted(&disk);
    assert_ne!(agent.shell("ls /usr/sbin").0, Exit::Status(0));
}

#[test]
fn missing_mount_points_are_made_and_removed() {
    let lab = Lab::new();
    let tree = lab.tree(|at| {
        for name in ["proc", "sys", "dev", "run"] {
            fs::remove_dir(at.join(name)).unwrap();
        }
    });
    let disk = lab.ext("disk", "ext4", &[], &tree);
    let before = (
        debugfs(&disk, "ls -l /"),
        debugfs(&disk, "stat /").lines().find(|line| line.contains("mtime")).unwrap().to_string(),
    );
    let (mut agent, _) = lab.mounted(&disk);
    agent.ok("ls /proc/self /dev/null /run /sys");
    agent.client.done(&Request::Unmount).unwrap();
    let after = (
        debugfs(&disk, "ls -l /"),
        debugfs(&disk, "stat /").lines().find(|line| line.contains("mtime")).unwrap().to_string(),
    );
    assert_eq!(before, after);
}

#[test]
fn mount_points_that_are_links_are_refused() {
    for name in ["run", "dev", "proc", "sys"] {
        let lab = Lab::new();
        let tree = lab.tree(|at| {
            fs::remove_dir(at.join(name)).unwrap();
            symlink("/../../../oldroot/tmp", at.join(name)).unwrap();
        });
        let disk = lab.ext("disk", "ext4", &[], &tree);
        let (mut agent, _) = lab.mounted(&disk);
        let problem = failed(agent.client.run(&Run { argv: vec!["true".into()], ..Run::default() }, &mut |_| {}));
        assert!(problem.message.contains(&format!("/{name} of the guest is no folder")), "{problem:?}");
    }
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
