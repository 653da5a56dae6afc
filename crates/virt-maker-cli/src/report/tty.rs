//! Live lines for a person: what is cached at a glance, one moving line for each thing that runs, a bar for each long copy.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use virt_maker::event::{Event, ImageName};
use virt_maker::key::LayerKey;

use super::Report;
use super::plain::{spent_text, summary, title, whose, worth_saying};
use crate::explain;
use crate::text::{duration, harmless, size};

/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(100);

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
    /// Output that is not a whole line yet.
    output: String,
}

pub(super) struct Tty {
    screen: MultiProgress,
    verbose: u8,
    running: HashMap<Running, Line>,
    /// By worker and name.
    bars: HashMap<(Option<u32>, String), ProgressBar>,
    titles: HashMap<LayerKey, String>,
    images: Vec<ImageName>,
    cached: usize,
}

impl Tty {
    pub(super) fn new(verbose: u8) -> Tty {
        Tty {
            screen: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            verbose,
            running: HashMap::new(),
            bars: HashMap::new(),
            titles: HashMap::new(),
            images: Vec::new(),
            cached: 0,
        }
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

    fn spin(&mut self, what: Running, session: Option<u32>, text: String) {
        let style = ProgressStyle::with_template("{spinner:.cyan} {prefix} {elapsed:.dim} {msg:.dim}");
        let spinner = self.screen.add(ProgressBar::new_spinner());
        spinner.set_style(style.expect("the template is valid"));
        spinner.set_prefix(text);
        spinner.enable_steady_tick(TICK);
        if let Some(old) = self.running.insert(what, Line { spinner, session, output: String::new() }) {
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
        let screen = &self.screen;
        let bar = self.bars.entry((worker, what.to_owned())).or_insert_with(|| {
            let style = match (total, unit) {
                (None, _) => "  {prefix} {bytes} {binary_bytes_per_sec:.dim}",
                (_, "bytes") => "  {prefix} {wide_bar:.cyan} {bytes}/{total_bytes} {eta:.dim}",
                _ => "  {prefix} {wide_bar:.cyan} {percent} % {eta:.dim}",
            };
            let bar = screen.add(ProgressBar::new(total.unwrap_or(0)));
            bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
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
                self.spin(Running::Session(*session), Some(*session), format!("opening the guest with {engine}"));
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
                self.spin(Running::Layer(layer.key), *session, title);
                Ok(())
            }
            Event::Output { key, text } => self.output(*key, text),
            Event::Progress { what, done, total, unit, worker } => {
                self.progress(what, *done, *total, unit, *worker);
                Ok(())
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
            Event::ExportStarted { kind, path, worker } => {
                self.end_bars(*worker);
                self.spin(Running::Export(path.clone()), None, format!("export {kind}: {}", path.display()));
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
                self.say(&format!("  store: {layers} layers collected, {}{more}", size(*bytes)))
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
        Ok(())
    }
}
