//! A guest that has taken over the machine speaks to virt-maker in the agent's place.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::{HostState, TinyOptions, appliance_lock, tiny_guest};

use crate::common::{Bench, Ran, run};

/// Builds the agent that misbehaves.
pub fn hostile_agent(bench: &Bench) -> std::path::PathBuf {
    let program = bench.path("hostile-agent");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/appliance/hostile_agent.rs");
    testkit::run(
        Command::new("rustc")
            .env("PROTOCOL_VERSION", virt_maker_agent::protocol::VERSION.to_string())
            .args(["--edition=2024", "-C", "target-feature=+crt-static", "-C", "opt-level=1", "-o"])
            .arg(&program)
            .arg(source),
    );
    program
}

/// Whatever it says: one clear error, no panic, nothing left on the host or in the store, and the next build succeeds.
#[test]
fn a_guest_that_took_over_the_appliance_gets_a_clean_error() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let agent = hostile_agent(&bench);
    // A machine of its own, made once; the others go on with the good agent's.
    let cache = bench.path("hostile-cache");
    let guest = fs::read(&bench.base).unwrap();
    for (word, expected) in [
        ("garbage", "a frame of 4294967295 bytes"),
        ("huge", "a frame of 1048577 bytes"),
        ("kind", "unknown kind 9"),
        ("json", "EOF while parsing"),
        ("deep", "recursion limit"),
        ("other", "names"),
        ("data", "the agent broke off"),
        ("escape", r"\u{1b}[31mred\u{d}\u{a}news"),
        ("cut", "the machine that the guest runs in ended"),
        ("twice", "the agent broke off"),
        ("mute", "did not answer within"),
    ] {
        // The first KiB of an ext4 file system is not its own.
        let mut disk = guest.clone();
        disk[..16].fill(0);
        disk[..word.len()].copy_from_slice(word.as_bytes());
        let image = bench.path(&format!("{word}.img"));
        fs::write(&image, disk).unwrap();
        let text = format!(
            "spec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    - {{run: 'true', timeout: 1}}\n",
            image.display()
        );
        fs::write(bench.path("t.yml"), text).unwrap();
        testkit::know_kvm(std::path::Path::new(env!("CARGO_BIN_EXE_virt-maker")), &cache);
        let mut command = bench.command(&["build", "t.yml", "--engine", "vm", "--progress", "json"]);
        command.env("VIRT_MAKER_AGENT", &agent).env("XDG_CACHE_HOME", &cache);
        let ran = Ran::from(command.output().unwrap());
        assert!(matches!(ran.status, Some(1..=9 | 70)), "{word}: {:?}\n{}", ran.status, ran.stderr);
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(expected), "{word}: {}", ran.stderr);
        assert!(!ran.stderr.contains('\u{1b}') && !ran.stderr.contains("panicked"), "{word}: {}", ran.stderr);
        assert_eq!(ran.sealed().len(), 1, "{word}: only the base is a layer");
        before.assert_nothing_left();
        assert_eq!(bench.left_in_store(), Vec::<String>::new(), "{word}");
        fs::remove_file(&image).unwrap();
    }
    let ran = bench.build("vm", &bench.template("good.yml", &[run("echo 1 > /one")], ""), &[]).exits(0);
    assert!(ran.of("warning").is_empty(), "{:?}", ran.of("warning"));
    before.assert_nothing_left();
}
