//! The campaigns in their short form, a test each; `make torture` runs the whole of them.

use std::process::Command;

#[track_caller]
fn short(campaign: &str) {
    shorter(&[campaign]);
}

#[track_caller]
fn shorter(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_torture")).arg("--short").args(arguments).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    println!("{said}");
}

/// On all engines. Each takes its turn with an appliance by itself.
#[test]
fn kills_with_each_appliance() {
    short("kill");
}

/// A machine at a time, which takes its turn by itself.
#[test]
fn machines_are_killed_boots() {
    short("boots");
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

/// Most of it is waiting: for mirrors that do not answer, and for programs of the host. So its parts run side by side.
mod a_project_of_a_stranger {
    macro_rules! parts {
        ($($name:ident: $part:literal),+ $(,)?) => {
            $(#[test] fn $name() { super::shorter(&["--part", $part, "stranger"]); })+
            const PARTS: &[&str] = &[$($part),+];
        };
    }

    parts! {
        stores: "stores",
        inputs: "inputs",
        outputs: "outputs",
        settings: "settings",
        steps: "steps",
        packages: "packages",
        tables: "tables",
        file_systems: "file systems",
        fstab: "fstab",
        caches: "caches",
        secrets: "secrets",
    }

    /// As many as the campaign says there are.
    #[test]
    fn every_part_is_here() {
        let source = include_str!("../src/stranger/mod.rs");
        let count = format!("let parts: [Part; {}] = [", PARTS.len());
        assert!(source.contains(&count), "parts of the campaign that no test runs");
    }
}

/// Whoever adds a campaign adds its short form here.
#[test]
fn every_campaign_has_its_short_form() {
    let output = Command::new(env!("CARGO_BIN_EXE_torture")).arg("--help").output().unwrap();
    let usage = String::from_utf8(output.stderr).unwrap();
    let campaigns = usage.lines().find_map(|line| line.strip_prefix("CAMPAIGN: ")).unwrap();
    // The tests have `kernels` in a form of their own.
    assert_eq!(campaigns, "kill boots power full rot crowd hostile stranger kernels");
}
