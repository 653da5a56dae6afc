//! What a step tries from within the guest.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::json;

use super::Project;

/// What a step tries from within the guest.
pub(super) fn steps(project: &Project<'_>) -> usize {
    let everywhere = TcpListener::bind("0.0.0.0:0").expect("a port is free");
    let loopback = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    for listener in [&everywhere, &loopback] {
        listener.set_nonblocking(true).expect("a socket of ours");
    }
    let ports = [&everywhere, &loopback].map(|listener| listener.local_addr().expect("a socket of ours").port());
    let null = fs::metadata("/dev/null").expect("the host has it");
    let command_line = fs::read_to_string("/proc/cmdline").expect("the host has it");
    let mark = command_line.split_whitespace().max_by_key(|word| word.len()).unwrap_or("no such word").to_owned();
    // The machine of libguestfs has the guest's disk as that, and no other: there a command may do to it what it likes.
    let disk = match project.field.engine {
        "libguestfs" => ":",
        _ => {
            "mknod /tmp/disk b 8 0; dd if=/tmp/disk of=/dev/null bs=512 count=1 2>/dev/null && echo REACHED a disk; rm -f /tmp/disk"
        }
    };
    let script = format!(
        "for fd in /proc/self/fd/*; do touch $fd/reached 2>/dev/null && echo REACHED $fd; done
for path in {victim} /proc/1/root{victim} /proc/self/root/../..{victim}; do cat $path/secret 2>/dev/null && echo REACHED $path; touch $path/x 2>/dev/null && echo REACHED $path; done
chmod 600 /dev/null; chown 7 /dev/null; chmod 666 /dev/null
{disk}
mount -t tmpfs none /mnt 2>/dev/null && echo REACHED mount
echo b > /proc/sysrq-trigger 2>/dev/null && echo REACHED sysrq; echo x > /proc/sys/kernel/hostname 2>/dev/null && echo REACHED sysctl
cat /proc/cmdline
for address in 127.0.0.1:{0} 127.0.0.1:{1} 169.254.2.2:{0} 169.254.2.2:{1} 169.254.169.254:80; do
  nc -w 2 ${{address%:*}} ${{address#*:}} </dev/null >/dev/null 2>&1 && echo REACHED $address; done
true",
        ports[0],
        ports[1],
        victim = project.field.victim(),
    );
    let spec = json!({ "import": { "download": { "url": project.field.world.base() } }, "steps": [{ "run": script, "network": "on" }] });
    project.write("t.yml", &json!({ "spec": spec }).to_string());
    let arguments = [&project.build()[..], &["-v"]].concat();
    let ran = project.run(&arguments, false).exits(0);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!said.contains("REACHED"), "{said}");
    assert!(!said.contains(&mark), "the host's command line is in the guest: {said}");
    project.field.untouched("a step", &ran);
    for listener in [&everywhere, &loopback] {
        assert_eq!(listener.accept().expect_err("nobody came").kind(), ErrorKind::WouldBlock);
    }
    let after = fs::metadata("/dev/null").expect("the host has it");
    assert_eq!(
        (null.mode(), null.uid(), null.ctime()),
        (after.mode(), after.uid(), after.ctime()),
        "/dev/null of the host"
    );
    assert_eq!(after.permissions().mode() & 0o777, 0o666);
    1
}
