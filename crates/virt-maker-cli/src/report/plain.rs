//! A line for each thing that happens, with the time since the start: for logs and CI.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use virt_maker::event::{Event, LayerInfo};

use super::Report;
use crate::text::{duration, harmless, size};

pub(super) struct Plain<W> {
    out: W,
    verbose: u8,
    begin: Instant,
    /// What is under way, and how many tenths of it were told.
    told: (String, u64),
    /// Output of a step that is not a whole line yet.
    line: String,
}

impl<W: Write + Send> Plain<W> {
    pub(super) fn new(out: W, verbose: u8) -> Self {
        Plain { out, verbose, begin: Instant::now(), told: (String::new(), 0), line: String::new() }
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        let elapsed = self.begin.elapsed().as_secs_f64();
        writeln!(self.out, "[{elapsed:8.3}] {text}")
    }

    fn output(&mut self, text: &str) -> io::Result<()> {
        for piece in text.split_inclusive('\n') {
            self.line.push_str(piece);
            if self.line.ends_with('\n') {
                self.flush_line()?;
            }
        }
        Ok(())
    }

    fn flush_line(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            Ok(())
        } else {
            self.say(&format!("  | {}", harmless(line.trim_end_matches(['\n', '\r']))))
        }
    }

    fn progress(&mut self, what: &str, done: u64, total: Option<u64>, unit: &str) -> io::Result<()> {
        let Some(total) = total.filter(|total| *total > 0) else { return Ok(()) };
        let tenths = (u128::from(done) * 10 / u128::from(total)) as u64;
        if self.told.0 != what {
            self.told = (what.to_owned(), 0);
        }
        if tenths <= self.told.1 {
            return Ok(());
        }
        self.told.1 = tenths;
        let of = if unit == "bytes" { format!(" of {}", size(total)) } else { String::new() };
        self.say(&format!("  {what}: {} %{of}", tenths * 10))
    }
}

/// What a layer is, in one line.
pub(super) fn title(info: &LayerInfo) -> String {
    let place = if info.index == 0 { "base".to_owned() } else { format!("{}/{}", info.index, info.steps) };
    format!("{place} {}: {}", info.kind, harmless(&info.summary))
}

/// Where the time went, the largest part first; parts below a hundredth are left out.
pub(super) fn spent_text(spent: &[(String, f64)]) -> String {
    let whole: f64 = spent.iter().map(|(_, seconds)| seconds).sum();
    let mut parts: Vec<_> = spent.iter().filter(|(_, seconds)| *seconds > whole / 100.0).collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let text = |(name, seconds): &&(String, f64)| {
        format!("{name} {}", duration(Duration::try_from_secs_f64(*seconds).unwrap_or_default()))
    };
    parts.iter().map(text).collect::<Vec<_>>().join(", ")
}

impl<W: Write + Send> Report for Plain<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::BuildStarted { layers, cached, .. } => self.say(&format!("{layers} layers, {cached} cached")),
            Event::LayerCached(info) => self.say(&format!("cached  {}  {}", info.key.short(), title(info))),
            Event::EngineChosen { engine, reason } => self.say(&format!("engine `{engine}`: {}", harmless(reason))),
            Event::SessionReady { os, elapsed, .. } => {
                self.say(&format!("guest open after {}: {}", duration(*elapsed), harmless(os)))
            }
            Event::LayerAwaited { key, pid } => {
                let who = pid.map_or("another process".to_owned(), |pid| format!("process {pid}"));
                self.say(&format!("waiting for layer {}, which {who} makes", key.short()))
            }
            Event::LayerStarted(info) => self.say(&format!("begin   {}  {}", info.key.short(), title(info))),
            Event::Output { text, .. } if self.verbose > 0 => self.output(text),
            Event::Progress { what, done, total, unit } => self.progress(what, *done, *total, unit),
            Event::StepFinished { key, elapsed } => {
                self.flush_line()?;
                self.say(&format!("done    {}  in {}", key.short(), duration(*elapsed)))
            }
            Event::LayerSealed { key, bytes } if self.verbose > 0 => {
                self.say(&format!("sealed  {}  {}", key.short(), size(*bytes)))
            }
            Event::StepFailed { key, .. } => {
                self.flush_line()?;
                self.say(&format!("failed  {}", key.short()))
            }
            Event::ExportStarted { kind, path } => self.say(&format!("export {kind}: {}", path.display())),
            Event::ExportFinished { path, bytes, digest, current, elapsed, .. } => {
                let how = if *current { "unchanged".into() } else { format!("written in {}", duration(*elapsed)) };
                self.say(&format!("{} ({}, {how})\n           sha256:{digest}", path.display(), size(*bytes)))
            }
            Event::Warning { message } => self.say(&format!("warning: {}", harmless(message))),
            Event::Trace { source, message } if self.verbose > 1 => {
                self.say(&format!("{source}: {}", harmless(message)))
            }
            Event::BuildFinished { built, cached, elapsed, spent } => {
                let spent = spent_text(spent);
                self.say(&format!("finished in {}: {built} built, {cached} cached ({spent})", duration(*elapsed)))
            }
            Event::StoreCollected { layers, bytes, unmet } => {
                let more = if unmet.is_empty() { String::new() } else { format!("; not met: {}", unmet.join(", ")) };
                self.say(&format!("store: {layers} layers collected, {}{more}", size(*bytes)))
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
            key,
            role: "step",
            kind: "run".into(),
            summary: "echo \x1b[31mred".into(),
            index: 2,
            steps: 3,
            position: None,
        };
        let events = [
            Event::LayerStarted(info),
            Event::Output { key, text: "half ".into() },
            Event::Output { key, text: "a line\n\x07bell\r\n".into() },
            Event::Progress { what: "copy".into(), done: 51, total: Some(100), unit: "bytes" },
            Event::Progress { what: "copy".into(), done: 52, total: Some(100), unit: "bytes" },
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
