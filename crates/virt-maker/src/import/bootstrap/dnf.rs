//! Running `dnf --installroot` so that nothing of it stays on the host and nothing of the host's own settings is read, and
//! so that what follows it leaves a file system in the image.
//!
//! dnf 4 and dnf 5 read one configuration file of ours, and no other; caches, logs and the database of packages are in the
//! tree, or in the folder for what is gone at the end. Scriptlets run as root, so all of it is behind
//! walls: first dnf fetches, where it reaches our [`Relay`] and nothing else, and then installs without a network ([`Walls::for_scripts`]). rpm gets a home of ours, with the macros that say where the
//! distribution has its database: Debian's own rpm would put it into root's home.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::archive::{self, Archive};
use super::complaints::Complaints;
use super::rpm::{Recipe, input as input_name};
use super::firmware::Firmware;
use super::tree::{Scratch, file_system, new_uuid};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::enclosed::{Enclosed, Entered};
use crate::host::walls::{SCRATCH, TREE, Walls};
use crate::host::{Tool, find_program};
use crate::import::ImportContext;
use crate::import::relay::Relay;
use crate::key::{Digest, HostInput};

/// What `sh` runs, with dnf and its arguments behind it.
const MAKE: &str = concat!(include_str!("common.sh"), include_str!("rpm.sh"));
/// What `sh` runs first: dnf fetches, and nothing of the packages runs.
const FETCH: &str = "exec \"$@\" </dev/null >&2";
/// Where the guest keeps the keys of the template's mirrors.
const GUEST_KEYS: &str = "file:///etc/pki/rpm-gpg/RPM-GPG-KEY-mirror";

/// Where its configuration and the keys are, for dnf.
const CONFIG: &str = "/dnf.conf";
const KEYS: &str = "/keys.asc";
const KEYS_URL: &str = "file:///keys.asc";

/// A dnf of this host.
struct Dnf {
    program: PathBuf,
    is_five: bool,
}

impl Dnf {
    /// Finds it, and says what is missing. Even when it is asked for its version, rpm makes a database, in `home`.
    fn find(home: &Path, context: &ImportContext<'_>) -> Result<Dnf> {
        let missing = |what: &str, package: &str| {
            let message = format!("{what} is not installed on this host, and distributions made of RPM packages need it");
            Error::new(ErrorKind::Host, message).with_hint(format!("it comes with the package `{package}`"))
        };
        let program = find_program("dnf").or_else(|| find_program("dnf5")).ok_or_else(|| missing("dnf", "dnf"))?;
        for name in ["rpm", "rpmdb"] {
            find_program(name).ok_or_else(|| missing(name, "rpm"))?;
        }
        let version = Tool::new(&program, "dnf").arg("--version").env("HOME", home).run(context.cancel)?;
        let is_five = String::from_utf8_lossy(&version).starts_with("dnf5");
        Ok(Dnf { program, is_five })
    }

    /// The whole command, with an option of its own, for a tree and with a configuration file.
    fn command(&self, recipe: &Recipe, option: &str, tree: &Path, config: &Path, cache: &Path) -> Vec<OsString> {
        let with = |option: &str, path: &Path| {
            let mut argument = OsString::from(option);
            argument.push(path);
            argument
        };
        let mut command = vec![
            self.program.clone().into_os_string(),
            with("--config=", config),
            with("--installroot=", tree),
            format!("--releasever={}", recipe.release.number).into(),
            "--assumeyes".into(),
        ];
        if self.is_five {
            // dnf5-installroot(7): paths on the command line are the host's. It knows files of packages only if it has their
            // lists.
            command.extend([
                "--setopt=reposdir=/dev/null".into(),
                "--setopt=varsdir=/dev/null".into(),
                "--setopt=optional_metadata_types=filelists,comps".into(),
                with("--setopt=cachedir=", cache),
                with("--setopt=system_cachedir=", cache),
                with("--setopt=logdir=", cache),
            ]);
        }
        command.extend([option.into(), "install".into()]);
        // None of them can be an option: `rpm::is_package`.
        command.extend(recipe.include().into_iter().map(OsString::from));
        command
    }
}

