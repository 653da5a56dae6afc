//! Where the output of a step goes: to its log file, to the event stream, and its end into the report of a failure.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::mask::{Forms, Mask};
use crate::engine::LogSink;
use crate::error::{Context, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::key::LayerKey;

/// How many lines a failure quotes.
const LAST_LINES: usize = 20;
/// Longest line that is quoted, in bytes.
const LINE_MAX: usize = 1000;

/// The log of whatever step is under way in one session.
#[derive(Clone)]
pub(super) struct StepLog(Arc<Mutex<State>>);

struct State {
    events: Events,
    current: Option<(LayerKey, File)>,
    /// Bytes of a character that is not complete yet.
    partial: Vec<u8>,
    line: String,
    last: VecDeque<String>,
    failed: Option<std::io::Error>,
    mask: Mask,
}

impl StepLog {
    pub(super) fn new(events: &Events) -> StepLog {
        StepLog(Arc::new(Mutex::new(State {
            events: events.clone(),
            current: None,
            partial: Vec::new(),
            line: String::new(),
            last: VecDeque::new(),
            failed: None,
            mask: Mask::default(),
        })))
    }

    /// Begins the log of a step at `path`. These are masked, wherever the output goes.
    pub(super) fn begin(&self, key: LayerKey, path: &Path, forms: &Arc<Forms>) -> Result<()> {
        let file = File::create(path).context(ErrorKind::Store, || format!("cannot write {}", path.display()))?;
        let mut state = self.state();
        state.current = Some((key, file));
        state.partial.clear();
        state.line.clear();
        state.last.clear();
        state.failed = None;
        state.mask = Mask::new(forms);
        Ok(())
    }

    /// Ends it; an error says that the log could not be written, on a full disk for instance.
    pub(super) fn end(&self) -> Result<()> {
        let mut state = self.state();
        let rest = state.mask.end();
        state.show(&rest);
        state.current = None;
        state.failed.take().map_or(Ok(()), Err).context(ErrorKind::Store, || "cannot write the log of the step")
    }

    /// The last lines, the one that is not ended included.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let state = self.state();
        let unended = (!state.line.is_empty()).then(|| state.line.clone());
        state.last.iter().cloned().chain(unended).collect()
    }

    /// The sink for an engine.
    pub(super) fn sink(&self) -> LogSink {
        let log = self.clone();
        Arc::new(move |bytes| log.state().take(bytes))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves a log that is short, nothing worse.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, bytes: &[u8]) {
        let shown = self.mask.take(bytes);
        self.show(&shown);
    }

    fn show(&mut self, bytes: &[u8]) {
        let Some((key, file)) = &mut self.current else { return };
        if let Err(error) = file.write_all(bytes) {
            self.failed.get_or_insert(error);
        }
        self.partial.extend_from_slice(bytes);
        let complete = match std::str::from_utf8(&self.partial) {
            // An incomplete character at the very end waits for its rest; other bad bytes are replaced.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.partial.len(),
        };
        let text = String::from_utf8_lossy(&self.partial[..complete]).into_owned();
        self.partial.drain(..complete);
        if text.is_empty() {
            return;
        }
        for piece in text.split_inclusive('\n') {
            let room = LINE_MAX.saturating_sub(self.line.len());
            self.line.extend(piece.trim_end_matches(['\n', '\r']).chars().take(room));
            if piece.ends_with('\n') {
                if self.last.len() == LAST_LINES {
                    self.last.pop_front();
                }
                self.last.push_back(std::mem::take(&mut self.line));
            }
        }
        let key = *key;
        self.events.send(Event::Output { key, text });
    }
}
