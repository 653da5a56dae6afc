//! From a saved state to a machine that runs.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use virt_maker_agent::client::Client;
use virt_maker_agent::protocol::{Request, Wake};

use super::boot::capabilities;
use super::console::Console;
use super::machine::{self, STATE_FD, Start};
use super::state::State;
use super::{VmOptions, complaints};
use crate::engine::OpenRequest;
use crate::engine::block::BlockGraph;
use crate::engine::gate::{End, Gate, Reach};
use crate::engine::qmp::Qmp;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::{Guard, Helper, random};

/// How long a restore may take. It takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(120);

/// A machine that was restored and has been woken.
pub struct Restored {
    /// Kills it when the build is cancelled.
    pub guard: Guard,
    /// The conversation with its agent.
    pub client: Client,
    /// The stack of overlays, not yet plugged in.
    pub graph: BlockGraph,
    /// What its kernel says.
    pub console: Console,
    /// Between it and the network.
    pub gate: Gate,
    /// qemu.
    pub helper: Helper,
}

/// Restores a machine. An error of kind `Internal` means that this state does not restore.
pub fn restore(options: &VmOptions, state: &State, request: &OpenRequest<'_>) -> Result<Restored> {
    let directory = request.overlay.parent().unwrap_or(request.work_dir);
    let start = Start::Restore { state: state.devices()?, directory };
    let log = request.work_dir.join("qemu.log");
    let started =
        machine::start(options, &state.memory(), start, request.parent.images() + request.overlays, log.clone())?;
    let guard = Guard::kill_on_cancel(started.helper.pid(), &request.cancel)?;
    let deadline = guard.deadline(Some(PATIENCE));
    let done = (|| {
        let qmp = Qmp::greet(started.qmp, request.events.waits(&request.cancel))?;
        let mut graph = open_disk(qmp, directory, request)?;
        resume(graph.qmp())?;
        let mut client = Client::new(started.agent);
        client.done(&Request::Wake(wake()?)).map_err(|error| {
            Error::new(ErrorKind::Internal, "the agent in the restored appliance does not answer").with_source(error)
        })?;
        Ok((client, graph))
    })();
    let late = deadline.end();
    match done {
        Ok((client, graph)) => {
            let reach = Reach::new(request.network_env, request.host_network, request.events.waits(&request.cancel));
            let (card, network) = (End::Stream(started.card), End::Stream(started.network));
            let gate = Gate::new(card, network, reach, request.events.clone())?;
            Ok(Restored { guard, client, graph, console: started.console, gate, helper: started.helper })
        }
        Err(error) => {
            request.cancel.check()?;
            let said = complaints(&log);
            Err(match (late, said.is_empty()) {
                (true, _) => Error::new(ErrorKind::Internal, format!("no answer within {} s", PATIENCE.as_secs())),
                (false, true) => error,
                (false, false) => Error::new(error.kind(), format!("qemu says: {said}")).with_source(error),
            })
        }
    }
}

/// What does not open here has nothing to do with the saved state.
fn open_disk(qmp: Qmp, directory: &Path, request: &OpenRequest<'_>) -> Result<BlockGraph> {
    BlockGraph::open(qmp, directory, request.parent, request.overlay)
        .map_err(|error| Error::new(ErrorKind::Store, error.to_string()))
}

fn resume(qmp: &mut Qmp) -> Result<()> {
    capabilities(qmp)?;
    qmp.execute("migrate-incoming", json!({"uri": format!("fd:{STATE_FD}")}))?;
    loop {
        let state = qmp.execute("query-status", json!({}))?;
        match state.get("status").and_then(Value::as_str) {
            Some("inmigrate") => std::thread::sleep(Duration::from_millis(1)),
            _ => break,
        }
    }
    qmp.execute("cont", json!({})).map(drop)
}

/// What makes a clone one of its own.
fn wake() -> Result<Wake> {
    let entropy = random::bytes::<{ Wake::ENTROPY }>().context(ErrorKind::Host, || "cannot get random bytes")?.to_vec();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Wake { entropy, seconds: now.as_secs() as i64, nanoseconds: now.subsec_nanos() })
}
