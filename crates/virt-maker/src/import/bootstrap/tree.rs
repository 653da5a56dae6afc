//! Running `mmdebstrap` so that nothing of it stays, and so that its last hook leaves a file system in the image.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::complaints::Complaints;
use super::recipe::{DEBIAN_MIRROR, Recipe};
use super::archive::{self, Archive};
use super::firmware::Firmware;
use super::{esp, mirror};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::enclosed::Enclosed;
use crate::host::subordinate::remove_tree;
use crate::host::walls::{SCRATCH, TREE, Walls};
use crate::import::relay::Relay;
use crate::import::{ImportContext, mkfs};

/// The hook; `mmdebstrap` runs it as `sh -c HOOK exec ROOT`, behind the same walls as itself.
const FINISH: &str = concat!(include_str!("common.sh"), include_str!("loaders.sh"), include_str!("debian.sh"));
/// The hook of the first run, in the place of all that would come after it: fetches packages, and runs nothing of them.
/// Essential packages are asked for alone and with all others, as they will be: what they depend on may differ.
const FETCH: &str = "set -eu
export APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\"
apt-get update --error-on=any >&2
get() { apt-get --yes --download-only install \"$@\" >&2; }
get \"$GUEST_ESSENTIAL\" || :
get \"$GUEST_ESSENTIAL\" \"$GUEST_REQUIRED\" apt $GUEST_PACKAGES
: >\"$HOME/fetched\"
exit 1";
/// The hook of the second run, before it would look for packages.
const LOAD: &str = "set -eu
cp -a /fetched/var/lib/apt/lists/. \"$1/var/lib/apt/lists/\"
cp -a /fetched/var/cache/apt/archives/. \"$1/var/cache/apt/archives/\"";
/// Where packages and their lists are between the two runs, and the file that says that they are all there.
const FETCHED: &str = "fetched";
const LISTS: &str = "var/lib/apt/lists";
const ARCHIVES: &str = "var/cache/apt/archives";
/// Where the hook finds the file that it may write to.
const OUT: &str = "/out";

/// A folder beside the image for everything that is gone at the end, whatever that is. Its user's alone: what packages
/// leave in a tree, such as device nodes and programs with rights, is for nobody on the host.
pub(in crate::import) struct Scratch(PathBuf);

impl Scratch {
    pub(in crate::import) fn beside(target: &Path) -> Result<Scratch> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".bootstrap");
        let folder = target.with_file_name(name);
        let failed = || format!("cannot make {}", folder.display());
        DirBuilder::new().mode(0o700).create(&folder).context(ErrorKind::Store, failed)?;
        let scratch = Scratch(absolute(&folder)?);
        for path in [scratch.tree(), scratch.tmp(), scratch.devices(), scratch.fetched(LISTS), scratch.fetched(ARCHIVES)] {
            DirBuilder::new().recursive(true).create(&path).context(ErrorKind::Store, failed)?;
            fs::set_permissions(&path, Permissions::from_mode(0o755)).context(ErrorKind::Store, failed)?;
        }
        Ok(scratch)
    }

    pub(in crate::import) fn path(&self) -> &Path {
        &self.0
    }

    /// The root of the guest; what is in there is the guest's.
    pub(in crate::import) fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }

    /// For temporary files of the programs behind the walls, and of the guest's scripts.
    pub(in crate::import) fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// Where device nodes are mounted.
    pub(super) fn devices(&self) -> PathBuf {
        self.0.join("dev")
    }

    /// What was fetched for a folder of the guest.
    fn fetched(&self, folder: &str) -> PathBuf {
        self.0.join(FETCHED).join(folder)
    }

    /// Takes away what is in the tree.
    fn empty_tree(&self) -> Result<()> {
        remove_tree(&self.tree());
        let made = fs::create_dir(self.tree())
            .and_then(|()| fs::set_permissions(self.tree(), Permissions::from_mode(0o755)));
        made.context(ErrorKind::Store, || format!("cannot make {}", self.tree().display()))
    }

    /// Makes folders in the tree, which is empty yet: those that something is mounted on.
    pub(super) fn mount_points(&self, folders: &[(&str, u32)]) -> Result<()> {
        for (name, mode) in folders {
            let path = self.tree().join(name);
            let made = fs::create_dir(&path).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(*mode)));
            made.context(ErrorKind::Store, || format!("cannot make {}", path.display()))?;
        }
        Ok(())
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
    let uuid = new_uuid()?;
    let esp_id = esp::id(&uuid);
    let firmware = recipe.firmware;
    let env =
        [("GUEST_UUID", uuid.as_ref()), ("GUEST_ESP_ID", esp_id.as_ref()), ("GUEST_FIRMWARE", firmware.name().as_ref())];
    debootstrap(recipe, &recipe.include(), FINISH, &env, None, scratch, log, context)?;
    if firmware.has_uefi() {
        context.events.stage(format!("{}: making the EFI system partition", recipe.suite));
        esp::make(image, (&scratch.tree(), esp::PLACE), &uuid, scratch.path(), log, context.cancel)?;
    }
    file_system(&recipe.suite, image, recipe.size, firmware, &uuid, scratch, log, context)
}

