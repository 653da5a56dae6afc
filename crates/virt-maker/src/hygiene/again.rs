//! What was removed comes back at the first boot, where the guest needs it.
//!
//! By units of systemd, wherever a guest has that (`/lib` is no link in older ones). The commands are in one script, each with
//! its own look whether its file is there, so that a guest that is cleaned twice, or in which somebody put a file since, is right.

use super::rules::Again;
use crate::error::Result;
use crate::guest::{Attributes, Guest};

const SCRIPT: &str = "/usr/lib/virt-maker/identity";
const HEAD: &str = "#!/bin/sh\n# Makes what each machine must have for itself and the image did not bring. Made by virt-maker.\n\
                    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n";
const UNITS: &str = "/etc/systemd/system";
/// Where the files of systemd and of packages are, in newer guests and in older ones.
const LIBRARIES: [&str; 2] = ["/usr/lib", "/lib"];
/// Commands and units are small.
const TEXT_MAX: u64 = 1 << 20;

/// Whether what is removed comes back, or is not needed.
pub(super) fn is_certain(guest: &mut dyn Guest, again: Again) -> Result<bool> {
    match again {
        Again::Unneeded => Ok(true),
        Again::By(files) => any(guest, files.iter().map(|file| (*file).to_owned())),
        Again::Commands(program, _) => Ok(has_systemd(guest)? && has_program(guest, program)?),
    }
}

/// Has the guest do at its first boot what brings it back.
pub(super) fn prepare(guest: &mut dyn Guest, again: Again) -> Result<()> {
    let Again::Commands(_, commands) = again else { return Ok(()) };
    let old = match guest.stat(SCRIPT)? {
        Some(_) => String::from_utf8_lossy(&guest.read(SCRIPT, TEXT_MAX)?).into_owned(),
        None => HEAD.to_owned(),
    };
    if old.contains(commands) {
        return Ok(());
    }
    guest.mkdir("/usr/lib/virt-maker", Attributes::default(), true)?;
    guest.write(SCRIPT, &mut format!("{old}{commands}").as_bytes(), root(0o755))?;
    unit(guest, "virt-maker-identity.service", "sysinit.target", include_str!("virt-maker-identity.service"))
}

/// Where sshd is started by systemd, and nothing of the guest itself makes its keys, a unit does it.
pub(super) fn host_keys(guest: &mut dyn Guest) -> Result<()> {
    let needed = has_systemd(guest)? && has_program(guest, "sshd")? && has_program(guest, "ssh-keygen")?;
    let own = ["sshd-keygen.target", "sshd-keygen.service", "sshdgenkeys.service"];
    let own = own.iter().flat_map(|unit| LIBRARIES.map(|library| format!("{library}/systemd/system/{unit}")));
    if !needed || any(guest, own)? {
        return Ok(());
    }
    unit(guest, "virt-maker-ssh-keys.service", "multi-user.target", include_str!("virt-maker-ssh-keys.service"))
}

/// A unit of ours, which starts with a target.
fn unit(guest: &mut dyn Guest, name: &str, target: &str, text: &str) -> Result<()> {
    let (path, wants) = (format!("{UNITS}/{name}"), format!("{UNITS}/{target}.wants"));
    guest.mkdir(&wants, Attributes::default(), true)?;
    guest.write(&path, &mut text.as_bytes(), root(0o644))?;
    guest.symlink(&path, &format!("{wants}/{name}"))
}

fn root(mode: u32) -> Attributes {
    Attributes { mode: Some(mode), uid: Some(0), gid: Some(0) }
}

fn has_systemd(guest: &mut dyn Guest) -> Result<bool> {
    any(guest, LIBRARIES.iter().map(|library| format!("{library}/systemd/systemd")))
}

fn has_program(guest: &mut dyn Guest, name: &str) -> Result<bool> {
    any(guest, ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().map(|folder| format!("{folder}/{name}")))
}

fn any(guest: &mut dyn Guest, paths: impl IntoIterator<Item = String>) -> Result<bool> {
    for path in paths {
        if guest.stat(&path)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
