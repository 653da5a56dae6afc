//! Guests that boot, and mean harm or go wrong: each is told by a clear error within its time, and nothing of it is left.
//!
//! The guest is the small one, which boots in a few seconds; what can be tried in one boot is tried in one. What the agent's client makes
//! of each wrong word is tried beside it, without a machine.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use testkit::{HostState, appliance_lock};

use crate::appliance::hostile::hostile_agent;
use crate::common::{Bench, Ran};
use crate::crash::SmallDisk;
use crate::machines::{allowed, small};

/// What virt-maker may take of the host's memory, whatever a guest says, in KiB.
const MEMORY: u64 = 150 << 10;

/// The small guest, and templates that begin with it.
struct Small {
    bench: Bench,
    begin: String,
}

impl Small {
    fn new() -> Small {
        let mut bench = Bench::new(PathBuf::from("none"));
        let begin = small(&mut bench);
        Small { bench, begin }
    }

    /// Builds a template whose steps these are, a YAML item each. The program stays within its memory.
    fn build(&self, steps: &[String], more: &[&str]) -> Ran {
        let steps: String = steps.iter().map(|step| format!("    - {step}\n")).collect();
        fs::write(self.bench.path("t.yml"), format!("{}  steps:\n{steps}", self.begin)).unwrap();
        let arguments = ["build", "t.yml", "--engine", "chroot", "--progress", "json"];
        let allowed = allowed();
        let mut command = self.bench.command(&arguments);
        let child = command.args(&allowed).args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let watcher = std::thread::spawn(move || {
            let mut peak = 0;
            // A process that has ended has no memory, and then no file.
            while let Some(now) = fs::read_to_string(&status).ok().as_deref().and_then(peak_of) {
                peak = now;
                std::thread::sleep(Duration::from_millis(50));
            }
            peak
        });
        let ran = Ran::from(child.wait_with_output().unwrap());
        let peak = watcher.join().unwrap();
        assert!((1..MEMORY).contains(&peak), "{peak} KiB of memory");
        assert!(!ran.stderr.contains('\u{1b}') && !ran.stderr.contains("thread '"), "{}", ran.stderr);
        assert!(ran.stderr.len() < 20_000, "{} bytes of errors", ran.stderr.len());
        assert_eq!(self.bench.left_in_store(), Vec::<String>::new());
        ran
    }

    /// The same of a build that ends in its third layer, by an error with these words.
    #[track_caller]
    fn fails(&self, steps: &[String], expected: &[&str]) -> Ran {
        let before = self.bench.layers().len();
        let ran = self.build(steps, &[]).exits(4);
        for words in expected {
            assert!(ran.stderr.contains(words), "no {words:?} in {}", ran.stderr);
        }
        let made = self.bench.layers().len() - before;
        assert!(made < steps.len() + 1, "what was booted is no layer");
        ran
    }
}

/// The peak of a process's memory in KiB; see proc(5).
fn peak_of(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// A step that boots the guest, with these arguments, and does this there.
fn boot(arguments: &str, steps: &str) -> String {
    format!("boot: {{memory: 192M, cpus: 1{arguments}, steps: [{steps}]}}")
}

#[test]
fn a_guest_that_speaks_the_protocol_wrongly_is_told_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let small = Small::new();
    let agent = hostile_agent(&small.bench);
    // How long such a build takes where nobody waits for a deadline, and the base is there.
    let mut whole = Duration::MAX;
    for (word, waits, expected) in [
        ("huge", false, &["step 1 of 1 within it failed", "a frame of 4294967295 bytes"][..]),
        ("flood", false, &["more notes than a run has"]),
        ("again", false, &["the guest restarted, or ended its agent"]),
        // Half a word, and an agent that answers no more: by the deadline of the boot.
        ("half", true, &["for its agent to answer", "virt-maker-agent: cannot open the port to the host"]),
        ("mute", true, &["the guest does not answer any more", "did not answer within"]),
    ] {
        let limit = if waits { (whole * 2).as_secs().max(15) } else { 0 };
        let timeout = if waits { format!(", timeout: {limit}s") } else { String::new() };
        let steps = [
            format!("copy: {{dest: /sbin/hostile, source: {}, chmod: '0755'}}", agent.display()),
            format!(
                "run: echo '::sysinit:/bin/busybox sh -c \"/sbin/hostile {word} </dev/null >/dev/null 2>&1 &\"' >>/etc/inittab"
            ),
            boot(&timeout, "{run: the step}"),
        ];
        let begin = Instant::now();
        small.fails(&steps, expected);
        match waits {
            true => {
                assert!(begin.elapsed() < Duration::from_secs(limit) + whole * 2 + Duration::from_secs(30), "{word}")
            }
            false => whole = whole.min(begin.elapsed()),
        }
        println!("{word}: {:.1} s", begin.elapsed().as_secs_f64());
        before.assert_nothing_left();
    }
}

