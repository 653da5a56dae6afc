//! What becomes of a step that failed: its log is kept, its guest perhaps too, and the error says where.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Build, OnFailure, hints};
use crate::disk::overlay;
use crate::engine::Session;
use crate::error::{Context, Error, ErrorKind, MachineLeft, Result, StepFailure};
use crate::event::{Event, LayerInfo};
use crate::guest::{Guest, Space};
use crate::host;
use crate::host::clock::now;
use crate::plan::StepNode;
use crate::spec::StepEntry;
use crate::store::{FailureRecord, LayerRecord, Scratch};

/// How many lines of a step's script are shown above the shell.
const COMMANDS_MAX: usize = 40;

/// With less than this many bytes free, a disk counts as full.
const DISK_FULL: u64 = 1 << 20;

/// What programs say where a disk has no room: the system's own words, then apt, dnf and pacman.
const NO_SPACE: [&str; 4] = [
    "No space left on device",
    "You don't have enough free space in",
    "more space needed on the",
    "not enough free disk space",
];
/// Where a program says so, a file system with less than this many bytes free may be the one that it speaks of.
const FEW: u64 = 64 << 20;
/// Places in a guest that may be file systems of their own.
const PLACES: [&str; 7] = ["/", "/usr", "/var", "/boot", "/home", "/opt", "/srv"];

/// What was said until a step failed.
pub(super) struct Said {
    /// The last lines of its output.
    pub(super) last_lines: Vec<String>,
    /// What is left of its machine, where it had one.
    pub(super) machine: Option<MachineLeft>,
}

impl From<Vec<String>> for Said {
    fn from(last_lines: Vec<String>) -> Said {
        Said { last_lines, machine: None }
    }
}

