//! What may stand beside a step's runner: when it runs, how, and for how long its layer is good.

use std::collections::BTreeMap;

use super::expression::{Engine, is_expression, whole_expression};
use super::node::{Kind, Node};
use super::scope::Scope;
use super::truth::{says, text_holds, value_holds};
use super::{shell, suggest};
use crate::diagnostic::Diagnostic;
use crate::host::units::time;

/// The names of all options, as they stand beside a runner.
pub const OPTIONS: [&str; 12] = [
    "name",
    "when",
    "env",
    "network",
    "timeout",
    "cache",
    "cache_key",
    "retries",
    "secrets",
    "mounts",
    "shell",
    "privileged",
];
/// Those that `defaults` may set for a whole template.
pub const DEFAULTS: [&str; 6] = ["env", "network", "timeout", "cache", "retries", "shell"];

/// What stands beside a runner, by what it does to the step's layer. A new option is one field of one of these, and where it
/// stands says whether it is a part of the key: all of [`Shaping`] is, and nothing else.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepOptions {
    /// What shapes the layer.
    pub shaping: Shaping,
    /// How the step runs.
    pub running: Running,
    /// For how long the layer is good.
    pub caching: Caching,
}

/// What shapes a layer, and so enters its key (`plan/keyed.rs`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shaping {
    /// Variables for its commands.
    pub env: BTreeMap<String, String>,
    /// Whether its commands may use the network; `None` is what its kind does.
    pub network: Option<bool>,
    /// Whether its commands have all rights in a machine of their own.
    pub privileged: Option<bool>,
    /// Texts that enter its key and do nothing else.
    pub cache_key: Vec<String>,
    /// Names of the secrets that its commands may read.
    pub secrets: Vec<String>,
    /// Caches that its commands use.
    pub mounts: Vec<CacheMount>,
    /// Digests of the programs that made it, by the names of their steps.
    pub made_by: BTreeMap<String, String>,
}

/// How a step runs, whatever its layer is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Running {
    /// What people call it.
    pub name: Option<String>,
    /// Seconds that it may take.
    pub timeout: Option<u64>,
    /// How often it is tried again after it failed.
    pub retries: Option<u32>,
    /// What runs its script, where that does not say it itself. The runner has it, and keys it with its script.
    pub shell: Option<String>,
}

/// For how long a layer is good.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Caching {
    /// Seconds that its layer is good for.
    pub ttl: Option<u64>,
    /// Its layer is never taken from the store.
    pub always_run: bool,
}

impl StepOptions {
    /// Whether its commands have all rights, in a machine of their own.
    pub fn has_all_rights(&self) -> bool {
        self.shaping.privileged.unwrap_or(false)
    }

    /// These options where a step within sets none of its own.
    pub(super) fn around(&self, inner: StepOptions) -> StepOptions {
        StepOptions {
            shaping: self.shaping.around(inner.shaping),
            running: self.running.around(inner.running),
            caching: self.caching.around(inner.caching),
        }
    }

    /// The options as they stand beside a runner.
    pub(super) fn members(&self) -> Vec<(&'static str, serde_json::Value)> {
        let mut members = Vec::new();
        let mut add = |name, value: serde_json::Value| members.push((name, value));
        if let Some(name) = &self.running.name {
            add("name", name.as_str().into());
        }
        if !self.shaping.env.is_empty() {
            add("env", serde_json::json!(self.shaping.env));
        }
        if let Some(network) = self.shaping.network {
            add("network", if network { "on" } else { "off" }.into());
        }
        if let Some(privileged) = self.shaping.privileged {
            add("privileged", if privileged { "on" } else { "off" }.into());
        }
        if let Some(timeout) = self.running.timeout {
            add("timeout", timeout.into());
        }
        match self.caching.ttl {
            _ if self.caching.always_run => add("cache", "always-run".into()),
            Some(ttl) => add("cache", serde_json::json!({ "ttl": ttl })),
            None => {}
        }
        match &self.shaping.cache_key[..] {
            [] => {}
            [only] => add("cache_key", only.as_str().into()),
            several => add("cache_key", serde_json::json!(several)),
        }
        if let Some(retries) = self.running.retries {
            add("retries", retries.into());
        }
        if !self.shaping.secrets.is_empty() {
            add("secrets", serde_json::json!(self.shaping.secrets));
        }
        if !self.shaping.mounts.is_empty() {
            add("mounts", serde_json::json!(self.shaping.mounts));
        }
        if let Some(shell) = &self.running.shell {
            add("shell", shell.as_str().into());
        }
        members
    }

