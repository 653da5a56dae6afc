//! Running `mmdebstrap` so that nothing of it stays, and so that its last hook leaves a file system in the image.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::recipe::{DEBIAN_MIRROR, Recipe};
use super::{grub, mirror};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Event;
use crate::host::subordinate::{as_root_alone, remove_tree};
use crate::import::ImportContext;

/// The hook; `mmdebstrap` runs it as `sh -c HOOK exec ROOT`.
const FINISH: &str = include_str!("finish.sh");
/// What GRUB 2.06 and the `e2fsck` of every suite know. Said in full: what the host's `mke2fs.conf` adds by default
/// (`metadata_csum_seed`, `orphan_file`) is refused by older ones.
pub(in crate::import) const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// Lines of `mmdebstrap`'s complaints that an error quotes.
const QUOTED: usize = 8;

/// A folder beside the image for everything that is gone at the end, whatever that is.
pub(in crate::import) struct Scratch(PathBuf);

impl Scratch {
    pub(in crate::import) fn beside(target: &Path) -> Result<Scratch> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".bootstrap");
        let folder = target.with_file_name(name);
        let failed = || format!("cannot make {}", folder.display());
        std::fs::create_dir(&folder).context(ErrorKind::Store, failed)?;
        let scratch = Scratch(folder.clone());
        for name in ["tmp", "view"] {
            std::fs::create_dir(folder.join(name)).context(ErrorKind::Store, failed)?;
        }
        Ok(scratch)
    }

    pub(in crate::import) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove_tree(&self.0);
    }
}

/// Makes the tree of `recipe` and from it the root file system in the disk at `image`. The output goes to `log`.
pub(super) fn make(
    recipe: &Recipe,
    image: &Path,
    scratch: &Scratch,
    log: &Path,
    context: &ImportContext<'_>,
) -> Result<()> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .context(ErrorKind::Host, || "cannot make a UUID for the root file system")?;
    let kib = ((recipe.size - grub::OVERHEAD) / 1024).to_string();
    let absolute = |path: &Path| std::path::absolute(path).map(|path| path.into_os_string());
    let failed = || "cannot find the current folder";
    let image = absolute(image).context(ErrorKind::Host, failed)?;
    let view = absolute(&scratch.path().join("view")).context(ErrorKind::Host, failed)?;
    let offset = grub::ROOT_START.to_string();
    let env: [(&str, &OsStr); 6] = [
        ("GUEST_VIEW", &view),
        ("GUEST_IMAGE", &image),
        ("GUEST_UUID", OsStr::new(uuid.trim())),
        ("GUEST_FEATURES", OsStr::new(FEATURES)),
        ("GUEST_OFFSET", OsStr::new(&offset)),
        ("GUEST_KIB", OsStr::new(&kib)),
    ];
    debootstrap(recipe, &recipe.include(), FINISH, &env, scratch, log, context)
}

