//! Waiting for something in a machine, with an eye on what may go wrong meanwhile.

use std::time::{Duration, Instant};

use super::{Machine, complaints, screen};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::host::escape::{cut, escape};

/// When a wait is over in any case.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    begin: Instant,
    limit: Duration,
}

impl Deadline {
    /// As long after now.
    pub fn after(limit: Duration) -> Deadline {
        Deadline { begin: Instant::now(), limit }
    }

    pub(super) fn has_passed(&self) -> bool {
        self.begin.elapsed() >= self.limit
    }

    /// How long it is until then.
    pub(super) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.begin.elapsed())
    }
}

/// How often the guest may restart before it is taken for one that does so for ever. SELinux does it once.
const RESTARTS: u32 = 6;
/// How often the screen and the console are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// How many lines of each are told.
const TOLD: usize = 12;
/// How many characters of a line.
const WIDTH: usize = 200;

/// What stands where a system did not come up, and what that means. Those of the first list are looked for on the screen too.
const STUCK: [(&str, &str); 8] = [
    ("No bootable device", "the firmware found nothing to boot on its disk"),
    ("grub rescue>", "GRUB did not find what it boots, and shows its rescue prompt"),
    ("(initramfs)", "the initramfs did not find the root file system, and shows a shell"),
    ("dracut:/#", "the initramfs did not find the root file system, and shows a shell"),
    // What OVMF, shim and GRUB say, on the serial port too.
    ("BdsDxe: No bootable option or device was found", "the firmware found nothing to boot on its disk"),
    (
        SECURITY_VIOLATION,
        "Secure Boot refused what shim was to start: it has no signature that is trusted, or was changed",
    ),
    (
        "error: bad shim signature",
        "Secure Boot refused the kernel: it has no signature that is trusted, or was changed",
    ),
    ("Kernel panic - not syncing", "the guest's kernel has panicked"),
];
/// What shim says of what it must not start.
const SECURITY_VIOLATION: &str = "Verification failed: (0x1A) Security Violation";
/// What OVMF says of a loader that it must not start: one line with both.
const REFUSED: [&str; 2] = ["BdsDxe: failed to load", "Access Denied"];
/// The same of a system with an agent.
const EMERGENCY: [&str; 2] = ["You are in emergency mode", "You are in rescue mode"];

