//! What a program that makes a tree says when it cannot: collected while it runs, quoted in the error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, ErrorKind};
use crate::event::{Event, Events};
use crate::host::escape::escape;

/// Lines that an error quotes: the last ones.
const QUOTED: usize = 8;

/// The last complaints of a program.
#[derive(Debug, Clone, Default)]
pub(super) struct Complaints(Arc<Mutex<VecDeque<String>>>);

impl Complaints {
    /// Hears each line of what `program` says, and keeps those that complain, by `is_one` or because they are of the
    /// making of the file system. All of them are events.
    pub(super) fn listener(
        &self,
        program: &'static str,
        is_one: fn(&str) -> bool,
        events: &Events,
    ) -> impl FnMut(&str) + Send + 'static {
        let (heard, events) = (self.0.clone(), events.clone());
        move |line| {
            let message = line.trim_end().to_owned();
            if is_one(&message) || is_of_mke2fs(&message) {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push_back(message.clone());
                if heard.len() > QUOTED {
                    heard.pop_front();
                }
            }
            events.send(Event::Trace { source: program, message });
        }
    }

    /// Adds one that is not the program's own.
    pub(super) fn add(&self, complaint: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(complaint);
    }

    /// The error for a tree of `suite` that `program` (of this package) did not make. `error` is that of the program
    /// itself, and `known` says what may be done about what was said.
    pub(super) fn explain(
        &self,
        suite: &str,
        (program, package): (&str, &str),
        error: Error,
        known: impl FnOnce(&str) -> Option<(ErrorKind, String)>,
    ) -> Error {
        if matches!(error.kind(), ErrorKind::Cancelled) {
            return error;
        }
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let message = format!("cannot bootstrap {suite}");
        if heard.is_empty() {
            return not_started(message, program, package, error);
        }
        let text = heard.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let (kind, hint) = if says(&["Could not allocate", "while populating file system"]) {
            (ErrorKind::Base, Some("the packages do not fit on the disk: give `size` a larger value".to_owned()))
        } else if says(&["No space left on device"]) {
            (ErrorKind::HostFull, None)
        } else {
            known(&text).map_or((ErrorKind::Base, None), |(kind, hint)| (kind, Some(hint)))
        };
        let quoted: Vec<_> = heard.iter().map(|line| escape(line.trim())).collect();
        let error = Error::new(kind, format!("{message}: {}", quoted.join("; ")));
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// `unshare` or the program did not get so far that it could complain.
fn not_started(message: String, program: &str, package: &str, error: Error) -> Error {
    let text = error.to_string();
    let error = Error::new(error.kind(), message).with_source(error);
    if text.contains("uidmap") || text.contains("uid_map") || text.contains("subuid") {
        error.with_hint(
            "for ordinary users it needs the package `uidmap`, and lines for this user in /etc/subuid and /etc/subgid",
        )
    } else if text.contains(program) && text.contains("No such file") {
        error.with_hint(format!("{program} comes with the package `{package}`"))
    } else {
        error
    }
}

fn is_of_mke2fs(line: &str) -> bool {
    line.contains("while populating file system") || line.starts_with("mke2fs:") || line.starts_with("__populate_fs:")
}
