//! Live lines for a person: what is cached at a glance, one moving line for what runs, and a bar for long copies.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use virt_maker::event::Event;
use virt_maker::key::LayerKey;

use super::Report;
use super::plain::{spent_text, title};
use crate::text::{duration, harmless, size};

/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(100);

pub(super) struct Tty {
    screen: MultiProgress,
    verbose: u8,
    running: Option<ProgressBar>,
    bar: Option<(String, ProgressBar)>,
    titles: HashMap<LayerKey, String>,
    cached: usize,
    line: String,
}

impl Tty {
    pub(super) fn new(verbose: u8) -> Tty {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Tty { screen, verbose, running: None, bar: None, titles: HashMap::new(), cached: 0, line: String::new() }
    }

    fn say(&self, text: &str) -> io::Result<()> {
        self.screen.println(text)
    }

    /// Cached layers are one line together, told when the first thing happens after them.
    fn tell_cached(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.cached) {
            0 => Ok(()),
            1 => self.say("\x1b[32m=\x1b[0m 1 layer cached"),
            count => self.say(&format!("\x1b[32m=\x1b[0m {count} layers cached")),
        }
    }

    fn spin(&mut self, text: String) -> ProgressBar {
        let style = ProgressStyle::with_template("{spinner:.cyan} {prefix} {elapsed:.dim} {msg:.dim}");
        let spinner = self.screen.add(ProgressBar::new_spinner());
        spinner.set_style(style.expect("the template is valid"));
        spinner.set_prefix(text);
        spinner.enable_steady_tick(TICK);
        spinner
    }

    fn stop(&mut self) {
        if let Some(spinner) = self.running.take() {
            spinner.finish_and_clear();
        }
        self.end_bar();
        self.line.clear();
    }

    fn end_bar(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn output(&mut self, text: &str) -> io::Result<()> {
        for piece in text.split_inclusive('\n') {
            self.line.push_str(piece);
            if self.line.ends_with('\n') {
                let line = harmless(std::mem::take(&mut self.line).trim_end_matches(['\n', '\r']));
                if self.verbose > 0 {
                    self.say(&format!("  \x1b[2m| {line}\x1b[0m"))?;
                } else if let Some(spinner) = &self.running {
                    spinner.set_message(line);
                }
            }
        }
        Ok(())
    }

    fn progress(&mut self, what: &str, done: u64, total: Option<u64>, unit: &str) {
        if self.bar.as_ref().is_none_or(|(name, _)| name != what) {
            self.end_bar();
            let style = match (total, unit) {
                (None, _) => "  {prefix} {bytes} {binary_bytes_per_sec:.dim}",
                (_, "bytes") => "  {prefix} {wide_bar:.cyan} {bytes}/{total_bytes} {eta:.dim}",
                _ => "  {prefix} {wide_bar:.cyan} {percent} % {eta:.dim}",
            };
            let bar = self.screen.add(ProgressBar::new(total.unwrap_or(0)));
            bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
            bar.set_prefix(what.to_owned());
            self.bar = Some((what.to_owned(), bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(done);
        }
    }
}

impl Report for Tty {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if !matches!(event, Event::LayerCached(_) | Event::BuildStarted { .. }) {
            self.tell_cached()?;
        }
        match event {
            Event::LayerCached(info) => {
                self.cached += 1;
                if self.verbose > 0 {
                    self.say(&format!("\x1b[32m=\x1b[0m {}", title(info)))?;
                }
                Ok(())
            }
            Event::EngineChosen { engine, reason } => self.say(&format!("  engine {engine}: {}", harmless(reason))),
            Event::SessionStarted { engine, .. } => {
                self.stop();
                let spinner = self.spin(format!("opening the guest with {engine}"));
                self.running = Some(spinner);
                Ok(())
            }
            Event::SessionReady { os, elapsed, .. } => {
                self.stop();
                self.say(&format!("  {} open after {}", harmless(os), duration(*elapsed)))
            }
            Event::SessionEnded { .. } => {
                self.stop();
                Ok(())
            }
            Event::LayerAwaited { key, pid } => {
                let who = pid.map_or("another process".to_owned(), |pid| format!("process {pid}"));
                self.say(&format!("  waiting for layer {}, which {who} makes", key.short()))
            }
            Event::LayerStarted(info) => {
                self.stop();
                let title = title(info);
                self.titles.insert(info.key, title.clone());
                let spinner = self.spin(title);
                self.running = Some(spinner);
                Ok(())
            }
            Event::Output { text, .. } => self.output(text),
            Event::Progress { what, done, total, unit } => {
                self.progress(what, *done, *total, unit);
                Ok(())
            }
            Event::StepFinished { key, elapsed } => {
                self.stop();
                let title = self.titles.get(key).cloned().unwrap_or_default();
                self.say(&format!("\x1b[32m✓\x1b[0m {title} \x1b[2m{}\x1b[0m", duration(*elapsed)))
            }
            Event::StepFailed { key, .. } => {
                self.stop();
                let title = self.titles.get(key).cloned().unwrap_or_default();
                self.say(&format!("\x1b[31m✗\x1b[0m {title}"))
            }
            Event::ExportStarted { kind, path } => {
                self.stop();
                let spinner = self.spin(format!("export {kind}: {}", path.display()));
                self.running = Some(spinner);
                Ok(())
            }
            Event::ExportFinished { path, bytes, digest, current, elapsed, .. } => {
                self.stop();
                let how = if *current { "unchanged".into() } else { duration(*elapsed) };
                self.say(&format!("\x1b[32m✓\x1b[0m {} \x1b[2m{}, {how}\x1b[0m", path.display(), size(*bytes)))?;
                self.say(&format!("  \x1b[2msha256:{digest}\x1b[0m"))
            }
            Event::Warning { message } => self.say(&format!("\x1b[33mwarning:\x1b[0m {}", harmless(message))),
            Event::Trace { source, message } if self.verbose > 1 => {
                self.say(&format!("  \x1b[2m{source}: {}\x1b[0m", harmless(message)))
            }
            Event::BuildFinished { built, cached, elapsed, spent } => {
                self.stop();
                self.say(&format!("finished in {}: {built} built, {cached} cached", duration(*elapsed)))?;
                let spent = spent_text(spent);
                if spent.is_empty() { Ok(()) } else { self.say(&format!("  \x1b[2m{spent}\x1b[0m")) }
            }
            Event::StoreCollected { layers, bytes, unmet } => {
                let more = if unmet.is_empty() { String::new() } else { format!("; not met: {}", unmet.join(", ")) };
                self.say(&format!("  store: {layers} layers collected, {}{more}", size(*bytes)))
            }
            Event::BuildFailed { .. } => {
                self.stop();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self) {
        self.stop();
    }
}