impl Build<'_> {
    /// Moves the log of an import or a step that failed out of its workspace, which is about to go.
    pub(super) fn save_log(&self, log: &Path, info: &LayerInfo) -> Option<PathBuf> {
        let target = self.store.logs_dir().join(format!("{}-{}-{}.log", now(), info.kind, info.key.short()));
        match fs::rename(log, &target) {
            Ok(()) => Some(target),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                self.events.warn(format!("the log cannot be kept as {}: {error}", target.display()));
                None
            }
        }
    }

    /// A full disk below the store reaches a guest and its engine only as an input/output error: this says what it was.
    pub(super) fn explain_full_disk(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Cancelled {
            return error;
        }
        let root = self.store.root();
        let free = rustix::fs::statvfs(root).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if free >= DISK_FULL && error.kind() != ErrorKind::HostFull {
            return error;
        }
        Error::new(ErrorKind::HostFull, format!("the disk that holds the store {} is full", root.display()))
            .with_source(error)
            .with_hint("make space there, or use another place with --store; layers that were sealed are kept")
    }

    /// An import's error, with a hint at its log.
    pub(super) fn keep_log(&self, log: &Path, info: &LayerInfo, error: Error) -> Error {
        if error.kind() == ErrorKind::Cancelled || !fs::metadata(log).is_ok_and(|log| log.len() > 0) {
            return error;
        }
        match self.save_log(log, info) {
            Some(path) if error.hint().is_none() => error.with_hint(format!("the whole log is {}", path.display())),
            _ => error,
        }
    }

    /// The error of a step that failed, after doing what `--on-failure` asks for.
    pub(super) fn step_failed(
        &self,
        error: Error,
        session: Option<Box<dyn Session>>,
        draft: &Scratch,
        parent: &LayerRecord,
        step: &StepNode<'_>,
        said: Said,
    ) -> Error {
        let Said { last_lines, machine } = said;
        let StepNode { node, entry, .. } = *step;
        let info = &node.info;
        if error.kind() == ErrorKind::Cancelled {
            return error;
        }
        let mut session = session;
        let error = self.shared.values.hidden(error);
        let error = match &mut session {
            Some(session) => {
                let base = node.spec.of(self.specs).import.kind.name;
                let error = explain_full_guest(error, session.guest(), &last_lines, base);
                hints::explain(error, session.guest(), &last_lines, &draft.record().material.arguments)
            }
            None => error,
        };
        let log = self.save_log(&draft.log(), info);
        if let Some(log) = &log {
            let material = draft.record().material.clone();
            let record = FailureRecord::new(material, info.summary.clone(), crate::error::chain(&error), now());
            let pictures = machine.iter().flat_map(|left| left.screenshots.iter().chain(&left.screen));
            let record = record.with_pictures(pictures);
            if let Err(error) = record.note(log) {
                self.events.warn(format!("the failure cannot be noted beside {}: {error}", log.display()));
            }
        }
        let mut failure = StepFailure {
            position: info.position.clone(),
            within: info.within.clone(),
            step: format!("{}: {}", if info.role == "test" { info.role } else { &info.kind }, info.summary),
            exit: Some(error.to_string()),
            last_lines,
            log: log.unwrap_or_default(),
            kept: None,
            machine,
        };
        match self.settings.on_failure {
            OnFailure::Discard => drop(session),
            OnFailure::Shell => {
                self.events.send(Event::StepFailed { key: info.key, failure: failure.clone() });
                let privileged = entry.options.has_all_rights();
                host::terminal::say(&greeting(&failure, info, &commands(entry)));
                if let Some(Err(error)) = session.as_mut().map(|session| session.shell(privileged)) {
                    self.events.warn(format!("no shell could be opened: {}", crate::error::chain(&error)));
                }
                drop(session);
            }
            OnFailure::Keep => {
                match session.map_or(Ok(()), Session::finish).and_then(|()| self.keep_overlay(draft, parent)) {
                    Ok(path) => failure.kept = Some(path),
                    Err(error) => {
                        self.events.warn(format!("the guest could not be kept: {}", crate::error::chain(&error)));
                    }
                }
            }
        }
        if self.settings.on_failure != OnFailure::Shell {
            self.events.send(Event::StepFailed { key: info.key, failure: failure.clone() });
        }
        // A full host disk is not the step's fault, and has an exit code of its own.
        let kind = match error.kind() {
            kind @ (ErrorKind::HostFull | ErrorKind::Internal | ErrorKind::Template) => kind,
            _ => ErrorKind::Step,
        };
        let context = match info.role {
            "test" => format!("the test `{}` failed", info.summary),
            _ => format!("step {} of {} (`{}`) failed", info.index, info.steps, info.kind),
        };
        Error::new(kind, context).with_source(error).with_failure(failure)
    }

    /// Moves the overlay as the step left it to the store's folder `kept/`.
    fn keep_overlay(&self, draft: &Scratch, parent: &LayerRecord) -> Result<PathBuf> {
        let folder = self.store.kept_dir().join(format!("{}-{}", draft.record().key.short(), &draft.id()[..8]));
        let path = folder.join(crate::store::KEPT_OVERLAY);
        let keep = || -> std::io::Result<()> {
            fs::create_dir(&folder)?;
            fs::rename(draft.image(), &path)
        };
        keep().context(ErrorKind::Store, || format!("cannot keep the overlay as {}", path.display()))?;
        overlay::set_backing_name(&path, &format!("../../images/{}", parent.image_name()))?;
        Ok(path)
    }
}

/// A full file system of the guest reaches a step as a program that failed: this says what it was, where the program said so
/// or where nothing is left. A package manager has removed what it could not install by the time that it gives up.
fn explain_full_guest(error: Error, guest: &mut dyn Guest, last_lines: &[String], base: &str) -> Error {
    if error.kind() != ErrorKind::Step {
        return error;
    }
    let said = last_lines.iter().any(|line| NO_SPACE.iter().any(|words| line.contains(words)));
    let mut full: Vec<(&str, Space)> = Vec::new();
    for path in PLACES {
        let Ok(space) = guest.space(path) else { continue };
        let few = space.free < DISK_FULL || said && space.free < (space.total / 10).max(FEW);
        if few && full.iter().all(|(_, known)| *known != space) {
            full.push((path, space));
        }
    }
    // A small one may always be full; the root is not.
    if full.is_empty() || !said && full[0].0 != "/" {
        return error;
    }
    let left =
        |(path, space): &(&str, Space)| format!("{} of {} MiB are left on {path}", space.free >> 20, space.total >> 20);
    let message = format!("the guest's disk is full: {}", full.iter().map(left).collect::<Vec<_>>().join(", "));
    Error::new(ErrorKind::Step, message).with_source(error).with_hint(larger(base))
}

