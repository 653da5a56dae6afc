//! Commands: a job is handed to the appliance's shell, its output comes live, and the answer says how it ended.
//!
//! Small jobs go with the call, larger ones (a shell's argument may have 128 KiB) and, so that no log shows them, those of
//! verbose sessions are uploaded.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use virt_maker_agent::machine::{KERNEL, newest_kernel};
use virt_maker_agent::protocol::{Exit, Run};

use super::job::{job, parse_answer, split_notes};
use super::session::LibguestfsSession;
use super::shell::HERE;
use super::terminal;
use super::upload::upload;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::Guest as _;
use crate::host::random;

/// Jobs up to this many bytes go with the call.
const INLINE: usize = 96 * 1024;

impl LibguestfsSession {
    /// See [`Run`]. With `terminal`, the command talks to this process's terminal.
    pub(super) fn run_command(&mut self, run: &Run) -> Result<Exit> {
        self.appliance.cancel.check()?;
        if run.privileged {
            return Err(Error::new(ErrorKind::Unsupported, "this engine has no commands with all rights"));
        }
        if !self.disk_shown {
            self.show_disk()?;
            self.disk_shown = true;
        }
        let token = random::id()?;
        // What the step says itself goes before.
        let mut env = if run.network { self.network_env.clone() } else { BTreeMap::new() };
        env.extend(self.kernel().map(|release| (KERNEL.to_owned(), release)));
        env.extend(run.env.clone());
        let job = job(&Run { env, ..run.clone() }, &token)?;
        if run.network {
            self.appliance.gate.switch(true);
        }
        let answer = self.answer(run, &job, &token);
        if run.network {
            self.appliance.gate.switch(false);
        }
        let answer = answer?;
        if run.terminal.is_none() && !self.output.wait() {
            self.appliance.cancel.check()?;
            return Err(Error::new(ErrorKind::Internal, "the appliance ended while a command ran"));
        }
        let (notes, answer) = split_notes(&answer);
        for note in notes {
            self.events.warn(crate::host::escape::escape(note).to_string());
        }
        parse_answer(answer)
    }

    /// The release of the guest's newest kernel, which an earlier step may have brought.
    fn kernel(&mut self) -> Option<String> {
        let boot = self.read_dir("/boot").unwrap_or_default();
        let modules = OnceCell::new();
        newest_kernel(&boot, || modules.get_or_init(|| self.read_dir("/lib/modules").unwrap_or_default()))
            .map(str::to_owned)
    }

    fn answer(&mut self, run: &Run, job: &str, token: &str) -> Result<String> {
        let secret = !run.secrets.0.is_empty();
        match run.terminal {
            None => {
                self.output.expect(token);
                let answer = self.call_job(job, secret);
                if answer.is_err() {
                    self.output.forget();
                }
                answer
            }
            Some(_) => {
                let socket = self.appliance.terminal()?;
                terminal::bridge(socket, || self.call_job(job, secret))?
            }
        }
    }

    /// A job with secrets is uploaded, for the arguments of a call show in traces.
    fn call_job(&mut self, job: &str, secret: bool) -> Result<String> {
        let called = if job.len() <= INLINE && !self.verbose && !secret {
            self.appliance.handle.appliance_sh(job)
        } else {
            self.upload("job", job.as_bytes(), &format!("{HERE}/job"))?;
            self.appliance.handle.appliance_sh(&format!(". {HERE}/job"))
        };
        called
            .map_err(|error| self.appliance.error(ErrorKind::Internal, "the appliance could not run a command", error))
    }

    /// Puts bytes into a file of the appliance that nobody else can read, by way of a file of this name.
    pub(super) fn upload(&mut self, name: &str, content: &[u8], place: &str) -> Result<()> {
        upload(&mut self.appliance, &self.work_dir.join(name), content, place)
    }
}
