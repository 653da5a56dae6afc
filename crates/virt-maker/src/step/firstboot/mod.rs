//! `firstboot`: a script that runs once, when the guest boots for the first time; after those of earlier steps.
//!
//! In the guest: `/usr/lib/virt-maker/firstboot.d/NNNN` are the scripts, `/usr/lib/virt-maker/firstboot` runs them in
//! their order, started by a unit of systemd or a script of `/etc/init.d`. What they say is in
//! `/var/log/virt-maker-firstboot.log`. They wait for the network (`network-online.target`), but not longer than 90 s. A script that fails does not keep the next one from running.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::support::paths;
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind, first_line};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Attributes, Guest};
use crate::template::{self, Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "firstboot",
    about: "Has the guest run a script once, at its first boot, after those of earlier steps.",
    arguments: arguments::<Script>,
    example: "firstboot: systemd-machine-id-setup --print",
    needs: &[],
    // 2: scripts begin when the network is there, or after 90 s.
    version: 2,
    network: false,
    parse,
};

/// A script. Without a `#!` line, one of `/bin/sh`, which ends at the first command that fails; in a template without `format: 2` it goes on. Of a pipe the last command counts where `/bin/sh` knows no `pipefail` (Debian 12): `shell: /bin/bash -euo pipefail`. Its output goes to `/var/log/virt-maker-firstboot.log`.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Script(String);

#[derive(Serialize)]
struct FirstbootStep {
    script: template::Script,
}

const HERE: &str = "/usr/lib/virt-maker";
const SCRIPTS: &str = "/usr/lib/virt-maker/firstboot.d";
const UNIT: &str = "virt-maker-firstboot.service";

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let Script(script) = from_node(node)?;
    Ok(Box::new(FirstbootStep { script: template::Script::of_step(script, node)? }))
}

impl Step for FirstbootStep {
    fn summary(&self) -> String {
        first_line(self.script.written())
    }

    fn set_shell(&mut self, shell: &str) -> bool {
        self.script.set_shell(shell);
        true
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for FirstbootStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        let place = Place::next(guest)?;
        place.finish(guest, &self.script.whole())
    }
}

/// The place of one more script, after all that are there.
pub(super) struct Place {
    name: String,
}

impl Place {
    /// Makes sure that scripts are run at all, and takes the next number.
    pub(super) fn next(guest: &mut dyn Guest) -> Result<Place> {
        prepare(guest)?;
        let names = guest.read_dir(SCRIPTS)?;
        let last = names.iter().filter_map(|name| name.parse::<u32>().ok()).max().unwrap_or(0);
        if last >= 9999 {
            return Err(Error::new(ErrorKind::Step, "the guest has 9999 first-boot scripts already"));
        }
        Ok(Place { name: format!("{:04}", last + 1) })
    }

    /// A path in the guest for what the script needs besides itself. The script removes it.
    pub(super) fn data(&self) -> String {
        format!("{HERE}/firstboot.data/{}", self.name)
    }

    /// Puts the script there.
    pub(super) fn finish(&self, guest: &mut dyn Guest, script: &str) -> Result<()> {
        let text = if script.starts_with("#!") { script.to_owned() } else { format!("#!/bin/sh\n{script}") };
        let gap = if text.ends_with('\n') { "" } else { "\n" };
        let path = format!("{SCRIPTS}/{}", self.name);
        guest.write(&path, &mut format!("{text}{gap}").as_bytes(), root(0o700))
    }
}

fn root(mode: u32) -> Attributes {
    Attributes { mode: Some(mode), uid: Some(0), gid: Some(0) }
}

/// Puts the runner in place and has the guest's init start it.
fn prepare(guest: &mut dyn Guest) -> Result<()> {
    let systemd = paths::exists(guest, "/usr/lib/systemd/systemd")? || paths::exists(guest, "/lib/systemd/systemd")?;
    let sysv = !systemd && paths::exists(guest, "/etc/init.d")? && paths::exists(guest, "/etc/rc2.d")?;
    if !systemd && !sysv {
        let message = "the guest starts with neither systemd nor scripts in /etc/init.d and /etc/rc2.d";
        return Err(Error::new(ErrorKind::Step, message).with_hint("install an init system before"));
    }
    guest.mkdir(SCRIPTS, root(0o700), true)?;
    guest.write(&format!("{HERE}/firstboot"), &mut include_str!("runner.sh").as_bytes(), root(0o755))?;
    if systemd {
        let unit = format!("/etc/systemd/system/{UNIT}");
        let wants = "/etc/systemd/system/multi-user.target.wants";
        guest.mkdir(wants, Attributes::default(), true)?;
        guest.write(&unit, &mut include_str!("virt-maker-firstboot.service").as_bytes(), root(0o644))?;
        return guest.symlink(&unit, &format!("{wants}/{UNIT}"));
    }
    let script = "/etc/init.d/virt-maker-firstboot";
    guest.write(script, &mut include_str!("init.sh").as_bytes(), root(0o755))?;
    for level in 2..=5 {
        let folder = format!("/etc/rc{level}.d");
        if paths::exists(guest, &folder)? {
            guest.symlink(script, &format!("{folder}/S99virt-maker-firstboot"))?;
        }
    }
    Ok(())
}
