//! A guest behind an agent, for the engines whose agent does the work: `chroot` and `vm`.
//!
//! What must hold: every call ends. A cancellation kills the agent's helper, and so does a deadline that has passed;
//! both end the conversation, and the error says which it was and not how the stream broke.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use virt_maker_agent::client::{Client, ClientError};
use virt_maker_agent::protocol::{Failure, FailureKind, Mounted, Request, Root};

use super::LogSink;
use super::block::BlockGraph;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::guest::{Attributes, Entry, Exit, Guest, Labelled, Marks, OsRelease, Run, Space, Stat};
use crate::host::{Deadline, Guard, RawTerminal};

/// How much later than the agent's own timeout the helper is killed: an agent that is well answers long before.
const GRACE: Duration = Duration::from_secs(15);
/// How long the helper may take for what waits for the guest's disk alone.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// How many bytes an answer has at most.
const ANSWER: usize = 1 << 20;

/// How an error begins that a root is not there which the template's import names, on all engines.
pub const WRONG_ROOT: &str = "the root is said to be ";

/// How many bytes of times and attributes go with one request.
const MARKS_AT_ONCE: usize = 512 << 10;
/// What helps where a guest has several roots.
pub const WHICH_ROOT: &str = "say which one it is, by `--root` of `check`, or among the arguments of the import: `root: {device: LABEL=..., subvolume: ...}`, where the device is named as an \
     fstab names it and only a btrfs has subvolumes";
/// What helps where a guest's fstab names what is not there.
pub const MEND: &str = "give the entry the option `nofail`, or mend it: `virt-maker shell LAYER --keep-as NAME` opens the guest without it";

/// Allows the network, or forbids it. Forbidding does not fail.
pub type Switch = Box<dyn FnMut(bool) -> Result<()> + Send>;
/// Says more of why a conversation ended.
pub type Explain = Box<dyn Fn(Error) -> Error + Send>;

/// What a session's agent needs besides the conversation.
pub struct Setup {
    /// Watches over the helper that the agent is, or is in.
    pub guard: Guard,
    /// Receives the output of commands.
    pub output: LogSink,
    /// Variables for commands with a network.
    pub network_env: BTreeMap<String, String>,
    /// Text of `/etc/resolv.conf` for commands with a network.
    pub resolv_conf: Option<String>,
    /// Called before each command, and after each one with a network.
    pub switch: Switch,
    /// Called for errors that ended the conversation.
    pub explain: Option<Explain>,
}

/// A guest that an agent has mounted.
pub struct AgentGuest {
    client: Client,
    setup: Setup,
    mounted: Mounted,
    events: Events,
}

impl AgentGuest {
    /// Has the disk mounted. The conversation's first exchanges are done.
    /// `root` is the one that is named, where there are several.
    pub fn mount(
        client: Client,
        setup: Setup,
        disk: &str,
        to_mend: bool,
        root: Option<&Root>,
        events: &Events,
    ) -> Result<AgentGuest> {
        let empty = Mounted { file_systems: Vec::new(), os: OsRelease::default(), warnings: Vec::new() };
        let mut guest = AgentGuest { client, setup, mounted: empty, events: events.clone() };
        guest.mounted = guest.within(Some(PATIENCE), |client| client.mount_as(disk, to_mend, root))?;
        for warning in &guest.mounted.warnings {
            events.warn(warning.escape_debug().to_string());
        }
        for fs in &guest.mounted.file_systems {
            let message = format!("{} (partition {}) on {}", fs.kind, fs.partition, fs.mount_point.escape_debug());
            events.send(Event::Trace { source: "agent", message });
        }
        Ok(guest)
    }

    /// The guest that an agent is in: a machine that has booted. The conversation's first exchange is done; [`running`] is the next.
    ///
    /// [`running`]: AgentGuest::running
    pub fn of(client: Client, setup: Setup, events: &Events) -> AgentGuest {
        let empty = Mounted { file_systems: Vec::new(), os: OsRelease::default(), warnings: Vec::new() };
        AgentGuest { client, setup, mounted: empty, events: events.clone() }
    }

