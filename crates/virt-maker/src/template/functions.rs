//! The functions of the expression language.
//!
//! Those whose values change from one time to the next (`now()`, `random_word()`, ...) note each call: what they gave
//! is kept with the build, so that `--freeze` can give it again, and every value that they had a part in is marked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, filters};

use super::host;
use super::node::{Node, SourceFile};
use super::parse::parse_text;
use super::suggest;
use super::value::{check_extent, to_value};
use crate::host::permit::{Door, Refusal};

/// Largest file that an expression may read, in bytes.
const FILE_MAX: u64 = 16 << 20;

/// Most items that a function takes: a repeated list has no bound of its own.
const ITEMS_MAX: usize = 100_000;

/// Downloads a URL to a path that does not exist yet; the error is a sentence.
pub type Fetch = Arc<dyn Fn(&str, &Path) -> Result<(), String> + Send + Sync>;

/// What `cache_dir()` says: looked for when a template asks for it.
pub(super) type CacheDir = LazyLock<PathBuf, Box<dyn FnOnce() -> PathBuf + Send>>;

/// What functions share, and what they learn.
pub(super) struct Shared {
    pub door: Arc<Door>,
    pub cache_dir: CacheDir,
    pub fetch: Option<Fetch>,
    /// Values of volatile calls from an earlier build.
    pub frozen: Option<BTreeMap<String, String>>,
    pub state: Mutex<State>,
}

/// What is under way.
#[derive(Default)]
pub(super) struct State {
    /// The node whose expression is evaluated.
    pub place: Option<Node>,
    /// Volatile functions that it has called.
    pub volatile: Vec<&'static str>,
    /// Why a function failed, with what to do about it: better than what the engine can say.
    pub failure: Option<(String, Option<String>)>,
    /// Values of all volatile calls: `name(arguments)#count` to value.
    pub record: BTreeMap<String, String>,
    counts: BTreeMap<String, u32>,
    /// The one instant of this load.
    now: Option<host::LocalTime>,
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, message: impl Into<String>, hint: Option<String>) -> Error {
        let message = message.into();
        self.state().failure = Some((message.clone(), hint));
        Error::new(ErrorKind::InvalidOperation, message)
    }

    /// A value that is another one each time, unless it is frozen.
    fn volatile(&self, name: &'static str, arguments: &str, make: impl FnOnce(&mut State) -> String) -> String {
        let mut state = self.state();
        state.volatile.push(name);
        let call = format!("{name}({arguments})");
        let count = state.counts.entry(call.clone()).or_default();
        *count += 1;
        let slot = format!("{call}#{count}");
        let frozen = self.frozen.as_ref().and_then(|frozen| frozen.get(&slot)).cloned();
        let value = frozen.unwrap_or_else(|| make(&mut state));
        state.record.insert(slot, value.clone());
        value
    }

    /// The node whose expression is evaluated: its file says what a relative path means.
    fn place(&self) -> Result<Node, Error> {
        let place = self.state().place.clone();
        place.ok_or_else(|| self.fail("this function needs the place of its expression", None))
    }

    /// The error of an expression that the door refused something.
    fn refused(&self, refusal: Refusal) -> Error {
        self.fail(refusal.message, refusal.hint)
    }
}

