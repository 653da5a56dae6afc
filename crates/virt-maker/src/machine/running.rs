//! What steps do to a machine that runs: what its guest is asked, its screen, its keyboard and its pointer.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::reading::Word;
use super::watch::{Deadline, LOOK};
use super::{EMULATED, Machine, reading, screen};
use crate::engine::Session;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::keyboard::Chord;
use crate::guest::running::Running;
use crate::guest::{Exit, Guest, Run};
use crate::host::durable;

/// How far the pointer goes in each direction, in the units of its device.
const FAR: u64 = 0x7fff;
/// How long a service of the guest may take to answer, where nothing has to hold before.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a button is held.
const HELD: Duration = Duration::from_millis(100);

/// A picture that was read last, with what was in it: a screen that stands still is read once.
#[derive(Default)]
pub(super) struct Seen {
    picture: Vec<u8>,
    words: Vec<Word>,
}

impl Running for Machine {
    fn guest(&mut self) -> &mut dyn Guest {
        Session::guest(self)
    }

    fn ask(&mut self, run: &Run) -> Result<(Exit, Vec<u8>)> {
        let patience = self.patience();
        self.agent()?.ask(run, patience)
    }

    fn talk(&mut self, port: u16, text: &str) -> Result<Vec<u8>> {
        let patience = self.patience();
        // A service that goes on for ever has answered by the deadline.
        let left = self.answer_by.map_or(ANSWER, |deadline| deadline.left()).min(ANSWER);
        self.agent()?.talk(port, text, left.as_secs().max(1), patience)
    }

    fn answers_within(&mut self, limit: Option<Duration>) {
        self.answer_by = limit.map(Deadline::after);
    }

    fn console(&self) -> String {
        self.console.text()
    }

    fn screen(&mut self) -> Result<String> {
        match screen::text(self.graph.qmp(), &self.work_dir)? {
            Some(text) => Ok(text),
            None => self.read_picture().map(reading::text),
        }
    }

    fn picture(&mut self, path: &Path) -> Result<()> {
        screen::picture(self.graph.qmp(), path)
    }

    fn screenshot(&mut self, name: &str) -> Result<PathBuf> {
        let file = format!("{}{name}.png", self.pictures.prefix);
        let path = self.pictures.folder.join(&file);
        screen::picture(self.graph.qmp(), &path)?;
        durable::sync_file(&path).context(ErrorKind::Store, || format!("cannot write {}", path.display()))?;
        Ok(self.pictures.later.join(file))
    }

    fn press(&mut self, keys: &[Chord], pause: Duration) -> Result<()> {
        for (number, Chord(pressed)) in keys.iter().enumerate() {
            // Down and up in one command: a machine that is slow would take a key that is held for one that repeats.
            let downs = pressed.iter().map(|key| event(key, true));
            let events: Vec<Value> = downs.chain(pressed.iter().rev().map(|key| event(key, false))).collect();
            self.graph.qmp().execute("input-send-event", json!({"events": events}))?;
            // The keyboard's queue has 16 bytes, and drops what does not fit.
            match number + 1 == keys.len() {
                // The last one may be the one that ends the machine.
                true => std::thread::sleep(pause),
                false => Running::pause(self, pause)?,
            }
        }
        Ok(())
    }

    fn click(&mut self, (x, y): (u32, u32), button: &str) -> Result<()> {
        let (width, height) = screen::size(&self.picture_bytes()?)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "qemu made a picture that is none"))?;
        if x >= width || y >= height {
            let message = format!("the screen has {width} by {height} pixels, and {x}, {y} is none of them");
            return Err(Error::new(ErrorKind::Step, message));
        }
        let scaled = |place: u32, size: u32| u64::from(place) * FAR / u64::from(size.max(2) - 1);
        let axis = |name: &str, value: u64| json!({"type": "abs", "data": {"axis": name, "value": value}});
        let moved = json!({"events": [axis("x", scaled(x, width)), axis("y", scaled(y, height))]});
        self.graph.qmp().execute("input-send-event", moved)?;
        for down in [true, false] {
            Running::pause(self, HELD)?;
            let event = json!({"type": "btn", "data": {"button": button, "down": down}});
            self.graph.qmp().execute("input-send-event", json!({"events": [event]}))?;
        }
        Ok(())
    }

    fn find_on_screen(&mut self, text: &str) -> Result<Option<(u32, u32)>> {
        self.read_picture().map(|words| reading::place(words, text))
    }

    fn trouble(&mut self, what: String) -> Error {
        Machine::trouble(self, what)
    }

    fn restart(&mut self) -> Result<()> {
        let done = self.reboot();
        self.answer_by = None;
        done
    }

    fn booted_after(&self) -> Option<Duration> {
        self.booted
    }

    fn slowness(&self) -> u32 {
        if self.emulated { EMULATED } else { 1 }
    }

    fn pause(&mut self, time: Duration) -> Result<()> {
        self.cancel.check()?;
        std::thread::sleep(time);
        self.check_power()?;
        if let Some(deadline) = self.deadline.filter(Deadline::has_passed) {
            return Err(self.too_late(&deadline));
        }
        // Where no agent is there to say how the guest is, its screen tells.
        if self.fresh && self.looked.elapsed() >= LOOK {
            self.check_screen()?;
            self.looked = Instant::now();
        }
        Ok(())
    }
}

impl Machine {
    /// What is in the picture of the screen.
    fn read_picture(&mut self) -> Result<&[Word]> {
        let picture = self.picture_bytes()?;
        if picture != self.seen.picture {
            let path = self.work_dir.join("screen.png");
            fs::write(&path, &picture).context(ErrorKind::Store, || "cannot keep a picture of the screen")?;
            self.seen = Seen { words: reading::words(&path, &self.cancel)?, picture };
        }
        Ok(&self.seen.words)
    }

    /// The picture of the screen, PNG.
    fn picture_bytes(&mut self) -> Result<Vec<u8>> {
        let path = self.work_dir.join("screen.png");
        screen::picture(self.graph.qmp(), &path)?;
        fs::read(&path).context(ErrorKind::Store, || "cannot read qemu's picture of the screen")
    }

    /// What is on the screen, for a message: as it is, or as far as it can be read here; nothing where it cannot.
    pub(super) fn shown(&mut self) -> (&'static str, String) {
        match screen::text(self.graph.qmp(), &self.work_dir) {
            Ok(Some(text)) => ("on its screen", text),
            Ok(None) if reading::is_there() => {
                ("in the picture of its screen", self.read_picture().map(reading::text).unwrap_or_default())
            }
            _ => ("on its screen", String::new()),
        }
    }
}

fn event(key: &str, down: bool) -> Value {
    json!({"type": "key", "data": {"key": {"type": "qcode", "data": key}, "down": down}})
}