    /// Reads one option from its rendered value; `when` is not read here.
    pub(super) fn set(&mut self, name: &str, node: &Node) -> Result<(), Diagnostic> {
        match name {
            "name" => self.running.name = Some(text(node, "a text")?),
            "env" => {
                let Kind::Map(members) = &node.kind else { return Err(wrong(node, "a mapping of variables")) };
                for (key, value) in members {
                    let name = key.text().unwrap_or_default();
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                    if name.is_empty() || !name.bytes().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
                        return Err(key.diagnostic(format!("`{}` is not the name of a variable", name.escape_debug())));
                    }
                    self.shaping.env.insert(name.to_owned(), text(value, "a text")?);
                }
            }
            "network" => self.shaping.network = Some(on_or_off(node)?),
            "privileged" => self.shaping.privileged = Some(on_or_off(node)?),
            "shell" => {
                let shell = text(node, "the path of a shell")?.trim().to_owned();
                if !shell.starts_with('/') || shell.contains(['\n', '\0']) {
                    return Err(wrong(node, "the path of a shell, such as `/bin/bash -eu`"));
                }
                if let Some(problem) = shell::wrong_options(&shell) {
                    return Err(node.diagnostic(problem));
                }
                if node.source.format() >= 2
                    && let Some(strict) = shell::strict_instead(&shell)
                {
                    let mut note = node.diagnostic("with this shell, a command that fails does not end a script");
                    note.hint = Some(format!("say `shell: {strict}`; `/bin/sh` alone goes on without this note"));
                    node.note(note);
                }
                self.running.shell = Some(shell);
            }
            "timeout" => self.running.timeout = Some(seconds(node)?),
            "cache" => match &node.kind {
                Kind::Map(members) => {
                    for (key, value) in members {
                        match key.text() {
                            Some("ttl") => self.caching.ttl = Some(seconds(value)?),
                            other => {
                                let other = other.unwrap_or_default();
                                let mut problem = key.diagnostic(format!("unknown key `{other}`"));
                                problem.hint = Some(suggest::hint(other, ["ttl"]));
                                return Err(problem);
                            }
                        }
                    }
                }
                _ if node.text() == Some("always-run") => self.caching.always_run = true,
                _ => return Err(wrong(node, "`always-run` or `{ttl: 7d}`")),
            },
            "cache_key" => match &node.kind {
                Kind::List(items) if node.literal.is_none() => {
                    for item in items {
                        self.shaping.cache_key.push(text(item, "a text")?);
                    }
                }
                _ => self.shaping.cache_key.push(text(node, "a text")?),
            },
            "retries" => match node.integer() {
                Some(value @ 0..=100) => self.running.retries = Some(value as u32),
                _ => return Err(wrong(node, "a number from 0 to 100")),
            },
            "secrets" => {
                let items = match &node.kind {
                    Kind::List(items) => items.iter().collect(),
                    _ => vec![node],
                };
                for item in items {
                    self.shaping.secrets.push(text(item, "the name of a secret")?);
                }
            }
            "mounts" => {
                let items = match &node.kind {
                    Kind::List(items) => items.iter().collect(),
                    _ => vec![node],
                };
                for item in items {
                    self.shaping.mounts.push(CacheMount::read(item)?);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Those of an inner list after those of an outer one, each once.
fn joined(outer: &[String], inner: Vec<String>) -> Vec<String> {
    let mut all = outer.to_vec();
    all.extend(inner.into_iter().filter(|item| !outer.contains(item)));
    all
}

impl Shaping {
    fn around(&self, inner: Shaping) -> Shaping {
        let mut env = self.env.clone();
        env.extend(inner.env);
        let mut made_by = self.made_by.clone();
        made_by.extend(inner.made_by);
        Shaping {
            env,
            network: inner.network.or(self.network),
            privileged: inner.privileged.or(self.privileged),
            cache_key: joined(&self.cache_key, inner.cache_key),
            secrets: joined(&self.secrets, inner.secrets),
            mounts: if inner.mounts.is_empty() { self.mounts.clone() } else { inner.mounts },
            made_by,
        }
    }
}

impl Running {
    fn around(&self, inner: Running) -> Running {
        let name = match (&self.name, inner.name) {
            (Some(outer), Some(inner)) => Some(format!("{outer}: {inner}")),
            (outer, inner) => inner.or_else(|| outer.clone()),
        };
        Running {
            name,
            timeout: inner.timeout.or(self.timeout),
            retries: inner.retries.or(self.retries),
            shell: inner.shell.or_else(|| self.shell.clone()),
        }
    }
}

impl Caching {
    fn around(&self, inner: Caching) -> Caching {
        Caching { ttl: inner.ttl.or(self.ttl), always_run: inner.always_run || self.always_run }
    }
}

/// A cache that the commands of a step use: a place outside of layers that stays between builds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CacheMount {
    /// Its name.
    pub cache: String,
    /// Where in the guest; `None` for the places of a package manager of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Where package managers keep what they download.
const PLACES: &[(&str, &[&str])] = &[
    ("apt", &["/var/cache/apt/archives", "/var/lib/apt/lists"]),
    ("dnf", &["/var/cache/dnf"]),
    ("yum", &["/var/cache/yum"]),
    ("zypper", &["/var/cache/zypp"]),
    ("apk", &["/var/cache/apk"]),
    ("pacman", &["/var/cache/pacman/pkg"]),
];

impl CacheMount {
    fn read(node: &Node) -> Result<CacheMount, Diagnostic> {
        let Kind::Map(members) = &node.kind else { return Err(wrong(node, "a mapping such as `{cache: apt}`")) };
        let mut mount = CacheMount { cache: String::new(), target: None };
        for (key, value) in members {
            match key.text() {
                Some("cache") => {
                    mount.cache = text(value, "the name of a cache")?;
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
                    if mount.cache.is_empty() || mount.cache.len() > 32 || !mount.cache.bytes().all(plain) {
                        return Err(wrong(value, "a name of at most 32 letters, digits, `_` and `-`"));
                    }
                }
                Some("target") => {
                    let target = text(value, "a path in the guest")?;
                    let parts = target.split('/').filter(|part| !part.is_empty());
                    if !target.starts_with('/') || target.contains('\0') || parts.clone().next().is_none() {
                        return Err(wrong(value, "an absolute path in the guest"));
                    }
                    if parts.clone().any(|part| part == "." || part == "..") {
                        return Err(wrong(value, "a path without `.` and `..`"));
                    }
                    mount.target = Some(target);
                }
                other => {
                    let other = other.unwrap_or_default();
                    let mut problem = key.diagnostic(format!("unknown key `{}`", other.escape_debug()));
                    problem.hint = Some(suggest::hint(other, ["cache", "target"]));
                    return Err(problem);
                }
            }
        }
        let known = PLACES.iter().any(|(name, _)| *name == mount.cache);
        match (&mount.target, known) {
            _ if mount.cache.is_empty() => Err(node.diagnostic("the key `cache` is missing")),
            (None, false) => {
                let message =
                    format!("the cache `{}` is that of no package manager, so it needs a `target`", mount.cache);
                Err(node.diagnostic(message))
            }
            (Some(_), true) => {
                Err(node.diagnostic(format!("the cache `{}` has its own places; leave `target` out", mount.cache)))
            }
            _ => Ok(mount),
        }
    }

    /// Folders of the cache, with their places in the guest.
    pub fn folders(&self) -> Vec<(String, String)> {
        match &self.target {
            Some(target) => vec![("files".into(), target.clone())],
            None => {
                let places = PLACES.iter().find(|(name, _)| *name == self.cache).map_or(&[][..], |(_, places)| places);
                places.iter().enumerate().map(|(index, place)| (index.to_string(), (*place).to_owned())).collect()
            }
        }
    }
}

fn wrong(node: &Node, expected: &str) -> Diagnostic {
    let found = match node.text() {
        Some(text) => format!("`{}`", super::expression::quote(text)),
        None => node.describe().to_owned(),
    };
    node.diagnostic(format!("expected {expected}, found {found}"))
}

fn text(node: &Node, expected: &str) -> Result<String, Diagnostic> {
    node.text().map(str::to_owned).ok_or_else(|| wrong(node, expected))
}

/// `on` and `off`, and what YAML calls a boolean.
fn on_or_off(node: &Node) -> Result<bool, Diagnostic> {
    match (&node.kind, node.text()) {
        (Kind::Bool(value), _) => Ok(*value),
        (_, Some("on")) => Ok(true),
        (_, Some("off")) => Ok(false),
        _ => Err(wrong(node, "`on` or `off`")),
    }
}

/// Seconds, or a number with `s`, `m`, `h`, `d` or `w`.
fn seconds(node: &Node) -> Result<u64, Diagnostic> {
    let seconds = node.text().and_then(|text| time(text.trim())).map(|time| time.as_secs());
    seconds.filter(|seconds| *seconds > 0).ok_or_else(|| wrong(node, "a time such as `90s`, `10m`, `12h` or `7d`"))
}

/// Whether a step with this `when` is in the chain. `data` is a node that was rendered already.
pub(super) fn holds(node: &Node, data: bool, engine: &Engine, scope: &Scope, problems: &mut Vec<Diagnostic>) -> bool {
    let told = |problem: Option<Box<Diagnostic>>, problems: &mut Vec<Diagnostic>| problems.extend(problem.map(|p| *p));
    match &node.kind {
        Kind::Bool(value) => *value,
        Kind::String(text) if !data && is_expression(text, node) && whole_expression(text).is_none() => {
            match engine.string(text, node, scope) {
                Ok(rendered) => truth(&rendered),
                Err(problem) => {
                    told(problem, problems);
                    false
                }
            }
        }
        // `when: no` is what YAML's booleans look like to whoever writes it; a parameter of that name is another thing.
        Kind::String(text) if says(text).is_some() && scope.variable(text.trim()).is_none() => says(text) == Some(true),
        Kind::String(text) if !data && !text.trim().is_empty() => {
            match engine.bare(whole_expression(text).unwrap_or(text), node, scope) {
                Ok(value) => value_holds(&value),
                Err(problem) => {
                    told(problem, problems);
                    false
                }
            }
        }
        Kind::Integer { value, .. } => *value != 0,
        Kind::String(_) if data && node.origin.is_some() => truth(node),
        _ => {
            problems.push(wrong(node, "an expression or a boolean"));
            false
        }
    }
}

fn truth(node: &Node) -> bool {
    match &node.kind {
        Kind::Null => false,
        Kind::Bool(value) => *value,
        Kind::Integer { value, .. } => *value != 0,
        Kind::Float { value, .. } => *value != 0.0,
        // Never true where it says no: it may come from the command line, or from YAML, which knows `no` as a text.
        Kind::String(text) => text_holds(text),
        Kind::List(items) => !items.is_empty(),
        Kind::Map(members) => !members.is_empty(),
    }
}
