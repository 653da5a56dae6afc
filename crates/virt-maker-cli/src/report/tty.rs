//! Live lines for a person: what is cached at a glance, one moving line for each thing that runs, a bar for each long copy.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use virt_maker::event::{BootPhase, Event, ImageName, TestOutcome};
use virt_maker::key::LayerKey;

use super::Report;
use super::plain::{seconds_text, spent_text, summary, title, whose, worth_saying};
use super::screen::Screen;
use crate::explain;
use crate::text::{count, duration, harmless, size};

/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(100);
/// How often lines are drawn in a second, at most.
const HERTZ: u8 = 20;

/// Something that runs and has a moving line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Running {
    Session(u32),
    Layer(LayerKey),
    Export(PathBuf),
}

/// A moving line.
struct Line {
    spinner: ProgressBar,
    /// The session that it goes with.
    session: Option<u32>,
    /// The worker that does it.
    worker: Option<u32>,
    /// Output that is not a whole line yet.
    output: String,
}

pub(super) struct Tty {
    screen: MultiProgress,
    terminal: Screen,
    /// Whether colours are wanted; what moves does so without them too.
    colours: bool,
    verbose: u8,
    running: HashMap<Running, Line>,
    /// By worker and name.
    bars: HashMap<(Option<u32>, String), ProgressBar>,
    titles: HashMap<LayerKey, String>,
    images: Vec<ImageName>,
    cached: usize,
}