/// A UUID for a root file system.
pub(super) fn new_uuid() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid");
    Ok(uuid.context(ErrorKind::Host, || "cannot make a UUID for the root file system")?.trim().to_owned())
}

/// Makes the root file system of a disk of `size` bytes at `image` from the tree: no device, and nothing in the folders
/// that a running system fills by itself.
#[expect(clippy::too_many_arguments, reason = "what a file system is made of, and where it is made")]
pub(super) fn file_system(
    suite: &str,
    image: &Path,
    size: u64,
    firmware: Firmware,
    uuid: &str,
    scratch: &Scratch,
    log: &Path,
    context: &ImportContext<'_>,
) -> Result<()> {
    let mut walls = Walls::for_tree().read_at(&scratch.tree(), Path::new(TREE)).write(image)?;
    // Below the last, the EFI system partition is mounted: what is there lies on that already.
    let folders = [("dev", "0755"), ("run", "0755"), ("tmp", "1777"), (esp::PLACE, "0700")];
    for (name, mode) in folders.iter().take(if firmware.has_uefi() { 4 } else { 3 }) {
        // A link that a package left would lead to another place.
        let found = fs::symlink_metadata(scratch.tree().join(name));
        if !found.is_ok_and(|found| found.is_dir()) {
            return Err(Error::new(ErrorKind::Base, format!("/{name} of {suite} is no folder, as its packages left it")));
        }
        walls = walls.empty(mode, &format!("{TREE}/{name}"));
    }
    context.events.stage(format!("{suite}: making the file system"));
    let kib = (size - firmware.overhead()) / 1024;
    let complaints = Complaints::default();
    let listener = complaints.listener("mke2fs", |_| false, context.events);
    let made = walls
        .tool("mke2fs", "e2fsprogs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-O", mkfs::EXT4, "-U", uuid, "-E"])
        .arg(format!("offset={},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard", firmware.root_start()))
        .args(["-d", TREE])
        .arg(absolute(image)?)
        .arg(format!("{kib}k"))
        .log_to(log)
        .each_error_line(listener)
        .run(context.cancel);
    made.map(|_| ()).map_err(|error| complaints.explain(suite, ("mke2fs", "e2fsprogs"), error, |_| None))
}

/// Grows the root file system in the disk at `image` to what [`file_system`] would make in one of `size` bytes.
pub(super) fn grow(
    image: &Path,
    size: u64,
    firmware: Firmware,
    log: &Path,
    context: &ImportContext<'_>,
) -> Result<()> {
    let mut place = absolute(image)?.into_os_string();
    place.push(format!("?offset={}", firmware.root_start()));
    let kib = (size - firmware.overhead()) / 1024;
    let walls = Walls::for_data().write(image)?;
    let tool = walls.tool("resize2fs", "e2fsprogs").arg(place).arg(format!("{kib}K"));
    tool.log_to(log).run(context.cancel).map(drop)
}

