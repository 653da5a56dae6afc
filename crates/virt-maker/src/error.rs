//! Errors: what kind, in which context, from which source.
//!
//! `Display` gives the context of one error and never repeats its source; the command line walks the chain of
//! sources. Hints say what to do and are shown on a line of their own.

use std::fmt;

/// `Result` with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure; the command line makes its exit code from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The template, a parameter or a file that it names is wrong: the author can mend it.
    Template,
    /// The base image is missing, damaged, hostile, or not what its checksum says.
    Base,
    /// A step failed in the guest.
    Step,
    /// The guest cannot be opened as it is: no root, two roots, an fstab entry that cannot be mounted.
    Guest,
    /// This engine cannot open this guest, another one may.
    Unsupported,
    /// The host lacks a tool, a right or a kernel feature.
    Host,
    /// The host's disk is full.
    HostFull,
    /// The store is of another version, or cannot be read or written.
    Store,
    /// An artifact could not be made or put in place.
    Export,
    /// A person or a signal asked to stop.
    Cancelled,
    /// A program that virt-maker drives broke its own rules.
    Internal,
}

/// An error with its kind, its context, perhaps a place in a template, a hint and a source.
#[derive(Debug)]
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    context: String,
    hint: Option<String>,
    diagnostics: Vec<crate::diagnostic::Diagnostic>,
    failure: Option<StepFailure>,
    place: Option<Place>,
    parts: Vec<Error>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with a sentence that says what was tried and what came of it.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        let inner = Inner {
            kind,
            context: context.into(),
            hint: None,
            diagnostics: Vec::new(),
            failure: None,
            place: None,
            parts: Vec::new(),
            source: None,
        };
        Error { inner: Box::new(inner) }
    }

    /// Several errors, none of which is the reason of another one; of the kind of the first. One alone is itself.
    pub fn several(context: impl Into<String>, mut parts: Vec<Error>) -> Self {
        match (parts.pop(), parts.is_empty()) {
            (Some(only), true) => only,
            (last, _) => {
                parts.extend(last);
                let kind = parts.first().map_or(ErrorKind::Internal, Error::kind);
                let mut error = Error::new(kind, context);
                error.inner.parts = parts;
                error
            }
        }
    }

    /// Errors of a template, each with its place.
    pub fn template(diagnostics: Vec<crate::diagnostic::Diagnostic>) -> Self {
        let count = diagnostics.len();
        let context = match diagnostics.first() {
            Some(only) if count == 1 => only.message.clone(),
            _ => format!("{count} errors in the template"),
        };
        let mut error = Error::new(ErrorKind::Template, context);
        error.inner.diagnostics = diagnostics;
        error
    }

    /// Adds the error that caused this one.
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// Adds a sentence that says what to do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hint = Some(hint.into());
        self
    }

    /// Adds the details of a failed step.
    pub fn with_failure(mut self, failure: StepFailure) -> Self {
        self.inner.failure = Some(failure);
        self
    }

    /// Says which import, step or export of a template this is about. A step that failed says so by itself, and nobody is to
    /// blame for an end that was asked for.
    pub fn at(mut self, place: impl FnOnce() -> Place) -> Self {
        let told = self.inner.failure.is_some() || self.place().is_some() || !self.inner.diagnostics.is_empty();
        if !told && self.inner.kind != ErrorKind::Cancelled {
            self.inner.place = Some(place());
        }
        self
    }

    /// Which import, step or export of a template this error, or one that caused it, is about.
    pub fn place(&self) -> Option<&Place> {
        let causes = std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
        causes.filter_map(|error| error.downcast_ref::<Error>()).find_map(|error| error.inner.place.as_ref())
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// What to do about it, if anybody knows.
    pub fn hint(&self) -> Option<&str> {
        self.inner.hint.as_deref()
    }

    /// The errors of a template, with their places; empty for other kinds.
    pub fn diagnostics(&self) -> &[crate::diagnostic::Diagnostic] {
        &self.inner.diagnostics
    }

    /// The errors that this one stands for, where it is several.
    pub fn parts(&self) -> &[Error] {
        &self.inner.parts
    }

    /// The details of a failed step.
    pub fn failure(&self) -> Option<&StepFailure> {
        self.inner.failure.as_ref()
    }
}

