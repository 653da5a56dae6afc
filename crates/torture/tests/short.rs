//! The campaigns in their short form, a test each; `make torture` runs the whole of them.

use std::process::Command;

#[track_caller]
fn short(campaign: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_torture")).args(["--short", campaign]).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    println!("{said}");
}

/// On all engines. Each takes its turn with an appliance by itself.
#[test]
fn kills_with_each_appliance() {
    short("kill");
}

#[test]
fn power_is_cut() {
    short("power");
}

#[test]
fn disks_fill_up() {
    short("full");
}

#[test]
fn bits_flip() {
    short("rot");
}

#[test]
fn a_crowd_on_one_store() {
    short("crowd");
}

#[test]
fn what_means_harm() {
    short("hostile");
}

#[test]
fn a_project_of_a_stranger() {
    short("stranger");
}

/// Whoever adds a campaign adds its short form here.
#[test]
fn every_campaign_has_its_short_form() {
    let output = Command::new(env!("CARGO_BIN_EXE_torture")).arg("--help").output().unwrap();
    let usage = String::from_utf8(output.stderr).unwrap();
    let campaigns = usage.lines().find_map(|line| line.strip_prefix("CAMPAIGN: ")).unwrap();
    // The tests have `kernels` in a form of their own.
    assert_eq!(campaigns, "kill power full rot crowd hostile stranger kernels");
}