impl Tty {
    pub(super) fn new(verbose: u8, colours: bool) -> Tty {
        let terminal = Screen::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), HERTZ);
        Tty {
            screen: MultiProgress::with_draw_target(target),
            terminal,
            colours,
            verbose,
            running: HashMap::new(),
            bars: HashMap::new(),
            titles: HashMap::new(),
            images: Vec::new(),
            cached: 0,
        }
    }

    fn say(&self, text: &str) -> io::Result<()> {
        match self.colours {
            true => self.screen.println(text),
            false => self.screen.println(without_colours(text)),
        }
    }

    /// A template of indicatif, without its colours where none are wanted.
    fn style(&self, template: &str) -> ProgressStyle {
        let plain;
        let template = match self.colours {
            true => template,
            false => {
                plain = template.replace(".cyan", "").replace(".dim", "").replace(":}", "}");
                &plain
            }
        };
        ProgressStyle::with_template(template).expect("the template is valid")
    }

    /// Cached layers are one line together, told when the first thing happens after them.
    fn tell_cached(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.cached) {
            0 => Ok(()),
            cached => self.say(&format!("\x1b[32m=\x1b[0m {} cached", count(cached, "layer"))),
        }
    }

    fn spin(&mut self, what: Running, session: Option<u32>, worker: u32, text: String) {
        let spinner = self.screen.add(ProgressBar::new_spinner());
        // Cut where the terminal ends: a line that is broken leaves a part of itself behind.
        spinner.set_style(self.style("{spinner:.cyan} {prefix} {elapsed:.dim} {wide_msg:.dim}"));
        spinner.set_prefix(fitting(&text));
        spinner.enable_steady_tick(TICK);
        if let Some(old) =
            self.running.insert(what, Line { spinner, session, worker: Some(worker), output: String::new() })
        {
            old.spinner.finish_and_clear();
        }
    }

    fn stop(&mut self, what: &Running) {
        if let Some(line) = self.running.remove(what) {
            line.spinner.finish_and_clear();
        }
    }

    /// Takes away the lines of a session that ended: a step that was interrupted has no end of its own.
    fn stop_session(&mut self, session: u32) {
        self.running.retain(|_, line| {
            let stays = line.session != Some(session);
            if !stays {
                line.spinner.finish_and_clear();
            }
            stays
        });
    }

    fn stop_all(&mut self) {
        self.running.drain().for_each(|(_, line)| line.spinner.finish_and_clear());
        self.bars.drain().for_each(|(_, bar)| bar.finish_and_clear());
    }

    fn end_bars(&mut self, worker: u32) {
        self.bars.retain(|(whose, _), bar| {
            let stays = *whose != Some(worker);
            if !stays {
                bar.finish_and_clear();
            }
            stays
        });
    }

    fn output(&mut self, key: LayerKey, text: &str) -> io::Result<()> {
        let mut whole = Vec::new();
        if let Some(line) = self.running.get_mut(&Running::Layer(key)) {
            for piece in text.split_inclusive('\n') {
                line.output.push_str(piece);
                if line.output.ends_with('\n') {
                    whole.push(harmless(std::mem::take(&mut line.output).trim_end_matches(['\n', '\r'])));
                }
            }
            if let (Some(last), 0) = (whole.last(), self.verbose) {
                line.spinner.set_message(last.clone());
            }
        }
        if self.verbose > 0 {
            // Of several images, lines of several steps come in turn.
            let whose = if self.images.len() > 1 { key.short() } else { String::new() };
            whole.iter().try_for_each(|line| self.say(&format!("  \x1b[2m{whose}| {line}\x1b[0m")))?;
        }
        Ok(())
    }

    fn progress(&mut self, what: &str, done: u64, total: Option<u64>, unit: &str, worker: Option<u32>) {
        // One worker does one thing at a time.
        self.bars.retain(|(whose, name), bar| {
            let stays = *whose != worker || name == what;
            if !stays {
                bar.finish_and_clear();
            }
            stays
        });
        let style = match (total, unit) {
            (None, _) => "  {prefix} {bytes} {binary_bytes_per_sec:.dim}",
            (_, "bytes") => "  {prefix} {wide_bar:.cyan} {bytes}/{total_bytes} {eta:.dim}",
            _ => "  {prefix} {wide_bar:.cyan} {percent} % {eta:.dim}",
        };
        let (screen, style) = (&self.screen, self.style(style));
        let bar = self.bars.entry((worker, what.to_owned())).or_insert_with(|| {
            let bar = screen.add(ProgressBar::new(total.unwrap_or(0)));
            bar.set_style(style);
            bar.set_prefix(what.to_owned());
            bar
        });
        bar.set_position(done);
        if total == Some(done) {
            bar.finish_and_clear();
            self.bars.remove(&(worker, what.to_owned()));
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
            Event::LayerMissing { layer, miss } if self.verbose > 0 || worth_saying(miss) => {
                self.say(&format!("\x1b[33m≠\x1b[0m {} \x1b[2m({})\x1b[0m", title(layer), explain::headline(miss)))?;
                explain::details(miss).iter().try_for_each(|line| self.say(&format!("    \x1b[2m{line}\x1b[0m")))
            }
            Event::EngineChosen { engine, reason } => self.say(&format!("  engine {engine}: {}", harmless(reason))),
            Event::BuildStarted { images, .. } => {
                self.images = images.clone();
                Ok(())
            }
            Event::SessionStarted { session, engine, worker, .. } => {
                self.end_bars(*worker);
                self.spin(
                    Running::Session(*session),
                    Some(*session),
                    *worker,
                    format!("opening the guest with {engine}"),
                );
                Ok(())
            }
            Event::SessionReady { session, os, elapsed } => {
                self.stop(&Running::Session(*session));
                self.say(&format!("  {} open after {}", harmless(os), duration(*elapsed)))
            }
            Event::SessionEnded { session } => {
                self.stop_session(*session);
                Ok(())
            }
            Event::LayerAwaited { key, pid } => {
                let who = pid.map_or("another process".to_owned(), |pid| format!("process {pid}"));
                self.say(&format!("  waiting for layer {}, which {who} makes", key.short()))
            }
            Event::LayerStarted { layer, session, worker, image } => {
                self.end_bars(*worker);
                let title = format!("{}{}", whose(&self.images, *image), title(layer));
                self.titles.insert(layer.key, title.clone());
                self.spin(Running::Layer(layer.key), *session, *worker, title);
                Ok(())
            }
            Event::Output { key, text } => self.output(*key, text),
            Event::Progress { what, done, total, unit, worker } => {
                self.progress(what, *done, *total, unit, *worker);
                Ok(())
            }
            // What the worker does at this moment says it on its line.
            Event::Stage { what, worker } | Event::ConsoleLine { text: what, worker } => {
                let lines = self.running.values().filter(|line| worker.is_none() || line.worker == *worker);
                lines.for_each(|line| line.spinner.set_message(harmless(what)));
                Ok(())
            }
            // With its output, the step's log says so.
            Event::MachineBooted { restart, elapsed, by, phases, .. } if self.verbose == 0 => {
                let again = if *restart { " again" } else { "" };
                let parts = BootPhase::line(phases);
                self.say(&format!("  \x1b[2mbooted{again} after {}{}: {parts}\x1b[0m", duration(*elapsed), by.told()))
            }
            Event::Screenshot { name, path, .. } => {
                self.say(&format!("  \x1b[2mscreenshot {}: {}\x1b[0m", harmless(name), path.display()))
            }
            Event::StepFinished { key, elapsed } => {
                self.stop(&Running::Layer(*key));
                let title = self.titles.get(key).cloned().unwrap_or_default();
                self.say(&format!("\x1b[32m✓\x1b[0m {title} \x1b[2m{}\x1b[0m", duration(*elapsed)))
            }
            Event::StepFailed { key, .. } | Event::ImportFailed { key, .. } => {
                self.stop(&Running::Layer(*key));
                let title = self.titles.get(key).cloned().unwrap_or_default();
                self.say(&format!("\x1b[31m✗\x1b[0m {title}"))
            }
            Event::TestStarted { key, name, image, worker, .. } => {
                self.end_bars(*worker);
                let title = format!("{}test: {}", whose(&self.images, *image), harmless(name));
                self.titles.insert(*key, title.clone());
                self.spin(Running::Layer(*key), None, *worker, title);
                Ok(())
            }
            Event::TestFinished { key, name, image, outcome, seconds, .. } => {
                self.stop(&Running::Layer(*key));
                let how = match outcome {
                    TestOutcome::Passed => seconds_text(*seconds),
                    TestOutcome::Cached => "it had passed before".to_owned(),
                    // That came as a step that failed.
                    TestOutcome::Failed => return Ok(()),
                };
                let whose = whose(&self.images, *image);
                self.say(&format!("\x1b[32m✓\x1b[0m {whose}test: {} \x1b[2m{how}\x1b[0m", harmless(name)))
            }
            Event::ExportStarted { kind, path, worker } => {
                self.end_bars(*worker);
                self.spin(Running::Export(path.clone()), None, *worker, format!("export {kind}: {}", path.display()));
                Ok(())
            }
            Event::ExportFailed { path, .. } => {
                self.stop(&Running::Export(path.clone()));
                self.say(&format!("\x1b[31m✗\x1b[0m {}", path.display()))
            }
            Event::ExportFinished { path, bytes, digest, current, elapsed, .. } => {
                self.stop(&Running::Export(path.clone()));
                let how = if *current { "unchanged".into() } else { duration(*elapsed) };
                self.say(&format!("\x1b[32m✓\x1b[0m {} \x1b[2m{}, {how}\x1b[0m", path.display(), size(*bytes)))?;
                self.say(&format!("  \x1b[2msha256:{digest}\x1b[0m"))
            }
            Event::Warning { message } => self.say(&format!("\x1b[33mwarning:\x1b[0m {}", harmless(message))),
            Event::Trace { source, message } if self.verbose > 1 => {
                self.say(&format!("  \x1b[2m{source}: {}\x1b[0m", harmless(message)))
            }
            Event::BuildFinished { built, cached, elapsed, spent, images } => {
                self.stop_all();
                summary(images).iter().try_for_each(|line| self.say(line))?;
                self.say(&format!("finished in {}: {built} built, {cached} cached", duration(*elapsed)))?;
                let spent = spent_text(spent);
                if spent.is_empty() { Ok(()) } else { self.say(&format!("  \x1b[2m{spent}\x1b[0m")) }
            }
            Event::LayerFlattened { key, images, elapsed, waited: true, .. } => {
                let took = duration(*elapsed);
                self.say(&format!("  layer {}: a chain of {images} images became one of 2 in {took}", key.short()))
            }
            Event::StoreCollected { layers, bytes, unmet } => {
                let more = if unmet.is_empty() { String::new() } else { format!("; not met: {}", unmet.join(", ")) };
                self.say(&format!("  store: {} collected, {}{more}", count(*layers, "layer"), size(*bytes)))
            }
            Event::BuildFailed { images, .. } => {
                self.stop_all();
                summary(images).iter().try_for_each(|line| self.say(line))
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.stop_all();
        self.terminal.end()
    }
}

/// How many columns a title may have. A longer one is shown whole in the line that stays when its step has ended.
const TITLE_SHARE: usize = 3;

/// A title in three quarters of the terminal's width, cut where it is longer: a moving line must be one line.
fn fitting(text: &str) -> String {
    let width = console_width() * TITLE_SHARE / 4;
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn console_width() -> usize {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stderr());
    size.map_or(80, |size| usize::from(size.ws_col)).max(20)
}

/// A text without the sequences that set colours; there are no others in what is said here.
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_and_all_else_stays() {
        assert_eq!(without_colours("\x1b[32m✓\x1b[0m 1/2 run: ls \x1b[2m3 ms\x1b[0m"), "✓ 1/2 run: ls 3 ms");
        let tty = Tty::new(0, false);
        // Each of them is valid without its colours as well.
        for template in [
            "{spinner:.cyan} {prefix} {elapsed:.dim} {wide_msg:.dim}",
            "  {prefix} {wide_bar:.cyan} {percent} % {eta:.dim}",
        ] {
            tty.style(template);
        }
    }

    #[test]
    fn a_title_is_one_line() {
        let title = fitting(&"x".repeat(1000));
        assert!(title.chars().count() < console_width() && title.ends_with('…'));
        assert_eq!(fitting("1/2 run: ls"), "1/2 run: ls");
    }
}
