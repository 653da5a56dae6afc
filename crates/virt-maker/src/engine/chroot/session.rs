//! A session of engine `chroot`: the agent, the storage daemon, and the stack of overlays between them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use virt_maker_agent::client::Client;
use virt_maker_agent::protocol::{Request, Sandbox};

use super::ChrootEngine;
use super::network::Network;
use crate::engine::agent::{AgentGuest, PATIENCE, Setup};
use crate::engine::block::{self, BlockGraph};
use crate::engine::qmp::{Qmp, without_echoes};
use crate::engine::user_network::{proxies_behind_it, resolv_conf};
use crate::engine::{OpenRequest, Session};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::Guest;
use crate::host::waiting::Waits;
use crate::host::{CHANNEL_FD, Guard, Helper, HelperCommand};

/// An open guest. Fields are dropped in this order: the agent's conversation with the watcher first, then the agent,
/// then the daemon under it.
pub struct ChrootSession {
    guest: AgentGuest,
    graph: BlockGraph,
    processes: Processes,
}

/// The agent, and the daemon that serves its disk.
struct Processes {
    agent: Helper,
    daemon: Helper,
}

/// How long an agent may take to end: what it has mounted is written to a disk that is thrown away.
const MOMENT: Duration = Duration::from_secs(3);

impl Drop for Processes {
    fn drop(&mut self) {
        // One that waits for its disk ends when that is gone.
        if !self.agent.end_within(MOMENT) {
            self.daemon.end_within(MOMENT);
        }
    }
}

impl ChrootSession {
    pub(super) fn open(engine: &ChrootEngine, request: OpenRequest<'_>) -> Result<ChrootSession> {
        request.cancel.check()?;
        let root = request.work_dir.join("root");
        fs::create_dir(&root).context(ErrorKind::Store, || format!("cannot make {}", root.display()))?;
        let export = request.work_dir.join("disk.raw");
        File::create_new(&export).context(ErrorKind::Store, || format!("cannot make {}", export.display()))?;

        let (channel, agent) = start_agent(engine, request.work_dir, &root)?;
        let guard = Guard::kill_on_cancel(agent.pid(), &request.cancel)?;
        let mut client = Client::new(channel);
        let sandbox = Sandbox::Bubblewrap { program: "bwrap".into() };
        client.hello(sandbox).map_err(|error| {
            let said = agent.last_words();
            let what = if said.is_empty() { "the agent does not answer".to_string() } else { said };
            request.cancel.check().err().unwrap_or_else(|| Error::new(ErrorKind::Internal, what).with_source(error))
        })?;

        let mut network = Network::new(agent.pid(), &request);
        if request.network {
            network.begin();
        }

        // The agent is in a namespace of its own by now; only this order keeps the FUSE mount off the host.
        let directory = request.overlay.parent().unwrap_or(request.work_dir);
        let waits = request.events.waits(&request.cancel);
        let disk = block::first_options(Some(directory), request.parent, request.overlay)?;
        let shown = json!({
            "type": "fuse", "id": "disk", "node-name": block::TOP, "mountpoint": path_text(&export)?, "writable": true,
        });
        let options = ["--blockdev".into(), disk.to_string(), "--export".into(), shown.to_string()];
        let (qmp, daemon) = start_daemon(request.work_dir, directory, &options, agent.pid(), waits)?;
        guard.waits_for(daemon.pid())?;
        let processes = Processes { agent, daemon };
        let graph = BlockGraph::adopt(qmp, Some(directory));

        let setup = Setup {
            guard,
            output: request.output,
            network_env: proxies_behind_it(request.network_env),
            resolv_conf: Some(resolv_conf(fs::read_to_string("/etc/resolv.conf").ok().as_deref())),
            switch: Box::new(move |on| network.switch(on)),
            explain: None,
        };
        let mut guest = AgentGuest::mount(
            client,
            setup,
            path_text(&export)?,
            request.to_mend,
            request.parent.root(),
            &request.events,
        )?;
        for cache in request.caches {
            let disk = path_text(&cache.path)?.to_owned();
            guest.done(&Request::MountCache { name: cache.name.clone(), disk })?;
        }
        Ok(ChrootSession { guest, graph, processes })
    }
}

