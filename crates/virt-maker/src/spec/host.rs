//! What templates may ask of the host while they are loaded: downloads for `download()`, programs for `exec:`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::chain;
use crate::event::Events;
use crate::host::permit::Permissions;
use crate::host::{Cancel, Certificates, Tool, digest};
use crate::import::{self, ImportContext};
use crate::step;
use crate::template::LoadOptions;

/// Where and how the host may be used.
#[derive(Clone)]
pub struct HostAccess {
    /// A folder that stays between builds; see [`ImportContext::cache_dir`].
    pub cache_dir: PathBuf,
    /// What the user allowed.
    pub permissions: Permissions,
    /// Folders of users: the user's own, and others.
    pub homes: Vec<PathBuf>,
    /// Variables for programs and downloads that use the network.
    pub env: BTreeMap<String, String>,
    /// Whom downloads over https believe.
    pub certificates: Certificates,
    /// Progress of downloads.
    pub events: Events,
    /// Asked regularly.
    pub cancel: Cancel,
}

impl HostAccess {
    /// The same for imports.
    pub fn import_context(&self) -> ImportContext<'_> {
        ImportContext {
            cache_dir: &self.cache_dir,
            events: &self.events,
            cancel: &self.cancel,
            env: &self.env,
            certificates: &self.certificates,
            host_network: self.permissions.host_network,
        }
    }
}

/// How templates are loaded with these parameters; relative files that are not beside a template are looked for in
/// `working_dir`.
pub fn load_options(parameters: &[(String, String)], working_dir: Option<PathBuf>, host: &HostAccess) -> LoadOptions {
    let (fetching, running) = (host.clone(), host.clone());
    LoadOptions {
        parameters: parameters.to_vec(),
        working_dir,
        cache_dir: host.cache_dir.clone(),
        homes: host.homes.clone(),
        permissions: host.permissions.clone(),
        door: None,
        frozen: None,
        builtin: step::KINDS.iter().map(|kind| kind.name).collect(),
        fetch: Some(Arc::new(move |url, target| fetch(&fetching, url, target))),
        exec: Some(Arc::new(move |program, arguments| exec(&running, program, arguments))),
        check_inputs: false,
        instead: None,
    }
}

fn fetch(host: &HostAccess, url: &str, target: &Path) -> Result<(), String> {
    import::download(url, target, &host.import_context()).map_err(|error| chain(&error))
}

/// Runs a program with arguments as JSON on its standard input; its answer, and the digest of its file.
fn exec(host: &HostAccess, program: &Path, arguments: &serde_json::Value) -> Result<(String, String), String> {
    let failed = |what: String| format!("cannot run {}: {what}", program.display());
    let digest = digest::of_file(program).map_err(|error| failed(error.to_string()))?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    let tool = Tool::new(program, "").folder(folder).input(format!("{arguments}\n"));
    let answer = tool.run(&host.cancel).map_err(|error| failed(chain(&error)))?;
    let answer = String::from_utf8(answer).map_err(|_| failed("its answer is not UTF-8 text".into()))?;
    Ok((answer, digest.to_string()))
}
