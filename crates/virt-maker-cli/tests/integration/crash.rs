//! What is left when the program is killed, stopped, or runs out of disk: nothing but sealed layers.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Bench, Random, format_of, machine_of, run};
use testkit::{HostState, TinyOptions, fsck_clean, read_file_from_image, tiny_guest};

/// Steps of a build that is killed. As many as there are ways in which one follows another: the first, one in the middle, the last.
const STEPS: u64 = 3;

fn steps(round: u64) -> Vec<String> {
    (0..STEPS)
        .map(|number| {
            run(&format!(
                "set -e; dd if=/dev/zero of=/blob{number} bs=64k count=32 2>/dev/null; echo {round}.{number} >> /steps; sleep 60 >/dev/null 2>&1 &"
            ))
        })
        .collect()
}

on_chroot_and_vm!(
    sigkill_leaves_nothing_and_breaks_nothing,
    an_interrupt_stops_cleanly_and_keeps_what_is_sealed,
    a_full_host_disk_is_an_error_and_no_bad_layer,
);

/// SIGKILL at 50 random moments: nothing is left on the host, no layer is bad, and the next build succeeds. With engine
/// `vm` every second one hits qemu instead, and ten of the fifty are those of `appliance/kills.rs`.
fn sigkill_leaves_nothing_and_breaks_nothing(engine: &str) {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let before = HostState::capture();
    let build = |round: u64| {
        let template = bench.template("t.yml", &steps(round), "qcow2: {path: out.qcow2}");
        bench.build(engine, &template, &[]).exits(0)
    };
    // The first one may have to make the appliance.
    build(100);
    let begin = Instant::now();
    build(0);
    let whole = begin.elapsed().as_micros() as u64;
    let mut random = Random::new();
    for round in 1..=if engine == "vm" { 40 } else { 50 } {
        let template = bench.template("t.yml", &steps(round), "qcow2: {path: out.qcow2}");
        let arguments = ["build", template.to_str().unwrap(), "--engine", engine, "--progress", "quiet"];
        let mut child = bench.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.below(whole)));
        match machine_of(child.id()).filter(|_| engine == "vm" && round % 2 == 0) {
            Some(machine) => {
                let status = Command::new("kill").args(["-KILL", &machine.to_string()]).stderr(Stdio::null()).status();
                assert!(status.is_ok());
                // It ends by itself: with an error, or without one where all that it needed of the machine was done.
                child.wait().unwrap();
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        before.assert_nothing_left();
        if round % 10 == 0 {
            let done = bench.build(engine, &template, &[]).exits(0);
            assert!(done.of("warning").is_empty(), "{:?}", done.of("warning"));
            assert_eq!(bench.left_in_store(), Vec::<String>::new());
            let text = read_file_from_image(&bench.path("out.qcow2"), "/steps");
            let expected: String = (0..STEPS).map(|number| format!("{round}.{number}\n")).collect();
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        }
    }
    for (_, image) in bench.layers().iter().filter(|(_, image)| format_of(image) == "qcow2") {
        fsck_clean(image, "qcow2");
    }
    let stray = fs::read_dir(bench.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let stray: Vec<_> = stray.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(stray.is_empty(), "temporary artifacts of killed builds: {stray:?}");
}

/// Ctrl-C once: a clean stop with its own exit code; what was sealed stays.
fn an_interrupt_stops_cleanly_and_keeps_what_is_sealed(engine: &str) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.template("t.yml", &[run("echo 1 > /one"), run("echo started; sleep 600"), run("true")], "");
    let arguments = ["build", template.to_str().unwrap(), "--engine", engine, "--progress", "json"];
    let mut child = bench.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    lines.find(|line| line.as_ref().unwrap().contains("\"text\":\"started")).unwrap().unwrap();
    // As timeout(1) does: to the program, and to its process group, which it is in.
    let id = child.id().to_string();
    Command::new("kill").args(["-TERM", &id, &id]).status().unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("stopped on request"), "{ended:?}");
    before.assert_nothing_left();
    assert_eq!(bench.layers().len(), 2);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

/// A disk that fills up below the store is an error that says so, and no layer with a hole in it is ever sealed.
fn a_full_host_disk_is_an_error_and_no_bad_layer(engine: &str) {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let small = SmallDisk::mount(&bench.path("small"), 24);
    let store = bench.path("small/store");
    let steps = [run("echo 1 > /one"), run("dd if=/dev/urandom of=/big bs=1M count=30; echo done")];
    let template = bench.template("t.yml", &steps, "");
    let ran = bench.build(engine, &template, &["--store", store.to_str().unwrap()]).exits(5);
    assert!(ran.stderr.contains("full"), "{}", ran.stderr);
    // Counted, not collected: an entry keeps its folder open, and the disk could not be unmounted.
    let layers = fs::read_dir(store.join("layers")).unwrap().count();
    assert!(layers <= 2, "the step that did not fit is not a layer");
    drop(small);
    before.assert_nothing_left();
}

/// An ext4 of some MiB, mounted for one test.
pub struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    pub fn mount(at: &std::path::Path, mib: u64) -> SmallDisk {
        fs::create_dir(at).unwrap();
        let image = at.with_extension("img");
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let done = |command: &mut Command| assert!(command.output().unwrap().status.success(), "{command:?}");
        done(Command::new("mkfs.ext4").arg("-q").arg(&image));
        done(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at));
        SmallDisk(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The kernel lets go of the files of processes that just ended a moment later.
        for _ in 0..100 {
            if Command::new("umount").arg(&self.0).status().is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
