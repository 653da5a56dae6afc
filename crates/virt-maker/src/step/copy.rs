//! `copy`: text, a file or a folder of the host, to a place in the guest.
//!
//! What enters the key is what lands in the guest: content, kind and mode of each file, not the umask of whoever
//! checked the folder out. Without `chmod`, a file gets 0755 where its owner may execute it, else 0644; folders get
//! 0755. Owner is root unless `chown` says otherwise. The bytes that are hashed are the bytes that are copied: a file
//! that changes in between is an error.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::support::owner::{Looks, Owner};
use super::support::{host_file, paths, words};
use super::{Step, StepContext, StepKey, StepKind, first_line, firstboot};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::{Attributes, FileKind, Guest};
use crate::host::digest;
use crate::key::{Digest, HostInput};
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "copy",
    about: "Copies text, a file or a folder of the host into the guest.",
    arguments: arguments::<Arguments>,
    example: "copy: {dest: /etc/motd, content: 'Welcome', chmod: 0644}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// An absolute path in the guest; with a final `/`, a folder to copy into.
    dest: String,
    /// Text. One line that names a file of the host is that file.
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

struct CopyStep {
    dest: String,
    from: From,
    mode: Option<u32>,
    owner: Option<Owner>,
    simple: bool,
}

enum From {
    Text(String),
    Host(PathBuf),
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let path = Path::new(&arguments.dest);
    let climbs = path.components().any(|part| matches!(part, Component::ParentDir));
    if !path.is_absolute() || climbs || arguments.dest.contains('\0') || path == Path::new("/") {
        problems.push(at("dest").diagnostic("expected an absolute path in the guest, without `..`"));
    }
    let from = match (arguments.content, arguments.source) {
        (Some(content), None) => {
            // As in the older format: a content that names a file of the host is that file.
            let named = node.resolve(content.trim_end());
            let one_line = !content.trim_end().contains('\n') && !content.trim().is_empty();
            if one_line && named.is_file() { From::Host(named) } else { From::Text(content) }
        }
        (None, Some(source)) => From::Host(node.resolve(source)),
        _ => {
            problems.push(node.diagnostic("expected one of `content` (text) and `source` (a file or folder of the host)"));
            From::Text(String::new())
        }
    };
    let looks = Looks::read(node, arguments.chmod.as_deref(), arguments.chown.as_deref(), &mut problems);
    let Looks { mode, owner } = looks;
    let simple = arguments.simple == Some(true);
    let dest = match (&from, arguments.dest.strip_suffix('/')) {
        // Into a folder, under the name that it has on the host.
        (From::Host(source), Some(folder)) => {
            let name = source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            format!("{folder}/{name}")
        }
        (From::Text(_), Some(_)) => {
            problems.push(at("dest").diagnostic("expected the path of a file: text has no name of its own"));
            arguments.dest
        }
        (_, None) => arguments.dest,
    };
    if problems.is_empty() { Ok(Box::new(CopyStep { dest, from, mode, owner, simple })) } else { Err(problems) }
}

impl Step for CopyStep {
    fn summary(&self) -> String {
        match &self.from {
            From::Text(text) => format!("{} <- {}", self.dest, first_line(text)),
            From::Host(path) => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                format!("{} <- {}", self.dest, first_line(&name))
            }
        }
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let owner = self.owner.as_ref().map(Owner::key);
        let (mut arguments, inputs) = match &self.from {
            From::Text(text) => {
                (json!({"dest": self.dest, "content": text, "mode": self.mode, "owner": owner}), Vec::new())
            }
            From::Host(source) => {
                let mut inputs = Vec::new();
                self.collect(source, "", &mut inputs)?;
                (json!({"dest": self.dest, "owner": owner}), inputs)
            }
        };
        if self.simple {
            arguments["simple"] = json!(true);
        }
        Ok(StepKey { arguments, inputs })
    }

    fn run(&self, key: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        if self.simple {
            return self.at_first_boot(key, guest);
        }
        let owner = match &self.owner {
            Some(owner) => owner.resolve(guest)?,
            None => (0, 0),
        };
        self.put(key, guest, &self.dest, owner)
    }
}

