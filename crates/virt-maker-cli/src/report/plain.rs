//! A line for each thing that happens, with the time since the start: for logs and CI.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use virt_maker::event::{BootPhase, Event, ImageName, ImageState, LayerInfo, MissReason, Outcome, TestOutcome};
use virt_maker::key::LayerKey;

use super::Report;
use crate::explain;
use crate::text::{count, duration, harmless, size};

/// See [`Plain::quiet`].
const QUIET: Duration = Duration::from_secs(5);

pub(super) struct Plain<W> {
    out: W,
    verbose: u8,
    begin: Instant,
    /// What is under way, by whom: how many tenths of it were told, and when it began or something was told of it last.
    told: HashMap<(Option<u32>, String), (u64, Instant)>,
    /// For so long nothing is told of what is under way: what is done in a moment is no news.
    quiet: Duration,
    /// Output of the steps under way that is not a whole line yet.
    lines: HashMap<LayerKey, String>,
    images: Vec<ImageName>,
}

impl<W: Write + Send> Plain<W> {
    pub(super) fn new(out: W, verbose: u8) -> Self {
        let (told, lines, images) = (HashMap::new(), HashMap::new(), Vec::new());
        Plain { out, verbose, begin: Instant::now(), told, quiet: QUIET, lines, images }
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        let elapsed = self.begin.elapsed().as_secs_f64();
        // One call a line: a stream to a terminal or a pipe keeps nothing back.
        self.out.write_all(format!("[{elapsed:8.3}] {text}\n").as_bytes())
    }

    fn output(&mut self, key: LayerKey, text: &str) -> io::Result<()> {
        for piece in text.split_inclusive('\n') {
            let line = self.lines.entry(key).or_default();
            line.push_str(piece);
            if line.ends_with('\n') {
                self.flush_line(key)?;
            }
        }
        Ok(())
    }

    fn flush_line(&mut self, key: LayerKey) -> io::Result<()> {
        let line = self.lines.remove(&key).unwrap_or_default();
        if line.is_empty() {
            return Ok(());
        }
        let line = harmless(line.trim_end_matches(['\n', '\r']));
        // Of several images, lines of several steps come in turn.
        let whose = if self.images.len() > 1 { key.short() } else { String::new() };
        self.say(&format!("  {whose}| {line}"))
    }

    fn progress(&mut self, what: (Option<u32>, String), done: u64, total: Option<u64>, unit: &str) -> io::Result<()> {
        let Some(total) = total.filter(|total| *total > 0) else { return Ok(()) };
        let tenths = (u128::from(done) * 10 / u128::from(total)) as u64;
        let text = what.1.clone();
        let quiet = self.quiet;
        let (told, last) = self.told.entry(what).or_insert((0, Instant::now()));
        // The next one of the same name begins anew.
        if tenths == 0 || done >= total && *told == 0 && last.elapsed() < quiet {
            (*told, *last) = (0, Instant::now());
            return Ok(());
        }
        if tenths <= *told || tenths < 10 && last.elapsed() < quiet {
            return Ok(());
        }
        (*told, *last) = (tenths, Instant::now());
        let of = if unit == "bytes" { format!(" of {}", size(total)) } else { String::new() };
        self.say(&format!("  {text}: {} %{of}", tenths * 10))
    }

    fn ended(&mut self, images: &[ImageState]) -> io::Result<()> {
        summary(images).iter().try_for_each(|line| self.say(line))
    }
}

/// What people call an image: its template without folder and ending, and its values of the matrix.
pub(super) fn label(image: &ImageName) -> String {
    let stem = image.template.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let values = image.matrix.iter().map(|(_, value)| value.clone());
    harmless(&[stem].into_iter().chain(values).collect::<Vec<_>>().join(" "))
}

/// The image that a layer is made for, before the layer's title; nothing where there is only one image.
pub(super) fn whose(images: &[ImageName], image: usize) -> String {
    match images {
        [] | [_] => String::new(),
        several => several.get(image).map(|image| format!("{}: ", label(image))).unwrap_or_default(),
    }
}

