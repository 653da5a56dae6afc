//! What a command may do, and what it sees and reaches of the machine that it runs on.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use virt_maker_agent::protocol::{Exit, Run, Sandbox, TerminalSize};

use super::{guest, networked, script};
use crate::support::*;

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