impl CopyStep {
    /// What lands in the guest, parents before their children, in the order of names.
    fn collect(&self, path: &Path, name: &str, inputs: &mut Vec<HostInput>) -> Result<()> {
        let failed = || format!("cannot read {}, which `copy` takes into the guest", path.display());
        // The source itself may be a link to what is meant; links inside a folder are copied as links.
        let stat = if name.is_empty() { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let stat = stat.context(ErrorKind::Template, failed)?;
        let kind = stat.file_type();
        let mut add = |kind: &str, digest, mode| {
            inputs.push(HostInput { name: name.to_owned(), kind: kind.to_owned(), digest, mode });
        };
        if kind.is_file() {
            let executable = stat.mode() & 0o100 != 0;
            let mode = self.mode.unwrap_or(if executable { 0o755 } else { 0o644 });
            add("file", digest::of_file(path).context(ErrorKind::Template, failed)?, mode);
        } else if kind.is_symlink() {
            let target = link_target(path)?;
            if leads_out(name, &target) {
                let message = format!("{} links to `{}`, outside of the folder that is copied", path.display(), target.escape_debug());
                return Err(Error::new(ErrorKind::Template, message).with_hint("copy the target itself, or remove the link"));
            }
            add("symlink", Digest::of(target.as_bytes()), 0o777);
        } else if kind.is_dir() {
            add("directory", Digest::of(b""), 0o755);
            let mut names = fs::read_dir(path)
                .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>())
                .context(ErrorKind::Template, failed)?;
            names.sort();
            for child in names {
                let Some(child) = child.to_str() else {
                    let message = format!("the name {child:?} in {} is not UTF-8", path.display());
                    return Err(Error::new(ErrorKind::Template, message));
                };
                let name = if name.is_empty() { child.to_owned() } else { format!("{name}/{child}") };
                self.collect(&path.join(child), &name, inputs)?;
            }
        } else {
            let message = format!("{} is neither file, folder nor link; `copy` cannot take it", path.display());
            return Err(Error::new(ErrorKind::Template, message));
        }
        Ok(())
    }

    /// Puts it at `dest` in the guest.
    fn put(&self, key: &StepKey, guest: &mut dyn Guest, dest: &str, (uid, gid): (u32, u32)) -> Result<()> {
        let attributes = |mode| Attributes { mode: Some(mode), uid: Some(uid), gid: Some(gid) };
        paths::make_parent(guest, dest)?;
        let source = match &self.from {
            From::Text(text) => {
                return guest.write(dest, &mut text.as_bytes(), attributes(self.mode.unwrap_or(0o644)));
            }
            From::Host(source) => source,
        };
        for input in &key.inputs {
            let path = if input.name.is_empty() { source.clone() } else { source.join(&input.name) };
            let dest = if input.name.is_empty() { dest.to_owned() } else { format!("{dest}/{}", input.name) };
            match input.kind.as_str() {
                "directory" => {
                    if guest.stat(&dest)?.is_some_and(|there| there.kind != FileKind::Directory) {
                        guest.remove(&dest)?;
                    }
                    guest.mkdir(&dest, attributes(input.mode), false)?;
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
        script.push_str(&match whole_folder {
            true => format!("mkdir -p {to}\ncp -a {from}/. {to}/\n"),
            false => format!("rm -f {to}\ncp -a {from} {to}\n"),
        });
        if let Some(owner) = &self.owner {
            script.push_str(&format!("chown -R -h {} {to}\n", words::quote(&owner.text())));
        }
        script.push_str(&format!("rm -rf {from}\n"));
        place.finish(guest, &script)
    }
}

fn link_target(path: &Path) -> Result<String> {
    let failed = || format!("cannot read the link {}", path.display());
    let target = fs::read_link(path).context(ErrorKind::Template, failed)?;
    target.into_os_string().into_string().map_err(|_| Error::new(ErrorKind::Template, failed()))
}

/// Whether a link called `name` within a folder leads out of that folder.
pub(super) fn leads_out(name: &str, target: &str) -> bool {
    let mut depth = Path::new(name).components().count() as i64 - 1;
    for part in Path::new(target).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return true,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_leave_the_folder_are_found() {
        for (name, target, out) in [
            ("a", "b", false),
            ("a", "sub/b", false),
            ("sub/a", "../b", false),
            ("a", "../b", true),
            ("sub/a", "../../b", true),
            ("a", "sub/../../b", true),
            ("a", "/etc/passwd", true),
            ("a", ".", false),
        ] {
            assert_eq!(leads_out(name, target), out, "{name} -> {target}");
        }
    }
}