/// Makes the tree of `recipe` and from it the root file system in the disk at `image`. `inputs` are those of the base's key.
/// The output goes to `log`.
pub(super) fn make(
    recipe: &Recipe,
    inputs: &[HostInput],
    image: &Path,
    scratch: &Scratch,
    log: &Path,
    context: &ImportContext<'_>,
) -> Result<()> {
    let folder = scratch.path();
    let failed = || format!("cannot write into {}", folder.display());
    let (home, config) = (scratch.tmp().join("home"), folder.join("dnf.conf"));
    for folder in [&home, &scratch.tmp().join("cache")] {
        fs::create_dir(folder).context(ErrorKind::Store, failed)?;
    }
    let dnf = Dnf::find(&home, context)?;
    let keys = if recipe.signed { Some(keys(recipe, inputs, folder, context)?) } else { None };
    // Folders of the host that are mounted in the tree are not a package's to change; plugins are about a running system.
    let macros = format!(
        "%_dbpath {}\n%_netsharedpath /dev:/proc:/sys\n%__transaction_systemd_inhibit %{{nil}}\n%__transaction_selinux %{{nil}}\n",
        recipe.release.rpmdb()
    );
    fs::write(home.join(".rpmmacros"), macros).context(ErrorKind::Store, failed)?;
    fs::write(&config, recipe.config(keys.as_ref().map(|_| KEYS_URL))).context(ErrorKind::Store, failed)?;

    scratch.mount_points(&[
        ("dev", 0o755),
        ("etc", 0o755),
        ("proc", 0o555),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
    ])?;
    let uuid = new_uuid()?;
    let complaints = Complaints::default();
    let command = |option| dnf.command(recipe, option, Path::new(TREE), Path::new(CONFIG), &Path::new(SCRATCH).join("cache"));
    // Where dnf 5 is told to have it, and where dnf 4 has it by itself.
    let cache = if dnf.is_five { scratch.tmp().join("cache") } else { scratch.tree().join("var/cache/dnf") };
    let kept = Archive::of(archive::Kind::Rpm, context.cache_dir, &sources(recipe, keys.as_deref())?);
    kept.fill(&cache);
    let relay = Relay::new(context, None);
    let (walls, network) = Walls::for_fetching(&scratch.devices(), Enclosed::new(relay.server())?)?;
    let runs = [
        (walls, Some(network), FETCH, command("--downloadonly")),
        (Walls::for_scripts(&scratch.devices())?, None, MAKE, command("--cacheonly")),
    ];
    for ((walls, network, script, command), part) in runs.into_iter().zip(["fetching", "installing"]) {
        context.events.stage(format!("{}: {part} packages", recipe.suite));
        let mut walls = walls
            .tree(&scratch.tree(), true)
            .empty("0755", &format!("{TREE}/run"))
            .empty("1777", &format!("{TREE}/tmp"))
            .write_at(&scratch.tmp(), Path::new(SCRATCH))
            .read_at(&config, Path::new(CONFIG))
            .env("TMPDIR", SCRATCH)
            .env("HOME", &format!("{SCRATCH}/home"));
        for path in recipe.local() {
            walls = walls.read(&path)?;
        }
        if let Some(keys) = &keys {
            walls = walls.read_at(keys, Path::new(KEYS));
        }
        let mut tool = walls.tool("sh", "dash");
        for (name, value) in Relay::variables().into_iter().filter(|_| network.is_some()) {
            tool = tool.env(name, value);
        }
        tool = tool
            .env("GUEST_UUID", &uuid)
            .env("GUEST_TREE", TREE)
            .env("GUEST_SCRATCH", SCRATCH)
            .env("GUEST_RPMDB", recipe.release.rpmdb())
            .env("GUEST_REPOSITORIES", recipe.guest_file(keys.as_ref().map(|_| GUEST_KEYS)).unwrap_or_default())
            .env("GUEST_KEYS", keys.as_ref().map(|_| KEYS).unwrap_or_default());
        let listener = complaints.listener("dnf", is_complaint, context.events);
        tool = tool.args(["-c", script, "sh"]).args(command);
        let ran = tool.log_to(log).each_error_line(listener).run(context.cancel);
        if let Err(error) = ran {
            context.cancel.check()?;
            network.map_or(Ok(()), Entered::finish)?;
            relay.lost().into_iter().for_each(|why| complaints.add(why));
            return Err(relay.refusal().unwrap_or_else(|| explain(recipe, &complaints, error)));
        }
        if script == FETCH {
            kept.keep(&cache);
        }
    }
    file_system(&recipe.suite, image, recipe.size, Firmware::Bios, &uuid, scratch, log, context)
}

/// What packages are kept apart by: where they come from, and which keys vouch for them.
fn sources(recipe: &Recipe, keys: Option<&Path>) -> Result<Vec<String>> {
    let keys = keys.map(fs::read).transpose().context(ErrorKind::Store, || "cannot read the keys of packages")?;
    let keys = keys.map_or_else(|| "unsigned".to_owned(), |keys| Digest::of(&keys).to_string());
    Ok([recipe.config(None), recipe.release.number.to_string(), keys].to_vec())
}