    /// Has the agent take its machine as the guest, within a time.
    pub fn running(&mut self, limit: Duration) -> Result<()> {
        self.mounted = self.within(Some(limit), |client| client.running())?;
        Ok(())
    }

    /// Runs a program, and gives what it wrote, of which nothing gets into the log; no more than [`ANSWER`] bytes of it. It may take as
    /// long as `limit`; where it has a time of its own, as long as that and a moment.
    pub fn ask(&mut self, run: &Run, limit: Duration) -> Result<(Exit, Vec<u8>)> {
        let mut said = Vec::new();
        let limit = run.timeout.map_or(limit, |seconds| Duration::from_secs(seconds).saturating_add(GRACE));
        let exit = self.within(Some(limit), |client| {
            client.run(run, &mut |bytes| {
                said.extend_from_slice(&bytes[..bytes.len().min(ANSWER - said.len())]);
            })
        })?;
        Ok((exit, said))
    }

    /// Connects to a TCP port of the machine that has booted, says a text, and gives what is answered within some seconds. It may
    /// take as long as `limit` until that is here.
    ///
    /// An error of kind `Guest` means that nobody answers there.
    pub fn talk(&mut self, port: u16, text: &str, seconds: u64, limit: Duration) -> Result<Vec<u8>> {
        self.within(Some(limit), |client| client.talk(port, text, seconds, ANSWER))
    }

    /// Goes on in another conversation, with an agent of the same machine that has booted again. Its first exchange is done.
    pub fn go_on(&mut self, client: Client) {
        self.client = client;
    }

    /// Whether the build was cancelled, as an error.
    pub fn check(&self) -> Result<()> {
        self.setup.guard.cancel().check()
    }

    /// A request that is answered by `Done`.
    pub fn done(&mut self, request: &Request) -> Result<()> {
        self.within(Some(PATIENCE), |client| client.done(request))
    }

    /// A shell on this process's terminal; [`Run::privileged`] or not.
    pub fn shell(&mut self, privileged: bool) -> Result<()> {
        let terminal = RawTerminal::enter()?;
        let mut run = Run {
            argv: super::SHELL.map(str::to_owned).into(),
            network: true,
            privileged,
            terminal: Some(terminal.size()),
            ..Run::default()
        };
        self.prepare(&mut run)?;
        let ended = self.within(None, |client| client.terminal(&run, terminal.input(), &mut terminal.output()));
        (self.setup.switch)(false)?;
        ended.map(drop)
    }

    /// Puts the empty overlay `next` on top, with the guest's file systems clean and still meanwhile.
    pub fn checkpoint(&mut self, graph: &mut BlockGraph, next: &Path) -> Result<()> {
        self.done(&Request::Freeze)?;
        // Thawed also when the push fails: for a look inside, and because a frozen guest could not even be unmounted.
        let pushed = graph.push(next);
        let thawed = self.done(&Request::Thaw);
        pushed.and(thawed)
    }

    /// The conversation and its watcher, when all is said. An agent ends when its conversation is dropped.
    pub fn close(self) -> (Client, Guard) {
        (self.client, self.setup.guard)
    }

    fn prepare(&mut self, run: &mut Run) -> Result<()> {
        if run.network {
            let mut env = self.setup.network_env.clone();
            env.append(&mut run.env);
            run.env = env;
            run.resolv_conf = self.setup.resolv_conf.clone();
        }
        (self.setup.switch)(run.network)
    }

