//! Paths in the guest: as arguments, and as they are when a guest's own links are followed.

use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Attributes, FileKind, Guest};
use crate::step::StepContext;
use crate::template::Node;

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

/// An absolute path below `/`, without `..`, in its shortest form.
pub(in crate::step) fn guest_path(text: &str, node: &Node) -> Result<String, Diagnostic> {
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if !text.starts_with('/') || parts.is_empty() || parts.contains(&"..") || text.contains('\0') {
        return Err(node.diagnostic("expected an absolute path in the guest, without `..`"));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// The folder that a path lies in, and its name there.
pub(in crate::step) fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(parts) => parts,
        None => ("/", path),
    }
}

/// Makes the folder that a path lies in, where it is missing.
pub(in crate::step) fn make_parent(guest: &mut dyn Guest, path: &str) -> Result<()> {
    let (folder, _) = split(path);
    if folder == "/" || guest.stat(folder)?.is_some() {
        return Ok(());
    }
    guest.mkdir(folder, Attributes::default(), true)
}

/// Makes way for what is no folder: the folder above it is there then, and in its place there is none. `why` follows "is a folder of the
/// guest".
pub(in crate::step) fn make_way(guest: &mut dyn Guest, path: &str, why: &str, hint: &str) -> Result<()> {
    if guest.stat(path)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
        let message = format!("{} is a folder of the guest{why}", path.escape_debug());
        return Err(Error::new(ErrorKind::Step, message).with_hint(hint));
    }
    make_parent(guest, path)
}

/// Places that the kernel or the boot fills anew, by the path itself or by the links that systems have had for ever.
const FILLED: [&str; 4] = ["/run", "/dev", "/proc", "/sys"];
const LINKS: [&str; 2] = ["/var/run", "/var/lock"];

/// Says so where something is put at a place that hides it: below `/run`, `/dev`, `/proc` or `/sys` nothing sees it, neither
/// later steps nor the guest that has booted; what is in `/tmp` is for later steps, so it is told where none follows.
pub(in crate::step) fn tell_if_hidden(guest: &mut dyn Guest, path: &str, context: &StepContext<'_>) -> Result<()> {
    let below = |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    let mut real = path.to_owned();
    if LINKS.iter().any(|link| below(path, link)) {
        let (folder, name) = split(path);
        real = format!("{}/{name}", follow(guest, folder)?.trim_end_matches('/'));
    }
    let shown = path.trim_end_matches("/.").escape_debug();
    let leads = if real == path { String::new() } else { format!(" (it leads to {})", real.escape_debug()) };
    if let Some(place) = FILLED.iter().find(|place| below(&real, place)) {
        let instead = match *place {
            "/run" => "; a file in /etc/tmpfiles.d, or `RuntimeDirectory=` of the service, makes it there at each boot",
            _ => "",
        };
        (context.warn)(&format!(
            "{shown}{leads}: what lies in {place} on the disk is hidden, from later steps and in the guest that has booted{instead}"
        ));
    } else if below(&real, "/tmp") && context.last {
        (context.warn)(&format!("{shown}: no step follows that could use it, and a boot empties /tmp"));
    }
    Ok(())
}

/// Follows every symbolic link of a path within the guest, for what is to be changed in its place. The last parts of it
/// need not exist.
pub(in crate::step) fn follow(guest: &mut dyn Guest, path: &str) -> Result<String> {
    let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                done.pop();
                continue;
            }
            _ => done.push(part),
        }
        let here = format!("/{}", done.join("/"));
        let stat = guest.stat(&here)?.filter(|stat| stat.kind == FileKind::Symlink);
        let Some(target) = stat.and_then(|stat| stat.target) else { continue };
        links += 1;
        if links > LINKS_MAX {
            let message = format!("{} leads through too many symbolic links of the guest", path.escape_debug());
            return Err(Error::new(ErrorKind::Step, message));
        }
        done.pop();
        if target.starts_with('/') {
            done.clear();
        }
        todo.extend(target.split('/').rev().map(str::to_owned));
    }
    Ok(format!("/{}", done.join("/")))
}

/// Whether something is at a path, links followed within the guest.
pub(in crate::step) fn exists(guest: &mut dyn Guest, path: &str) -> Result<bool> {
    let path = follow(guest, path)?;
    Ok(path == "/" || guest.stat(&path)?.is_some())
}

/// Where the guest has a program.
pub(in crate::step) fn program(guest: &mut dyn Guest, name: &str) -> Result<Option<String>> {
    for folder in ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"] {
        let path = format!("{folder}/{name}");
        if exists(guest, &path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// An error unless the guest has a program; `hint` says where it comes from.
pub(in crate::step) fn require(guest: &mut dyn Guest, name: &str, hint: &str) -> Result<()> {
    match program(guest, name)? {
        Some(_) => Ok(()),
        None => Err(Error::new(ErrorKind::Step, format!("the guest has no program `{name}`")).with_hint(hint)),
    }
}
