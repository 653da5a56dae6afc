//! Where the time of a boot went: firmware, boot loader, kernel, initramfs, services.
//!
//! ```text
//! machine starts ── firmware ──▶ loader ──▶ kernel ──▶ initramfs ──▶ services ──▶ booted
//!                              │          │          │             └ systemd: UserspaceTimestampMonotonic
//!                              │          │          └ the kernel's log: `Run /init as init process`; or systemd: InitRDTimestampMonotonic
//!                              │          └ now, less what the guest's /proc/uptime says
//!                              └ a BIOS reads the disk for the first time; UEFI says so on the console; or systemd: LoaderTimestampMonotonic
//! ```
//! A border that nobody knows is none: the phases on both of its sides are one then, `initramfs+services`. What the guest says is data:
//! a border that does not lie between its neighbours is not believed.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Firmware, Machine, shell};
use crate::error::Result;
use crate::event::{BootPhase, StartedBy};
use crate::guest::Run;
use crate::guest::running::Running;

/// What a boot took.
#[derive(Debug, Clone, PartialEq)]
pub struct Boot {
    /// Whether it was a restart of the machine.
    pub restart: bool,
    /// From the start of qemu, or from the reset, until the agent answered.
    pub answered: Duration,
    /// The same, until the guest was seen to have booted.
    pub elapsed: Duration,
    /// Who had started the agent that answered.
    pub by: StartedBy,
    /// Its phases in their order. Where the guest restarted on its way, those of its last start.
    pub phases: Vec<BootPhase>,
}

/// The begin of a boot, and what is seen of it from outside.
pub(super) struct Birth {
    bios: bool,
    at: Instant,
    /// How often the machine had been reset.
    resets: u32,
    /// How often its disk had been read.
    reads: u64,
    /// When the disk was read for the first time after that.
    read: Option<Instant>,
}

impl Birth {
    pub(super) fn of(firmware: Firmware, at: Instant) -> Birth {
        Birth { bios: firmware == Firmware::Bios, at, resets: 0, reads: 0, read: None }
    }
}

/// The device that is the guest's disk (`hardware.rs`).
const DISK: &str = "disk";
/// What a guest says of its boot, in one program: a program takes long to start where the CPU is emulated.
const ASK: &str = "cat /proc/uptime; dmesg 2>/dev/null | grep -m1 ' as init process'; if [ -d /run/systemd/system ]; then \
                   systemctl show -p LoaderTimestampMonotonic -p InitRDTimestampMonotonic -p UserspaceTimestampMonotonic \
                   -p FinishTimestampMonotonic; fi; :";

impl Machine {
    /// Boots since it was asked for last.
    pub fn take_boots(&mut self) -> Vec<Boot> {
        std::mem::take(&mut self.boots)
    }

    /// Notes that the guest has booted, since `begin`.
    pub(super) fn note_boot(&mut self, begin: Instant, restart: bool) -> Result<()> {
        let elapsed = begin.elapsed();
        self.booted = Some(elapsed);
        self.renew_birth();
        let asked = Instant::now();
        let (_, said) = self.ask(&Run { script: Some(ASK.into()), shell: shell(), ..Run::default() })?;
        let said = String::from_utf8_lossy(&said);
        let loader = if self.birth.bios { self.birth.read } else { self.console.loader_after(self.birth.at) };
        let since = |moment: Instant| moment.saturating_duration_since(self.birth.at).as_secs_f64();
        let phases = phases(loader.map(since), since(asked), since(begin + elapsed), &said);
        let answered = self.answered.saturating_duration_since(begin);
        self.boots.push(Boot { restart, answered, elapsed, by: self.by, phases });
        Ok(())
    }

    /// Looks whether a BIOS has begun to read the disk; nothing is asked once it has.
    pub(super) fn look_for_loader(&mut self) {
        self.renew_birth();
        if !self.birth.bios || self.birth.read.is_some() {
            return;
        }
        if self.reads().is_some_and(|reads| reads > self.birth.reads) {
            self.birth.read = Some(Instant::now());
        }
    }

    /// A reset is a new begin.
    fn renew_birth(&mut self) {
        let resets = self.happenings.resets();
        if self.birth.resets != resets {
            let (reads, at) = (self.reads().unwrap_or(u64::MAX), self.happenings.last_reset());
            let Birth { bios, at: before, .. } = self.birth;
            self.birth = Birth { bios, at: at.unwrap_or(before), resets, reads, read: None };
        }
    }

    /// How often the machine has read its disk.
    fn reads(&mut self) -> Option<u64> {
        let answer = self.graph.qmp().execute("query-blockstats", json!({})).ok()?;
        let mut devices = answer.as_array()?.iter();
        let disk = devices.find(|device| device["qdev"] == DISK)?;
        disk["stats"]["rd_operations"].as_u64()
    }
}

