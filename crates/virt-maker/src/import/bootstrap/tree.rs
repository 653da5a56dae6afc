//! Running `mmdebstrap` so that nothing of it stays, and so that its last hook leaves a file system in the image.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::complaints::Complaints;
use super::recipe::{DEBIAN_MIRROR, Recipe};
use super::{grub, mirror};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::subordinate::{as_root_alone, remove_tree};
use crate::import::ImportContext;

/// The hook; `mmdebstrap` runs it as `sh -c HOOK exec ROOT`.
const FINISH: &str = concat!(include_str!("common.sh"), include_str!("debian.sh"));
/// What GRUB 2.06 and the `e2fsck` of every suite know. Said in full: what the host's `mke2fs.conf` adds by default
/// (`metadata_csum_seed`, `orphan_file`) is refused by older ones.
pub(in crate::import) const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

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
    let env = file_system(image, recipe.size, scratch)?;
    let env: Vec<(&str, &OsStr)> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    debootstrap(recipe, &recipe.include(), FINISH, &env, scratch, log, context)
}

/// The variables by which the shell's `make_file_system` makes the root file system of a disk of `size` bytes at `image`.
pub(super) fn file_system(image: &Path, size: u64, scratch: &Scratch) -> Result<[(&'static str, OsString); 6]> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .context(ErrorKind::Host, || "cannot make a UUID for the root file system")?;
    let kib = (size - grub::OVERHEAD) / 1024;
    Ok([
        ("GUEST_VIEW", absolute(&scratch.path().join("view"))?.into()),
        ("GUEST_IMAGE", absolute(image)?.into()),
        ("GUEST_UUID", uuid.trim().into()),
        ("GUEST_FEATURES", FEATURES.into()),
        ("GUEST_OFFSET", grub::ROOT_START.to_string().into()),
        ("GUEST_KIB", kib.to_string().into()),
    ])
}

/// A path that means the same in another folder.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(ErrorKind::Host, || "cannot find the current folder")
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
    tool = tool
        .env("TMPDIR", absolute(&scratch.path().join("tmp"))?)
        .env("GUEST_MIRROR", DEBIAN_MIRROR)
        .env("GUEST_MIRROR_USED", near.unwrap_or_default());
    // Root of a user namespace is root enough for it; the format is the hook's business.
    tool = tool.args(["mmdebstrap", "--mode=root", "--variant=minbase", "--format=null", "--architectures=amd64"]);
    tool = tool.args(["--skip=cleanup", "--skip=check/empty"]);
    tool = tool.arg(format!("--include={}", include.join(",")));
    tool = tool.arg(format!("--customize-hook={hook}"));
    // Nothing that a template says is an option.
    tool = tool.args(["--", &recipe.suite, "-"]).args(sources);
    let complaints = Complaints::default();
    let is_one = |line: &str| ["E:", "W:", "Err:"].iter().any(|mark| line.starts_with(mark));
    let listener = complaints.listener("mmdebstrap", is_one, context.events);
    let made = tool.log_to(log).each_error_line(listener).run(context.cancel);
    made.map(|_| ()).map_err(|error| explain(recipe, &complaints, error))
}

/// Says what went wrong in the words of who knows: the last complaints, and what may be done about them.
fn explain(recipe: &Recipe, complaints: &Complaints, error: Error) -> Error {
    complaints.explain(&recipe.suite, ("mmdebstrap", "mmdebstrap"), error, |text| {
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let hint = if says(&["Unable to locate package", "no installation candidate"]) {
            format!("a package of `packages` is not in {}", recipe.suite)
        } else if says(&["NO_PUBKEY", "is not signed", "keyring"]) {
            format!("the keys of this distribution come with the package `{}`", recipe.distribution.keyring())
        } else if says(&["does not have a Release file", "404 "]) {
            format!("does the mirror have the suite `{}`?", recipe.suite)
        } else if says(&["Failed to fetch", "Could not resolve", "Could not connect", "Cannot initiate the connection"]) {
            "is the mirror reachable from here? Proxies are taken from http_proxy".to_owned()
        } else {
            return None;
        };
        Some((ErrorKind::Base, hint))
    })
}
