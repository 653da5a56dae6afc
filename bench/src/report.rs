//! From figures to the table. A row whose figures were not measured is left out; nothing is made up.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// Seconds, bytes, or whatever the name says.
pub type Figures = BTreeMap<&'static str, f64>;

/// How the two figures of a row become the one that has a goal.
enum Rule {
    /// Theirs / ours, at least.
    TimesFaster(f64),
    /// Ours / theirs, at most.
    AtMostTimes(f64),
    /// Ours minus theirs in seconds, at most.
    Overhead(f64),
    /// Ours alone in seconds, at most.
    Seconds(f64),
    /// Ours alone in bytes, at most.
    Bytes(f64),
    /// For reading only.
    None,
}

const MIB: f64 = (1 << 20) as f64;

/// Name of the row, our figure, theirs (empty: none), rule.
const ROWS: &[(&str, &str, &str, Rule)] = &[
    ("cold build, `chroot` / one `virt-customize` per step", "cold_chroot", "virt_customize", Rule::TimesFaster(100.0)),
    ("the same by itself", "cold_chroot", "", Rule::Seconds(0.9)),
    (
        "cold build, `libguestfs` / one `virt-customize` per step",
        "cold_libguestfs",
        "virt_customize",
        Rule::TimesFaster(8.0),
    ),
    ("cold build, `chroot` / Packer", "cold_chroot", "packer", Rule::TimesFaster(45.0)),
    ("cold build, `libguestfs` / Packer", "cold_libguestfs", "packer", Rule::TimesFaster(3.0)),
    ("cold build, `vm` / one `virt-customize` per step", "cold_vm", "virt_customize", Rule::TimesFaster(50.0)),
    ("cold build, `vm` / Packer", "cold_vm", "packer", Rule::TimesFaster(24.0)),
    (
        "`vm`: session start to first command done / `libguestfs`",
        "first_vm",
        "first_libguestfs",
        Rule::TimesFaster(12.0),
    ),
    ("the same by itself", "first_vm", "", Rule::Seconds(0.7)),
    ("all cached, whole process", "cached", "", Rule::Seconds(0.015)),
    ("one `chroot` step over its bare command, depth 1", "step_chroot_1", "bare_command", Rule::Overhead(0.015)),
    ("the same at depth 100", "step_chroot_100", "bare_command", Rule::Overhead(0.025)),
    (
        "8 variants that share 5 steps and differ in 2 / one `virt-customize` per step of that tree",
        "forked_chroot",
        "virt_customize_tree",
        Rule::TimesFaster(300.0),
    ),
    ("the same / one variant, cold", "forked_chroot", "forked_one", Rule::AtMostTimes(4.0)),
    ("200 templates of 20 steps in one call, all cached", "many_cached", "", Rule::Seconds(0.25)),
    ("time to read 128 MiB in the guest, depth 64 / depth 1", "read_deep", "read_shallow", Rule::AtMostTimes(1.25)),
    ("`diff` of two neighbours in an image with 4 GB in it (`chroot`)", "diff_chroot", "", Rule::Seconds(0.3)),
    ("`chroot` session opened on a base", "open_chroot_1", "", Rule::None),
    ("the same on a chain of 110 layers", "open_chroot_110", "", Rule::None),
    ("one `libguestfs` step over `guestfs_sh` alone", "step_libguestfs", "guestfs_sh", Rule::Overhead(0.2)),
    ("one `vm` step over its bare command in the appliance", "step_vm", "bare_command_vm", Rule::Overhead(0.08)),
    ("200 MiB written and synced, guest (`vm`) / host", "write_guest_vm", "write_host_vm", Rule::AtMostTimes(2.0)),
    ("resident memory of a `vm` session, guest idle", "memory_vm", "", Rule::Bytes(200.0 * 1e6)),
    ("the saved state of `vm` made for the first time", "appliance_made", "", Rule::Seconds(5.0)),
    ("the same restored until its agent answers", "appliance_restored", "", Rule::None),
    ("200 MiB written and synced, guest (`chroot`) / host", "write_guest", "write_host", Rule::AtMostTimes(1.15)),
    ("layer of a one-line step", "layer_small", "", Rule::Bytes(256.0 * 1024.0)),
    ("layer of a 200 MiB step / the bytes", "layer_big", "layer_big_payload", Rule::AtMostTimes(1.02)),
    ("memory of the process itself", "memory", "", Rule::Bytes(50.0 * 1e6)),
    (
        "`sparsify` of an image with 1 GiB of deleted files / `virt-sparsify`",
        "sparsify",
        "virt_sparsify",
        Rule::TimesFaster(10.0),
    ),
    ("its result / that of `virt-sparsify`", "layer_sparsified", "layer_virt_sparsified", Rule::AtMostTimes(1.0)),
    (
        "qcow2 with zstd / `qemu-img convert -c -W -m 16` with zstd",
        "export_zstd",
        "qemu_img_zstd",
        Rule::AtMostTimes(1.1),
    ),
    ("whole file with xz / convert, then `xz`", "export_xz", "two_passes_xz", Rule::TimesFaster(1.7)),
    ("whole file with lz4 / convert, then `lz4`", "export_lz4", "two_passes_lz4", Rule::TimesFaster(1.7)),
    ("whole file with gzip / convert, then `gzip`", "export_gzip", "two_passes_gzip", Rule::TimesFaster(1.7)),
    (
        "`install` of nginx with a cache, the second time: downloaded",
        "download_second",
        "download_first",
        Rule::Bytes(0.0),
    ),
    ("the same, whole process", "install_second", "install_first", Rule::None),
    (
        "`install: [postgresql, nginx-light]` on `chroot` / `apt-get` in a bare chroot",
        "install_chroot",
        "install_bare",
        Rule::AtMostTimes(1.1),
    ),
    (
        "20 steps in one `libguestfs` session / one `virt-customize` each",
        "many_libguestfs",
        "many_virt_customize",
        Rule::TimesFaster(15.0),
    ),
    ("import of the base / `cp`", "import", "cp", Rule::AtMostTimes(2.0)),
    ("import of the base / `cp` and `sync` of the copy", "import", "cp_sync", Rule::None),
    (
        "a guest that boots: its agent answers / login prompt under bare qemu",
        "boot_agent",
        "boot_login",
        Rule::AtMostTimes(1.1),
    ),
    ("the same until all of it has booted", "boot_whole", "boot_login", Rule::None),
    (
        "one `boot` with three `run`, whole process / Packer with three shell provisioners",
        "boot_step",
        "boot_packer",
        Rule::AtMostTimes(0.8),
    ),
    ("a `run` in a booted guest over its bare command there", "booted_run", "booted_bare", Rule::Overhead(0.06)),
    ("an `expect` of a unit that is active", "booted_unit", "", Rule::Seconds(0.1)),
    ("an `expect` of a port that is listened on", "booted_port", "", Rule::Seconds(0.1)),
    ("an `expect` of a text that is on a screen in text mode", "booted_screen", "", Rule::Seconds(0.02)),
    ("a test that has passed before, whole process", "verdict", "", Rule::Seconds(0.015)),
];