/// Floods the serial console without end, beginning with what would do things to a terminal. The console goes with the session that opened
/// it, so it has one of its own.
const FLOOD: &str = r"printf '\033]0;taken\007\033[2J\033[31m' >/dev/ttyS0; busybox setsid busybox sh -c 'while :; do busybox head -c 50000 /dev/zero; echo; done >/dev/ttyS0' >/dev/null 2>&1 </dev/null &";

/// What a guest may do to itself and to its console, in one boot: it fills its disk, loses its network, and floods its console to its end.
/// All of that is its own affair, and what it leaves is a layer.
#[test]
fn a_guest_may_flood_its_console_and_fill_its_disk_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let small = Small::new();
    let step = |script: &str| format!("{{{}}}", crate::common::run(script));
    let within = [
        step(
            "! busybox dd if=/dev/zero of=/full bs=64k conv=fsync 2>/dev/null; ! echo more >/more; echo it is $(busybox df -P / | busybox tail -n 1)",
        ),
        step("busybox ip link set eth0 down; ! busybox ping -c 1 -W 5 192.0.2.1 2>&1"),
        // Where it has cloud-init, that is kept from waiting for a source of data.
        step("[ -e /etc/cloud/cloud-init.disabled ]; sleep 3; echo done"),
    ];
    let program = serde_json::to_string(&format!("#!/bin/busybox sh\n{FLOOD}\n")).unwrap();
    let steps = [
        format!("file: {{path: /sbin/flood, chmod: '0755', content: {program}}}"),
        // The agent is started when what is begun here has ended: the flood is there while somebody looks at the console.
        "run: printf '::sysinit:/sbin/flood\\n::sysinit:/bin/busybox sleep 5\\n' >>/etc/inittab; mkdir /etc/cloud"
            .to_owned(),
        boot("", &within.join(", ")),
    ];
    let ran = small.build(&steps, &[]).exits(0);
    let said = ran.said();
    assert!(said.contains(" 100% /") && said.contains("unreachable") && said.contains("done\n"), "{said}");
    let lines = ran.of("console_line");
    let texts: Vec<&str> = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert!(texts.iter().any(|text| text.contains(r"\u{0}\u{0}")), "the flood is seen: {texts:#?}");
    assert!(texts.iter().all(|text| text.len() < 2000 && !text.contains('\u{1b}')), "{texts:#?}");
    assert!(!ran.stdout.contains("\\u001b") && ran.stdout.len() < 1 << 20, "{} bytes", ran.stdout.len());
    let image = small.bench.image(&ran.sealed()[3]);
    testkit::fsck_clean(&image, "qcow2");
    assert!(testkit::find_file_in_image(&image, "/full").unwrap().len() > 100 << 20);
    assert!(testkit::find_file_in_image(&image, "/etc/cloud/cloud-init.disabled").is_none());
    before.assert_nothing_left();
}

