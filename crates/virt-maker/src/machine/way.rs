//! A guest's way up, and down: from the start of its machine until it has booted, until it has booted again, and until it is off.
//!
//! What must hold: whatever the guest says to the agent's port, and however little of it, each of these ends by its deadline.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use virt_maker_agent::booted;
use virt_maker_agent::client::{Client, ClientError};
use virt_maker_agent::protocol::Sandbox;

use super::guest_agent::GuestAgent;
use super::over_ssh::OverSsh;
use super::watch::Deadline;
use super::{Machine, Ways, shell};
use crate::engine::agent::{self, AgentGuest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::StartedBy;
use crate::guest::running::Running;
use crate::guest::{Exit, Run};
use crate::host;
use crate::host::escape::last_lines;

/// Names of the sockets to the agent and to qemu-guest-agent, in the work folder.
pub(super) const PORT: &str = "agent.sock";
pub(super) const GUEST_AGENT: &str = "guest-agent.sock";
/// How long a guest's init has for starting our agent when its qemu-guest-agent is there already.
const HEAD_START: Duration = Duration::from_secs(10);
/// After how long an SSH server that did not start our agent is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a guest may take to boot, and to shut down; longer where the CPU is emulated.
const BOOT: Duration = Duration::from_secs(300);
const SHUTDOWN: Duration = Duration::from_secs(120);
/// How long an answer may take besides, where the guest has to be somewhere by a deadline.
const MOMENT: Duration = Duration::from_secs(5);
/// How many lines are told of what the program said that shuts it down.
const SAID: usize = 3;

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
    /// Waits until the guest has booted: its agent answers, and it is `ready`. `limit` is how long that may take, and a shutdown too;
    /// without it, minutes.
    ///
    /// An error of kind `Step` says what went wrong in the guest, with what it wrote and showed last.
    pub fn boot(&mut self, limit: Option<Duration>, ready: Ready<'_>) -> Result<()> {
        self.limit = limit;
        let deadline = Deadline::after(self.to_boot());
        self.come_up(&deadline, ready)?;
        self.ask_about_boot(&deadline, self.started, false)
    }

    /// Notes what the boot took, which the guest is asked for, by the deadline of that boot.
    fn ask_about_boot(&mut self, deadline: &Deadline, begin: Instant, restart: bool) -> Result<()> {
        self.answer_by = Some(*deadline);
        let noted = self.note_boot(begin, restart);
        self.answer_by = None;
        noted
    }

    /// Whether its agent has answered.
    pub fn is_met(&self) -> bool {
        self.guest.is_some()
    }

    /// How long the guest may take to boot.
    pub(super) fn to_boot(&self) -> Duration {
        self.limit.unwrap_or_else(|| self.scaled(BOOT))
    }

    /// How long it may take to shut down.
    fn to_shut_down(&self) -> Duration {
        self.limit.unwrap_or_else(|| self.scaled(SHUTDOWN))
    }

    /// Waits until it is ready, with its agent at hand. A guest may restart on its way: SELinux has it do so once.
    pub(super) fn come_up(&mut self, deadline: &Deadline, mut ready: Ready<'_>) -> Result<()> {
        loop {
            let resets = self.happenings.resets();
            let client = self.meet(deadline)?;
            self.answered = Instant::now();
            match (self.setup.take(), &mut self.guest) {
                (Some(setup), _) => self.guest = Some(AgentGuest::of(client, setup, &self.events)),
                (None, Some(guest)) => guest.go_on(client),
                (None, None) => return Err(Error::new(ErrorKind::Internal, "a machine whose agent nobody knows")),
            }
            self.answer_by = Some(*deadline);
            let limit = self.patience();
            let begun = self.agent()?.running(limit);
            let booted = begun.and_then(|()| self.until_ready(deadline, &mut ready));
            self.answer_by = None;
            match booted {
                Ok(()) => return Ok(()),
                // An agent goes before its machine restarts.
                Err(_) if self.happenings.resets() != resets || self.has_left() => self.check_power()?,
                Err(error) => return Err(error),
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
        const WHAT: &str = "its agent to answer";
        const PAUSE: Duration = Duration::from_millis(20);
        let mut helper = None;
        loop {
            let mut client = self.call()?;
            let met = self.watch(deadline, PAUSE, |machine| {
                machine.have_it_started(&mut helper)?;
                heard(&mut client)
            })?;
            match met {
                None => return Err(self.nobody(WHAT, helper, deadline)),
                Some(Some(Ok(()))) => {
                    self.happenings.met();
                    self.by = match helper {
                        _ if self.ways.ssh.is_some() => StartedBy::Ssh,
                        Some((_, helper)) if helper.was_asked() => StartedBy::GuestAgent,
                        _ => StartedBy::Init,
                    };
                    return Ok(client);
                }
                Some(Some(Err(error))) => {
                    let what = "what answers in the guest is not our agent";
                    return Err(Error::new(ErrorKind::Step, what).with_source(error));
                }
                // The machine was reset, or who was at the port went away, before it got that far.
                Some(None) => {}
            }
            self.check_power()?;
            if deadline.has_passed() {
                return Err(self.nobody(WHAT, helper, deadline));
            }
            // A server that has let nobody in is asked again, but has more to do.
            std::thread::sleep(if self.ways.ssh.is_some() { AGAIN } else { PAUSE });
        }
    }

    /// Whether who speaks in the conversation has gone away.
    fn has_left(&mut self) -> bool {
        self.happenings.has_left() || self.over_ssh.as_mut().is_some_and(OverSsh::has_ended)
    }

    /// Has qemu-guest-agent start our agent, where it is there and the guest's init does not.
    fn have_it_started(&mut self, helper: &mut Option<(u32, GuestAgent)>) -> Result<()> {
        if !self.ways.guest_agent {
            return Ok(());
        }
        let resets = self.happenings.resets();
        let (_, helper) = match helper {
            Some(helper) if helper.0 == resets => helper,
            // After a reset, nobody knows any more what was said before.
            _ => {
                let failed = || "cannot talk to the machine's qemu-guest-agent";
                let agent = self.connect(GUEST_AGENT).and_then(|stream| GuestAgent::new(stream, resets));
                let agent = agent.context(ErrorKind::Host, failed)?;
                helper.insert((resets, agent))
            }
        };
        let head_start = if self.ways.init { self.scaled(HEAD_START) } else { Duration::ZERO };
        let now = helper.there_since().is_some_and(|since| since.elapsed() >= head_start);
        helper.turn(now.then_some(&[booted::AGENT, booted::ARGUMENT]));
        Ok(())
    }

    /// An error that says that our agent has not answered, and who would have started it.
    fn nobody(&mut self, what: &str, helper: Option<(u32, GuestAgent)>, deadline: &Deadline) -> Error {
        let who = match (helper, &self.over_ssh) {
            (Some((_, helper)), _) => helper.told(),
            (None, Some(over_ssh)) => over_ssh.told(),
            (None, None) => return self.late(what, deadline),
        };
        let init = match self.ways {
            Ways { init: true, .. } => "its init did not start that",
            Ways { ports: false, .. } => "its kernel lacks `virtio_console`",
            _ => "its init is none that we know",
        };
        self.late(&format!("{what} ({init}, and {who})"), deadline)
    }

    /// Calls the agent, which will answer when it is there. The call is over when the machine does not go on as it did.
    fn call(&mut self) -> Result<Client> {
        let failed = || "cannot talk to the machine's agent";
        let stream = match &self.ways.ssh {
            None => self.connect(PORT).context(ErrorKind::Host, failed)?,
            Some(folder) => {
                let (ours, theirs) = UnixStream::pair().context(ErrorKind::Host, failed)?;
                self.calls += 1;
                let before = self.over_ssh.take();
                self.over_ssh = Some(OverSsh::start(&self.gate, folder, self.calls, theirs, before)?);
                ours
            }
        };
        self.happenings.watch(stream.try_clone().context(ErrorKind::Host, failed)?);
        let mut client = Client::new(stream);
        match client.say_hello(Sandbox::Machine) {
            // Who listens for the answer is told, too.
            Ok(()) | Err(ClientError::Closed) => Ok(client),
            Err(error) => Err(Error::new(ErrorKind::Host, failed()).with_source(error)),
        }
    }

    /// Connects to one of qemu's sockets.
    fn connect(&self, name: &str) -> std::io::Result<UnixStream> {
        UnixStream::connect(short(&File::open(&self.work_dir)?, name))
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

    /// How long what is asked next may take to be answered.
    pub(super) fn patience(&self) -> Duration {
        let moment = self.scaled(MOMENT);
        self.answer_by.map_or(agent::PATIENCE, |deadline| deadline.left().saturating_add(moment).min(agent::PATIENCE))
    }

    /// Has the guest power off, and waits until it has. The overlay then holds what a machine leaves that was shut down.
    pub(super) fn power_off(&mut self) -> Result<()> {
        let deadline = Deadline::after(self.to_shut_down());
        let script = "if [ -d /run/systemd/system ]; then systemctl --no-block poweroff; else poweroff; fi";
        self.answer_by = Some(deadline);
        let asked = self.ask(&Run { script: Some(script.into()), shell: shell(), ..Run::default() });
        let but = match asked {
            Ok((Exit::Status(0), _)) => String::new(),
            // It may go all the same, where somebody else has told it to.
            Ok((_, said)) => format!(", and said when it was told to: {}", last_lines(&said, SAID)),
            // The answer may not get through any more: what counts is that it goes.
            Err(_) if self.happenings.is_off() || self.has_left() => String::new(),
            Err(error) => {
                self.cancel.check()?;
                return Err(error);
            }
        };
        self.until_off(&deadline, &but)
    }

    /// Has the guest restart, and waits until it has booted again.
    pub(super) fn reboot(&mut self) -> Result<()> {
        let deadline = Deadline::after(self.to_boot().saturating_add(self.to_shut_down()));
        let before = self.happenings.resets();
        let script = "if [ -d /run/systemd/system ]; then systemctl --no-block reboot; else reboot; fi";
        self.answer_by = Some(deadline);
        let asked = self.ask(&Run { script: Some(script.into()), shell: shell(), ..Run::default() });
        if let Err(error) = asked
            && self.happenings.resets() == before
            && !self.has_left()
        {
            return Err(error);
        }
        self.until("the guest to restart", &deadline, Duration::from_millis(20), |machine| {
            Ok((machine.happenings.resets() > before).then_some(()))
        })?;
        let begin = self.happenings.last_reset().unwrap_or_else(Instant::now);
        self.come_up(&deadline, Ready::Booted)?;
        self.ask_about_boot(&deadline, begin, true)
    }
}

/// What was said, once it is there; nothing where nobody will say anything any more.
type Heard = Option<std::result::Result<(), ClientError>>;

/// Whether the agent has answered, without waiting for it: a guest may say half a word, and no more.
fn heard(client: &mut Client) -> Result<Option<Heard>> {
    Ok(match client.heard_welcome() {
        Ok(None) => None,
        Ok(Some(())) => Some(Some(Ok(()))),
        Err(ClientError::Closed) => Some(None),
        Err(error) => Some(Some(Err(error))),
    })
}

/// Where qemu listens for who wants to talk to an agent.
pub(super) fn listen(work_dir: &Path, name: &str) -> Result<UnixListener> {
    let failed = || "cannot make a socket for the machine's agent";
    let folder = File::open(work_dir).context(ErrorKind::Host, failed)?;
    // Of a machine that was in this folder before.
    let _ = std::fs::remove_file(work_dir.join(name));
    UnixListener::bind(short(&folder, name)).context(ErrorKind::Host, failed)
}

/// The socket's path by a descriptor of its folder, as the path of a socket may only have 107 bytes.
fn short(folder: &File, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())
}