/// What a user of the tool cares for first: by the names of our figure and theirs.
const README: [(&str, &str); 5] = [
    ("cold_chroot", "virt_customize"),
    ("cold_vm", "packer"),
    ("cached", ""),
    ("forked_chroot", "virt_customize_tree"),
    ("install_chroot", "install_bare"),
];

/// Which rows a table has.
#[derive(Clone, Copy, PartialEq)]
pub enum Rows {
    /// All that were measured.
    All,
    /// The few of the project's first page.
    Readme,
}

/// The table in Markdown, with what it was measured on.
pub fn markdown(machine: &str, base: &str, figures: &Figures, rows: Rows) -> String {
    let mut text = format!("Measured on: {machine}. {base}\n\n");
    text += "| measure | virt-maker | compared with | result | goal | |\n|---|---|---|---|---|---|\n";
    for (name, ours_name, theirs_name, rule) in ROWS {
        if rows == Rows::Readme && !README.contains(&(ours_name, theirs_name)) {
            continue;
        }
        let Some(&ours) = figures.get(ours_name) else { continue };
        let theirs = figures.get(theirs_name).copied();
        if theirs.is_none() && !theirs_name.is_empty() {
            continue;
        }
        let bytes = ["layer", "memory", "download"].iter().any(|kind| ours_name.starts_with(kind));
        let show = |value: f64| if bytes { size(value) } else { time(value) };
        let other = theirs.unwrap_or(f64::NAN);
        let (result, goal, met) = match rule {
            Rule::TimesFaster(goal) => (
                format!("{:.1} times faster", other / ours),
                format!("at least {goal} times"),
                Some(other / ours >= *goal),
            ),
            Rule::AtMostTimes(goal) => {
                (format!("{:.3}", ours / other), format!("at most {goal}"), Some(ours / other <= *goal))
            }
            Rule::Overhead(goal) => {
                (format!("+{}", time(ours - other)), format!("at most +{}", time(*goal)), Some(ours - other <= *goal))
            }
            Rule::Seconds(goal) => (show(ours), format!("at most {}", time(*goal)), Some(ours <= *goal)),
            Rule::Bytes(goal) => (show(ours), format!("at most {}", size(*goal)), Some(ours <= *goal)),
            Rule::None if theirs.is_some() => (format!("{:.2}", ours / other), String::new(), None),
            Rule::None => (show(ours), String::new(), None),
        };
        let met = met.map_or("", |met| if met { "met" } else { "**missed**" });
        let theirs = theirs.map(show).unwrap_or_default();
        let _ = writeln!(text, "| {name} | {} | {theirs} | {result} | {goal} | {met} |", show(ours));
    }
    text
}

