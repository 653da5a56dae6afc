//! `ansible`: a playbook, by the host's `ansible-playbook`, on the guest that an engine has open.
//!
//! Ansible reaches a machine through a connection plugin. The one here asks back: its commands and files go through a socket
//! to this process and on to the guest, so a module is confined as every command of a step is, on each engine alike, and
//! nothing of the guest is mounted where Ansible could see it.
//!
//! A playbook may run what it likes on the host (`delegate_to: localhost`), so the user has to allow that.

mod serve;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use self::serve::{FOLDER, serve};
use super::support::{host_file, paths};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::{Attributes, Guest};
use crate::host::permit::{Door, HostPath};
use crate::host::tree::{Entry, EntryKind, Walk};
use crate::host::{Tool, random};
use crate::key::{Digest, HostInput};
use crate::template::{Kind, Need, Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "ansible",
    about: "Runs an Ansible playbook of the host on the guest, if that is allowed. The guest needs Python.",
    arguments: arguments::<Arguments>,
    example: "ansible: {source: ansible, playbook: site.yml, vars: {role: web}}",
    needs: &[Need::new("ansible-playbook", "ansible-core")],
    version: 1,
    network: true,
    parse,
};

const PLUGIN: &str = include_str!("virt_maker.py");
/// Most files of a folder.
const FILES: usize = 10_000;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The folder with the playbook and all that it uses: roles, files, templates, an `ansible.cfg`.
    source: PathBuf,
    /// The playbook in it, for the hosts `all`.
    playbook: String,
    /// Variables for it.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    #[expect(dead_code, reason = "read from the node, so that values stay what they are")]
    vars: Option<serde::de::IgnoredAny>,
}

struct AnsibleStep {
    source: HostPath,
    door: Arc<Door>,
    playbook: String,
    vars: serde_json::Value,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let Arguments { source, playbook, .. } = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let source = at("source").host_path(source).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    if !source.is_dir() {
        problems.push(at("source").diagnostic(format!("{} is not a folder of the host", source.display())));
    } else if playbook.starts_with(['/', '-']) || playbook.split('/').any(|part| part == "..") {
        problems.push(at("playbook").diagnostic("expected the name of a file in the folder"));
    } else if !source.real().join(&playbook).is_file() {
        let named = source.named().join(&playbook);
        problems.push(at("playbook").diagnostic(format!("{} is not a file of the host", named.display())));
    }
    let vars = match node.get("vars") {
        None | Some(Node { kind: Kind::Null, .. }) => json!({}),
        Some(vars) if matches!(vars.kind, Kind::Map(_)) => vars.to_json(),
        Some(vars) => {
            problems.push(vars.diagnostic(format!("expected a mapping of variables, found {}", vars.describe())));
            json!({})
        }
    };
    let door = node.door().clone();
    if problems.is_empty() { Ok(Box::new(AnsibleStep { source, door, playbook, vars })) } else { Err(problems) }
}

impl Step for AnsibleStep {
    fn summary(&self) -> String {
        self.playbook.clone()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        // The folder is its files, which are the inputs; the door says what may be read.
        let AnsibleStep { source: _, door: _, playbook, vars } = self;
        Ok(StepKey { arguments: json!({ "playbook": playbook, "vars": vars }), inputs: self.collect()? })
    }

