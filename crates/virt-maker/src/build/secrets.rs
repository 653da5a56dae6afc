//! The values of the secrets of a build: read once, when it is clear that something is to be done, and before anything is.
//!
//! Every secret that a step of a spec names is read when the first of its steps, or its export, has to run: what a layer that
//! was there already holds, a later step may print, and an export may carry. One that cannot be read ends that spec before it
//! begins, with its place in the template. A build where all is there and current reads none. Secrets that no step names
//! are never read.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use super::mask::Forms;
use crate::diagnostic::Diagnostic;
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::guest::Secrets;
use crate::host::url::{self, shown_in};
use crate::plan::SpecId;
use crate::spec::{Secret, SecretSource, Spec};

/// Largest secret, in bytes.
const SECRET_MAX: u64 = 64 << 10;
/// Shorter passwords of proxies are not masked: they would be everywhere.
const PASSWORD_MIN: usize = 4;

/// What has been read so far.
#[derive(Default)]
pub(super) struct Values {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    read: BTreeMap<SpecId, Secrets>,
    /// What is masked besides.
    others: Vec<String>,
    forms: Arc<Forms>,
}

impl Values {
    /// None is read yet; passwords in the addresses of proxies are masked from the start.
    pub(super) fn new(network_env: &BTreeMap<String, String>) -> Values {
        let passwords = network_env.values().filter_map(|url| url::password(url));
        let others: Vec<String> =
            passwords.flat_map(|(raw, decoded)| [raw, decoded]).filter(|text| text.len() >= PASSWORD_MIN).collect();
        let texts: Vec<&str> = others.iter().map(String::as_str).collect();
        let forms = Arc::new(Forms::of(&texts));
        Values { state: Mutex::new(State { read: BTreeMap::new(), others, forms }) }
    }

    /// Reads the secrets of these specs; the error has all that cannot be read.
    pub(super) fn read<'s>(
        &self,
        specs: impl IntoIterator<Item = (SpecId, &'s Spec)>,
        env: &BTreeMap<String, String>,
    ) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut problems: Vec<Diagnostic> = Vec::new();
        for (id, spec) in specs {
            if state.read.contains_key(&id) {
                continue;
            }
            let mut values = BTreeMap::new();
            for secret in &spec.secrets {
                if !spec.every_step().any(|step| step.options.shaping.secrets.contains(&secret.name)) {
                    continue;
                }
                match value(secret, env) {
                    Ok(value) => drop(values.insert(secret.name.clone(), value)),
                    Err(message) => {
                        let problem = Diagnostic { message, ..secret.place.clone() };
                        // Images of one matrix have it from one place.
                        if !problems.contains(&problem) {
                            problems.push(problem);
                        }
                    }
                }
            }
            state.read.insert(id, Secrets(values));
        }
        if !problems.is_empty() {
            // Asked again, it is the same error again.
            state.read.clear();
            return Err(Error::template(problems));
        }
        let texts = state.read.values().flat_map(|secrets| secrets.0.values()).chain(&state.others);
        let texts: Vec<&str> = texts.map(String::as_str).collect();
        let forms = Arc::new(Forms::of(&texts));
        state.forms = forms;
        Ok(())
    }

    /// All values of a spec, by their names.
    pub(super) fn of_spec(&self, id: SpecId, spec: &Spec, env: &BTreeMap<String, String>) -> Result<Secrets> {
        self.read([(id, spec)], env)?;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(state.read.get(&id).cloned().unwrap_or_default())
    }

    /// What is masked by now.
    pub(super) fn forms(&self) -> Arc<Forms> {
        Arc::clone(&self.state.lock().unwrap_or_else(PoisonError::into_inner).forms)
    }

    /// A stream into `events` in which no value shows, and no password of a URL. Output of steps is masked before, in its pieces.
    pub(super) fn masked(self: &Arc<Values>, events: &Events) -> Events {
        let (values, whole) = (Arc::clone(self), events.clone());
        Events::new(move |mut event| {
            if !matches!(event, Event::Output { .. } | Event::Progress { .. }) {
                let forms = values.forms();
                event.texts(&mut |text| hide(&forms, text));
            }
            whole.send(event);
        })
    }

    /// An error in which none shows.
    pub(super) fn hidden(&self, error: Error) -> Error {
        let forms = self.forms();
        error.with_texts(&|text| hide(&forms, text))
    }
}

/// Takes values of secrets out of a text, and out of its URLs what lets somebody in.
fn hide(forms: &Arc<Forms>, text: &mut String) {
    forms.hide(text);
    if text.contains("://") {
        *text = shown_in(text);
    }
}

/// The value of a secret, or why there is none.
fn value(secret: &Secret, env: &BTreeMap<String, String>) -> Result<String, String> {
    let name = &secret.name;
    let value = match &secret.source {
        SecretSource::Env(variable) => env
            .get(variable)
            .cloned()
            .ok_or_else(|| format!("the secret `{name}` is not there: the variable {variable} is not set"))?,
        SecretSource::File(path) => {
            let failed = |why: &str| format!("cannot read the secret `{name}` from {}: {why}", path.display());
            let broken = |error: std::io::Error| failed(&error.to_string());
            let mut bytes = Vec::new();
            path.open().and_then(|file| file.take(SECRET_MAX + 1).read_to_end(&mut bytes)).map_err(broken)?;
            String::from_utf8(bytes).map_err(|_| failed("it is no text"))?
        }
    };
    if value.contains('\0') {
        return Err(format!("the secret `{name}` is no text: it has a zero byte"));
    }
    if value.len() as u64 > SECRET_MAX {
        return Err(format!("the secret `{name}` has more than {SECRET_MAX} bytes"));
    }
    if value.trim().is_empty() {
        return Err(format!("the secret `{name}` is empty"));
    }
    Ok(value)
}
