//! What may be done to a guest that has booted, besides what may be done to every guest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keyboard::Chord;
use super::{Exit, Guest, Run};
use crate::error::{Error, Result};

/// With what a script of ours ends where no systemd runs.
const NO_SYSTEMD: i32 = 77;

/// A machine that runs. Where no agent of ours is in the guest (an installer that was booted from a CD), what needs one is an error.
pub trait Running {
    /// The guest. What is done to it is done to the running system.
    fn guest(&mut self) -> &mut dyn Guest;

    /// Runs a program, and gives what it wrote, which gets into no log.
    fn ask(&mut self, run: &Run) -> Result<(Exit, Vec<u8>)>;

    /// Connects to a TCP port of the machine itself, says a text, and gives what is answered until the other side closes.
    fn talk(&mut self, port: u16, text: &str) -> Result<Vec<u8>>;

    /// What is asked from now on has to be answered within this time, and a moment; without one, within minutes. A guest that does not is
    /// ended.
    fn answers_within(&mut self, limit: Option<Duration>);

    /// What the guest wrote to its serial console: the last mebibyte of it, as it is.
    fn console(&self) -> String;

    /// What is on its screen: exact where that is in text mode, else what the host's program reads in the picture. An error of kind
    /// `Host` where there is no such program.
    fn screen(&mut self) -> Result<String>;

    /// Saves what is on its screen as a picture, PNG, to a path that does not exist yet.
    fn picture(&mut self, path: &Path) -> Result<()>;

    /// Saves such a picture beside the log of the step, under a name of its own; says where it will lie.
    fn screenshot(&mut self, name: &str) -> Result<PathBuf>;

    /// Presses keys, one combination after the other, with a pause after each.
    fn press(&mut self, keys: &[Chord], pause: Duration) -> Result<()>;

    /// Moves the pointer to a place on the screen, in pixels from its upper left corner, and clicks a button there, by QEMU's name. An
    /// error of kind `Step` where that is not on the screen.
    fn click(&mut self, place: (u32, u32), button: &str) -> Result<()>;

    /// The place in the middle of a text on its screen, in pixels; nothing where it is not there.
    fn find_on_screen(&mut self, text: &str) -> Result<Option<(u32, u32)>>;

    /// An error that says `what`, with what was on the console and on the screen last, which are kept.
    fn trouble(&mut self, what: String) -> Error;

    /// How long the last boot took, from the start of the machine, or its reset, until the system had booted; nothing where no agent
    /// tells that.
    fn booted_after(&self) -> Option<Duration>;

    /// Has the guest restart, and waits until it has booted again.
    fn restart(&mut self) -> Result<()>;

    /// Asks systemd by a script of a shell, with an argument; nothing where systemd is not what the guest runs by.
    fn ask_systemd(&mut self, script: &str, argument: &str) -> Result<Option<String>> {
        let script = format!("[ -d /run/systemd/system ] || exit {NO_SYSTEMD}\n{script}");
        let (argv, shell) = (vec![argument.to_owned()], vec!["/bin/sh".to_owned()]);
        let (ended, said) = self.ask(&Run { script: Some(script), shell, argv, ..Run::default() })?;
        Ok((ended != Exit::Status(NO_SYSTEMD)).then(|| String::from_utf8_lossy(&said).into_owned()))
    }

    /// Names of the units of systemd that have failed, as data of the guest; nothing where systemd is not what it runs by.
    fn failed_units(&mut self) -> Result<Option<Vec<String>>> {
        let said = self.ask_systemd("systemctl list-units --failed --plain --no-legend | cut -d' ' -f1", "")?;
        Ok(said.map(|said| said.split_whitespace().map(str::to_owned).collect()))
    }

    /// How much longer everything takes than on a machine that is not emulated.
    fn slowness(&self) -> u32;

    /// Waits a little, and looks whether anything went wrong meanwhile: the machine may have ended, or its kernel.
    fn pause(&mut self, time: Duration) -> Result<()>;
}
