//! What a machine tells by itself: that it was reset, that it is off, that its kernel gave up.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

use crate::error::{Context, ErrorKind, Result};

/// Listens until qemu ends.
pub(super) struct Happenings {
    state: Arc<Mutex<State>>,
    stream: UnixStream,
    listener: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    resets: u32,
    /// When the last of them was.
    reset_at: Option<Instant>,
    off: bool,
    panicked: bool,
    gone: bool,
    /// A conversation that is over when the machine does not go on as it did.
    conversation: Option<UnixStream>,
}

impl Happenings {
    /// Listens on a control connection of its own.
    pub(super) fn listen(mut stream: UnixStream) -> Result<Happenings> {
        let failed = || "cannot listen to qemu";
        let input = stream.try_clone().context(ErrorKind::Host, failed)?;
        stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").context(ErrorKind::Host, failed)?;
        let state: Arc<Mutex<State>> = Arc::default();
        let theirs = Arc::clone(&state);
        let listener = std::thread::Builder::new().name("happenings".into()).spawn(move || {
            let mut lines = BufReader::new(input);
            let mut line = Vec::new();
            // What is no event is an answer, or the greeting.
            while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                if let Ok(said) = serde_json::from_slice::<Value>(&line) {
                    lock(&theirs).note(&said);
                }
                line.clear();
            }
            let mut state = lock(&theirs);
            state.gone = true;
            state.end_conversation();
        });
        let listener = listener.context(ErrorKind::Host, failed)?;
        Ok(Happenings { state, stream, listener: Some(listener) })
    }

    /// How often the guest has reset the machine.
    pub(super) fn resets(&self) -> u32 {
        lock(&self.state).resets
    }

    /// When it did so last.
    pub(super) fn last_reset(&self) -> Option<Instant> {
        lock(&self.state).reset_at
    }

    /// Whether the guest has powered the machine off.
    pub(super) fn is_off(&self) -> bool {
        lock(&self.state).off
    }

    /// Whether the guest's kernel has given up, as far as it says so.
    pub(super) fn has_panicked(&self) -> bool {
        lock(&self.state).panicked
    }

    /// Whether qemu has ended.
    pub(super) fn is_gone(&self) -> bool {
        lock(&self.state).gone
    }

    /// Ends this conversation when the machine is reset, off or gone: nobody would answer any more.
    pub(super) fn watch(&self, conversation: UnixStream) {
        lock(&self.state).conversation = Some(conversation);
    }
}

impl Drop for Happenings {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl State {
    fn note(&mut self, said: &Value) {
        let by_guest = || said["data"]["guest"] == Value::Bool(true);
        match said["event"].as_str() {
            Some("RESET") if by_guest() => {
                self.resets += 1;
                self.reset_at = Some(Instant::now());
            }
            Some("SHUTDOWN") if by_guest() => self.off = true,
            Some("GUEST_PANICKED") => self.panicked = true,
            _ => return,
        }
        self.end_conversation();
    }

    fn end_conversation(&mut self) {
        if let Some(conversation) = self.conversation.take() {
            let _ = conversation.shutdown(Shutdown::Both);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
