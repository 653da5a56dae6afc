//! Waits for others: whatever does not answer or does not let go, Ctrl-C ends the program with its exit code and nothing is
//! left, and a wait of more than a moment says what it is for.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use testkit::{Elsewhere, HostState, TinyOptions, appliance_lock, tiny_guest};

use crate::common::{Bench, run};

/// For what hangs, not for what is slow: less than any bound that a wait has by itself.
const PATIENCE: Duration = Duration::from_secs(50);
const INTERRUPTED: i32 = 130;

/// A run of the program whose words are heard as they come.
struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    ears: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::<Mutex<String>>::default();
        let pipes: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let ears = pipes.map(|pipe| {
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    said.lock().unwrap().push_str(&(line + "\n"));
                }
            })
        });
        Running { child, said, ears: ears.into() }
    }

    /// Waits until it has said these words.
    #[track_caller]
    fn says(&mut self, words: &str) {
        let begin = Instant::now();
        while !self.said.lock().unwrap().contains(words) {
            let ended = self.child.try_wait().unwrap();
            let said = self.said.lock().unwrap();
            assert!(ended.is_none() && begin.elapsed() < PATIENCE, "no `{words}`: {ended:?} {said}");
            drop(said);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ctrl-C: it ends by itself, as it should.
    #[track_caller]
    fn interrupted(mut self, signal: Signal) -> String {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > PATIENCE {
                let _ = self.child.kill();
                panic!("it is deaf: {}", self.said.lock().unwrap());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        self.ears.drain(..).for_each(|ear| ear.join().unwrap());
        let said = self.said.lock().unwrap().clone();
        assert_eq!(status.code(), Some(INTERRUPTED), "{said}");
        said
    }
}

/// A process below another one, by its name.
fn below(parent: u32, name: &str) -> Option<i32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let numbers = children.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    numbers.filter_map(|text| text.parse().ok()).collect::<Vec<u32>>().into_iter().find_map(|pid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if comm.trim_end() == name { i32::try_from(pid).ok() } else { below(pid, name) }
    })
}

fn bench() -> Bench {
    Bench::new(tiny_guest(&TinyOptions::default()))
}

/// A build whose helper is stopped while its step runs, or between steps.
fn stopped(bench: &Bench, engine: &str, helper: &str, steps: &[String], event: &str) {
    let template = bench.template("t.yml", steps, "");
    let mut running = Running::start(bench.command(&[
        "build",
        template.to_str().unwrap(),
        "--engine",
        engine,
        "--progress",
        "json",
        "--force",
    ]));
    running.says(event);
    let pid = below(running.child.id(), helper).unwrap_or_else(|| panic!("no {helper} below the build"));
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    // What runs in the guest goes on, and then somebody waits for the helper.
    std::thread::sleep(Duration::from_secs(2));
    running.interrupted(Signal::INT);
    assert_eq!(bench.left_in_store(), Vec::<String>::new(), "{helper}");
}

#[test]
fn a_helper_that_is_stopped_holds_nobody_up_on_chroot() {
    let before = HostState::capture();
    let bench = bench();
    // The daemon under the disk is waited for by the step's own commands, by the agent, and by the build between two steps.
    let busy = [
        run("echo go$()ing; for i in 1 2 3 4 5 6 7 8 9; do echo $i > /file; sync; sleep 0.2; done"),
        run("echo two > /two"),
    ];
    for helper in ["qemu-storage-da", "virt-maker-agen"] {
        stopped(&bench, "chroot", helper, &busy, "going");
    }
    before.assert_nothing_left();
}

#[test]
fn a_machine_that_is_stopped_holds_nobody_up_with_appliance() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = bench();
    let busy = [run("echo go$()ing; sleep 1; sync"), run("echo two > /two")];
    stopped(&bench, "vm", "qemu-system-x86", &busy, "going");
    before.assert_nothing_left();
}

/// Holds a lock as a process would that is stopped.
fn held(path: &Path) -> File {
    let file = File::options().read(true).write(!path.is_dir()).open(path).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}

#[test]
fn locks_that_others_hold_are_told_and_hold_nobody_up() {
    let bench = bench();
    let template = bench.template("t.yml", &[run("echo one")], "raw: {path: a.img, checksum: true}");
    bench.build("chroot", &template, &[]).exits(0);
    let text = template.to_str().unwrap();
    let build = ["build", text, "--engine", "chroot", "--progress", "plain", "--force", "--force-export"];
    let places: [(&str, &[&str], PathBuf); 6] = [
        ("a build at the gate", &build, bench.store().join("gate")),
        ("collecting", &["cache", "gc"], bench.store().join("gate")),
        ("usage", &["cache", "verify"], bench.store().join("gate")),
        ("a build that makes its folder", &build, bench.store().join("sweeping")),
        ("a look", &["ls", text, "/", "--engine", "chroot"], bench.store().join("sweeping")),
        ("a list of checksums", &build, bench.folder.path().to_owned()),
    ];
    for (what, arguments, place) in places {
        let lock = held(&place);
        let mut running = Running::start(bench.command(arguments));
        running.says(&format!("waiting for the lock on {}, which process {} has", place.display(), std::process::id()));
        running.interrupted(if what == "usage" { Signal::TERM } else { Signal::INT });
        drop(lock);
        assert_eq!(bench.left_in_store(), Vec::<String>::new(), "{what}");
    }
    // With the locks free, all goes on.
    bench.build("chroot", &template, &["--force", "--force-export"]).exits(0);
}

/// A name server that says nothing, and a download that another process has.
#[test]
fn a_name_that_nobody_answers_for_holds_nobody_up() {
    let network = Elsewhere::new();
    let _silent = network.there(|| UdpSocket::bind((Elsewhere::ADDRESS, 53)).unwrap());
    let bench = bench();
    let resolv = bench.path("resolv.conf");
    fs::write(&resolv, format!("nameserver {}\noptions timeout:30 attempts:5\n", Elsewhere::ADDRESS)).unwrap();
    let script = format!("mount --bind {} /etc/resolv.conf; exec \"$@\"", resolv.display());
    let imports = [
        "download: {url: 'http://mirror.invalid/image.qcow2'}",
        "bootstrap: {suite: bookworm, size: 512M, mirror: 'http://mirror.invalid/debian'}",
    ];
    for import in imports {
        fs::write(bench.path("t.yml"), format!("spec:\n  import:\n    {import}\n")).unwrap();
        let build = network.command(&bench.command(&["build", "t.yml", "--engine", "chroot", "--progress", "plain"]));
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &script, "sh"]).arg(build.get_program()).args(build.get_args());
        command.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(bench.folder.path()).stdin(Stdio::null());
        let mut running = Running::start(command);
        running.says("waiting for the address of `mirror.invalid`");
        running.interrupted(Signal::INT);
        assert_eq!(bench.left_in_store(), Vec::<String>::new(), "{import}");
    }
}
