//! Guests whose init is none that we know, so that it starts no agent of ours: who else does, and what is told where nobody does.
//!
//! The guest is the small one, which boots in a few seconds, with a script as its init and Debian's own qemu-guest-agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use testkit::tree::{difference, tree_of_image};
use testkit::{HostState, appliance_lock};

use crate::common::{Bench, Ran, run};
use crate::machines::allowed;

const GUEST_AGENT: &str = "/usr/sbin/qemu-ga";

/// Starts qemu-guest-agent, at the port that is meant for it, as often as it ends. Its `poweroff` and `reboot` are busybox's: signals for it.
const INIT: &str = "#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
end() { busybox mount -o remount,ro / && busybox \"$1\" -f; }
trap 'end poweroff' USR2
trap 'end reboot' TERM
echo 'an init of its own' >/dev/ttyS0
while :; do
  for port in /sys/class/virtio-ports/*; do
    if [ \"$(cat $port/name)\" = org.qemu.guest_agent.0 ]; then
      qemu-ga $(cat /etc/qemu-ga) -p /dev/${port##*/} -f /run/qemu-ga.pid -t /run >/dev/ttyS0 2>&1 &
      wait $!
    fi
  done
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
    /// `programs` of the host are in the guest.
    fn new(programs: &[&str]) -> Odd {
        let agent = Path::new(env!("CARGO_BIN_EXE_virt-maker")).with_file_name("virt-maker-agent");
        let mut bench = Bench::new(PathBuf::from("none"));
        bench.base = testkit::small_guest_with(&agent, programs);
        let steps = [run("rm -f /sbin/init /etc/inittab; : >/etc/qemu-ga"), program("/sbin/init", INIT)];
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

#[test]
fn qemu_guest_agent_starts_ours_where_the_init_does_not_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let odd = Odd::new(&[GUEST_AGENT]);
    fs::write(odd.bench.path("page.html"), "copied\n").unwrap();
    let within = [
        run(
            "read -r name </proc/1/comm; echo process 1 is $name; cat /proc/sys/kernel/random/boot_id >/run/first; echo kept >/kept",
        ),
        "copy: {dest: /page.html, source: page.html}".into(),
        "expect: {file: {path: /page.html, content: copied}, command: {run: 'exit 3', exit: 3}}".into(),
        "reboot: {}".into(),
        run("[ ! -e /run/first ]; echo again"),
    ];
    let begin = Instant::now();
    let ran = odd.build(&[run("echo offline >/offline"), boot("", &within)]).exits(0);
    let whole = begin.elapsed();
    let said = ran.said();
    assert!(said.contains("process 1 is init\n") && said.contains("again\n"), "{said}");
    assert!(said.contains("its agent started by qemu-guest-agent: "), "{said}");
    let told: Vec<_> = ran.of("machine_booted").iter().map(|boot| boot["by"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, ["qemu-guest-agent"; 2]);
    let keys = ran.sealed();
    let image = |depth: usize| {
        let image = odd.bench.image(&keys[depth]);
        testkit::fsck_clean(&image, "qcow2");
        tree_of_image(&image, "qcow2")
    };
    let changed = difference(&image(1), &image(2));
    assert_eq!(changed.keys().collect::<Vec<_>>(), ["/kept", "/page.html"], "and nothing of ours");
    before.assert_nothing_left();

    // One that may not start programs says so, by the deadline.
    let limit = (whole * 2).as_secs().max(10);
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

#[test]
fn a_guest_in_which_nobody_starts_our_agent_is_not_booted() {
    let _lock = appliance_lock();
    let odd = Odd::new(&[]);
    let ran = odd.build(&[run("echo offline >/offline"), boot("", &[run("true")])]).exits(4);
    for words in ["neither systemd nor an /etc/inittab", "qemu-guest-agent (/usr/sbin/qemu-ga)"] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert_eq!(ran.of("console_line").len(), 0, "no machine was started");
}