/// The same for machines: every figure by name.
pub fn json(machine: &str, base: &str, figures: &Figures) -> Value {
    json!({ "version": 1, "machine": machine, "base": base, "figures": figures })
}

fn time(seconds: f64) -> String {
    if seconds.abs() < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

fn size(bytes: f64) -> String {
    if bytes < MIB { format!("{:.0} KiB", bytes / 1024.0) } else { format!("{:.1} MiB", bytes / MIB) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_needs_both_of_its_figures() {
        let mut figures = Figures::from([("cold_chroot", 0.5)]);
        let alone = markdown("here", "", &figures, Rows::All);
        assert!(alone.contains("the same by itself") && !alone.contains("Packer"), "{alone}");
        figures.insert("packer", 40.0);
        let both = markdown("here", "", &figures, Rows::All);
        assert!(both.contains("| 500.0 ms | 40.00 s | 80.0 times faster | at least 45 times | met |"), "{both}");
    }

    #[test]
    fn a_missed_goal_is_said() {
        let figures = Figures::from([("layer_big", 300.0 * MIB), ("layer_big_payload", 200.0 * MIB)]);
        let text = markdown("here", "", &figures, Rows::All);
        assert!(text.contains("| 300.0 MiB | 200.0 MiB | 1.500 | at most 1.02 | **missed** |"), "{text}");
    }

    #[test]
    fn the_rows_of_the_first_page_are_rows_of_the_table() {
        for (ours, theirs) in README {
            assert!(ROWS.iter().any(|(_, own, other, _)| (*own, *other) == (ours, theirs)), "{ours} / {theirs}");
        }
        let figures = Figures::from([("cached", 0.002), ("memory", 1e6)]);
        assert!(markdown("here", "", &figures, Rows::All).contains("memory of the process"));
        let short = markdown("here", "", &figures, Rows::Readme);
        assert!(short.contains("all cached") && !short.contains("memory of the process"), "{short}");
    }
}