/// The phases of a boot; seconds since its begin. `loader` is when the boot loader began, as far as that was seen; `said` what the guest
/// answered when it was asked at `asked`; `booted` when it was seen to have booted.
fn phases(loader: Option<f64>, asked: f64, booted: f64, said: &str) -> Vec<BootPhase> {
    let uptime = said.lines().next().and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    let kernel = uptime.map(|uptime| asked - uptime);
    // Since the kernel's start, in microseconds; 0 where there was no such thing.
    let systemd = |name: &str| {
        let value =
            said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("TimestampMonotonic=")?.parse().ok());
        value.filter(|value: &u64| *value > 0).map(|value| value as f64 / 1e6)
    };
    let after_kernel = |seconds: Option<f64>| Some(kernel? + seconds?);
    let loader = loader.or_else(|| Some(kernel? - systemd("Loader")?));
    let begun = said.lines().find_map(begun);
    let (initramfs, services) = match (begun, systemd("InitRD")) {
        // The kernel began the guest's own init.
        (Some((seconds, false)), _) => (None, Some(seconds)),
        (Some((seconds, true)), _) => (Some(seconds), systemd("Userspace")),
        (None, initramfs) => (initramfs, systemd("Userspace")),
    };
    let has_initramfs = !matches!(begun, Some((_, false)));
    let end = after_kernel(systemd("Finish")).filter(|end| *end <= booted).unwrap_or(booted);
    let mut borders = vec![("loader", loader), ("kernel", kernel)];
    if has_initramfs {
        borders.push(("initramfs", after_kernel(initramfs)));
    }
    borders.push(("services", after_kernel(services)));

    let mut phases = Vec::new();
    let (mut name, mut begin) = ("firmware".to_owned(), 0.0);
    for (next, border) in borders {
        match border.filter(|border| border.is_finite() && (begin..=end).contains(border)) {
            Some(border) => {
                phases.push(BootPhase { name: std::mem::replace(&mut name, next.to_owned()), seconds: border - begin });
                begin = border;
            }
            None => name = format!("{name}+{next}"),
        }
    }
    phases.push(BootPhase { name, seconds: (end - begin).max(0.0) });
    phases
}

/// When the kernel began the first program, in seconds since its start, and whether that was an initramfs's:
/// `[    2.345678] Run /init as init process`.
fn begun(line: &str) -> Option<(f64, bool)> {
    let (before, _) = line.split_once(" as init process")?;
    let (stamp, program) = before.split_once("Run ")?;
    let seconds = stamp.split_once('[')?.1.split_once(']')?.0.trim().parse().ok()?;
    Some((seconds, program == "/init"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(loader: Option<f64>, text: &str) -> Vec<(String, i64)> {
        let phases = phases(loader, 20.5, 20.0, text);
        phases.into_iter().map(|phase| (phase.name, (phase.seconds * 1e3).round() as i64)).collect()
    }

    #[test]
    fn phases_are_those_whose_borders_are_known() {
        let named = |expected: &[(&str, i64)]| -> Vec<(String, i64)> {
            expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        // Debian: an initramfs without systemd.
        let debian = "18.50 20.00\n[    2.250000] Run /init as init process\nUserspaceTimestampMonotonic=4250000\n\
                      FinishTimestampMonotonic=17750000\nInitRDTimestampMonotonic=0\nLoaderTimestampMonotonic=0\n";
        let all = [("firmware", 1500), ("loader", 500), ("kernel", 2250), ("initramfs", 2000), ("services", 13500)];
        assert_eq!(said(Some(1.5), debian), named(&all));
        // Fedora, whose kernel has forgotten its first lines, under a loader that says when it began.
        let fedora = "18.50 20.00\nUserspaceTimestampMonotonic=4250000\nInitRDTimestampMonotonic=2250000\nLoaderTimestampMonotonic=500000\n";
        let found = said(None, fedora);
        assert_eq!(found[..4], named(&all)[..4]);
        assert_eq!(found[4], ("services".to_owned(), 13750));
        // No systemd, and no initramfs or one.
        let plain = "18.50 20.00\n[    2.250000][    T1] Run /sbin/init as init process\n";
        let expected = [("firmware+loader", 2000), ("kernel", 2250), ("services", 15750)];
        assert_eq!(said(None, plain), named(&expected));
        let expected = [("firmware+loader", 2000), ("kernel", 2250), ("initramfs+services", 15750)];
        assert_eq!(said(None, &plain.replace("/sbin/init", "/init")), named(&expected));
        // A guest that says nothing, or what cannot be.
        for nothing in
            ["", "nan x\n", "-5 1\nUserspaceTimestampMonotonic=1\n", "99999 1\n[ 1.0] Run /init as init process\n"]
        {
            let found = said(None, nothing);
            assert_eq!(found, named(&[("firmware+loader+kernel+initramfs+services", 20_000)]), "{nothing}");
        }
        let sums: i64 =
            said(Some(1.5), "18.50 1\n[ 99.0] Run /init as init process\n").iter().map(|(_, value)| value).sum();
        assert_eq!(sums, 20_000);
    }
}