/// A path that means the same in another folder.
pub(in crate::import) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(ErrorKind::Host, || "cannot find the current folder")
}

/// Makes a tree of the packages `include` of a suite, and runs `hook` (a text for `sh`) with the tree as `$1`, these
/// variables, and the file `out` to write to, as what its variable names.
///
/// mmdebstrap runs twice: first behind [`Walls::for_fetching`] until it has all packages, where it reaches our [`Relay`]
/// and nothing else, then without a network behind
/// [`Walls::for_scripts`]. apt, dpkg and the hook are programs of the host, but scripts of packages run in there as root,
/// chrooted or not.
#[expect(clippy::too_many_arguments, reason = "what a tree is made of, and where it is made")]
pub(in crate::import) fn debootstrap(
    recipe: &Recipe,
    include: &[&str],
    hook: &str,
    env: &[(&str, &OsStr)],
    out: Option<(&str, &Path)>,
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

    let archive = Archive::of(archive::Kind::Deb, context.cache_dir, &sources);
    archive.fill(&scratch.fetched(ARCHIVES));
    context.events.stage(format!("{}: fetching packages", recipe.suite));
    let run = Run { recipe, include, sources: &sources, scratch, log, context };
    let complaints = Complaints::default();
    let relay = Relay::new(context, near.as_deref());
    let (walls, network) = Walls::for_fetching(&scratch.devices(), Enclosed::new(relay.server())?)?;
    // It stops where the first script would run, which it cannot but as a failure.
    let fetched = run.start(walls, &complaints, |walls, mut tool| {
        for (name, value) in Relay::variables() {
            tool = tool.env(name, value);
        }
        let walls = walls
            .write_at(&scratch.fetched(LISTS), &Path::new(TREE).join(LISTS))
            .write_at(&scratch.fetched(ARCHIVES), &Path::new(TREE).join(ARCHIVES));
        let suite = &recipe.suite;
        let of_suite = format!("?narrow(?or(?archive(^{suite}$),?codename(^{suite}$)),?architecture(amd64)");
        let tool = tool.arg(format!("--setup-hook={FETCH}"));
        let tool = tool.env("GUEST_ESSENTIAL", format!("{of_suite},?essential)"));
        let tool = tool.env("GUEST_REQUIRED", format!("{of_suite},?priority(required))"));
        (walls, tool.env("GUEST_PACKAGES", include.join(" ")))
    });
    let done = scratch.tmp().join(FETCHED);
    if !fs::symlink_metadata(&done).is_ok_and(|done| done.is_file()) {
        context.cancel.check()?;
        network.finish()?;
        let error = fetched.err().unwrap_or_else(|| Error::new(ErrorKind::Internal, "nothing was fetched"));
        relay.lost().into_iter().for_each(|why| complaints.add(why));
        return Err(relay.refusal().unwrap_or_else(|| explain(recipe, &complaints, error)));
    }
    context.cancel.check()?;
    archive.keep(&scratch.fetched(ARCHIVES));
    context.events.stage(format!("{}: installing packages", recipe.suite));
    scratch.empty_tree()?;

    let complaints = Complaints::default();
    let made = run.start(Walls::for_scripts(&scratch.devices())?, &complaints, |mut walls, mut tool| {
        walls = walls.read_at(&scratch.path().join(FETCHED), &Path::new("/").join(FETCHED));
        if let Some((name, path)) = out {
            walls = walls.write_at(path, Path::new(OUT));
            tool = tool.env(name, OUT);
        }
        for (name, value) in env {
            tool = tool.env(name, *value);
        }
        tool = tool.env("GUEST_MIRROR", DEBIAN_MIRROR).env("GUEST_MIRROR_USED", near.as_deref().unwrap_or_default());
        tool = tool.arg("--skip=update").arg(format!("--setup-hook={LOAD}"));
        (walls, tool.arg(format!("--customize-hook={hook}")))
    });
    made.map_err(|error| explain(recipe, &complaints, error))
}

/// What the two runs of mmdebstrap have in common.
struct Run<'a> {
    recipe: &'a Recipe,
    include: &'a [&'a str],
    sources: &'a [String],
    scratch: &'a Scratch,
    log: &'a Path,
    context: &'a ImportContext<'a>,
}

