//! SIGKILL while the saved machine is made. While sessions run: `crash.rs`.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::{HostState, TinyOptions, appliance_lock, tiny_guest};

use crate::common::{Bench, Random, machine_of, run};

/// How often; together with the kills of `crash.rs` it is 50.
const ROUNDS: u64 = 10;

/// The first build of a user makes the machine. It, or every second time qemu, is killed at a random moment; the next
/// build makes what is missing, and what was half done is gone.
#[test]
fn sigkill_while_the_appliance_is_made_leaves_nothing() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let own = bench.path("xdg-cache/virt-maker/vm");
    fs::remove_file(&own).unwrap();
    let template = bench.template("t.yml", &[run("echo 1 > /one")], "");
    let begin = Instant::now();
    bench.build("vm", &template, &[]).exits(0);
    let whole = begin.elapsed();
    let mut random = Random::new();
    for round in 0..ROUNDS {
        fs::remove_dir_all(&own).unwrap();
        fs::create_dir(&own).unwrap();
        let arguments = ["build", template.to_str().unwrap(), "--engine", "vm", "--progress", "quiet", "--force"];
        let mut child = bench.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.below(whole.as_micros() as u64)));
        match machine_of(child.id()).filter(|_| round % 2 == 0) {
            Some(machine) => {
                let killed = Command::new("kill").args(["-KILL", &machine.to_string()]).stderr(Stdio::null()).status();
                assert!(killed.is_ok());
                let output = child.wait_with_output().unwrap();
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() || stderr.starts_with("error: "), "{stderr}");
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        before.assert_nothing_left();
    }
    let done = bench.build("vm", &template, &["--force"]).exits(0);
    assert!(done.of("warning").is_empty(), "{:?}", done.of("warning"));
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    // One machine, its lock, and nothing in the making.
    let mut names: Vec<_> =
        fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_by_key(String::len);
    assert!(names.len() == 2 && names[0] == "lock" && names[1].len() == 32, "{names:?}");
    before.assert_nothing_left();
}
