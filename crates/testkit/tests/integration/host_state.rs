//! What stays on the host is seen, and what goes by itself is no failure.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use testkit::{HostState, run};

#[test]
fn sees_orphans_and_loop_devices() {
    let before = HostState::capture();
    before.assert_nothing_left();

    // An orphan: its parent is gone at once.
    run(Command::new("sh").args(["-c", "sleep 2 >/dev/null 2>&1 &"]));
    before.assert_nothing_left();

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("left.img");
    File::create(&file).unwrap().set_len(1 << 20).unwrap();
    let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&file));
    let device = String::from_utf8(device.stdout).unwrap();
    // Nobody takes it away, so it is waited for no longer than for the orphan.
    let seen = catch_unwind(AssertUnwindSafe(|| before.assert_nothing_left_after(Duration::from_secs(3))));
    run(Command::new("losetup").args(["--detach", device.trim()]));
    let message = *seen.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("left.img"), "{message}");
    before.assert_nothing_left();
}
