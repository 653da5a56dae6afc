//! From a kernel to a saved state.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use virt_maker_agent::appliance;
use virt_maker_agent::client::Client;
use virt_maker_agent::protocol::Sandbox;

use super::initramfs::{self, Ingredients};
use super::machine::{self, Start, Started};
use super::{QEMU, VmOptions, complaints};
use crate::engine::breakdown;
use crate::engine::qmp::Qmp;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::host::waiting::Waits;
use crate::host::{Cancel, Guard, Tool};
use crate::key::Digest;

/// Memory is all that is saved that depends on the machine's size, and it is in a file of its own.
const CAPABILITY: &str = "x-ignore-shared";

/// What came of it.
pub struct Booted {
    /// Of the appliance's files.
    pub initramfs: Digest,
    /// What qemu says that it is.
    pub qemu: String,
    /// Until the agent answered.
    pub boot: Duration,
}

/// Boots the appliance, and saves it as `memory` and `devices` in the folder.
pub fn make(
    options: &VmOptions,
    ingredients: &Ingredients,
    folder: &Path,
    events: &Events,
    cancel: &Cancel,
) -> Result<Booted> {
    let step = |done| {
        events.send(Event::Progress {
            what: "make the appliance".into(),
            done,
            total: Some(1000),
            unit: "permille",
            worker: None,
        })
    };
    step(0);
    let failed = || format!("cannot write into {}", folder.display());
    let version = Tool::new(QEMU, "qemu-system-x86").arg("--version").run(cancel)?;
    let version = String::from_utf8_lossy(&version).lines().next().unwrap_or_default().trim().to_owned();
    let archive = initramfs::make(ingredients, cancel)?;
    let initramfs = folder.join("initramfs");
    fs::write(&initramfs, &archive).context(ErrorKind::Host, failed)?;
    let memory = folder.join("memory");
    File::create(&memory)
        .and_then(|file| file.set_len(u64::from(options.memory_mib) << 20))
        .context(ErrorKind::Host, failed)?;

    step(100);
    let begin = Instant::now();
    let start = Start::Boot { kernel: &ingredients.kernel.image, initramfs: &initramfs };
    let started = machine::start(options, &memory, start, 0, folder.join("qemu.log"))?;
    let guard = Guard::kill_on_cancel(started.helper.pid(), cancel)?;
    let patience = options.patience();
    let deadline = guard.deadline(Some(patience));
    let waits = Waits::new(cancel, |_| {});
    let saved = save(&started, &folder.join("devices"), waits, || step(700));
    let late = deadline.end();
    let Started { helper, console, .. } = started;
    let boot = match saved {
        Ok(booted) => booted - begin,
        Err(error) => {
            cancel.check()?;
            // What qemu or the kernel says last is the reason; it says it before it ends.
            let said = complaints(&folder.join("qemu.log"));
            drop(helper);
            let said = if said.is_empty() { console.last_words() } else { said };
            let reason = match (late, said.is_empty()) {
                (true, _) => format!("{}: {said}", breakdown::late("it", patience)),
                (false, true) => crate::error::chain(&error),
                (false, false) => said,
            };
            let what = format!("the appliance of engine `vm` does not start: {reason}");
            return Err(Error::new(ErrorKind::Host, what).with_source(error));
        }
    };
    helper.wait()?;
    fs::remove_file(&initramfs).context(ErrorKind::Host, failed)?;
    fs::remove_file(folder.join("qemu.log")).context(ErrorKind::Host, failed)?;
    step(1000);
    Ok(Booted { initramfs: Digest::of(&archive), qemu: version, boot })
}

/// Waits for the agent and saves the machine; gives when the agent answered.
fn save(started: &Started, devices: &Path, waits: Waits, booted: impl FnOnce()) -> Result<Instant> {
    let copy = |stream: &std::os::unix::net::UnixStream| {
        stream.try_clone().context(ErrorKind::Host, || "cannot use qemu's channels")
    };
    let mut qmp = Qmp::greet(copy(&started.qmp)?, waits)?;
    let mut client = Client::new(copy(&started.agent)?);
    let sandbox = Sandbox::Bubblewrap { program: appliance::BUBBLEWRAP.into() };
    client.hello(sandbox).context_client("the agent in the appliance does not answer")?;
    let ready = Instant::now();
    booted();
    qmp.execute("stop", json!({}))?;
    capabilities(&mut qmp)?;
    let file = File::create_new(devices).context(ErrorKind::Host, || format!("cannot make {}", devices.display()))?;
    qmp.send_descriptor("devices", file.as_fd())?;
    qmp.execute("migrate", json!({"uri": "fd:devices"}))?;
    loop {
        let state = qmp.execute("query-migrate", json!({}))?;
        match state.get("status").and_then(Value::as_str) {
            Some("completed") => break,
            Some("failed" | "cancelled") => {
                let said = state.get("error-desc").and_then(Value::as_str).unwrap_or("it gives no reason");
                return Err(Error::new(ErrorKind::Host, format!("qemu cannot save the machine: {said}")));
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    qmp.execute("quit", json!({}))?;
    Ok(ready)
}

/// The two ends of a save must agree on these.
pub fn capabilities(qmp: &mut Qmp) -> Result<()> {
    let list = json!({"capabilities": [{"capability": CAPABILITY, "state": true}]});
    qmp.execute("migrate-set-capabilities", list).map(drop)
}

/// An error of the agent's client, with a sentence.
trait ClientContext<T> {
    fn context_client(self, what: &str) -> Result<T>;
}

impl<T> ClientContext<T> for Result<T, virt_maker_agent::client::ClientError> {
    fn context_client(self, what: &str) -> Result<T> {
        self.map_err(|source| Error::new(ErrorKind::Host, what).with_source(source))
    }
}