/// A line for each image of a build that had several.
pub(super) fn summary(images: &[ImageState]) -> Vec<String> {
    if images.len() < 2 {
        return Vec::new();
    }
    let width = images.iter().map(|state| label(&state.image).chars().count()).max().unwrap_or(0);
    let line = |state: &ImageState| {
        let outcome = match state.outcome {
            Outcome::Cached => "cached",
            Outcome::Built => "built",
            Outcome::Failed => "failed",
            Outcome::Stopped => "stopped",
        };
        let error = state.error.as_ref().map(|error| format!(": {}", harmless(error))).unwrap_or_default();
        format!("  {:width$}  {outcome}{error}", label(&state.image))
    };
    // The ones to look at come last, where the eye is.
    let (good, bad): (Vec<_>, Vec<_>) =
        images.iter().partition(|state| matches!(state.outcome, Outcome::Cached | Outcome::Built));
    good.into_iter().chain(bad).map(line).collect()
}

/// Whether a reason says more than that a layer is new.
pub(super) fn worth_saying(reason: &MissReason) -> bool {
    !matches!(reason, MissReason::ParentMissing | MissReason::NeverMade | MissReason::Forced | MissReason::AlwaysRun)
}

/// What a layer is, in one line.
pub(super) fn title(info: &LayerInfo) -> String {
    let place = if info.index == 0 { "base".to_owned() } else { format!("{}/{}", info.index, info.steps) };
    let part_of = if info.within.is_empty() { String::new() } else { format!(" [{}]", harmless(&info.part_of())) };
    format!("{place} {}: {}{part_of}", info.kind, harmless(&info.summary))
}