impl Session for ChrootSession {
    fn guest(&mut self) -> &mut dyn Guest {
        &mut self.guest
    }

    fn checkpoint(&mut self, next: &Path) -> Result<()> {
        self.guest.checkpoint(&mut self.graph, next)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.guest.done(&Request::Unmount)?;
        let ChrootSession { guest, mut graph, mut processes } = *self;
        let (client, guard) = guest.close();
        drop(client);
        let deadline = guard.deadline(Some(PATIENCE));
        let ended = processes.agent.wait_for_end();
        let ended = ended.and_then(|()| graph.qmp().execute("quit", json!({})));
        let ended = ended.and_then(|_| processes.daemon.wait_for_end());
        // What was ended because it had to be says nothing of why.
        let late = deadline.end();
        ended.map_err(|error| match (guard.cancel().check(), late) {
            (Err(cancelled), _) => cancelled,
            (Ok(()), true) => {
                Error::new(ErrorKind::Internal, format!("a session did not end in {} s", PATIENCE.as_secs()))
            }
            (Ok(()), false) => error,
        })
    }

    fn shell(&mut self, privileged: bool) -> Result<()> {
        self.guest.shell(privileged)
    }
}

pub(super) fn start_agent(engine: &ChrootEngine, work_dir: &Path, root: &Path) -> Result<(UnixStream, Helper)> {
    let (ours, theirs) = UnixStream::pair().context(ErrorKind::Host, || "cannot make a socket pair")?;
    let helper = Helper::spawn(HelperCommand {
        name: "the agent",
        program: engine.agent.clone(),
        package: "virt-maker",
        arguments: vec!["--fd".into(), CHANNEL_FD.to_string().into(), "--root-dir".into(), root.into()],
        channels: vec![theirs.into()],
        address_space: None,
        mount_namespace_of: None,
        children_beside_those_of: None,
        directory: None,
        log: work_dir.join("agent.log"),
    })?;
    Ok((ours, helper))
}

/// A storage daemon that works in `directory`, and shows what it shows in the namespace of the process `agent`. The
/// greeting comes when it has done all that its `options` say.
pub(super) fn start_daemon(
    work_dir: &Path,
    directory: &Path,
    options: &[String],
    agent: u32,
    waits: Waits,
) -> Result<(Qmp, Helper)> {
    let (ours, theirs) = UnixStream::pair().context(ErrorKind::Host, || "cannot make a socket pair")?;
    let monitor =
        ["--chardev", &format!("socket,id=qmp,fd={CHANNEL_FD}"), "--monitor", "chardev=qmp"].map(String::from);
    let helper = Helper::spawn(HelperCommand {
        name: "qemu-storage-daemon",
        program: PathBuf::from("qemu-storage-daemon"),
        package: "qemu-utils",
        arguments: options.iter().chain(&monitor).map(OsString::from).collect(),
        channels: vec![theirs.into()],
        address_space: None,
        mount_namespace_of: Some(agent),
        children_beside_those_of: None,
        directory: Some(directory.to_owned()),
        log: work_dir.join("daemon.log"),
    })?;
    let qmp = Qmp::greet(ours, waits.clone()).map_err(|error| match waits.cancel().check() {
        Err(cancelled) => cancelled,
        Ok(()) => refusal(&helper.last_words()).with_source(error),
    })?;
    Ok((qmp, helper))
}

/// What the words of a daemon that ended mean. It repeats the option that it does not like, which says nothing to
/// those who did not write it.
fn refusal(words: &str) -> Error {
    match words.rsplit_once("}: ") {
        Some((_, said)) if said.contains("FUSE") => {
            let error = Error::new(ErrorKind::Host, format!("the guest's disk cannot be shown: {said}"));
            error.with_hint("it takes /dev/fuse; `virt-maker doctor` says what each engine needs")
        }
        Some((_, said)) => {
            let error = Error::new(ErrorKind::Store, format!("qemu refused the disk: {}", without_echoes(said)));
            error.with_hint("`virt-maker cache verify` looks for images that are damaged")
        }
        None => Error::new(ErrorKind::Host, format!("qemu-storage-daemon does not start: {words}")),
    }
}

pub(super) fn path_text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::new(ErrorKind::Store, format!("the path {} is not UTF-8", path.display())))
}
