//! The environment: the one place that reads it. What files of settings say besides is in [`crate::config`].
#![expect(clippy::disallowed_methods, reason = "everything else gets what is read here as settings")]

use std::collections::BTreeMap;
use std::env;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use virt_maker::engine::select::EngineChoice;
use virt_maker::host::{Cancel, Certificates};
use virt_maker::spec::{SecretSource, Spec};
use virt_maker::store::{Limits, Owner, Store};

use crate::arguments::Engine;
use crate::arguments::store::LimitArguments;
use crate::config;
use crate::error::Failure;

/// Variables that are passed to commands and tools which use a network.
const PROXIES: [&str; 4] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy"];

/// Where layers are kept.
pub fn store(argument: Option<PathBuf>) -> Result<PathBuf, Failure> {
    Ok(config::store(argument)?.value)
}

/// The store that `argument` means, open. It is one of this user, or an error.
pub fn open_store(argument: Option<PathBuf>) -> Result<Store, Failure> {
    Ok(Store::open(&store(argument)?, &owner()?)?.waiting(crate::report::waits(&Cancel::default())))
}

/// Who this user is, where stores are opened: the secret by which the user's own ones are known is
/// `virt-maker/secret` in `$XDG_STATE_HOME`, else in `~/.local/state`.
pub fn owner() -> Result<Owner, Failure> {
    let base = path("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let base = base.or_else(|| home().map(|home| home.join(".local/state")));
    match base {
        Some(base) => {
            Ok(Owner::new(base.join("virt-maker/secret"), cache_dir().ok().map(|folder| folder.join("store"))))
        }
        None => Err(Failure::Usage(
            "this user has no home, and neither HOME nor XDG_STATE_HOME is set: there is no place for the secret by \
             which your own stores are known"
                .into(),
        )),
    }
}

/// `$HOME`; where it is not set, as for services, what the system's list of users says.
fn home() -> Option<PathBuf> {
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

/// A kernel for the appliance.
pub fn kernel(argument: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    Ok(config::kernel(argument)?.value)
}

/// How steps are run.
pub fn engine(argument: Option<Engine>) -> Result<EngineChoice, Failure> {
    Ok(config::engine(argument)?.value.into())
}

/// The limits of the store that `store` means.
pub fn limits(given: &LimitArguments, store: Option<PathBuf>) -> Result<Limits, Failure> {
    let (given, said) = (given.limits(), config::limits(&config::store(store)?)?);
    Ok(Limits {
        max_size: given.max_size.or(said.max_size.value),
        min_free: given.min_free.or(said.min_free.value),
        max_age: given.max_age.or(said.max_age.value),
    })
}

/// How many images a chain may have before a layer is flattened, in the store that `store` means.
pub fn max_depth(given: Option<usize>, store: Option<PathBuf>) -> Result<usize, Failure> {
    let said = config::limits(&config::store(store)?)?;
    Ok(given.unwrap_or(said.max_depth.value))
}

/// How many images are worked on at once.
pub fn jobs(argument: Option<NonZeroUsize>) -> Result<Option<NonZeroUsize>, Failure> {
    Ok(config::jobs(argument)?.value)
}

/// Proxy settings, under their small names and their large ones.
pub fn proxies() -> BTreeMap<String, String> {
    let names = PROXIES.iter().flat_map(|name| [(*name).to_owned(), name.to_uppercase()]);
    names.filter_map(|name| Some((name.clone(), env::var(&name).ok()?))).collect()
}

/// Whom downloads believe: what the usual variables name, and what the user's settings do.
pub fn certificates() -> Result<Certificates, Failure> {
    let folders = env::var_os("SSL_CERT_DIR").filter(|value| !value.is_empty());
    Ok(Certificates {
        file: path("SSL_CERT_FILE"),
        folders: folders.map(|value| env::split_paths(&value).collect()).unwrap_or_default(),
        more: config::certificates()?.value,
    })
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

/// The user's settings: `virt-maker/config.toml` in `$XDG_CONFIG_HOME`, else in `~/.config`.
pub fn config_file() -> Option<PathBuf> {
    let base = path("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    base.or_else(|| path("HOME").map(|home| home.join(".config"))).map(|base| base.join("virt-maker/config.toml"))
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

/// Folders of programs that administrators use. The search path of an ordinary user often lacks them, and what is in them
/// (`mke2fs`, `sfdisk`) works for everybody.
const ADMINISTRATORS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

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

pub fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