    /// Has something done that must be over in a given time.
    fn within<T>(
        &mut self,
        limit: Option<Duration>,
        work: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T> {
        self.watched(limit, |client, _| work(client))
    }

    /// The same where the work may move the deadline.
    fn watched<T>(
        &mut self,
        limit: Option<Duration>,
        work: impl FnOnce(&mut Client, &Deadline) -> Result<T, ClientError>,
    ) -> Result<T> {
        self.check()?;
        let deadline = self.setup.guard.deadline(limit);
        let done = work(&mut self.client, &deadline);
        let late = deadline.end();
        done.map_err(|error| match late {
            true => {
                let seconds = limit.unwrap_or_default().as_secs();
                let what =
                    format!("the machine that the guest runs in did not answer within {seconds} s and was ended");
                self.explain(Error::new(ErrorKind::Guest, what))
            }
            false => self.failure(error),
        })
    }

    /// The agent's failure as an error of this library. After a cancellation the agent was killed, and what its client
    /// says of that is not the reason.
    fn failure(&self, error: ClientError) -> Error {
        if let Err(cancelled) = self.check() {
            return cancelled;
        }
        match error {
            ClientError::Failed(failure) => refused(failure),
            ClientError::Local(_) => Error::new(ErrorKind::Internal, "a transfer failed").with_source(error),
            broken => self.explain(Error::new(ErrorKind::Internal, "the agent broke off").with_source(broken)),
        }
    }

    fn explain(&self, error: Error) -> Error {
        match &self.setup.explain {
            Some(explain) => explain(error),
            None => error,
        }
    }
}

/// What the agent could not do.
pub fn refused(failure: Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::Unsupported => ErrorKind::Unsupported,
        FailureKind::NoRoot | FailureKind::SeveralRoots | FailureKind::Fstab => ErrorKind::Guest,
        FailureKind::GuestFull | FailureKind::NotFound | FailureKind::Obstructed => ErrorKind::Guest,
        FailureKind::TimedOut => ErrorKind::Step,
        FailureKind::Protocol | FailureKind::System => ErrorKind::Internal,
    };
    let error = Error::new(kind, crate::host::escape::escape(&failure.message));
    match failure.kind {
        FailureKind::Fstab => error.with_hint(MEND),
        FailureKind::SeveralRoots => error.with_hint(WHICH_ROOT),
        _ => error,
    }
}

/// What goes to a guest or comes from it, as long as that takes: the guest's patience begins anew with each part, and does not count
/// what the host's own end takes.
struct Moving<'a, T: ?Sized> {
    end: &'a mut T,
    deadline: &'a Deadline,
}

impl<T: ?Sized> Moving<'_, T> {
    fn part<R>(&mut self, work: impl FnOnce(&mut T) -> R) -> R {
        self.deadline.again(None);
        let done = work(self.end);
        self.deadline.again(Some(PATIENCE));
        done
    }
}

impl<T: Read + ?Sized> Read for Moving<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.part(|end| end.read(buffer))
    }
}

impl<T: Write + ?Sized> Write for Moving<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.part(|end| end.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.part(|end| end.flush())
    }
}

/// A writer that takes all, and keeps the first error for later: an error of the host's disk is none of a conversation.
struct Kept<W> {
    to: W,
    error: Option<std::io::Error>,
}

