//! A session of engine `vm`: a restored machine with the guest's disk in it.

use std::fs;
use std::path::Path;

use serde_json::json;
use virt_maker_agent::client::ClientError;
use virt_maker_agent::protocol::{Reply, Request};

use super::console::Console;
use super::machine::DISK_BUS;
use super::restore::{Restored, restore};
use super::{VmOptions, complaints, state};
use crate::engine::agent::{AgentGuest, Setup, refused};
use crate::engine::block::BlockGraph;
use crate::engine::user_network::{proxies_behind_it, resolv_conf};
use crate::engine::{OpenRequest, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::Guest;
use crate::host::Helper;

/// Serial number of the guest's disk.
pub(super) const SERIAL: &str = "virt-maker-guest";

/// An open guest. Fields are dropped in this order: the conversation with its watcher first, then the machine.
pub struct VmSession {
    guest: AgentGuest,
    graph: BlockGraph,
    helper: Helper,
}

impl VmSession {
    pub(super) fn open(options: &VmOptions, request: OpenRequest<'_>) -> Result<VmSession> {
        let Restored { guard, mut client, mut graph, console, gate, helper } = restored(options, &request)?;
        graph.plug(DISK_BUS, SERIAL)?;
        let explain = explainer(console, request.work_dir.join("qemu.log"));
        let mut find = |serial: String| match client.call(&Request::FindDisk { serial }) {
            Ok(Reply::Disk { path }) => Ok(path),
            Ok(other) => Err(Error::new(ErrorKind::Internal, format!("{other:?} is no disk"))),
            Err(ClientError::Failed(failure)) => Err(refused(failure)),
            Err(error) => {
                request.cancel.check()?;
                let broken = Error::new(ErrorKind::Internal, "the appliance broke off").with_source(error);
                Err(explain(broken))
            }
        };
        let disk = find(SERIAL.into())?;
        let mut caches = Vec::new();
        for (index, cache) in request.caches.iter().enumerate() {
            let serial = format!("virt-maker-cache-{index}");
            graph.plug_raw(DISK_BUS, &serial, &cache.path)?;
            caches.push(Request::MountCache { name: cache.name.clone(), disk: find(serial)? });
        }
        let setup = Setup {
            guard,
            output: request.output,
            network_env: proxies_behind_it(request.network_env),
            resolv_conf: Some(resolv_conf(fs::read_to_string("/etc/resolv.conf").ok().as_deref())),
            switch: Box::new(move |on| {
                gate.switch(on);
                Ok(())
            }),
            explain: Some(Box::new(explain)),
        };
        let mut guest =
            AgentGuest::mount(client, setup, &disk, request.to_mend, request.parent.root(), &request.events)?;
        caches.iter().try_for_each(|cache| guest.done(cache))?;
        Ok(VmSession { guest, graph, helper })
    }
}

/// Restores the saved state. One that does not restore is thrown away and made again, once.
fn restored(options: &VmOptions, request: &OpenRequest<'_>) -> Result<Restored> {
    let state = state::acquire(options, &request.events, &request.cancel)?;
    let error = match restore(options, &state, request) {
        Err(error) if error.kind() == ErrorKind::Internal => error,
        other => return other,
    };
    let why = crate::error::chain(&error);
    request.events.warn(format!("the saved appliance does not restore and is made again: {why}"));
    state.discard(options, &request.events.waits(&request.cancel))?;
    let state = state::acquire(options, &request.events, &request.cancel)?;
    restore(options, &state, request).map_err(|error| match error.kind() {
        ErrorKind::Internal => {
            let what = "an appliance that was just made does not restore";
            Error::new(ErrorKind::Unsupported, what).with_source(error)
        }
        _ => error,
    })
}

/// Says why a machine ended: what its kernel said last, or qemu.
fn explainer(console: Console, log: std::path::PathBuf) -> impl Fn(Error) -> Error + Send {
    move |error| {
        let said = console.last_words();
        let qemu = complaints(&log);
        match (said.is_empty(), qemu.is_empty()) {
            (false, _) => {
                let what = format!("the machine that the guest runs in ended: {said}");
                Error::new(ErrorKind::Guest, what).with_source(error)
            }
            (true, false) => Error::new(ErrorKind::Internal, format!("qemu ended: {qemu}")).with_source(error),
            (true, true) => error,
        }
    }
}

impl Session for VmSession {
    fn guest(&mut self) -> &mut dyn Guest {
        &mut self.guest
    }

    fn checkpoint(&mut self, next: &Path) -> Result<()> {
        self.guest.checkpoint(&mut self.graph, next)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.guest.done(&Request::Unmount)?;
        let VmSession { guest, mut graph, helper } = *self;
        // The machine ends with its agent, which must not be before its disk is closed.
        let (_client, _guard) = guest.close();
        graph.unplug(SERIAL)?;
        graph.qmp().execute("quit", json!({}))?;
        helper.wait()
    }

    fn shell(&mut self, privileged: bool) -> Result<()> {
        self.guest.shell(privileged)
    }
}
