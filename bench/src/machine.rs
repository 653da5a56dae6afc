//! What the figures were measured on.

use std::process::{Command, Stdio};
use std::time::Duration;

/// The host, for the line above the table and for choices that depend on it.
pub struct Machine {
    /// Whether a virtual machine runs under KVM here: found by starting one.
    pub kvm: bool,
    /// One line for people.
    pub description: String,
}

impl Machine {
    /// Looks at this host.
    pub fn look() -> Self {
        let kvm = kvm_works();
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
        Machine { kvm, description }
    }

    /// `tcg` or `kvm`, as qemu's options call it.
    pub fn accelerator(&self) -> &'static str {
        if self.kvm { "kvm" } else { "tcg" }
    }
}

/// There are hosts where `/dev/kvm` opens and a machine dies on its first instruction, so one is started.
fn kvm_works() -> bool {
    let machine = Command::new("qemu-system-x86_64")
        .args(["-accel", "kvm", "-cpu", "max", "-m", "64", "-nodefaults", "-no-user-config", "-display", "none"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut machine) = machine else { return false };
    std::thread::sleep(Duration::from_secs(1));
    // The firmware finds nothing to boot and stays: a machine that is gone has died.
    let alive = matches!(machine.try_wait(), Ok(None));
    let _ = machine.kill();
    let _ = machine.wait();
    alive
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