/// A kernel that gives up while a step waits for its program; a guest that does not power off; a disk of the host that is full: each is told
/// long before anybody would give up, and is no layer.
#[test]
fn a_guest_that_breaks_down_is_told_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let small = Small::new();
    let step = |script: &str| format!("{{{}}}", crate::common::run(script));
    let within = step("echo c >/proc/sysrq-trigger; sleep 600");
    let begin = Instant::now();
    let ran = small.fails(&[boot("", &within)], &["step 1 of 1 within it failed", "the guest's kernel has panicked"]);
    let whole = begin.elapsed();
    assert!(whole < Duration::from_secs(300) && ran.stderr.contains("sysrq"), "{}", ran.stderr);
    before.assert_nothing_left();

    // It says why, in the midst of a flood.
    // What is asked first is systemd, where it runs.
    let within = [
        step(FLOOD),
        step(
            "mkdir -p /run/systemd/system; printf '#!/bin/busybox sh\necho not now; exit 1\n' >/sbin/systemctl; chmod 755 /sbin/systemctl",
        ),
    ];
    let limit = (whole * 2).as_secs().max(10);
    let ran = small.fails(
        &[boot(&format!(", timeout: {limit}s"), &within.join(", "))],
        &[
            &format!("the guest did not power off within {limit} s, and said when it was told to: not now"),
            "a machine that was not shut down leaves no clean disk",
        ],
    );
    assert!(ran.of("step_finished").iter().all(|event| event["index"] != 1), "{}", ran.stdout);
    before.assert_nothing_left();

    // The guest's program does not ask whether its data is there. The host has room for the agent, and little more.
    let disk = SmallDisk::mount(&small.bench.path("small"), 400);
    let store = small.bench.path("small/store");
    small.build(&["hostname: base".to_owned()], &["--store", store.to_str().unwrap()]).exits(0);
    let mut filler = fs::File::create(small.bench.path("small/filler")).unwrap();
    while filler.write_all(&[7; 1 << 20]).is_ok() {}
    filler.set_len(filler.metadata().unwrap().len() - (50 << 20)).unwrap();
    drop(filler);
    let fill = step("busybox dd if=/dev/urandom of=/big bs=1M count=120; busybox sync; echo went on");
    let steps = ["hostname: base".to_owned(), boot("", &fill)];
    let ran = small.build(&steps, &["--store", store.to_str().unwrap()]).exits(5);
    for words in ["is full", "the host could not write the machine's disk: No space left on device"] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    // Counted, not collected: an entry keeps its folder open, and the disk could not be unmounted.
    assert_eq!(fs::read_dir(store.join("layers")).unwrap().count(), 2, "what was booted is no layer");
    drop(disk);
    before.assert_nothing_left();
}

/// A host that lacks a program says which package brings it, before anything is done.
#[test]
fn a_host_without_what_a_machine_needs_names_the_package() {
    let before = HostState::capture();
    let bench = Bench::new(testkit::tiny_guest(&testkit::TinyOptions::default()));
    // All programs of this host but those of machines.
    let tools = bench.path("tools");
    fs::create_dir(&tools).unwrap();
    for entry in
        ["/bin", "/sbin", "/usr/bin", "/usr/sbin"].iter().flat_map(|folder| fs::read_dir(folder).unwrap().flatten())
    {
        if !["qemu-system-x86_64", "swtpm"].iter().any(|hidden| entry.file_name() == *hidden) {
            let _ = std::os::unix::fs::symlink(entry.path(), tools.join(entry.file_name()));
        }
    }
    // And an empty folder in the place of each in which firmware is looked for.
    let hide = "for folder in /usr/share/qemu /etc/qemu /usr/share/OVMF /usr/share/edk2; do \
                [ ! -d $folder ] || mount -t tmpfs none $folder; done; exec \"$@\"";
    let qemu = |with: bool| match with {
        true => drop(std::os::unix::fs::symlink("/usr/bin/qemu-system-x86_64", tools.join("qemu-system-x86_64"))),
        false => drop(fs::remove_file(tools.join("qemu-system-x86_64"))),
    };
    for (with_qemu, arguments, expected) in [
        (false, "", "package `qemu-system-x86`"),
        (true, "memory: 900G, ", "is to have 921600 MiB of memory, and this host has "),
        (true, "tpm: true, ", "package `swtpm`"),
        (true, "firmware: uefi, ", "package `ovmf`"),
        (true, "firmware: secure-boot, ", "Microsoft's keys"),
    ] {
        qemu(with_qemu);
        let test = format!("{{name: x, boot: {{{}}}, steps: [{{run: 'true'}}]}}", arguments.trim_end_matches(", "));
        for (form, text) in [
            ("boot", format!("steps: [{{boot: {{{arguments}steps: [{{run: 'true'}}]}}}}]")),
            ("tests", format!("tests: [{test}]")),
        ] {
            let text = format!(
                "format: 2\nspec:\n  import: {{download: {{url: 'file://{}'}}}}\n  {text}\n",
                bench.base.display()
            );
            fs::write(bench.path("t.yml"), text).unwrap();
            let build = bench.command(&["build", "t.yml", "--engine", "chroot", "--progress", "json"]);
            let mut hidden = std::process::Command::new("unshare");
            hidden.args(["--mount", "sh", "-c", hide, "sh"]).arg(build.get_program()).args(build.get_args());
            hidden.current_dir(bench.folder.path()).env("PATH", &tools);
            hidden.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let ran = Ran::from(hidden.output().unwrap()).exits(5);
            assert!(ran.stderr.contains(expected), "{form} {arguments}: {}", ran.stderr);
            assert!(ran.stderr.contains("t.yml:4:"), "{form} {arguments}: its place is told: {}", ran.stderr);
        }
    }
    assert_eq!(bench.layers().len(), 0, "it is told before anything is done");
    before.assert_nothing_left();
}
