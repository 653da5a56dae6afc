//! The guest's own package manager: which it is, and how it is told to install, to remove and to update.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::super::{Action, InGuest, Step, StepContext, StepKey, run_checked};
use super::{paths, words};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Exit, Guest, Run};
use crate::template::Node;

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::step) enum PackageManager {
    Apt,
    Dnf,
    Yum,
    Zypper,
    Apk,
    Pacman,
}

type Commands = &'static [&'static [&'static str]];

/// Without attempts of its own: apt takes a disk that is full for a fault of the network that will pass, and the attempt
/// after it waits for ever now and then (2.6). See [`STRICTLY`].
const APT_UPDATE: &[&str] = &["apt-get", "-q", "-o", "Acquire::Retries=0", "update"];
/// Lets `apt-get update` fail where it could not fetch a list; otherwise it warns, and goes on with old lists.
const STRICTLY: [&str; 2] = ["-o", "APT::Update::Error-Mode=any"];
/// How often lists are fetched again where that failed, and the seconds between.
const AGAIN: [u64; 2] = [1, 3];

impl PackageManager {
    /// The package manager of a guest, by what its os-release says.
    pub(in crate::step) fn of(guest: &mut dyn Guest) -> Result<PackageManager> {
        let os = guest.os().clone();
        for name in std::iter::once(&os.id).chain(&os.id_like) {
            return Ok(match name.as_str() {
                "debian" | "ubuntu" => PackageManager::Apt,
                "fedora" => PackageManager::Dnf,
                // dnf came with version 8.
                "rhel" | "centos" | "rocky" | "almalinux" | "ol" | "amzn" => match paths::program(guest, "dnf")? {
                    Some(_) => PackageManager::Dnf,
                    None => PackageManager::Yum,
                },
                "opensuse" | "suse" | "sles" | "opensuse-leap" | "opensuse-tumbleweed" => PackageManager::Zypper,
                "alpine" => PackageManager::Apk,
                "arch" => PackageManager::Pacman,
                _ => continue,
            });
        }
        let said = if os.id.is_empty() { "nothing" } else { &os.id };
        let message =
            format!("no package manager is known for this guest: its os-release says `{}`", said.escape_debug());
        Err(Error::new(ErrorKind::Step, message).with_hint("do it with a `run` step"))
    }

    /// Its program in the guest.
    pub(in crate::step) fn program(self) -> &'static str {
        match self {
            PackageManager::Apt => "apt-get",
            PackageManager::Dnf => "dnf",
            PackageManager::Yum => "yum",
            PackageManager::Zypper => "zypper",
            PackageManager::Apk => "apk",
            PackageManager::Pacman => "pacman",
        }
    }

    /// The name of its cache, for `mounts`.
    fn cache(self) -> &'static str {
        match self {
            PackageManager::Apt => "apt",
            other => other.program(),
        }
    }

    /// What makes it keep what it downloads in its cache.
    fn keeping(self) -> &'static [&'static str] {
        match self {
            // Lists of other guests' sources stay as well.
            PackageManager::Apt => &["-o", "APT::Keep-Downloaded-Packages=true", "-o", "APT::Get::List-Cleanup=false"],
            PackageManager::Dnf | PackageManager::Yum => &["--setopt=keepcache=1"],
            PackageManager::Apk => &["--cache-dir", "/var/cache/apk"],
            // pacman does; zypper keeps what its repositories say.
            PackageManager::Zypper | PackageManager::Pacman => &[],
        }
    }

    /// To install; the names are added to the last command.
    pub(in crate::step) fn install(self) -> Commands {
        match self {
            PackageManager::Apt => &[
                APT_UPDATE,
                &[
                    "apt-get",
                    "-q",
                    "-y",
                    // A configuration file that an earlier step changed stays as it is.
                    "-o",
                    "Dpkg::Options::=--force-confdef",
                    "-o",
                    "Dpkg::Options::=--force-confold",
                    "install",
                    "--",
                ],
            ],
            PackageManager::Dnf => &[&["dnf", "-y", "install", "--"]],
            PackageManager::Yum => &[&["yum", "-y", "install", "--"]],
            PackageManager::Zypper => &[&["zypper", "--non-interactive", "install", "--"]],
            PackageManager::Apk => &[&["apk", "add", "--update-cache"]],
            PackageManager::Pacman => &[&["pacman", "-Sy", "--noconfirm", "--needed"]],
        }
    }

    /// To remove; the names are added to the last command.
    pub(in crate::step) fn remove(self) -> Commands {
        match self {
            PackageManager::Apt => &[&["apt-get", "-q", "-y", "remove", "--"]],
            PackageManager::Dnf => &[&["dnf", "-y", "remove", "--"]],
            PackageManager::Yum => &[&["yum", "-y", "remove", "--"]],
            PackageManager::Zypper => &[&["zypper", "--non-interactive", "remove", "--"]],
            PackageManager::Apk => &[&["apk", "del"]],
            PackageManager::Pacman => &[&["pacman", "-R", "--noconfirm"]],
        }
    }

    /// To update all packages.
    pub(in crate::step) fn update(self) -> Commands {
        match self {
            PackageManager::Apt => &[
                APT_UPDATE,
                &[
                    "apt-get",
                    "-q",
                    "-y",
                    "-o",
                    "Dpkg::Options::=--force-confdef",
                    "-o",
                    "Dpkg::Options::=--force-confold",
                    "dist-upgrade",
                ],
            ],
            PackageManager::Dnf => &[&["dnf", "-y", "upgrade", "--refresh"]],
            PackageManager::Yum => &[&["yum", "-y", "update"]],
            PackageManager::Zypper => {
                &[&["zypper", "--non-interactive", "refresh"], &["zypper", "--non-interactive", "update"]]
            }
            PackageManager::Apk => &[&["apk", "upgrade", "--update-cache"]],
            PackageManager::Pacman => &[&["pacman", "-Syu", "--noconfirm"]],
        }
    }
}

