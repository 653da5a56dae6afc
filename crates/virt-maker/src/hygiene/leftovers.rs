//! What a boot leaves in a guest that is for one machine alone, and is taken out again where it was not there before.

use super::rules::{Action, RULES, Rule};
use super::{expand, found};
use crate::error::Result;
use crate::guest::{Attributes, FileKind, Guest};
use crate::host::random;

/// Rules of the table that a boot alone breaks. Others are broken by what somebody does in a guest that has booted: that stays.
const BY_A_BOOT: [&str; 8] = [
    "machine-id of D-Bus",
    "random seed",
    "key of sealed credentials",
    "network that cloud-init wrote",
    "state of cloud-init",
    "DHCP lease",
    "old log",
    "log",
];
/// What cloud-init writes besides where it has a seed.
const BY_A_SEED: [&str; 2] = [NAMES, HOST_KEYS];
const NAMES: &str = "names of network cards";
const HOST_KEYS: &str = "SSH host keys";
const NETWORK: &str = "network that cloud-init wrote";
/// With a seed nothing of this stays, also of an earlier boot: what was there does not fit together any more.
const STATE: &str = "state of cloud-init";
/// What init makes anew at each boot, and keeps for the next one: no traces of use, so the table has none of it.
const OF_INIT: [&str; 13] = [
    "/tmp/.ICE-unix",
    "/tmp/.Test-unix",
    "/tmp/.X11-unix",
    "/tmp/.XIM-unix",
    "/tmp/.font-unix",
    "/tmp/systemd-private-*",
    "/var/tmp/systemd-private-*",
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/backlight",
    LINGER,
    "/var/lib/systemd/rfkill",
    "/var/lib/systemd/timers",
    "/var/lib/systemd/timesync",
];
/// Names of users whose services run without a login.
const LINGER: &str = "/var/lib/systemd/linger";
/// A host key is not larger.
const KEY_MAX: u64 = 64 << 10;
const MACHINE_ID: &str = "/etc/machine-id";
/// It is one line.
const ID_MAX: u64 = 4 << 10;

/// What was there before a boot.
pub struct Leftovers {
    /// For each of [`rules`].
    paths: Vec<(&'static Rule, Vec<String>)>,
    /// Of [`OF_INIT`].
    of_init: Vec<String>,
    /// Host keys that the boot itself made, as the next one will where there are none, by their paths and content.
    host_keys: Vec<(String, Vec<u8>)>,
    /// Whether cloud-init has a seed.
    seeded: bool,
    /// The machine-id that was no name of a machine yet, or that there was none.
    unnamed: Option<Option<Vec<u8>>>,
}

/// Paths of [`OF_INIT`] that are there.
fn of_init(guest: &mut dyn Guest) -> Result<Vec<String>> {
    let mut there = Vec::new();
    for pattern in OF_INIT {
        let mut paths = Vec::new();
        let parts: Vec<&str> = pattern.split('/').skip(1).collect();
        expand(guest, "", &parts, 0, &mut paths)?;
        for path in paths {
            if guest.stat(&path)?.is_some() {
                there.push(path);
            }
        }
    }
    Ok(there)
}

fn rules() -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(|rule| BY_A_BOOT.contains(&rule.what) || BY_A_SEED.contains(&rule.what))
}

impl Leftovers {
    /// Looks at a guest before its boot, and gives one that has no machine-id yet a name for that time: so this is not its first
    /// boot, at which it would decide about its services.
    pub fn of(guest: &mut dyn Guest) -> Result<Leftovers> {
        let mut paths = Vec::new();
        for rule in rules() {
            paths.push((rule, found(guest, rule)?));
        }
        let of_init = of_init(guest)?;
        let named = RULES.iter().filter(|rule| rule.patterns == [MACHINE_ID]);
        let mut unnamed = None;
        for rule in named {
            if found(guest, rule)?.is_empty() {
                let old = match guest.stat(MACHINE_ID)? {
                    Some(_) => Some(guest.read(MACHINE_ID, ID_MAX)?),
                    None => None,
                };
                let id = random::id()?;
                let id = format!("{id}\n");
                match old {
                    Some(_) => guest.rewrite(MACHINE_ID, &mut id.as_bytes())?,
                    None => guest.write(
                        MACHINE_ID,
                        &mut id.as_bytes(),
                        Attributes { mode: Some(0o444), ..Attributes::default() },
                    )?,
                }
                unnamed = Some(old);
            }
        }
        Ok(Leftovers { paths, of_init, unnamed, host_keys: Vec::new(), seeded: false })
    }

    /// The same where cloud-init gets a seed. `network` where that says what the network is like, and `host_keys` where it brings those:
    /// that then stays.
    pub fn of_a_seed(mut self, network: bool, host_keys: bool) -> Leftovers {
        self.seeded = true;
        let stays = |what| network && (what == NETWORK || what == NAMES) || host_keys && what == HOST_KEYS;
        self.paths.retain(|(rule, _)| !stays(rule.what));
        for (rule, before) in &mut self.paths {
            if rule.what == STATE {
                before.clear();
            }
        }
        self
    }

    /// Looks at the guest when it has booted, and nothing else was done to it: SSH host keys that are new now are made by its boot, and do
    /// not stay. Those that a step makes do, as no boot may make them again.
    pub fn note_boot(&mut self, guest: &mut dyn Guest) -> Result<()> {
        for (rule, before) in self.paths.iter().filter(|(rule, _)| rule.what == HOST_KEYS) {
            for path in found(guest, rule)?.into_iter().filter(|path| !before.contains(path)) {
                if is_key(guest, &path)? {
                    let content = guest.read(&path, KEY_MAX)?;
                    self.host_keys.push((path, content));
                }
            }
        }
        Ok(())
    }

    /// Takes out what was not there before.
    pub fn clean(&self, guest: &mut dyn Guest) -> Result<()> {
        for (rule, before) in self.paths.iter().filter(|(rule, _)| self.seeded || !BY_A_SEED.contains(&rule.what)) {
            for path in found(guest, rule)?.iter().filter(|path| !before.contains(path)) {
                match rule.action {
                    Action::Empty => guest.rewrite(path, &mut "".as_bytes())?,
                    _ => guest.remove(path)?,
                }
            }
        }
        for (path, content) in &self.host_keys {
            // Where a step has put another one there, that is the image's.
            if is_key(guest, path)? && guest.read(path, KEY_MAX)? == *content {
                guest.remove(path)?;
            }
        }
        for path in of_init(guest)?.iter().filter(|path| !self.of_init.contains(path)) {
            // Who is in there was put there by a step.
            if path != LINGER || guest.read_dir(path)?.is_empty() {
                guest.remove(path)?;
            }
        }
        match &self.unnamed {
            Some(Some(old)) => guest.rewrite(MACHINE_ID, &mut &**old),
            Some(None) => guest.remove(MACHINE_ID),
            None => Ok(()),
        }
    }
}

/// Whether that can be a key at all: a file, and no large one.
fn is_key(guest: &mut dyn Guest, path: &str) -> Result<bool> {
    Ok(guest.stat(path)?.is_some_and(|stat| stat.kind == FileKind::File && stat.size <= KEY_MAX))
}