impl Run<'_> {
    /// Runs it on the tree, which is empty. `more` says what it sees and gets besides.
    fn start(
        &self,
        walls: Walls,
        complaints: &Complaints,
        more: impl FnOnce(Walls, Options) -> (Walls, Options),
    ) -> Result<()> {
        self.scratch.mount_points(&[("dev", 0o755), ("proc", 0o755), ("sys", 0o755)])?;
        let mut walls = walls
            .tree(&self.scratch.tree(), false)
            .write_at(&self.scratch.tmp(), Path::new(SCRATCH))
            .env("TMPDIR", SCRATCH)
            .env("HOME", SCRATCH);
        for path in self.sources.iter().flat_map(|line| mirror::local(line)) {
            walls = walls.read(&path)?;
        }
        let (walls, options) = more(walls, Options::default());
        let mut tool = walls.tool("mmdebstrap", "mmdebstrap");
        // The folders that something is mounted on are there already. In a user namespace, owner, mode and time of a
        // mounted `/proc` belong to somebody else, and tar would end with an error.
        tool = tool.env("TAR_OPTIONS", "--anchored --exclude=./proc --exclude=./sys --exclude=./dev");
        for (name, value) in options.env {
            tool = tool.env(&name, value);
        }
        // Root of a user namespace is root enough for it. All that it would mount is there already.
        tool = tool.args(["--mode=root", "--variant=minbase", "--format=directory", "--architectures=amd64"]);
        tool = tool.args(["--skip=cleanup", "--skip=check/empty", "--skip=chroot/mount"]);
        tool = tool.arg(format!("--include={}", self.include.join(","))).args(options.arguments);
        // Nothing that a template says is an option.
        tool = tool.args(["--", &self.recipe.suite, TREE]).args(self.sources);
        let listener = complaints.listener("mmdebstrap", is_complaint, self.context.events);
        tool.log_to(self.log).each_error_line(listener).run(self.context.cancel).map(|_| ())
    }
}

/// What one run of mmdebstrap gets besides.
#[derive(Default)]
struct Options {
    arguments: Vec<String>,
    env: Vec<(String, OsString)>,
}

impl Options {
    fn arg(mut self, argument: impl Into<String>) -> Options {
        self.arguments.push(argument.into());
        self
    }

    fn env(mut self, name: &str, value: impl Into<OsString>) -> Options {
        self.env.push((name.to_owned(), value.into()));
        self
    }
}

/// What apt, dpkg and mmdebstrap say of themselves, but for what these walls are meant to keep from them.
fn is_complaint(line: &str) -> bool {
    let meant = ["W: cannot mount", "W: skipping", "W: Host system does not have a ", "E: command failed: "];
    ["E:", "W:", "Err:"].iter().any(|mark| line.starts_with(mark)) && !meant.iter().any(|mark| line.starts_with(mark))
}

/// Says what went wrong in the words of who knows: the last complaints, and what may be done about them.
fn explain(recipe: &Recipe, complaints: &Complaints, error: Error) -> Error {
    complaints.explain(&recipe.suite, ("mmdebstrap", "mmdebstrap"), error, |text| {
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let hint = if says(&["cannot find `", "cannot connect to"]) {
            "is the mirror reachable from here? Proxies are taken from http_proxy".to_owned()
        } else if says(&["Unable to locate package", "no installation candidate"]) {
            format!("a package of `packages` is not in {}", recipe.suite)
        } else if says(&["NO_PUBKEY", "is not signed", "keyring"]) {
            format!("the keys of this distribution come with the package `{}`", recipe.distribution.keyring())
        } else if says(&["does not have a Release file", "404 "]) {
            format!("does the mirror have the suite `{}`?", recipe.suite)
        } else if says(&["Failed to fetch"]) {
            "is the mirror reachable from here? Proxies are taken from http_proxy".to_owned()
        } else {
            return None;
        };
        Some((ErrorKind::Base, hint))
    })
}
