//! `service`: which services start when the guest boots; set offline, nothing is started or stopped.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::support::{paths, words};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind, run_checked};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Guest, Run};
use crate::template::{Node, OneOrMany, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "service",
    about: "Enables, disables, masks or unmasks services of the guest, for its next boot.",
    arguments: arguments::<Arguments>,
    example: "service: {enable: fstrim.timer, disable: apt-daily.timer, mask: systemd-networkd-wait-online.service}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read from the node: one text, or a list")]
struct Arguments {
    /// Services that start at boot. In a guest without systemd, by update-rc.d, chkconfig or rc-update.
    #[schemars(with = "Option<OneOrMany>")]
    enable: Option<serde::de::IgnoredAny>,
    /// Services that do not.
    #[schemars(with = "Option<OneOrMany>")]
    disable: Option<serde::de::IgnoredAny>,
    /// Units that nothing can start; systemd only.
    #[schemars(with = "Option<OneOrMany>")]
    mask: Option<serde::de::IgnoredAny>,
    /// The opposite of `mask`.
    #[schemars(with = "Option<OneOrMany>")]
    unmask: Option<serde::de::IgnoredAny>,
}

/// What can be said, in the order in which it is done.
const VERBS: [&str; 4] = ["unmask", "enable", "disable", "mask"];

struct ServiceStep {
    /// For each of [`VERBS`].
    units: [Vec<String>; 4],
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let _: Arguments = from_node(node)?;
    let mut problems = Vec::new();
    let units = VERBS.map(|verb| {
        let read = node.get(verb).map_or(Ok(Vec::new()), |node| words::texts(node, words::name));
        read.unwrap_or_else(|found| {
            problems.extend(found);
            Vec::new()
        })
    });
    if problems.is_empty() && units.iter().all(Vec::is_empty) {
        problems.push(node.diagnostic("expected names of services under `enable`, `disable`, `mask` or `unmask`"));
    }
    if problems.is_empty() { Ok(Box::new(ServiceStep { units })) } else { Err(problems) }
}

impl Step for ServiceStep {
    fn summary(&self) -> String {
        let said = VERBS.iter().zip(&self.units).filter(|(_, units)| !units.is_empty());
        said.map(|(verb, units)| format!("{verb} {}", units.join(" "))).collect::<Vec<_>>().join(", ")
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let ServiceStep { units } = self;
        StepKey::of(&VERBS.into_iter().zip(units).collect::<BTreeMap<_, _>>())
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for ServiceStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        let manager = Manager::of(guest)?;
        for (verb, units) in VERBS.iter().zip(&self.units).filter(|(_, units)| !units.is_empty()) {
            for argv in manager.commands(verb, units)? {
                let what = format!("`{} {verb}`", argv[0]);
                run_checked(guest, &Run { argv, ..Run::default() }, &what)?;
            }
        }
        Ok(())
    }
}

/// Who starts services in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Systemd,
    UpdateRc,
    Chkconfig,
    OpenRc,
}

impl Manager {
    fn of(guest: &mut dyn Guest) -> Result<Manager> {
        let known = [
            ("systemctl", Manager::Systemd),
            ("rc-update", Manager::OpenRc),
            ("update-rc.d", Manager::UpdateRc),
            ("chkconfig", Manager::Chkconfig),
        ];
        for (program, manager) in known {
            if paths::program(guest, program)?.is_some() {
                return Ok(manager);
            }
        }
        let message = "the guest has none of systemctl, rc-update, update-rc.d and chkconfig";
        Err(Error::new(ErrorKind::Step, message).with_hint("install an init system before, or use a `run` step"))
    }

    fn commands(self, verb: &str, units: &[String]) -> Result<Vec<Vec<String>>> {
        let each = |words: &dyn Fn(&str) -> Vec<String>| Ok(units.iter().map(|unit| words(unit)).collect());
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match (self, verb) {
            (Manager::Systemd, _) => {
                let mut argv = owned(&["systemctl", verb, "--"]);
                argv.extend(units.iter().cloned());
                Ok(vec![argv])
            }
            (_, "mask" | "unmask") => {
                let message = format!("`{verb}` needs systemd, which this guest does not have");
                Err(Error::new(ErrorKind::Step, message).with_hint("use `disable`"))
            }
            (Manager::UpdateRc, _) => each(&|unit| owned(&["update-rc.d", unit, verb])),
            (Manager::Chkconfig, "enable") => each(&|unit| owned(&["chkconfig", unit, "on"])),
            (Manager::Chkconfig, _) => each(&|unit| owned(&["chkconfig", unit, "off"])),
            (Manager::OpenRc, "enable") => each(&|unit| owned(&["rc-update", "add", unit, "default"])),
            (Manager::OpenRc, _) => each(&|unit| owned(&["rc-update", "del", unit, "default"])),
        }
    }
}
