//! A session of engine `chroot`: the agent, the storage daemon, and the stack of overlays between them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::json;
use virt_maker_agent::client::Client;
use virt_maker_agent::protocol::{self, Mounted, Request, Sandbox};

use super::ChrootEngine;
use super::guest::failure;
use crate::engine::block::BlockGraph;
use crate::engine::qmp::Qmp;
use crate::engine::{LogSink, OpenRequest, Session};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::guest::Guest;
use crate::host::{self, CHANNEL_FD, Cancel, Guard, Helper, HelperCommand};

/// An open guest. Fields are dropped in this order: the watcher first, then the agent, then the daemon under it.
pub struct ChrootSession {
    _guard: Guard,
    pub(super) client: Client,
    agent: Helper,
    graph: BlockGraph,
    daemon: Helper,
    pub(super) mounted: Mounted,
    pub(super) output: LogSink,
    pub(super) cancel: Cancel,
    pub(super) network_env: BTreeMap<String, String>,
    pub(super) resolv_conf: Option<String>,
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
        client.hello(sandbox).map_err(|error| failure(error, &request.cancel))?;

        // The agent is in a namespace of its own by now; only this order keeps the FUSE mount off the host.
        let directory = request.overlay.parent().unwrap_or(request.work_dir);
        let (qmp, daemon) = start_daemon(request.work_dir, directory, agent.pid())?;
        let words = |error: Error, daemon: &Helper| {
            let said = daemon.last_words();
            if said.is_empty() { error } else { Error::new(error.kind(), said).with_source(error) }
        };
        let mut graph =
            BlockGraph::open(qmp, directory, request.parent, request.overlay).map_err(|error| words(error, &daemon))?;
        let arguments = json!({
            "type": "fuse", "id": "disk", "node-name": graph.top(), "mountpoint": path_text(&export)?, "writable": true,
        });
        graph.qmp().execute("block-export-add", arguments).map_err(|error| words(error, &daemon))?;

        let mounted = client.mount(path_text(&export)?).map_err(|error| failure(error, &request.cancel))?;
        for warning in &mounted.warnings {
            request.events.warn(warning.escape_debug().to_string());
        }
        trace(&request.events, &mounted);
        Ok(ChrootSession {
            _guard: guard,
            client,
            agent,
            graph,
            daemon,
            mounted,
            output: request.output,
            cancel: request.cancel,
            network_env: request.network_env.clone(),
            resolv_conf: fs::read_to_string("/etc/resolv.conf").ok(),
        })
    }

    /// A request that is answered by `Done`.
    pub(super) fn done(&mut self, request: &Request) -> Result<()> {
        self.client.done(request).map_err(|error| failure(error, &self.cancel))
    }
}

impl Session for ChrootSession {
    fn guest(&mut self) -> &mut dyn Guest {
        self
    }

    fn checkpoint(&mut self, next: &Path) -> Result<()> {
        self.cancel.check()?;
        self.done(&Request::Freeze)?;
        // Thawed also when the push fails: a frozen guest could not even be unmounted.
        let pushed = self.graph.push(next);
        let thawed = self.done(&Request::Thaw);
        pushed.and(thawed)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.done(&Request::Unmount)?;
        let ChrootSession { _guard, client, agent, mut graph, daemon, .. } = *self;
        drop(client);
        agent.wait()?;
        graph.qmp().execute("quit", json!({}))?;
        daemon.wait()
    }

    fn shell(&mut self) -> Result<()> {
        let terminal = host::RawTerminal::enter()?;
        let run = protocol::Run {
            argv: vec!["/bin/sh".into(), "-l".into()],
            env: self.network_env.clone(),
            network: true,
            resolv_conf: self.resolv_conf.clone(),
            terminal: Some(terminal.size()),
            ..protocol::Run::default()
        };
        let ended = self.client.terminal(&run, terminal.input(), &mut terminal.output());
        ended.map(|_| ()).map_err(|error| failure(error, &self.cancel))
    }
}

fn start_agent(engine: &ChrootEngine, work_dir: &Path, root: &Path) -> Result<(UnixStream, Helper)> {
    let (ours, theirs) = UnixStream::pair().context(ErrorKind::Host, || "cannot make a socket pair")?;
    let helper = Helper::spawn(HelperCommand {
        name: "the agent",
        program: engine.agent.clone(),
        package: "virt-maker",
        arguments: vec!["--fd".into(), CHANNEL_FD.to_string().into(), "--root-dir".into(), root.into()],
        channel: theirs.into(),
        mount_namespace_of: None,
        directory: None,
        log: work_dir.join("agent.log"),
    })?;
    Ok((ours, helper))
}

fn start_daemon(work_dir: &Path, directory: &Path, agent: u32) -> Result<(Qmp, Helper)> {
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
        channel: theirs.into(),
        mount_namespace_of: Some(agent),
        directory: Some(directory.to_owned()),
        log: work_dir.join("daemon.log"),
    })?;
    let qmp = Qmp::greet(ours).map_err(|error| {
        Error::new(ErrorKind::Host, format!("qemu-storage-daemon does not start: {}", helper.last_words()))
            .with_source(error)
    })?;
    Ok((qmp, helper))
}

fn trace(events: &Events, mounted: &Mounted) {
    for fs in &mounted.file_systems {
        let message = format!("{} (partition {}) on {}", fs.kind, fs.partition, fs.mount_point.escape_debug());
        events.send(Event::Trace { source: "agent", message });
    }
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::new(ErrorKind::Store, format!("the path {} is not UTF-8", path.display())))
}
