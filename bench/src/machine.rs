//! What the figures were measured on.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::measure::{self, Failure};

/// Memory of machines that boot the base, in MiB: ours, bare qemu's and Packer's.
pub const MEMORY: u32 = 1024;

/// Their CPUs.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The host, for the line above the table and for choices that depend on it.
pub struct Machine {
    /// Whether a virtual machine runs under KVM here: found by booting one.
    pub kvm: bool,
    /// One line for people.
    pub description: String,
}

impl Machine {
    /// Looks at this host, by this virt-maker.
    pub fn look(maker: &Path) -> Result<Self, Failure> {
        let kvm = kvm_works(maker)?;
        let accelerator = if kvm { "KVM" } else { "no KVM (TCG)" };
        let description = format!(
            "{} x {}, {} GB RAM, Linux {}, {}, {}, libguestfs {}, {accelerator}",
            std::thread::available_parallelism().map_or(0, usize::from),
            field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".to_owned()),
            field("/proc/meminfo", "MemTotal")
                .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib.div_ceil(1 << 20)),
            read("/proc/sys/kernel/osrelease"),
            field("/etc/os-release", "PRETTY_NAME").unwrap_or_default().trim_matches('"'),
            first_line(Command::new("qemu-img").arg("--version")).replace(" version", ""),
            first_line(Command::new("guestfish").arg("--version")).replace("guestfish ", ""),
        );
        Ok(Machine { kvm, description })
    }

    /// `tcg` or `kvm`, as qemu's options call it.
    pub fn accelerator(&self) -> &'static str {
        if self.kvm { "kvm" } else { "tcg" }
    }
}

/// What virt-maker found by booting a kernel: there are hosts where a virtual CPU runs and a kernel hangs, and there a peer
/// that takes KVM by itself would never end.
fn kvm_works(maker: &Path) -> Result<bool, Failure> {
    measure::run(Command::new(maker).args(["appliance", "build"]))?;
    let said = measure::run(Command::new(maker).args(["doctor", "--json"]))?.lines;
    let text: String = said.into_iter().map(|(_, line)| line).collect();
    let said: Value = serde_json::from_str(&text).map_err(|error| format!("doctor: {error}"))?;
    let mut checks = said["checks"].as_array().into_iter().flatten();
    let check = checks.find(|check| check["name"] == "KVM").ok_or("doctor says nothing of KVM")?;
    Ok(check["state"] == "works")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = read(path);
    let (_, value) = text.lines().filter_map(|line| line.split_once([':', '='])).find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

fn first_line(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output)
        .lines()
        .next()
        .unwrap_or("missing")
        .split(" (")
        .next()
        .unwrap_or_default()
        .to_owned()
}
