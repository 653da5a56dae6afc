//! What a machine tells by itself: that it was reset, that it is off, that its kernel gave up.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::error::{Context, ErrorKind, Result};

/// What a machine wrote and the host could not.
#[derive(Clone)]
pub(super) struct Lost {
    /// As the host's disk is full.
    pub(super) full: bool,
    /// In the words of the system.
    pub(super) why: String,
}

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
    /// Who spoke in the conversation has closed its port in the guest.
    left: bool,
    /// When it was known who speaks.
    met: Option<Duration>,
    /// The first write to its disk that the host could not do.
    lost: Option<Lost>,
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

    /// What of the guest's disk is lost, if anything is.
    pub(super) fn lost(&self) -> Option<Lost> {
        lock(&self.state).lost.clone()
    }

    /// Whether the guest's end of the conversation that began last has gone away.
    pub(super) fn has_left(&self) -> bool {
        lock(&self.state).left
    }

    /// What to call where it is seen otherwise that the guest's kernel has given up: not every kernel tells its machine.
    pub(super) fn on_panic(&self) -> impl Fn() + Send + 'static {
        let state = Arc::clone(&self.state);
        move || {
            let mut state = lock(&state);
            state.panicked = true;
            state.end_conversation();
        }
    }

    /// Whether the guest's kernel has given up, as far as it says so.
    pub(super) fn has_panicked(&self) -> bool {
        lock(&self.state).panicked
    }

    /// Whether qemu has ended.
    pub(super) fn is_gone(&self) -> bool {
        lock(&self.state).gone
    }

    /// Ends this conversation when the machine is reset, off or gone, or who speaks in it has gone: nobody would answer any more.
    pub(super) fn watch(&self, conversation: UnixStream) {
        let mut state = lock(&self.state);
        (state.left, state.met) = (false, None);
        state.conversation = Some(conversation);
    }

    /// From now on, the conversation is over when its port is closed or opened in the guest: it is another one who would answer then.
    pub(super) fn met(&self) {
        lock(&self.state).met = SystemTime::now().duration_since(UNIX_EPOCH).ok();
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
            Some("VSERPORT_CHANGE") if self.leaves(said) => self.left = true,
            // The guest may try it again for ever.
            Some("BLOCK_IO_ERROR") if said["data"]["operation"] == "write" && self.lost.is_none() => {
                let why = said["data"]["reason"].as_str().unwrap_or("an error without words").to_owned();
                self.lost = Some(Lost { full: said["data"]["nospace"] == Value::Bool(true), why });
            }
            _ => return,
        }
        self.end_conversation();
    }

    /// Whether a change of the agent's port means that its user has gone. qemu tells one change in a second, the last: where the port was closed
    /// and opened again, that it is open.
    fn leaves(&self, said: &Value) -> bool {
        let part = |name: &str| said["timestamp"][name].as_u64().unwrap_or_default();
        let when = Duration::from_secs(part("seconds")) + Duration::from_micros(part("microseconds"));
        said["data"]["open"] == Value::Bool(false) || self.met.is_some_and(|met| when > met)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_closes_the_port_has_left_even_where_that_is_not_told() {
        let change = |open: bool, seconds: u64| json!({"event": "VSERPORT_CHANGE", "data": {"open": open, "id": "port"}, "timestamp": {"seconds": seconds, "microseconds": 5}});
        let left = |met: Option<u64>, said: Value| {
            let mut state = State { met: met.map(Duration::from_secs), ..State::default() };
            state.note(&said);
            state.left
        };
        assert!(left(None, change(false, 10)) && left(Some(20), change(false, 10)));
        // It opens the port, and that may be told late.
        assert!(!left(None, change(true, 10)) && !left(Some(11), change(true, 10)));
        assert!(left(Some(10), change(true, 10)));
    }

    #[test]
    fn a_write_that_was_lost_is_remembered() {
        let error = |operation: &str, full: bool| json!({"event": "BLOCK_IO_ERROR", "data": {"operation": operation, "nospace": full, "reason": "why", "action": "report"}});
        let mut state = State::default();
        state.note(&error("read", true));
        assert!(state.lost.is_none());
        state.note(&error("write", true));
        state.note(&error("write", false));
        assert!(state.lost.is_some_and(|lost| lost.full && lost.why == "why"));
    }
}
