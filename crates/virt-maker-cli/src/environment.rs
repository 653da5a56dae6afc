//! The environment: the one place that reads it. What it means together with the command line and the files of settings is
//! in [`crate::settings`].
#![expect(clippy::disallowed_methods, reason = "everything else gets what is read here as settings")]

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;

use virt_maker::host::Certificates;
use virt_maker::spec::{SecretSource, Spec};

use crate::error::Failure;

/// Variables that are passed to commands and tools which use a network.
const PROXIES: [&str; 4] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy"];

/// Folders of programs that administrators use. The search path of an ordinary user often lacks them, and what is in them
/// (`mke2fs`, `sfdisk`) works for everybody.
const ADMINISTRATORS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// `$HOME`; where it is not set, as for services, what the system's list of users says.
pub fn home() -> Option<PathBuf> {
    path("HOME").or_else(env::home_dir).filter(|home| home.is_absolute())
}

/// The folder for what can be made again, by the XDG rules: `$XDG_CACHE_HOME/virt-maker`, else `~/.cache/virt-maker`.
pub fn cache_dir() -> Result<PathBuf, Failure> {
    // A relative path in this variable is to be ignored, say the rules.
    let base = path("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let base = base.or_else(|| path("HOME").map(|home| home.join(".cache")));
    match base {
        Some(base) => Ok(base.join("virt-maker")),
        None => Err(Failure::Usage("neither HOME nor XDG_CACHE_HOME is set; say --store DIR".into())),
    }
}

/// The user's settings: `virt-maker/config.toml` in `$XDG_CONFIG_HOME`, else in `~/.config`.
pub fn config_file() -> Option<PathBuf> {
    let base = path("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    base.or_else(|| path("HOME").map(|home| home.join(".config"))).map(|base| base.join("virt-maker/config.toml"))
}

/// The agent: `VIRT_MAKER_AGENT`, else beside this program, else in `../libexec/virt-maker`.
pub fn agent() -> PathBuf {
    const NAME: &str = "virt-maker-agent";
    if let Some(agent) = path("VIRT_MAKER_AGENT") {
        return agent;
    }
    let program = env::current_exe().unwrap_or_default();
    let folder = program.parent().map(PathBuf::from).unwrap_or_default();
    let beside = folder.join(NAME);
    let installed = folder.join("../libexec/virt-maker").join(NAME);
    if !beside.exists() && installed.exists() { installed } else { beside }
}

/// Proxy settings, under their small names and their large ones.
pub fn proxies() -> BTreeMap<String, String> {
    let names = PROXIES.iter().flat_map(|name| [(*name).to_owned(), name.to_uppercase()]);
    names.filter_map(|name| Some((name.clone(), env::var(&name).ok()?))).collect()
}

/// Whom downloads believe, as far as the usual variables say.
pub fn certificates() -> Certificates {
    let folders = env::var_os("SSL_CERT_DIR").filter(|value| !value.is_empty());
    Certificates {
        file: path("SSL_CERT_FILE"),
        folders: folders.map(|value| env::split_paths(&value).collect()).unwrap_or_default(),
        more: None,
    }
}

/// How much to say: the number of `-v`, or what `VERBOSE` or `VERBOSITY` says.
pub fn verbosity(flags: u8) -> u8 {
    let variable = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    if flags > 0 { flags } else { variable("VERBOSE").or_else(|| variable("VERBOSITY")).unwrap_or(0) }
}

/// Folders of users, by `HOME` and the list of users: with `sudo` the template may lie in that of another one.
pub fn homes() -> Vec<PathBuf> {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed = users.lines().filter_map(|user| user.split(':').nth(5)).map(PathBuf::from);
    path("HOME").into_iter().chain(listed).filter(|home| home.is_absolute()).collect()
}

/// Where this process runs: older templates name files relative to it.
pub fn working_dir() -> Option<PathBuf> {
    env::current_dir().ok()
}

/// Variables that hold the secrets of these specs, as far as they are set.
pub fn secrets(specs: &[Spec]) -> BTreeMap<String, String> {
    let named = specs.iter().flat_map(|spec| &spec.secrets).filter_map(|secret| match &secret.source {
        SecretSource::Env(name) => Some(name),
        SecretSource::File(_) => None,
    });
    named.filter_map(|name| Some((name.clone(), env::var(name).ok()?))).collect()
}

/// Whether the terminal cannot move its cursor, so that lines which change cannot be shown.
pub fn plain_terminal() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Whether colours are wanted (<https://no-color.org>).
pub fn colours() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Puts these folders at the end of the search path, for this process and what it starts. While there is one thread.
pub fn complete_search_path() {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    let before = folders.len();
    let missing = ADMINISTRATORS
        .iter()
        .map(PathBuf::from)
        .filter(|folder| !env::split_paths(&path).any(|known| known == *folder));
    folders.extend(missing);
    if folders.len() > before
        && let Ok(path) = env::join_paths(folders)
    {
        // SAFETY: this is called before any thread is started, so nobody reads the environment meanwhile.
        unsafe { env::set_var("PATH", path) };
    }
}

/// A variable that says something, by a name of our own.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// A variable that names a file or a folder.
pub fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
