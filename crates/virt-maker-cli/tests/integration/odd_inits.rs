//! Guests whose init is none that we know, so that it starts no agent of ours: who else does, and what is told where nobody does.
//!
//! The guest is the small one, which boots in a few seconds, with a script as its init and Debian's own qemu-guest-agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use testkit::tree::{difference, tree_of_image};
use testkit::{HostState, appliance_lock};

use crate::common::{Bench, Ran, run};
use crate::machines::{BY_ITSELF, allowed};

const GUEST_AGENT: &str = "/usr/sbin/qemu-ga";
const DROPBEAR: &str = "/usr/sbin/dropbear";

/// Its `poweroff` and `reboot` are busybox's: signals for it.
const BEGIN: &str = "#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
end() { busybox mount -o remount,ro / && busybox \"$1\" -f; }
trap 'end poweroff' USR2
trap 'end reboot' TERM
echo 'an init of its own' >/dev/ttyS0
";

/// Starts qemu-guest-agent, at the port that is meant for it, as often as it ends.
const WITH_GUEST_AGENT: &str = "while :; do
  for port in /sys/class/virtio-ports/*; do
    if [ \"$(cat $port/name)\" = org.qemu.guest_agent.0 ]; then
      qemu-ga $(cat /etc/qemu-ga) -p /dev/${port##*/} -f /run/qemu-ga.pid -t /run >/dev/ttyS0 2>&1 &
      wait $!
    fi
  done
  busybox sleep 1
done
";

/// Starts an SSH server, when the network has the address that this gives it.
const WITH_SSH: &str = "busybox ip link set eth0 up
busybox ip addr add 169.254.2.15/24 dev eth0
while :; do
  dropbear -R -F -E -s -P /run/dropbear.pid >/dev/ttyS0 2>&1 &
  wait $!
  busybox sleep 1
done
";

/// A step that makes a program in the guest.
fn program(path: &str, text: &str) -> String {
    format!("file: {{path: {path}, chmod: '0755', content: {}}}", serde_json::to_string(text).unwrap())
}

struct Odd {
    bench: Bench,
    begin: String,
}

impl Odd {
    /// `programs` of the host are in the guest, whose init does this after it has begun; `more` is what else is done to it.
    fn new(programs: &[&str], init: &str, more: &str) -> Odd {
        let agent = Path::new(env!("CARGO_BIN_EXE_virt-maker")).with_file_name("virt-maker-agent");
        let mut bench = Bench::new(PathBuf::from("none"));
        bench.base = testkit::small_guest_with(&agent, programs);
        let init = format!("{BEGIN}{init}");
        let steps = [run(&format!("rm -f /sbin/init /etc/inittab; {more}")), program("/sbin/init", &init)];
        let tree = bench.template("tree.yml", &steps, "tar: {path: tree.tar}");
        bench.build("chroot", &tree, &[]).exits(0);
        let begin = format!("format: 2\nspec:\n  import: {}\n", testkit::small_import("tree.tar"));
        Odd { bench, begin }
    }

    fn build(&self, steps: &[String]) -> Ran {
        let steps: String = steps.iter().map(|step| format!("    - {step}\n")).collect();
        let template = self.bench.path("t.yml");
        fs::write(&template, format!("{}  steps:\n{steps}", self.begin)).unwrap();
        self.bench.build("chroot", &template, &allowed().each_ref().map(String::as_str))
    }
}

fn boot(more: &str, steps: &[String]) -> String {
    let steps: Vec<String> = steps.iter().map(|step| format!("{{{step}}}")).collect();
    format!("boot: {{memory: 192M, cpus: 1{more}, steps: [{}]}}", steps.join(", "))
}

/// Builds with a `boot` of the guest, whose agent is started by somebody, who is told so. Gives how long all of it took.
fn all_steps_work_in(odd: &Odd, by: &str, told: &str, last: &str, left: &[&str], before: &HostState) -> Duration {
    fs::write(odd.bench.path("page.html"), "copied\n").unwrap();
    let within = [
        run(
            "read -r name </proc/1/comm; echo process 1 is $name; cat /proc/sys/kernel/random/boot_id >/run/first; echo kept >/kept",
        ),
        "copy: {dest: /page.html, source: page.html}".into(),
        "expect: {file: {path: /page.html, content: copied}, command: {run: 'exit 3', exit: 3}}".into(),
        "reboot: {}".into(),
        run(&format!("[ ! -e /run/first ]; echo again; {last}")),
    ];
    let begin = Instant::now();
    let ran = odd.build(&[run("echo offline >/offline"), boot("", &within)]).exits(0);
    let whole = begin.elapsed();
    let said = ran.said();
    assert!(said.contains("process 1 is init\n") && said.contains("again\n"), "{said}");
    assert!(said.contains(told), "{said}");
    let named: Vec<_> = ran.of("machine_booted").iter().map(|boot| boot["by"].as_str().unwrap().to_owned()).collect();
    assert_eq!(named, [by; 2]);
    let keys = ran.sealed();
    let image = |depth: usize| {
        let image = odd.bench.image(&keys[depth]);
        testkit::fsck_clean(&image, "qcow2");
        tree_of_image(&image, "qcow2")
    };
    let changed = difference(&image(1), &image(2));
    let steps = [left, &["/kept", "/page.html"]].concat();
    assert_eq!(changed.keys().collect::<Vec<_>>(), steps, "and nothing of ours");
    before.assert_nothing_left();
    whole
}

