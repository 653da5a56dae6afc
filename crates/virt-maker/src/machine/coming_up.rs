//! Waiting until a guest has booted: its agent answers, and its init has started what it starts.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use virt_maker_agent::client::{Client, ClientError};
use virt_maker_agent::protocol::Sandbox;

use super::watch::Deadline;
use super::{BOOT, Machine, shell, short};
use crate::engine::agent::AgentGuest;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::Run;
use crate::guest::running::Running;
use crate::host;

/// When a guest is ready for what is to be done in it.
pub enum Ready<'a> {
    /// When its init has started all that it starts.
    Booted,
    /// When this holds.
    When {
        /// Whether all has to be started before that.
        booted: bool,
        /// Waits for it; it is told how long that may take.
        holds: &'a mut dyn FnMut(&mut Machine, Duration) -> Result<()>,
    },
}

impl Machine {
    /// Waits until the guest has booted: its agent answers, and it is `ready`. `limit` is how long that may take; without it,
    /// minutes.
    ///
    /// An error of kind `Step` says what went wrong in the guest, with what it wrote and showed last.
    pub fn boot(&mut self, limit: Option<Duration>, ready: Ready<'_>) -> Result<()> {
        let deadline = Deadline::after(limit.unwrap_or_else(|| self.scaled(BOOT)));
        self.come_up(&deadline, ready)?;
        self.note_boot(self.started, false)
    }

    /// Whether its agent has answered.
    pub fn is_met(&self) -> bool {
        self.guest.is_some()
    }

    /// Waits for the same, with its agent at hand. A guest may restart on its way: SELinux has it do so once.
    pub(super) fn come_up(&mut self, deadline: &Deadline, mut ready: Ready<'_>) -> Result<()> {
        loop {
            let resets = self.happenings.resets();
            let client = self.meet(deadline)?;
            self.answered = Instant::now();
            match (self.setup.take(), &mut self.guest) {
                (Some(setup), _) => self.guest = Some(AgentGuest::running(client, setup, &self.events)?),
                (None, Some(guest)) => guest.go_on(client)?,
                (None, None) => return Err(Error::new(ErrorKind::Internal, "a machine whose agent nobody knows")),
            }
            match self.until_ready(deadline, &mut ready) {
                Err(error) if self.happenings.resets() == resets => return Err(error),
                Err(_) => self.check_power()?,
                Ok(()) => return Ok(()),
            }
        }
    }

    fn until_ready(&mut self, deadline: &Deadline, ready: &mut Ready<'_>) -> Result<()> {
        // Nobody who gives cloud-init something to do wants to come before it.
        if self.seeded || matches!(ready, Ready::Booted | Ready::When { booted: true, .. }) {
            self.until_booted(deadline)?;
        }
        if self.seeded {
            self.until_seeded(deadline)?;
        }
        match ready {
            Ready::Booted => Ok(()),
            Ready::When { holds, .. } => holds(self, deadline.left()),
        }
    }

    /// Waits for the agent, and begins a conversation with it.
    fn meet(&mut self, deadline: &Deadline) -> Result<Client> {
        loop {
            let mut client = self.call()?;
            let met = self.until("its agent to answer", deadline, Duration::from_millis(20), |_| heard(&mut client));
            // Where there is nothing, the machine was reset before it got that far.
            if let Some(welcome) = met? {
                return welcome.map(|()| client).map_err(|error| {
                    Error::new(ErrorKind::Step, "what answers in the guest is not our agent").with_source(error)
                });
            }
        }
    }

    /// Calls the agent, which will answer when it is there. The call is over when the machine does not go on as it did.
    fn call(&self) -> Result<Client> {
        let failed = || "cannot talk to the machine's agent";
        let folder = File::open(&self.work_dir).context(ErrorKind::Host, failed)?;
        let stream = UnixStream::connect(short(&folder)).context(ErrorKind::Host, failed)?;
        self.happenings.watch(stream.try_clone().context(ErrorKind::Host, failed)?);
        let mut client = Client::new(stream);
        client.say_hello(Sandbox::Machine).map_err(|error| Error::new(ErrorKind::Host, failed()).with_source(error))?;
        Ok(client)
    }

    /// Waits until the guest's init has started what it starts.
    fn until_booted(&mut self, deadline: &Deadline) -> Result<()> {
        let pause = self.scaled(Duration::from_millis(100));
        let state = self.until("the guest to have booted", deadline, pause, |machine| {
            let state = machine.system_state()?;
            Ok(match state.as_str() {
                "initializing" | "starting" => None,
                _ => Some(state),
            })
        })?;
        match state.as_str() {
            "maintenance" | "stopping" => {
                let failed = self.of_failed_units()?;
                Err(self.trouble(format!("the guest did not boot: it is in the state `{state}`{failed}")))
            }
            "degraded" => {
                let failed = self.of_failed_units()?;
                self.events.warn(format!("the guest has booted, but not all of it{failed}"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The state of the guest's service manager; `running` where that has no state.
    fn system_state(&mut self) -> Result<String> {
        let script = "[ -d /run/systemd/system ] && systemctl is-system-running || :";
        let (_, said) = self.ask(&Run { script: Some(script.into()), shell: shell(), ..Run::default() })?;
        let word = String::from_utf8_lossy(&said).trim().to_owned();
        Ok(if word.is_empty() { "running".into() } else { host::escape::escape(&word) })
    }

    /// Units that have failed, as the end of a sentence.
    pub(super) fn of_failed_units(&mut self) -> Result<String> {
        let units: Vec<_> =
            self.failed_units()?.unwrap_or_default().iter().map(|unit| host::escape::escape(unit)).collect();
        Ok(if units.is_empty() { String::new() } else { format!("; failed: {}", units.join(", ")) })
    }
}

/// What was said, once it is there; nothing where the machine was reset meanwhile.
type Heard = Option<std::result::Result<(), ClientError>>;

/// Whether the agent has answered, without waiting for it.
fn heard(client: &mut Client) -> Result<Option<Heard>> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut ends = [PollFd::new(client.stream(), PollFlags::IN)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut ends, Some(&now)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(Error::new(ErrorKind::Internal, "cannot wait for the agent").with_source(error)),
    }
    Ok(Some(match client.hear_welcome() {
        Err(ClientError::Closed) => None,
        other => Some(other),
    }))
}
