//! `copy`: text, a file or a folder of the host, to a place in the guest.
//!
//! What enters the key is what lands in the guest: content, kind and mode of each file, not the umask of whoever
//! checked the folder out. Without `chmod`, a file gets 0755 where its owner may execute it, else 0644; folders get
//! 0755. Owner is root unless `chown` says otherwise. The bytes that are hashed are the bytes that are copied: a file
//! that changes in between is an error.
//!
//! A folder of the guest stays as it is: neither its mode nor its owner becomes that of a folder that is copied onto it, and a
//! link to a folder (`/lib`, `/var/run`) is followed within the guest and not replaced.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::support::owner::{Looks, Owner};
use super::support::{folders, host_file, paths, words};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind, first_line, firstboot};
use crate::diagnostic::{Diagnostic, Note};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Attributes, Guest};
use crate::host::permit::HostPath;
use crate::host::tree::{Entry, EntryKind, Walk, link_target};
use crate::key::{Digest, HostInput};
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "copy",
    about: "Copies text, a file or a folder of the host into the guest.",
    arguments: arguments::<Arguments>,
    example: "copy: {dest: /etc/motd, content: 'Welcome', chmod: 0644}",
    needs: &[],
    // 2: folders and links to folders that are there stay as they are.
    version: 2,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// An absolute path in the guest; with a final `/`, a folder to copy into. What is in a folder goes to `/` itself: `dest: /`.
    dest: String,
    /// Text. In a template without `format: 2`, one line that names a file of the host is that file.
    content: Option<String>,
    /// A file or a folder of the host, in place of `content`.
    source: Option<PathBuf>,
    /// Octal digits, such as 0644. Without it, a file gets 0755 where its owner may execute it on the host, else 0644.
    chmod: Option<String>,
    /// `user` or `user:group`, by name or number. Without it, root.
    chown: Option<String>,
    /// Keep it aside in the guest and put it in its place at the first boot.
    simple: Option<bool>,
}

/// Most files of a folder.
const FILES: usize = 1_000_000;

struct CopyStep {
    dest: String,
    from: From,
    mode: Option<u32>,
    owner: Option<Owner>,
    simple: bool,
}

enum From {
    Text(String),
    Host(HostPath),
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let path = Path::new(&arguments.dest);
    let climbs = path.components().any(|part| matches!(part, Component::ParentDir));
    if !path.is_absolute() || climbs || arguments.dest.contains('\0') {
        problems.push(at("dest").diagnostic("expected an absolute path in the guest, without `..`"));
    }
    let from = match (arguments.content, arguments.source) {
        (Some(content), None) => {
            match named_by(&content, at("content")) {
                Some(Ok(file)) => From::Host(file),
                Some(Err(problem)) => {
                    problems.push(problem);
                    From::Text(content)
                }
                None => From::Text(content),
            }
        }
        (None, Some(source)) => match at("source").host_path(source) {
            Ok(source) => From::Host(source),
            Err(problem) => {
                problems.push(problem);
                From::Text(String::new())
            }
        },
        _ => {
            problems.push(node.diagnostic("expected one of `content` (text) and `source` (a file or folder of the host)"));
            From::Text(String::new())
        }
    };
    let looks = Looks::read(node, arguments.chmod.as_deref(), arguments.chown.as_deref(), &mut problems);
    let Looks { mode, owner } = looks;
    let simple = arguments.simple == Some(true);
    let dest = match (&from, arguments.dest.strip_suffix('/')) {
        // The root has no name that a folder could take, so what is in the folder goes there.
        (From::Host(source), Some(_)) if path == Path::new("/") && source.is_dir() => "/".to_owned(),
        // Into a folder, under the name that it has on the host.
        (From::Host(source), Some(folder)) => format!("{folder}/{}", source.name()),
        (From::Text(_), Some(_)) => {
            problems.push(at("dest").diagnostic("expected the path of a file: text has no name of its own"));
            arguments.dest
        }
        (_, None) => arguments.dest,
    };
    if problems.is_empty() { Ok(Box::new(CopyStep { dest, from, mode, owner, simple })) } else { Err(problems) }
}

/// As in the older format: a content that names a file of the host is that file, and a note says so. One that looks
/// like the path of a file that the template may not read is an error, and not a text.
fn named_by(content: &str, node: &Node) -> Option<Result<HostPath, Diagnostic>> {
    let path = content.trim_end();
    if node.source.format() >= 2 || path.trim().is_empty() || path.contains(['\n', '\0']) {
        return None;
    }
    match node.host_path(path) {
        Ok(file) if file.is_file() => {
            let mut note = node.diagnostic(format!("`content` names the file {}, which is copied", file.display()));
            note.hint = Some("say `source` in place of `content`, and `format: 2` at the template's begin".into());
            node.note(note);
            Some(Ok(file))
        }
        Err(mut problem) if Path::new(path).is_absolute() && Path::new(path).is_file() => {
            problem.notes.push(Note {
                message: "`content` that names a file is that file; with `format: 2` it is always a text".into(),
                position: None,
            });
            Some(Err(problem))
        }
        _ => None,
    }
}