impl Error {
    /// This error with all its words changed: its own, those of its parts, and those of its sources.
    pub(crate) fn with_texts(mut self, change: &dyn Fn(&mut String)) -> Error {
        let inner = &mut *self.inner;
        change(&mut inner.context);
        inner.hint.iter_mut().for_each(change);
        for diagnostic in &mut inner.diagnostics {
            change(&mut diagnostic.message);
            diagnostic.hint.iter_mut().for_each(change);
        }
        if let Some(failure) = &mut inner.failure {
            failure.texts(&mut |text| change(text));
        }
        inner.place.iter_mut().for_each(|place| change(&mut place.what));
        inner.parts = std::mem::take(&mut inner.parts).into_iter().map(|part| part.with_texts(change)).collect();
        inner.source = inner.source.take().map(|source| match source.downcast::<Error>() {
            // As itself, and not as a box in a box: hints are asked of it by its type.
            Ok(own) => Box::new(own.with_texts(change)) as Box<_>,
            Err(other) => {
                let before = chain(&*other);
                let mut after = before.clone();
                change(&mut after);
                // A type that others may ask for stays, where nothing changes.
                if after == before { other } else { after.into() }
            }
        });
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

/// An error's sentence with those of its sources, each after a colon.
pub fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// Turns a lower error into one of this crate with a kind and a context. A full disk keeps its own kind.
pub trait Context<T> {
    /// See [`Context`]. The closure runs only on failure.
    fn context<S: Into<String>>(self, kind: ErrorKind, context: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<S: Into<String>>(self, kind: ErrorKind, context: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| {
            let full = matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
            let kind = if full { ErrorKind::HostFull } else { kind };
            Error::new(kind, context()).with_source(source)
        })
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context<S: Into<String>>(self, kind: ErrorKind, context: impl FnOnce() -> S) -> Result<T> {
        self.map_err(std::io::Error::from).context(kind, context)
    }
}

impl<T> Context<T> for Result<T> {
    fn context<S: Into<String>>(self, kind: ErrorKind, context: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| {
            let kind = match source.kind() {
                // These say more than the place where they came up.
                ErrorKind::HostFull | ErrorKind::Cancelled => source.kind(),
                _ => kind,
            };
            Error::new(kind, context()).with_source(source)
        })
    }
}

impl StepFailure {
    /// Hands all that somebody may have said to `change`.
    pub(crate) fn texts(&mut self, change: &mut dyn FnMut(&mut String)) {
        change(&mut self.step);
        let shown = self.machine.iter_mut().flat_map(|machine| &mut machine.shown);
        self.exit.iter_mut().chain(&mut self.last_lines).chain(shown).for_each(change);
    }
}

/// An import, a step or an export of a template, for errors about what the host, the network or a guest has for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Where it stands.
    pub position: crate::diagnostic::Position,
    /// The steps made of others that it is a part of; the outermost is the first.
    pub within: Vec<crate::diagnostic::Within>,
    /// Its role, its kind and its text, for people: `import: disk: images/debian.qcow2`.
    pub what: String,
}

/// What is known of a step that failed.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StepFailure {
    /// Where the step stands in its template.
    pub position: Option<crate::diagnostic::Position>,
    /// The steps made of others that it is a part of; the outermost is the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<crate::diagnostic::Within>,
    /// Kind and text of the step, for people.
    pub step: String,
    /// How its program ended, in words: `exit status 2`, `killed by signal 9`; `None` where none ran.
    pub exit: Option<String>,
    /// The last lines of its output, as data of the guest.
    pub last_lines: Vec<String>,
    /// The whole log.
    pub log: std::path::PathBuf,
    /// The overlay as the step left it, where it was kept.
    pub kept: Option<std::path::PathBuf>,
    /// What is left of the machine in which it failed, where it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineLeft>,
}

/// What is left of a machine in which a step failed, or which did not boot.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MachineLeft {
    /// The layer that it booted.
    pub below: crate::key::LayerKey,
    /// A picture of its screen at the end, PNG.
    pub screen: Option<std::path::PathBuf>,
    /// The last lines that were read from its screen, as data of the guest, where the error itself does not have them.
    pub shown: Vec<String>,
    /// What its serial console said.
    pub console: Option<std::path::PathBuf>,
    /// Pictures that steps asked for before.
    #[serde(skip)]
    pub screenshots: Vec<std::path::PathBuf>,
}