/// Puts all functions into an environment.
pub(super) fn add_to(environment: &mut Environment<'static>, shared: &Arc<Shared>) {
    for (name, part) in [
        ("year", "%Y"),
        ("month", "%m"),
        ("day", "%d"),
        ("hour", "%H"),
        ("minute", "%M"),
        ("second", "%S"),
        ("now", "%Y-%m-%d_%H-%M-%S"),
    ] {
        let shared = shared.clone();
        let call =
            move || shared.volatile(name, "", |state| state.now.get_or_insert_with(host::local_time).format(part));
        environment.add_function(name, call);
    }
    for (name, number) in [
        ("free_memory", host::free_memory as fn() -> u64),
        ("total_memory", host::total_memory),
        ("nproc", host::processors),
    ] {
        let shared = shared.clone();
        let call = move || -> Result<i64, Error> {
            let text = shared.volatile(name, "", |_| number().to_string());
            text.parse().map_err(|_| shared.fail(format!("the record of {name}() is damaged: `{text}`"), None))
        };
        environment.add_function(name, call);
    }
    let share = shared.clone();
    environment.add_function("random_word", move |positional: Rest<Value>, named: Kwargs| {
        let max = length(&share, &positional, &named, 0, "max_length", 16)?;
        let min = length(&share, &positional, &named, 1, "min_length", 4)?;
        arguments_end(&share, &positional, &named, 2)?;
        word(&share, "random_word", min, max)
    });
    let share = shared.clone();
    environment.add_function("random_hostname", move || -> Result<String, Error> {
        Ok(format!("{}-{}", word(&share, "random_hostname", 4, 7)?, word(&share, "random_hostname", 4, 7)?))
    });
    let share = shared.clone();
    environment.add_function("cache_dir", move || share.cache_dir.display().to_string());
    let share = shared.clone();
    environment.add_function("enumerate", move |items: Value| -> Result<Value, Error> {
        let mut pairs = Vec::new();
        for (index, item) in items.try_iter()?.enumerate() {
            if index == ITEMS_MAX {
                return Err(share.fail(format!("enumerate() takes at most {ITEMS_MAX} items"), None));
            }
            pairs.push(Value::from(vec![Value::from(index), item]));
        }
        Ok(Value::from(pairs))
    });
    environment.add_function("at_least", |minimum: Value, value: Value| if value < minimum { minimum } else { value });
    let share = shared.clone();
    environment.add_function("int", move |value: Value| -> Result<Value, Error> {
        let read = match value.kind() {
            ValueKind::Bool => Some(i64::from(value.is_true())),
            ValueKind::Number => i64::try_from(value.clone()).ok().or_else(|| {
                let float = f64::try_from(value.clone()).ok()?;
                (float.abs() < 9e15).then_some(float.trunc() as i64)
            }),
            _ => value.as_str().and_then(|text| text.trim().replace('_', "").parse().ok()),
        };
        read.map(Value::from).ok_or_else(|| share.fail(format!("int(): `{value}` is not an integer"), None))
    });
    let share = shared.clone();
    environment.add_function("file_contents", move |positional: Rest<Value>, named: Kwargs| -> Result<String, Error> {
        let path = argument(&positional, &named, 0, "path")?
            .ok_or_else(|| share.fail("file_contents() needs a path", None))?;
        let ignore = argument(&positional, &named, 1, "ignore_missing")?.is_some_and(|value| value.is_true());
        arguments_end(&share, &positional, &named, 2)?;
        file_contents(&share, &path.to_string(), ignore)
    });
    let share = shared.clone();
    environment.add_function("from_yaml", move |text: String| -> Result<Value, Error> {
        let place = share.place()?;
        let source = SourceFile {
            path: place.source.path.clone(),
            folder: place.source.folder.clone(),
            text,
            via: None,
            files: place.source.files.clone(),
            format: place.source.format.clone(),
        };
        match parse_text(&Arc::new(source)) {
            Ok(node) => Ok(to_value(&node)),
            Err(problem) => Err(share.fail(format!("from_yaml(): {}", problem.message), None)),
        }
    });
    // What these write is indented more for each level: a deep value would make gigabytes of blanks. The engine's own,
    // which count what they write, cannot be called from here.
    let share = shared.clone();
    environment.add_filter("pprint", move |value: &Value| {
        check_extent(value).map_err(|problem| share.fail(problem.to_string(), None))?;
        Ok(filters::pprint(value))
    });
    let share = shared.clone();
    environment.add_filter("tojson", move |value: &Value, indent: Option<Value>, named: Kwargs| {
        check_extent(value).map_err(|problem| share.fail(problem.to_string(), None))?;
        filters::tojson(value, indent, named)
    });
    let share = shared.clone();
    environment.add_function("download", move |url: String, filepath: String| download(&share, &url, filepath));
}

fn argument(positional: &[Value], named: &Kwargs, index: usize, name: &str) -> Result<Option<Value>, Error> {
    match positional.get(index) {
        Some(value) => Ok(Some(value.clone())),
        None => named.get(name),
    }
}

fn length(
    shared: &Shared,
    positional: &[Value],
    named: &Kwargs,
    index: usize,
    name: &str,
    usual: usize,
) -> Result<usize, Error> {
    match argument(positional, named, index, name)? {
        None => Ok(usual),
        Some(value) => usize::try_from(value.clone())
            .map_err(|_| shared.fail(format!("random_word(): `{name}` is a number of letters, not `{value}`"), None)),
    }
}

fn arguments_end(shared: &Shared, positional: &[Value], named: &Kwargs, most: usize) -> Result<(), Error> {
    if positional.len() > most {
        return Err(shared.fail(format!("at most {most} arguments were expected, found {}", positional.len()), None));
    }
    named.assert_all_used()
}

fn word(shared: &Shared, name: &'static str, min: usize, max: usize) -> Result<String, Error> {
    let word = shared.volatile(name, &format!("{max}, {min}"), |_| host::random_word(min, max).unwrap_or_default());
    if word.is_empty() {
        return Err(shared.fail(format!("no word has {min} to {max} letters"), None));
    }
    Ok(word)
}

fn file_contents(shared: &Shared, name: &str, ignore_missing: bool) -> Result<String, Error> {
    let path = shared.door.read(&shared.place()?.absolute(name)).map_err(|refusal| shared.refused(refusal))?;
    let failed = |what: String| format!("cannot read {}: {what}", path.display());
    match path.read_to_string(FILE_MAX) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && ignore_missing => Ok(String::new()),
        Err(error) => {
            let hint = format!("a missing file is empty text with file_contents('{name}', ignore_missing=True)");
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            Err(shared.fail(failed(error.to_string()), missing.then_some(hint)))
        }
    }
}

fn download(shared: &Shared, url: &str, filepath: String) -> Result<String, Error> {
    let path = shared.place()?.absolute(&filepath);
    if shared.door.read(&path).map_err(|refusal| shared.refused(refusal))?.metadata().is_ok() {
        return Ok(filepath);
    }
    let output = shared.door.keep(&path).map_err(|refusal| shared.refused(refusal))?;
    let fetch = match &shared.fetch {
        Some(fetch) if shared.door.permissions().net => fetch,
        _ => {
            let message = format!("an expression may not use the network: download('{url}', ...)");
            return Err(shared.fail(message, Some("allow it with --allow net".into())));
        }
    };
    fetch(url, output.path()).map_err(|problem| shared.fail(format!("cannot download {url}: {problem}"), None))?;
    Ok(filepath)
}

/// What to say of an unknown function.
pub(super) fn unknown(name: &str, environment: &Environment<'_>) -> String {
    let known: Vec<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
    suggest::hint(name, known.iter().map(String::as_str))
}