impl Step for CopyStep {
    fn summary(&self) -> String {
        match &self.from {
            From::Text(text) => format!("{} <- {}", self.dest, first_line(text)),
            From::Host(path) => format!("{} <- {}", self.dest, first_line(&path.name())),
        }
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let CopyStep { dest, from, mode, owner, simple } = self;
        let (mut arguments, inputs) = match from {
            From::Text(text) => (json!({"dest": dest, "content": text, "mode": mode, "owner": owner}), Vec::new()),
            // The mode is that of each file among the inputs.
            From::Host(source) => (json!({"dest": dest, "owner": owner}), self.collect(source)?),
        };
        if *simple {
            arguments["simple"] = json!(true);
        }
        Ok(StepKey { arguments, inputs })
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for CopyStep {
    fn run(&self, key: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        if self.simple {
            return self.at_first_boot(key, guest);
        }
        for hidden in self.judged(key) {
            paths::tell_if_hidden(guest, &hidden, context)?;
        }
        let owner = match &self.owner {
            Some(owner) => owner.resolve(guest)?,
            None => (0, 0),
        };
        self.put(key, guest, &self.dest, owner)
    }
}

impl CopyStep {
    /// The paths by which it is judged whether anybody will see what is copied: its own, or of what goes to `/` one in each
    /// folder there.
    fn judged(&self, key: &StepKey) -> Vec<String> {
        if self.dest != "/" {
            return vec![self.dest.clone()];
        }
        let mut seen = BTreeSet::new();
        let files = key.inputs.iter().filter(|input| input.kind != "directory");
        let first = files.filter(|input| {
            let folders = input.name.split('/').count() - 1;
            // `var/run` is as good as `run`.
            seen.insert(input.name.split('/').take(folders.min(2)).collect::<Vec<_>>().join("/"))
        });
        first.map(|input| format!("/{}", input.name)).collect()
    }

    /// What lands in the guest.
    fn collect(&self, source: &HostPath) -> Result<Vec<HostInput>> {
        let behind = |path: &Path| {
            let target = path.read_link().unwrap_or_default();
            let target = target.display().to_string().escape_debug().to_string();
            let message = format!("{} links to `{target}`, outside of the folder that is copied", path.display());
            Err(Error::new(ErrorKind::Template, message).with_hint("copy the target itself, or remove the link"))
        };
        let walk = Walk { what: "`copy`", skip: &|_| false, most: FILES, behind: &behind };
        let input = |Entry { name, kind }| {
            let (kind, digest, mode) = match kind {
                EntryKind::File { digest, executable } => {
                    ("file", digest, self.mode.unwrap_or(if executable { 0o755 } else { 0o644 }))
                }
                EntryKind::Link(target) => ("symlink", Digest::of(target.as_bytes()), 0o777),
                EntryKind::Folder => ("directory", Digest::of(b""), 0o755),
            };
            HostInput { name, kind: kind.to_owned(), digest, mode }
        };
        Ok(walk.list(source)?.into_iter().map(input).collect())
    }

    /// Puts it at `dest` in the guest.
    fn put(&self, key: &StepKey, guest: &mut dyn Guest, dest: &str, (uid, gid): (u32, u32)) -> Result<()> {
        let attributes = |mode| Attributes { mode: Some(mode), uid: Some(uid), gid: Some(gid) };
        if dest != "/" {
            paths::make_parent(guest, dest)?;
        }
        let source = match &self.from {
            From::Text(text) => {
                return guest.write(dest, &mut text.as_bytes(), attributes(self.mode.unwrap_or(0o644)));
            }
            From::Host(source) => source,
        };
        for input in &key.inputs {
            let path = source.below(&input.name);
            let dest = match input.name.as_str() {
                "" => dest.to_owned(),
                name => format!("{}/{name}", dest.trim_end_matches('/')),
            };
            match input.kind.as_str() {
                "directory" if dest == "/" => {}
                "directory" => {
                    folders::make(guest, &dest, attributes(input.mode))?;
                }
                "symlink" => {
                    let target = link_target(&path)?;
                    if Digest::of(target.as_bytes()) != input.digest {
                        return Err(host_file::changed(&path));
                    }
                    guest.symlink(&target, &dest)?;
                    guest.set_attributes(&dest, Attributes { mode: None, uid: Some(uid), gid: Some(gid) })?;
                }
                _ => host_file::put(guest, &path, &dest, input, attributes(input.mode))?,
            }
        }
        Ok(())
    }

    /// Keeps it aside in the guest, with a script that puts it in its place at the first boot. Names of the owner are
    /// looked up then.
    fn at_first_boot(&self, key: &StepKey, guest: &mut dyn Guest) -> Result<()> {
        let place = firstboot::Place::next(guest)?;
        let data = place.data();
        // Not readable for others until it is where it belongs.
        let folder = data.rsplit_once('/').map_or("/", |(folder, _)| folder);
        guest.mkdir(folder, Attributes { mode: Some(0o700), uid: Some(0), gid: Some(0) }, true)?;
        self.put(key, guest, &data, (0, 0))?;
        let whole_folder = key.inputs.first().is_some_and(|input| input.kind == "directory");
        let (from, to) = (words::quote(&data), words::quote(&self.dest));
        let parent = words::quote(paths::split(&self.dest).0);
        let mut script = format!("#!/bin/sh -e\necho copying to {to}\nmkdir -p {parent}\n");
        let owned = |what: &str| match &self.owner {
            Some(owner) => format!("chown -R -h {} {what}\n", words::quote(&owner.text())),
            None => String::new(),
        };
        script.push_str(&match whole_folder {
            true => format!("{}to={to}\ncd {from}\n{}cd /\n", owned(&from), include_str!("copy_folder.sh")),
            false => format!("rm -f {to}\ncp -a {from} {to}\n{}", owned(&to)),
        });
        script.push_str(&format!("rm -rf {from}\n"));
        place.finish(guest, &script)
    }
}