impl Machine {
    /// Tries again and again whether there is what it waits `what` for, until the deadline, or until something goes wrong that nothing
    /// comes after.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        deadline: &Deadline,
        pause: Duration,
        there: impl FnMut(&mut Machine) -> Result<Option<T>>,
    ) -> Result<T> {
        let found = self.watch(deadline, pause, there)?;
        found.ok_or_else(|| self.late(what, deadline))
    }

    /// An error that says that what was waited for has not come by the deadline.
    pub(super) fn late(&mut self, what: &str, deadline: &Deadline) -> Error {
        let seconds = deadline.limit.as_secs();
        self.trouble(format!("waited {seconds} s for {what}"))
            .with_hint("`timeout` of the step gives it longer; what the guest showed last says what it is busy with")
    }

    /// Waits until the guest has powered the machine off. `but` ends the sentence that says that it has not.
    pub(super) fn until_off(&mut self, deadline: &Deadline, but: &str) -> Result<()> {
        let pause = Duration::from_millis(10);
        let off = self.watch(deadline, pause, |machine| Ok(machine.happenings.is_off().then_some(())))?;
        off.ok_or_else(|| {
            let seconds = deadline.limit.as_secs();
            self.trouble(format!("the guest did not power off within {seconds} s{but}")).with_hint(
                "a machine that was not shut down leaves no clean disk, and so no layer; `timeout` of the step gives it longer",
            )
        })
    }

    /// Nothing where the deadline has passed before it was there.
    pub(super) fn watch<T>(
        &mut self,
        deadline: &Deadline,
        pause: Duration,
        mut there: impl FnMut(&mut Machine) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let mut looked = Instant::now();
        loop {
            self.cancel.check()?;
            if let Some(found) = there(self)? {
                return Ok(Some(found));
            }
            self.check_power()?;
            self.look_for_loader();
            if looked.elapsed() >= LOOK {
                self.check_screen()?;
                self.show_console();
                looked = Instant::now();
            }
            if deadline.has_passed() {
                return Ok(None);
            }
            std::thread::sleep(pause);
        }
    }

    /// An error that says that it took too long.
    pub(super) fn too_late(&mut self, deadline: &Deadline) -> Error {
        let seconds = deadline.limit.as_secs();
        self.trouble(format!("the machine was not done within {seconds} s")).with_hint("`timeout` gives it longer")
    }

    /// An error where the machine does not run any more.
    pub(super) fn check_power(&mut self) -> Result<()> {
        self.check_disk()?;
        if self.happenings.is_gone() {
            // Who stops the build ends qemu.
            self.cancel.check()?;
        }
        let what = if self.happenings.is_gone() {
            format!("qemu ended: {}", complaints(&self.work_dir))
        } else if self.happenings.has_panicked() {
            "the guest's kernel has panicked".to_owned()
        } else if self.happenings.is_off() && self.fresh {
            "the machine was powered off or reset before all steps were done".to_owned()
        } else if self.happenings.is_off() {
            "the guest powered off, and was not told to".to_owned()
        } else if self.happenings.resets() > RESTARTS {
            format!("the guest restarted {} times, and does not get further", self.happenings.resets())
        } else {
            return Ok(());
        };
        Err(self.trouble(what))
    }

    /// An error where the host could not write what the guest wrote to its disk. The guest may not have noticed, and its disk is damaged.
    pub fn check_disk(&self) -> Result<()> {
        match self.happenings.lost() {
            None => Ok(()),
            Some(lost) => {
                let kind = if lost.full { ErrorKind::HostFull } else { ErrorKind::Host };
                Err(Error::new(kind, format!("the host could not write the machine's disk: {}", lost.why)))
            }
        }
    }

    /// Says what the guest wrote to its console last, where that is news.
    fn show_console(&mut self) {
        let line = self.console.last_line();
        if !line.is_empty() && line != self.shown {
            self.shown.clone_from(&line);
            self.events.send(Event::ConsoleLine { text: line, worker: None });
        }
    }

    /// An error where the screen or the console shows that nothing will come any more.
    pub(super) fn check_screen(&mut self) -> Result<()> {
        let console = self.console.text();
        let screen = screen::text(self.graph.qmp(), &self.work_dir)?.unwrap_or_default();
        let last = |text: &str| text.lines().rev().take(30).map(str::to_owned).collect::<Vec<_>>().join("\n");
        let (console, screen) = (last(&console), last(&screen));
        if let Some((_, meaning)) = STUCK.iter().find(|(words, _)| console.contains(words) || screen.contains(words)) {
            return Err(self.trouble((*meaning).to_owned()));
        }
        if console.lines().any(|line| REFUSED.iter().all(|words| line.contains(words))) {
            let what = "Secure Boot refused the boot loader: it has no signature that is trusted, or was changed";
            return Err(self.trouble(what.to_owned()));
        }
        // Who boots an installer may want just that.
        if !self.fresh && EMERGENCY.iter().any(|words| console.contains(words) || screen.contains(words)) {
            let failed = if self.guest.is_some() { self.of_failed_units().unwrap_or_default() } else { String::new() };
            return Err(self.trouble(format!("the guest did not boot, and is in emergency mode{failed}")));
        }
        Ok(())
    }

    /// An error with what was seen last.
    pub(super) fn trouble(&mut self, what: String) -> Error {
        let mut text = what;
        let mut add = |name: &str, shown: &str| {
            let last = last_of(shown).join("\n    ");
            if !last.is_empty() {
                text.push_str(&format!("\n  {name} last:\n    {last}"));
            }
        };
        add("on its console", &self.console.text());
        if !self.happenings.is_gone() {
            let (name, shown) = self.shown();
            add(name, &shown);
        }
        text.extend(self.keep().map(|kept| format!("\n  kept: {kept}")));
        Error::new(ErrorKind::Step, text)
    }

    /// The last lines that its screen shows, escaped, as far as they can be read.
    pub(crate) fn last_shown(&mut self) -> Vec<String> {
        match self.happenings.is_gone() {
            true => Vec::new(),
            false => last_of(&self.shown().1),
        }
    }

    /// Keeps the screen as a picture, and the console; says where.
    pub(crate) fn keep(&mut self) -> Option<String> {
        let (picture, console) = (self.kept.with_extension("png"), self.kept.with_extension("console.log"));
        let mut kept = Vec::new();
        if !self.happenings.is_gone() && screen::picture(self.graph.qmp(), &picture).is_ok() {
            kept.push(picture);
        }
        let text = self.console.text();
        if !text.is_empty() && std::fs::write(&console, text).is_ok() {
            kept.push(console);
        }
        let kept: Vec<String> = kept.iter().map(|path| path.display().to_string()).collect();
        (!kept.is_empty()).then(|| kept.join(", "))
    }
}

/// The last lines that are not empty, escaped.
fn last_of(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let lines: Vec<String> = lines.map(|line| escape(cut(line, WIDTH))).collect();
    lines[lines.len().saturating_sub(TOLD)..].to_vec()
}
