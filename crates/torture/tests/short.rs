//! The campaign in its short form; `make torture` runs the whole of it.

use std::process::Command;

/// Its name has `appliance` in it, so that it runs alone: two of its engines start one.
#[test]
fn the_short_campaign_with_each_appliance() {
    let output = Command::new(env!("CARGO_BIN_EXE_torture")).arg("--short").output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    println!("{said}");
}