    fn runs_on_host(&self) -> bool {
        true
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for AnsibleStep {
    fn run(&self, key: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        paths::require(guest, "python3", "Ansible's modules need it: install it by a step before this one")?;
        let folder = Attributes { mode: Some(0o700), uid: Some(0), gid: Some(0) };
        guest.mkdir(FOLDER, folder, true)?;
        let ran = self.play(guest, context);
        let removed = guest.remove(FOLDER);
        ran.and(removed)?;
        // The layer is not sealed after an error, so what a changed playbook did goes nowhere.
        if self.key_inputs()? == *key { Ok(()) } else { Err(host_file::changed(&self.source)) }
    }
}

impl AnsibleStep {
    /// Everything in the folder, and what lies behind links that lead out of it. What Python keeps for itself is no part
    /// of it.
    fn collect(&self) -> Result<Vec<HostInput>> {
        let behind = |path: &Path| {
            self.door.read(path).map_err(|refusal| {
                let error = Error::new(ErrorKind::Template, refusal.message);
                refusal.hint.into_iter().fold(error, Error::with_hint)
            })
        };
        let skip = |name: &OsStr| name == "__pycache__";
        let walk = Walk { what: "the playbook", skip: &skip, most: FILES, behind: &behind };
        let input = |Entry { name, kind }| {
            let (kind, digest, mode) = match kind {
                EntryKind::File { digest, executable } => ("file", digest, if executable { 0o755 } else { 0 }),
                EntryKind::Link(target) => ("symlink", Digest::of(target.as_bytes()), 0),
                EntryKind::Folder => return None,
            };
            Some(HostInput { name, kind: kind.into(), digest, mode })
        };
        Ok(walk.list(&self.source)?.into_iter().filter_map(input).collect())
    }

    fn play(&self, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        let failed = || "cannot prepare ansible-playbook";
        let home = context.scratch.join(format!("ansible-{}", random::id()?));
        let write = |name: &str, text: &str| fs::write(home.join(name), text).context(ErrorKind::Store, failed);
        let _home = Folder::make(&home).context(ErrorKind::Store, failed)?;
        write("virt_maker.py", PLUGIN)?;
        write("ansible.cfg", "")?;
        write("vars.json", &self.vars.to_string())?;
        let inventory = format!(
            "guest ansible_connection=virt_maker ansible_remote_tmp={FOLDER}/tmp ansible_python_interpreter=auto_silent\n"
        );
        write("inventory", &inventory)?;
        let listener = UnixListener::bind(short(&home, "socket")?.1).context(ErrorKind::Host, failed)?;
        let (_open, socket) = short(&home, "socket")?;
        let own = self.source.real().join("ansible.cfg");
        let config = if own.is_file() { own } else { home.join("ansible.cfg") };
        let tool = Tool::new("ansible-playbook", "ansible-core")
            .env("VIRT_MAKER_SOCKET", &socket)
            .env("ANSIBLE_CONNECTION_PLUGINS", &home)
            .env("ANSIBLE_CONFIG", config)
            .env("ANSIBLE_HOME", &home)
            .env("ANSIBLE_LOCAL_TEMP", home.join("tmp"))
            .env("ANSIBLE_NOCOLOR", "1")
            .env("ANSIBLE_RETRY_FILES_ENABLED", "0")
            .env("HOME", &home)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .folder(self.source.real())
            .arg("--inventory")
            .arg(home.join("inventory"))
            .arg("--extra-vars")
            .arg(format!("@{}", home.join("vars.json").display()))
            .arg("--")
            .arg(&self.playbook);
        let output = context.output.clone();
        let errors = context.output.clone();
        let tool = tool.each_error_line(move |line| errors(line.as_bytes()));
        let over = AtomicBool::new(false);
        let (served, played) = std::thread::scope(|scope| {
            let player = scope.spawn(|| {
                let played = tool.run_reading(context.cancel, &mut |said| {
                    let mut said = BufReader::new(said);
                    let mut line = Vec::new();
                    while said.read_until(b'\n', &mut line)? > 0 {
                        output(&line);
                        line.clear();
                    }
                    Ok(())
                });
                over.store(true, Ordering::SeqCst);
                played
            });
            let served = serve(&listener, guest, &|| over.load(Ordering::SeqCst));
            if served.is_err() {
                // Whoever still asks is told so by a socket that nobody listens to.
                drop(listener);
            }
            (served, player.join().expect("the player does not panic"))
        });
        served?;
        played.map_err(|error| match (error.kind(), error.hint()) {
            (ErrorKind::Host, None) => Error::new(ErrorKind::Step, "the playbook failed").with_source(error),
            _ => error,
        })
    }
}

/// A name of a file in a folder that is short enough for a socket, as long as the descriptor is open.
fn short(folder: &Path, name: &str) -> Result<(File, PathBuf)> {
    let open = File::open(folder).context(ErrorKind::Host, || format!("cannot open {}", folder.display()))?;
    let path = format!("/proc/{}/fd/{}/{name}", std::process::id(), open.as_raw_fd());
    Ok((open, path.into()))
}

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn make(path: &Path) -> std::io::Result<Folder> {
        let _ = fs::remove_dir_all(path);
        fs::create_dir(path)?;
        Ok(Folder(path.to_owned()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