/// How the disk of a guest with a base of this kind gets larger.
fn larger(base: &str) -> String {
    match base {
        "bootstrap" | "rootfs" | "virt-builder" | "blank" => {
            format!("give it a larger disk: a larger `size` of `{base}`, under `import`")
        }
        "layer" => "the base of that layer needs a larger disk: what lies on it is made again then".into(),
        _ => "give it a larger disk: `resize` of the import, as in `resize: {size: 10G, expand: root}`".into(),
    }
}

/// What a step ran, line by line: the variables that it set, and its script.
fn commands(step: &StepEntry) -> Vec<String> {
    let mut lines: Vec<String> =
        step.options.shaping.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    lines.extend(step.runner.commands().lines().map(str::to_owned));
    let more = lines.len().saturating_sub(COMMANDS_MAX);
    lines.truncate(COMMANDS_MAX);
    if more > 0 {
        lines.push(format!("… and {more} lines more"));
    }
    lines
}

/// What stands above the shell of `--on-failure shell`: what failed and how, and what can be done here.
fn greeting(failure: &StepFailure, info: &LayerInfo, commands: &[String]) -> String {
    let safe = |text: &str| host::escape::escape(text);
    // Where the author of the template wrote it.
    let error = failure.exit.as_deref().unwrap_or("it failed");
    let mut text = format!(
        "\nStep {} of {} failed: {}\n  {}\n",
        info.index,
        info.steps,
        safe(error),
        info.placed(&safe(&failure.step))
    );
    // One that has a name does not say by itself what it ran.
    if !matches!(commands, [only] if *only == info.summary) {
        text.push_str("  what it ran:\n");
        commands.iter().for_each(|line| text.push_str(&format!("  > {}\n", safe(line))));
        if !failure.last_lines.is_empty() {
            text.push_str("  the last lines of its output:\n");
        }
    }
    for line in &failure.last_lines {
        text.push_str(&format!("  | {}\n", safe(line)));
    }
    if !failure.log.as_os_str().is_empty() {
        text.push_str(&format!("  the whole log: {}\n", failure.log.display()));
    }
    text.push_str(
        "\nThis is the guest as the step left it. Try the step's commands until they work; what you change here is thrown\n\
         away when you leave (`exit` or Ctrl-D). Then mend the template and build again: the steps before this one are kept.\n\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_guest_gets_the_advice_that_its_base_can_take() {
        for base in ["bootstrap", "rootfs", "virt-builder", "blank"] {
            assert!(larger(base).contains(&format!("a larger `size` of `{base}`")), "{base}");
        }
        for base in ["disk", "download"] {
            assert!(larger(base).contains("`resize: {size: 10G, expand: root}`"), "{base}");
        }
    }

    #[test]
    fn a_step_with_a_name_shows_what_it_ran() {
        let failure = StepFailure {
            position: None,
            within: Vec::new(),
            step: "run: menu".into(),
            exit: Some("the script ended with exit status 1".into()),
            last_lines: vec!["no \x1b[2Jroom".into()],
            log: PathBuf::new(),
            kept: None,
            machine: None,
        };
        let info = LayerInfo {
            key: crate::key::LayerKey(crate::key::Digest::of(b"x")),
            role: "step",
            kind: "run".into(),
            summary: "menu".into(),
            index: 2,
            steps: 3,
            position: None,
            volatile: Vec::new(),
            within: Vec::new(),
        };
        let text = greeting(&failure, &info, &["FILE=/x".into(), "update-grub".into()]);
        let shown = "  run: menu\n  what it ran:\n  > FILE=/x\n  > update-grub\n  the last lines of its output:\n  | no \\u{1b}[2Jroom\n";
        assert!(text.contains(shown), "{text}");
        assert!(!greeting(&failure, &info, &["menu".into()]).contains("what it ran"));
    }
}