/// Makes a tree of the packages `include` of a suite, and runs `hook` (a text for `sh`) with the tree as `$1` and these
/// variables. Nothing of the tree stays.
pub(in crate::import) fn debootstrap(
    recipe: &Recipe,
    include: &[&str],
    hook: &str,
    env: &[(&str, &OsStr)],
    scratch: &Scratch,
    log: &Path,
    context: &ImportContext<'_>,
) -> Result<()> {
    let complaints = Arc::new(Mutex::new(VecDeque::new()));
    let events = context.events.clone();
    let heard = complaints.clone();
    let each_line = move |line: &str| {
        let message = line.trim_end().to_owned();
        if message.starts_with("E:") || message.starts_with("W:") || message.starts_with("Err:") || is_of_mke2fs(line) {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.push_back(message.clone());
            if heard.len() > QUOTED {
                heard.pop_front();
            }
        }
        events.send(Event::Trace { source: "mmdebstrap", message });
    };

    let mut sources = recipe.sources();
    let near = mirror::of_host(recipe, context)?;
    if let Some(near) = &near {
        for line in &mut sources {
            *line = line.replace(&format!(" {DEBIAN_MIRROR} "), &format!(" {near} "));
        }
    }

    let mut tool = as_root_alone();
    for (name, value) in context.env {
        tool = tool.env(name, value);
    }
    for (name, value) in env {
        tool = tool.env(name, value);
    }
    let folder = std::path::absolute(scratch.path().join("tmp"));
    tool = tool
        .env("TMPDIR", folder.context(ErrorKind::Host, || "cannot find the current folder")?)
        .env("GUEST_MIRROR", DEBIAN_MIRROR)
        .env("GUEST_MIRROR_USED", near.unwrap_or_default());
    // Root of a user namespace is root enough for it; the format is the hook's business.
    tool = tool.args(["mmdebstrap", "--mode=root", "--variant=minbase", "--format=null", "--architectures=amd64"]);
    tool = tool.args(["--skip=cleanup", "--skip=check/empty"]);
    tool = tool.arg(format!("--include={}", include.join(",")));
    tool = tool.arg(format!("--customize-hook={hook}"));
    // Nothing that a template says is an option.
    tool = tool.args(["--", &recipe.suite, "-"]).args(sources);
    let made = tool.log_to(log).each_error_line(each_line).run(context.cancel);
    match made {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::Cancelled) => Err(error),
        Err(error) => {
            let complaints = complaints.lock().unwrap_or_else(PoisonError::into_inner);
            Err(explain(recipe, error, complaints.iter().cloned().collect()))
        }
    }
}

/// Says what went wrong in the words of who knows: the last complaints, and what may be done about them.
fn explain(recipe: &Recipe, error: Error, complaints: Vec<String>) -> Error {
    if complaints.is_empty() {
        // `unshare` or `mmdebstrap` did not get that far.
        let text = error.to_string();
        let error = Error::new(error.kind(), format!("cannot bootstrap {}", recipe.suite)).with_source(error);
        return if text.contains("uidmap") || text.contains("uid_map") || text.contains("subuid") {
            error.with_hint(
                "for ordinary users it needs the package `uidmap`, and lines for this user in /etc/subuid and /etc/subgid",
            )
        } else if text.contains("mmdebstrap") && text.contains("No such file") {
            error.with_hint("mmdebstrap comes with the package `mmdebstrap`")
        } else {
            error
        };
    }
    let text = complaints.join("\n");
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let (kind, hint) = if says(&["Could not allocate", "while populating file system"]) {
        (ErrorKind::Base, Some("the packages do not fit on the disk: give `size` a larger value".to_owned()))
    } else if says(&["No space left on device"]) {
        (ErrorKind::HostFull, None)
    } else if says(&["Unable to locate package", "no installation candidate"]) {
        (ErrorKind::Base, Some(format!("a package of `packages` is not in {}", recipe.suite)))
    } else if says(&["NO_PUBKEY", "is not signed", "keyring"]) {
        let package = recipe.distribution.keyring();
        (ErrorKind::Base, Some(format!("the keys of this distribution come with the package `{package}`")))
    } else if says(&["does not have a Release file", "404 "]) {
        (ErrorKind::Base, Some(format!("does the mirror have the suite `{}`?", recipe.suite)))
    } else if says(&["Failed to fetch", "Could not resolve", "Could not connect", "Cannot initiate the connection"]) {
        (ErrorKind::Base, Some("is the mirror reachable from here? Proxies are taken from http_proxy".to_owned()))
    } else {
        (ErrorKind::Base, None)
    };
    let quoted: Vec<_> = complaints.iter().map(|line| line.escape_debug().to_string()).collect();
    let error = Error::new(kind, format!("cannot bootstrap {}: {}", recipe.suite, quoted.join("; ")));
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn is_of_mke2fs(line: &str) -> bool {
    line.contains("while populating file system") || line.starts_with("mke2fs:") || line.starts_with("__populate_fs:")
}