impl<W: std::io::Write> std::io::Write for Kept<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.error.is_none() {
            self.error = self.to.write_all(bytes).err();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Guest for AgentGuest {
    fn os(&self) -> &OsRelease {
        &self.mounted.os
    }

    fn run(&mut self, run: &Run) -> Result<Exit> {
        self.check()?;
        let mut run = run.clone();
        self.prepare(&mut run)?;
        let output = self.setup.output.clone();
        let limit = run.timeout.map(|seconds| Duration::from_secs(seconds).saturating_add(GRACE));
        let mut notes = Vec::new();
        let exit = self.within(limit, |client| {
            client.run_noting(&run, &mut |bytes| output(bytes), &mut |note| notes.push(note.to_owned()))
        });
        for note in notes {
            self.events.warn(crate::host::escape::escape(&note).to_string());
        }
        if run.network {
            (self.setup.switch)(false)?;
        }
        exit
    }

    fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>> {
        self.within(Some(PATIENCE), |client| client.read(path, limit))
    }

    fn write(&mut self, path: &str, content: &mut dyn Read, attributes: Attributes) -> Result<()> {
        self.watched(Some(PATIENCE), |client, deadline| {
            client.write(path, &mut Moving { end: content, deadline }, attributes)
        })
    }

    fn rewrite(&mut self, path: &str, content: &mut dyn Read) -> Result<()> {
        self.watched(Some(PATIENCE), |client, deadline| client.rewrite(path, &mut Moving { end: content, deadline }))
    }

    fn mkdir(&mut self, path: &str, attributes: Attributes, parents: bool) -> Result<()> {
        self.done(&Request::Mkdir { path: path.into(), attributes, parents })
    }

    fn symlink(&mut self, target: &str, path: &str) -> Result<()> {
        self.done(&Request::Symlink { target: target.into(), path: path.into() })
    }

    fn hard_link(&mut self, target: &str, path: &str) -> Result<()> {
        self.done(&Request::HardLink { target: target.into(), path: path.into() })
    }

    fn set_marks(&mut self, marks: &[Marks]) -> Result<()> {
        // As many as fit into a message, in which a byte takes up to four.
        let size = |marks: &Marks| {
            100 + marks.path.len() * 6 + marks.attributes.values().map(|value| value.len() * 4 + 300).sum::<usize>()
        };
        let (mut part, mut bytes) = (Vec::new(), 0);
        for one in marks {
            if bytes + size(one) > MARKS_AT_ONCE && !part.is_empty() {
                self.done(&Request::SetMarks { marks: std::mem::take(&mut part) })?;
                bytes = 0;
            }
            bytes += size(one);
            part.push(one.clone());
        }
        if part.is_empty() { Ok(()) } else { self.done(&Request::SetMarks { marks: part }) }
    }

    fn set_attributes(&mut self, path: &str, attributes: Attributes) -> Result<()> {
        self.done(&Request::SetAttributes { path: path.into(), attributes })
    }

    fn stat(&mut self, path: &str) -> Result<Option<Stat>> {
        self.within(Some(PATIENCE), |client| client.stat(path))
    }

    fn space(&mut self, path: &str) -> Result<Space> {
        self.within(Some(PATIENCE), |client| client.space(path))
    }

    fn read_dir(&mut self, path: &str) -> Result<Vec<String>> {
        self.within(Some(PATIENCE), |client| client.read_dir(path))
    }

    fn walk(&mut self, path: &str, depth: Option<u32>) -> Result<Vec<Entry>> {
        self.within(Some(PATIENCE), |client| client.walk(path, depth))
    }

    fn read_to(&mut self, path: &str, out: &mut dyn Write) -> Result<u64> {
        self.watched(Some(PATIENCE), |client, deadline| client.read_to(path, &mut Moving { end: out, deadline }))
    }

    fn fstab_news(&mut self) -> Result<Vec<String>> {
        self.within(Some(PATIENCE), |client| client.fstab_news())
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        self.done(&Request::Remove { path: path.into() })
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.done(&Request::Rename { from: from.into(), to: to.into() })
    }

    fn archive(&mut self, target: &Path) -> Result<()> {
        let failed = || format!("cannot write {}", target.display());
        let file = std::fs::File::create_new(target).context(ErrorKind::Export, failed)?;
        let mut file = Kept { to: std::io::BufWriter::with_capacity(1 << 20, file), error: None };
        self.watched(Some(PATIENCE), |client, deadline| client.archive(&mut Moving { end: &mut file, deadline }))?;
        file.error.map_or_else(|| file.to.flush(), Err).context(ErrorKind::Export, failed)
    }

    fn labels(&mut self) -> Result<Vec<Labelled>> {
        self.within(Some(PATIENCE), |client| client.labels())
    }

    fn set_labels(&mut self, labels: &[Labelled]) -> Result<()> {
        self.within(Some(PATIENCE), |client| client.set_labels(labels))
    }

    fn trim(&mut self) -> Result<()> {
        self.done(&Request::Trim)
    }

    fn erase(&mut self) -> Result<Vec<String>> {
        self.within(Some(PATIENCE), |client| client.erase())
    }
}
