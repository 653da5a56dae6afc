//! A session of engine `chroot`: the agent, the storage daemon, and the stack of overlays between them.

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
use crate::engine::block::BlockGraph;
use crate::engine::qmp::Qmp;
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
        let (qmp, daemon) = start_daemon(request.work_dir, directory, agent.pid(), waits)?;
        guard.waits_for(daemon.pid())?;
        let processes = Processes { agent, daemon };
        let daemon = &processes.daemon;
        let words = |error: Error, daemon: &Helper| {
            let said = daemon.last_words();
            if said.is_empty() { error } else { Error::new(error.kind(), said).with_source(error) }
        };
        let mut graph =
            BlockGraph::open(qmp, directory, request.parent, request.overlay).map_err(|error| words(error, daemon))?;
        let arguments = json!({
            "type": "fuse", "id": "disk", "node-name": graph.top(), "mountpoint": path_text(&export)?, "writable": true,
        });
        graph.qmp().execute("block-export-add", arguments).map_err(|error| words(error, daemon))?;

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
        self.guest.done(&Request::Freeze)?;
        // Thawed also when the push fails: a frozen guest could not even be unmounted.
        let pushed = self.graph.push(next);
        let thawed = self.guest.done(&Request::Thaw);
        pushed.and(thawed)
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

    fn shell(&mut self) -> Result<()> {
        self.guest.shell()
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

pub(super) fn start_daemon(work_dir: &Path, directory: &Path, agent: u32, waits: Waits) -> Result<(Qmp, Helper)> {
    let (ours, theirs) = UnixStream::pair().context(ErrorKind::Host, || "cannot make a socket pair")?;
    let helper = Helper::spawn(HelperCommand {
        name: "qemu-storage-daemon",
        program: PathBuf::from("qemu-storage-daemon"),
        package: "qemu-utils",
        arguments: vec![
            "--chardev".into(),
            format!("socket,id=qmp,fd={CHANNEL_FD}").into(),
            "--monitor".into(),
            "chardev=qmp".into(),
        ],
        channels: vec![theirs.into()],
        address_space: None,
        mount_namespace_of: Some(agent),
        children_beside_those_of: None,
        directory: Some(directory.to_owned()),
        log: work_dir.join("daemon.log"),
    })?;
    let qmp = Qmp::greet(ours, waits.clone()).map_err(|error| match waits.cancel().check() {
        Err(cancelled) => cancelled,
        Ok(()) => Error::new(ErrorKind::Host, format!("qemu-storage-daemon does not start: {}", helper.last_words()))
            .with_source(error),
    })?;
    Ok((qmp, helper))
}

pub(super) fn path_text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::new(ErrorKind::Store, format!("the path {} is not UTF-8", path.display())))
}
