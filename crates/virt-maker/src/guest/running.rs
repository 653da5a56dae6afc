//! What may be done to a guest that has booted, besides what may be done to every guest.

use std::time::Duration;

use super::{Exit, Guest, Run};
use crate::error::Result;

/// A machine in which a guest has booted.
pub trait Running {
    /// The guest. What is done to it is done to the running system.
    fn guest(&mut self) -> &mut dyn Guest;

    /// Runs a program, and gives what it wrote, which gets into no log.
    fn ask(&mut self, run: &Run) -> Result<(Exit, Vec<u8>)>;

    /// Connects to a TCP port of the machine itself, says a text, and gives what is answered until the other side closes.
    fn talk(&mut self, port: u16, text: &str) -> Result<Vec<u8>>;

    /// What the guest wrote to its serial console: the last mebibyte of it, as it is.
    fn console(&self) -> String;

    /// Has the guest restart, and waits until it has booted again.
    fn restart(&mut self) -> Result<()>;

    /// Names of the units of systemd that have failed, as data of the guest; none where it has no systemd.
    fn failed_units(&mut self) -> Result<Vec<String>> {
        let script = "systemctl list-units --failed --plain --no-legend | cut -d' ' -f1";
        let (_, said) =
            self.ask(&Run { script: Some(script.into()), shell: vec!["/bin/sh".into()], ..Run::default() })?;
        Ok(String::from_utf8_lossy(&said).split_whitespace().map(str::to_owned).collect())
    }

    /// How much longer everything takes than on a machine that is not emulated.
    fn slowness(&self) -> u32;

    /// Waits a little, and looks whether anything went wrong meanwhile: the machine may have ended, or its kernel.
    fn pause(&mut self, time: Duration) -> Result<()>;
}