#[test]
fn qemu_guest_agent_starts_ours_where_the_init_does_not_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let odd = Odd::new(&[GUEST_AGENT], WITH_GUEST_AGENT, ": >/etc/qemu-ga");
    let whole =
        all_steps_work_in(&odd, "qemu-guest-agent", "its agent started by qemu-guest-agent: ", ":", &[], &before);

    // One that may not start programs says so, by the deadline. That is as long as two boots took.
    let limit = whole.as_secs().max(10);
    let forbidden = [run("echo '-b guest-exec' >/etc/qemu-ga"), boot(&format!(", timeout: {limit}s"), &[run("true")])];
    let begin = Instant::now();
    let ran = odd.build(&forbidden).exits(4);
    for words in [
        "for its agent to answer (its init is none that we know, and qemu-guest-agent could not start our agent: `",
        "guest-exec",
    ] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert!(begin.elapsed() < Duration::from_secs(limit) + whole, "{}", ran.stderr);
    before.assert_nothing_left();
}

/// Nothing of it is left: neither the key that let us in, nor the folder that it was in.
#[test]
fn an_ssh_server_starts_ours_where_nobody_else_does_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let odd = Odd::new(&[DROPBEAR], WITH_SSH, "mkdir -p /root /etc/dropbear; chmod 700 /root");
    // The server has made itself a key at the boot. What a step puts in its place is the image's.
    let key = "/etc/dropbear/dropbear_ed25519_host_key";
    let put = format!("echo of the image >{key}");
    let whole = all_steps_work_in(&odd, "ssh", "its agent started over SSH: ", &put, &[key], &before);

    // One that lets nobody in as root says so, by the deadline.
    let limit = whole.as_secs().max(10);
    let forbidden = [
        run("sed -i 's/dropbear -R/dropbear -w -R/' /sbin/init"),
        boot(&format!(", timeout: {limit}s"), &[run("true")]),
    ];
    let begin = Instant::now();
    let ran = odd.build(&forbidden).exits(4);
    for words in [
        "for its agent to answer (its init is none that we know, and its SSH server did not start it: ",
        "Permission denied",
    ] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert!(begin.elapsed() < Duration::from_secs(limit) + whole, "{}", ran.stderr);
    before.assert_nothing_left();
}

/// systemd is there, but not what it would be reached by. The key comes beside those that are there, and what the steps do to them stays.
#[test]
fn openssh_starts_ours_in_a_debian_whose_kernel_has_no_ports_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(testkit::bootable_debian(Path::new(env!("CARGO_BIN_EXE_virt-maker"))));
    // Much more than is on its way at a time.
    let large: Vec<u8> = (0..6u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(bench.path("large"), &large).unwrap();
    // As in other distributions, its server makes its own keys at a boot: they are not in the image.
    let before_it = "rm /etc/ssh/ssh_host_*; mkdir /etc/systemd/system/ssh.service.d; \
                     printf '[Service]\\nExecStartPre=\\nExecStartPre=ssh-keygen -A\\n' >/etc/systemd/system/ssh.service.d/keys.conf; \
                     rm /lib/modules/*/kernel/drivers/char/virtio_console.ko*; for kernel in /lib/modules/*; do depmod \"${kernel##*/}\"; done; \
                     mkdir -m 700 /root/.ssh; echo 'ssh-ed25519 AAAA of-somebody' >/root/.ssh/authorized_keys";
    let within = [
        run("[ ! -e /dev/virtio-ports ] && grep -c . /root/.ssh/authorized_keys; systemctl is-active ssh"),
        "copy: {dest: /srv/large, source: large}".into(),
        run("base64 -w0 /srv/large; echo; echo 'ssh-ed25519 BBBB of-a-step' >>/root/.ssh/authorized_keys"),
        "expect: {unit: ssh.service, port: 22, no_failed_units: true}".into(),
    ];
    let steps = [run(before_it), boot(", network: false", &within).replace("memory: 192M", "memory: 512M")];
    let ran = bench.build("chroot", &bench.template("t.yml", &steps, ""), &[]).exits(0);
    let said = ran.said();
    assert!(
        said.contains("2\nactive\n") && said.contains("its agent started over SSH: "),
        "{}",
        &said[..said.len().min(5000)]
    );
    let encoded = said.lines().map(str::len).max().unwrap();
    assert!(encoded >= large.len() * 4 / 3, "{encoded}");
    let keys = ran.sealed();
    let (below, image) = (bench.image(&keys[1]), bench.image(&keys[2]));
    testkit::fsck_clean(&image, "qcow2");
    let read = |path: &str| testkit::read_file_from_image(&image, path);
    assert!(read("/srv/large") == large);
    assert_eq!(read("/root/.ssh/authorized_keys"), b"ssh-ed25519 AAAA of-somebody\nssh-ed25519 BBBB of-a-step\n");
    let mut changed = difference(&tree_of_image(&below, "qcow2"), &tree_of_image(&image, "qcow2"));
    changed.retain(|path, _| !BY_ITSELF.iter().any(|own| path.starts_with(own)));
    assert_eq!(changed.keys().collect::<Vec<_>>(), ["/root/.ssh/authorized_keys", "/srv/large"]);
    before.assert_nothing_left();
}

#[test]
fn a_guest_in_which_nobody_starts_our_agent_is_not_booted() {
    let _lock = appliance_lock();
    let odd = Odd::new(&[], "exec busybox sleep 1000", ":");
    let ran = odd.build(&[run("echo offline >/offline"), boot("", &[run("true")])]).exits(4);
    for words in ["neither systemd nor an /etc/inittab", "qemu-guest-agent (/usr/sbin/qemu-ga)"] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert_eq!(ran.of("console_line").len(), 0, "no machine was started");
}