/// A step that has the package manager do one thing with packages.
pub(in crate::step) struct PackagesStep {
    packages: Vec<String>,
    commands: fn(PackageManager) -> Commands,
}

impl PackagesStep {
    /// Reads the names of the packages.
    pub(in crate::step) fn parse(
        node: &Node,
        commands: fn(PackageManager) -> Commands,
    ) -> Result<PackagesStep, Vec<Diagnostic>> {
        Ok(PackagesStep { packages: names(node)?, commands })
    }
}

impl Step for PackagesStep {
    fn summary(&self) -> String {
        self.packages.join(" ")
    }

    fn key_inputs(&self) -> Result<StepKey> {
        // What is done with them is the kind.
        let PackagesStep { packages, commands: _ } = self;
        StepKey::of(&json!({ "packages": packages }))
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for PackagesStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        let manager = PackageManager::of(guest)?;
        run(guest, manager, (self.commands)(manager), &self.packages, context.caches)
    }
}

/// Runs the commands of a package manager, with names behind the last one.
pub(in crate::step) fn run(
    guest: &mut dyn Guest,
    manager: PackageManager,
    commands: Commands,
    names: &[String],
    caches: &[String],
) -> Result<()> {
    paths::require(guest, manager.program(), "take a base that has its package manager, or use a `run` step")?;
    for (index, command) in commands.iter().enumerate() {
        let mut argv: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        if caches.iter().any(|cache| cache == manager.cache()) {
            argv.splice(1..1, manager.keeping().iter().map(|word| (*word).to_owned()));
        }
        if index + 1 == commands.len() {
            argv.extend(names.iter().cloned());
        }
        let verb = command.iter().rfind(|word| !word.starts_with('-')).expect("the program at least");
        let what = if *verb == command[0] { format!("`{verb}`") } else { format!("`{} {verb}`", command[0]) };
        let env = BTreeMap::from([("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())]);
        let run = Run { argv, env, network: true, ..Run::default() };
        if *command == APT_UPDATE && updated(guest, &run)? {
            continue;
        }
        run_checked(guest, &run, &what)?;
    }
    Ok(())
}

/// Whether `apt-get update` fetched every list, with a few attempts.
fn updated(guest: &mut dyn Guest, update: &Run) -> Result<bool> {
    let mut strictly = update.clone();
    strictly.argv.splice(1..1, STRICTLY.map(str::to_owned));
    for seconds in AGAIN {
        if guest.run(&strictly)? == Exit::Status(0) {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_secs(seconds));
    }
    Ok(false)
}

/// Reads names of packages: one, or a list.
fn names(node: &Node) -> Result<Vec<String>, Vec<Diagnostic>> {
    let packages = words::texts(node, |name| {
        // What every package manager takes in a name; never an option, never anything for a shell.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._:~=@/*".contains(&byte);
        if name.is_empty() || name.starts_with('-') || !name.bytes().all(allowed) {
            return Err(format!("`{}` is not the name of a package", name.escape_debug()));
        }
        Ok(())
    })?;
    if packages.is_empty() {
        return Err(vec![node.diagnostic("the list of packages is empty")]);
    }
    Ok(packages)
}