/// The keys that packages may be signed with, in one file as dnf and the guest's rpm take them: armored.
fn keys(recipe: &Recipe, inputs: &[HostInput], folder: &Path, context: &ImportContext<'_>) -> Result<PathBuf> {
    let files = if recipe.keys.is_empty() { vec![of_distribution(recipe)?] } else { recipe.keys.clone() };
    let home = folder.join("gnupg");
    let failed = || format!("cannot make {}", home.display());
    fs::create_dir(&home).context(ErrorKind::Store, failed)?;
    fs::set_permissions(&home, Permissions::from_mode(0o700)).context(ErrorKind::Store, failed)?;
    let gpg = || Tool::new("gpg", "gpg").args(["--batch", "--no-options", "--no-autostart", "--homedir"]).arg(&home);
    for (index, file) in files.iter().enumerate() {
        let keys = fs::read(file).context(ErrorKind::Template, || format!("cannot read the keys in {}", file.display()))?;
        // The distribution's own keys are no part of the key.
        let input = inputs.iter().find(|input| input.name == input_name(index));
        if input.is_some_and(|input| input.digest != Digest::of(&keys)) {
            return Err(Error::new(ErrorKind::Template, format!("{} changed while it was read", file.display())));
        }
        gpg().arg("--import").input(keys).run(context.cancel).map_err(|error| match error.hint() {
            // It is the program that is missing.
            Some(_) => error,
            None => {
                let error = Error::new(error.kind(), format!("{} holds no keys", file.display())).with_source(error);
                error.with_hint("expected public keys as `gpg --export` writes them, armored or not")
            }
        })?;
    }
    let target = folder.join("keys.asc");
    fs::write(&target, gpg().args(["--armor", "--export"]).run(context.cancel)?)
        .context(ErrorKind::Store, || format!("cannot write {}", target.display()))?;
    Ok(target)
}

/// The file of this host that has the distribution's keys.
fn of_distribution(recipe: &Recipe) -> Result<PathBuf> {
    let places = recipe.release.keyrings();
    if let Some(found) = places.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let places = places.map(|path| path.display().to_string()).join(" nor ");
    let message = format!("the keys of {} are not on this host: neither {places} is there", recipe.suite);
    Err(Error::new(ErrorKind::Host, message).with_hint(
        "they come with the package `distribution-gpg-keys` (for Debian 12 from its backports); or name a file with `gpg`",
    ))
}

/// Lines of dnf 4 and dnf 5, of rpm, and of our own script that say what is wrong.
fn is_complaint(line: &str) -> bool {
    let begins = ["E:", "Error", "error:", " Problem", "  - ", "No match for argument", "Failed to ", "Cannot "];
    let says = ["is not signed", "Public key for ", "GPG check", "are already installed but they are not correct"];
    begins.iter().any(|word| line.starts_with(word)) || says.iter().any(|word| line.contains(word))
}

/// Says what went wrong in the words of who knows: the last complaints, and what may be done about them.
fn explain(recipe: &Recipe, complaints: &Complaints, error: Error) -> Error {
    complaints.explain(&recipe.suite, ("dnf", "dnf"), error, |text| {
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let suite = &recipe.suite;
        let hint = if says(&["more space on the"]) {
            return Some((ErrorKind::HostFull, "the tree of packages lies in the store until the disk is made".into()));
        } else if says(&["No match for argument", "Unable to find a match"]) {
            match recipe.mirrors.is_empty() {
                true => format!("a package of `packages` is not in {suite}"),
                false => format!("neither `packages` nor what every guest gets may be missing on the mirrors of {suite}"),
            }
        } else if says(&["is not signed", "Public key for ", "GPG check", "signature"]) {
            match recipe.mirrors.is_empty() {
                true => "are the keys on this host older than the distribution's? `gpg` names a file with newer ones".into(),
                false => "`gpg` names files with the keys of a mirror; `signed: false` takes packages that nobody signed".into(),
            }
        } else if says(&["cannot find `", "cannot connect to", "timeout"]) {
            "is the mirror reachable from here? Proxies are taken from http_proxy".into()
        } else if says(&["404", "repomd.xml"]) {
            match recipe.mirrors.is_empty() {
                true => format!("is {suite} still on the distribution's servers? Old releases are in archives: give one as `mirror`"),
                false => "does each mirror have a `repodata` folder? `$releasever` and `$basearch` may stand in it".into(),
            }
        } else if says(&["nothing provides"]) {
            "the mirrors together have to have all that the packages need".into()
        } else {
            return None;
        };
        Some((ErrorKind::Base, hint))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dnf_gets_its_options() {
        let recipe = Recipe {
            release: super::super::rpm::Release::of_suite("rocky9").unwrap(),
            suite: "rocky9".into(),
            mirrors: Vec::new(),
            keys: Vec::new(),
            signed: true,
            packages: vec!["nginx".into()],
            size: 1 << 32,
        };
        let command = |is_five| {
            let dnf = Dnf { program: "/usr/bin/dnf".into(), is_five };
            let command = dnf.command(&recipe, "--cacheonly", Path::new("/s/tree"), Path::new("/s/c"), Path::new("/s/cache"));
            command.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let four = command(false);
        let begin = ["/usr/bin/dnf", "--config=/s/c", "--installroot=/s/tree", "--releasever=9", "--assumeyes"];
        assert_eq!((&four[..5], &four[5..7]), (&begin.map(String::from)[..], &["--cacheonly", "install"].map(String::from)[..]));
        assert_eq!((four[7].as_str(), four.last().unwrap().as_str()), ("rocky-release", "nginx"));
        assert!(command(true).contains(&"--setopt=system_cachedir=/s/cache".to_owned()));
        assert!(!four.iter().any(|word| word.contains("setopt")));
    }
}