/// Where the time went, the largest part first; parts below a hundredth are left out.
pub(super) fn spent_text(spent: &[(String, f64)]) -> String {
    let whole: f64 = spent.iter().map(|(_, seconds)| seconds).sum();
    let mut parts: Vec<_> = spent.iter().filter(|(_, seconds)| *seconds > whole / 100.0).collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let text = |(name, seconds): &&(String, f64)| format!("{name} {}", seconds_text(*seconds));
    parts.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// So many seconds, for people.
pub(super) fn seconds_text(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

impl<W: Write + Send> Report for Plain<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::BuildStarted { layers, cached, images, .. } => {
                self.images = images.clone();
                let of = if images.len() > 1 { format!("{} images, ", images.len()) } else { String::new() };
                self.say(&format!("{of}{}, {cached} cached", count(*layers, "layer")))
            }
            Event::LayerCached(info) => self.say(&format!("cached  {}  {}", info.key.short(), title(info))),
            Event::LayerMissing { layer, miss } if self.verbose > 0 || worth_saying(miss) => {
                self.say(&format!("missing {}  {} ({})", layer.key.short(), title(layer), explain::headline(miss)))?;
                explain::details(miss).iter().try_for_each(|line| writeln!(self.out, "             {line}"))
            }
            Event::EngineChosen { engine, reason } => self.say(&format!("engine `{engine}`: {}", harmless(reason))),
            Event::SessionReady { os, elapsed, .. } => {
                self.say(&format!("guest open after {}: {}", duration(*elapsed), harmless(os)))
            }
            Event::LayerAwaited { key, pid } => {
                let who = pid.map_or("another process".to_owned(), |pid| format!("process {pid}"));
                self.say(&format!("waiting for layer {}, which {who} makes", key.short()))
            }
            Event::LayerStarted { layer, image, .. } => {
                let whose = whose(&self.images, *image);
                self.say(&format!("begin   {}  {whose}{}", layer.key.short(), title(layer)))
            }
            Event::Output { key, text } if self.verbose > 0 => self.output(*key, text),
            Event::Progress { what, done, total, unit, worker } => {
                self.progress((*worker, what.clone()), *done, *total, unit)
            }
            Event::Stage { what, .. } => self.say(&format!("  {}", harmless(what))),
            // With its output, the step's log says so.
            Event::MachineBooted { key, restart, elapsed, by, phases, .. } if self.verbose == 0 => {
                let again = if *restart { " again" } else { "" };
                let parts = BootPhase::line(phases);
                self.say(&format!("booted  {}{again} after {}{}: {parts}", key.short(), duration(*elapsed), by.told()))
            }
            Event::Screenshot { name, path, .. } => {
                self.say(&format!("  screenshot {}: {}", harmless(name), path.display()))
            }
            Event::StepFinished { key, elapsed } => {
                self.flush_line(*key)?;
                self.say(&format!("done    {}  in {}", key.short(), duration(*elapsed)))
            }
            Event::LayerSealed { key, bytes } if self.verbose > 0 => {
                self.say(&format!("sealed  {}  {}", key.short(), size(*bytes)))
            }
            Event::LayerFlattened { key, images, bytes, elapsed, waited } if self.verbose > 0 || *waited => {
                let took = duration(*elapsed);
                self.say(&format!("flat    {}  {images} images became 2, {} in {took}", key.short(), size(*bytes)))
            }
            Event::StepFailed { key, .. } | Event::ImportFailed { key, .. } => {
                self.flush_line(*key)?;
                self.say(&format!("failed  {}", key.short()))
            }
            Event::TestStarted { key, name, image, .. } => {
                let whose = whose(&self.images, *image);
                self.say(&format!("test    {}  {whose}{}", key.short(), harmless(name)))
            }
            Event::TestFinished { key, name, image, outcome, seconds, .. } => {
                self.flush_line(*key)?;
                let whose = whose(&self.images, *image);
                let how = match outcome {
                    TestOutcome::Passed => format!("in {}", seconds_text(*seconds)),
                    TestOutcome::Cached => "it had passed before".to_owned(),
                    // That came as a step that failed.
                    TestOutcome::Failed => return Ok(()),
                };
                self.say(&format!("passed  {}  {whose}{}, {how}", key.short(), harmless(name)))
            }
            Event::ExportFailed { path, .. } => self.say(&format!("failed  {}", path.display())),
            Event::ExportStarted { kind, path, .. } => self.say(&format!("export {kind}: {}", path.display())),
            Event::ExportFinished { path, bytes, digest, current, elapsed, .. } => {
                let how = if *current { "unchanged".into() } else { format!("written in {}", duration(*elapsed)) };
                self.say(&format!("{} ({}, {how})\n           sha256:{digest}", path.display(), size(*bytes)))
            }
            Event::Warning { message } => self.say(&format!("warning: {}", harmless(message))),
            Event::Trace { source, message } if self.verbose > 1 => {
                self.say(&format!("{source}: {}", harmless(message)))
            }
            Event::BuildFailed { images, .. } => self.ended(images),
            Event::BuildFinished { built, cached, elapsed, spent, images } => {
                self.ended(images)?;
                let spent = spent_text(spent);
                self.say(&format!("finished in {}: {built} built, {cached} cached ({spent})", duration(*elapsed)))
            }
            Event::StoreCollected { layers, bytes, unmet } => {
                let more = if unmet.is_empty() { String::new() } else { format!("; not met: {}", unmet.join(", ")) };
                self.say(&format!("store: {} collected, {}{more}", count(*layers, "layer"), size(*bytes)))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use virt_maker::key::{Digest, LayerKey};

    use super::*;

    #[test]
    fn a_build_reads_like_this() {
        let key = LayerKey(Digest::of(b"x"));
        let info = LayerInfo {
            volatile: Vec::new(),
            within: Vec::new(),
            key,
            role: "step",
            kind: "run".into(),
            summary: "echo \x1b[31mred".into(),
            index: 2,
            steps: 3,
            position: None,
        };
        let events = [
            Event::LayerStarted { layer: info, session: Some(1), worker: 1, image: 0 },
            Event::Output { key, text: "half ".into() },
            Event::Output { key, text: "a line\n\x07bell\r\n".into() },
            Event::Progress { what: "copy".into(), done: 51, total: Some(100), unit: "bytes", worker: Some(1) },
            Event::Progress { what: "copy".into(), done: 52, total: Some(100), unit: "bytes", worker: Some(1) },
            Event::StepFinished { key, elapsed: Duration::from_millis(1234) },
            Event::ExportFinished {
                kind: "raw".into(),
                path: PathBuf::from("/a/b.img"),
                bytes: 2048,
                digest: Digest::of(b"y"),
                current: true,
                elapsed: Duration::ZERO,
            },
        ];
        let mut out = Vec::new();
        let mut plain = Plain::new(&mut out, 1);
        plain.quiet = Duration::ZERO;
        events.iter().for_each(|event| plain.event(event).unwrap());
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once("] ").map_or(line, |(_, rest)| rest)).collect();
        assert_eq!(
            lines,
            [
                "begin   2d711642b726  2/3 run: echo \\u{1b}[31mred",
                "  | half a line",
                "  | \\u{7}bell",
                "  copy: 50 % of 100 B",
                "done    2d711642b726  in 1.2 s",
                "/a/b.img (2.0 KiB, unchanged)",
                "           sha256:a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa",
            ]
        );
    }
}
