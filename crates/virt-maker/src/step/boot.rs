//! `boot`: boots the guest in a machine, runs steps in it, and shuts it down. The layer is the disk after that.
//!
//! Here is what a template says of it; who boots machines is `crate::machine`, and `crate::build` puts the two together.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::support::checks::Checks;
use super::support::seed::Seed;
use super::{Action, Step, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::running::Running;
use crate::host::{Cancel, units};
use crate::template::{Kind, Need, Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "boot",
    about: "Boots the guest in a virtual machine, runs steps in the running system, and shuts it down.",
    arguments: arguments::<Arguments>,
    example: "boot: {steps: [{run: systemctl is-active ssh}]}",
    needs: &[Need::new("qemu-system-x86_64", "qemu-system-x86")],
    version: 1,
    network: true,
    parse,
};

/// Memory where nothing else is said.
const MEMORY: u64 = 1 << 30;
/// The same in templates of the older tool.
const MEMORY_OF_V1: u64 = 2 << 30;
/// The least that is worth a try, and the most that qemu's own bookkeeping is made for.
const LEAST: u64 = 64 << 20;
const MOST: u64 = 1 << 40;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "some are read from the node, and the steps by the loader")]
struct Arguments {
    /// How much memory the machine has, such as `2G`.
    #[schemars(with = "Option<String>")]
    memory: Option<serde::de::IgnoredAny>,
    /// How many CPUs it has. Without it, two, or one where the host has no more.
    cpus: Option<u32>,
    /// Whether it reaches the network: `true` or `false`. It gets an address in any case.
    network: Option<bool>,
    /// What starts its boot loader: `auto` (a BIOS where the disk boots under one, else UEFI), `bios`, `uefi`, or `secure-boot`, which
    /// is UEFI with Microsoft's keys.
    firmware: Option<FirmwareArgument>,
    /// Whether it has a TPM 2.0. It is a new one, and what is stored in it goes with the machine.
    tpm: Option<bool>,
    /// What cloud-init is told, by a CD (NoCloud): `user_data`, `meta_data`, `network_config`, `vendor_data`. Each is a mapping, a text, or
    /// `{source: FILE}`. The boot then also waits until cloud-init has done all of it.
    #[schemars(with = "Option<SeedArguments>")]
    seed: Option<serde::de::IgnoredAny>,
    /// How long it may take until the guest has booted, such as `10m`, and how long until it has shut down. Without it, 5 minutes and 2,
    /// and four times as long where the machine is emulated.
    #[schemars(with = "Option<String>")]
    timeout: Option<serde::de::IgnoredAny>,
    /// What is waited for before the first step: `booted`, or a mapping as `expect` has it.
    #[schemars(with = "Option<serde_json::Value>")]
    wait_for: Option<serde::de::IgnoredAny>,
    /// What is done in the running system: any steps but those that work on a disk, and `expect` and `reboot`.
    /// Without any, it goes on when the guest powers itself off.
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    steps: Option<serde::de::IgnoredAny>,
    /// In templates of the older tool, where its screen was shown. It has no part in the image, and is not used.
    #[schemars(with = "Option<serde_json::Value>")]
    display: Option<serde::de::IgnoredAny>,
    /// The same of its serial port.
    #[schemars(with = "Option<serde_json::Value>")]
    serial: Option<serde::de::IgnoredAny>,
    /// The same of the model of its CPUs: it has what the host can give.
    #[schemars(with = "Option<serde_json::Value>")]
    cpu: Option<serde::de::IgnoredAny>,
    /// In templates of the older tool, options of qemu. They reach the host, so only an empty one is taken.
    #[schemars(with = "Option<serde_json::Value>")]
    opts: Option<serde::de::IgnoredAny>,
}

/// A seed, for the schema.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "read from the node")]
struct SeedArguments {
    /// What is to be done: a mapping is written as `#cloud-config`.
    user_data: Option<SeedFile>,
    /// What the machine is: `local-hostname`, say. Without an `instance-id` it gets one.
    meta_data: Option<SeedFile>,
    /// The network, in version 1 or 2 of cloud-init's form. What cloud-init writes for it stays in the layer.
    network_config: Option<SeedFile>,
    /// As `user_data`, which goes before it.
    vendor_data: Option<SeedFile>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "read from the node")]
enum SeedFile {
    Text(String),
    Mapping(serde_json::Map<String, serde_json::Value>),
}

/// What boots a machine, as a template has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FirmwareArgument {
    /// What its disk can be booted with.
    #[default]
    Auto,
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
    /// OVMF with Microsoft's keys.
    SecureBoot,
}

impl FirmwareArgument {
    fn is_auto(&self) -> bool {
        *self == FirmwareArgument::Auto
    }
}

/// A boot, as a template has it.
pub struct Boot {
    /// Memory in MiB. It has no part in the layer.
    pub memory_mib: u32,
    /// CPUs, where the template says how many. They have no part in the layer.
    pub cpus: Option<u32>,
    /// Whether it reaches the network.
    pub network: bool,
    /// What boots it.
    pub firmware: FirmwareArgument,
    /// Whether it has a TPM.
    pub tpm: bool,
    /// What cloud-init is told.
    pub seed: Option<Seed>,
    /// How long it may take until the guest has booted, and until it has shut down, in seconds.
    pub timeout: Option<u64>,
    /// What is waited for then.
    pub wait_for: Option<WaitFor>,
}

impl Boot {
    /// What it may take, as far as the template says something else than nothing: for what depends on that and is no layer.
    pub fn limits(&self) -> Map<String, Value> {
        let memory = Some(self.memory_mib).filter(|memory| u64::from(*memory) << 20 != MEMORY);
        let said = [
            ("memory_mib", memory.map(Value::from)),
            ("cpus", self.cpus.map(Value::from)),
            ("timeout", self.timeout.map(Value::from)),
        ];
        said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// What is waited for in the place of a whole boot.
pub struct WaitFor(Checks);

impl WaitFor {
    /// Whether something of it says nothing before all has started.
    pub fn wants_a_whole_boot(&self) -> bool {
        self.0.want_a_whole_boot()
    }

    /// Waits for it, for as long as `left` where the template does not say how long.
    pub fn wait(&self, machine: &mut dyn Running, left: Duration, cancel: &Cancel) -> Result<()> {
        self.0.hold_for(left, machine, cancel)
    }
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let Arguments { cpus, network, firmware, tpm, .. } = from_node(node)?;
    let mut problems = Vec::new();
    for key in ["display", "serial", "cpu"] {
        if let Some(node) = node.get(key) {
            let note = node.diagnostic(format!("`{key}` is not used: it has no part in the image"));
            node.note(Diagnostic { hint: Some("remove it".into()), ..note });
        }
    }
    if let Some(node) = node.get("opts").filter(|node| !says_nothing(node)) {
        problems.push(Diagnostic {
            hint: Some("leave it out: `memory`, `cpus` and `network` say what the machine is like".into()),
            ..node.diagnostic("options of qemu reach the host, so `opts` is not taken")
        });
    }
    let memory = match node.get("memory") {
        None if node.source.format() == 1 => MEMORY_OF_V1,
        None => MEMORY,
        Some(node) => match node.text().and_then(|text| memory_of(text.trim())) {
            Some(size @ LEAST..=MOST) => size,
            _ => {
                problems.push(node.diagnostic("expected a size of memory from 64M on, such as `2G`"));
                MEMORY
            }
        },
    };
    if let Some(0 | 256..) = cpus {
        problems.push(node.get("cpus").unwrap_or(node).diagnostic("expected a number of CPUs from 1 to 255"));
    }
    let seed = node.get("seed").and_then(|node| Seed::read(node, &mut problems));
    let timeout = match node.get("timeout") {
        None => None,
        Some(node) => match node.text().and_then(|text| units::time(text.trim())).map(|time| time.as_secs()) {
            Some(seconds @ 1..) => Some(seconds),
            _ => {
                problems.push(node.diagnostic("expected a time such as `90s` or `10m`"));
                None
            }
        },
    };
    let wait_for = match node.get("wait_for") {
        None => None,
        Some(node) if node.text() == Some("booted") => None,
        Some(node) => match Checks::read(node) {
            Ok(checks) => Some(WaitFor(checks)),
            Err(found) => {
                problems.extend(found);
                None
            }
        },
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let memory_mib = (memory >> 20) as u32;
    let (network, firmware, tpm) = (network.unwrap_or(true), firmware.unwrap_or_default(), tpm.unwrap_or(false));
    Ok(Box::new(Boot { memory_mib, cpus, network, firmware, tpm, seed, timeout, wait_for }))
}

fn says_nothing(node: &Node) -> bool {
    match &node.kind {
        Kind::Null => true,
        Kind::List(items) => items.is_empty(),
        _ => node.text().is_some_and(|text| text.trim().is_empty()),
    }
}

/// A size, or MiB as a number alone, which is how the older tool has it.
fn memory_of(text: &str) -> Option<u64> {
    match text.parse::<u64>() {
        Ok(mib) => mib.checked_mul(1 << 20),
        Err(_) => units::size(text),
    }
}

/// What of it shapes the layer. The steps within it are added to that.
#[derive(Serialize)]
struct Keyed<'a> {
    machine: &'static str,
    network: bool,
    /// What `auto` is follows from the disk, and so from the parent's key.
    #[serde(skip_serializing_if = "FirmwareArgument::is_auto")]
    firmware: FirmwareArgument,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tpm: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_for: Option<&'a Checks>,
}

/// What a guest sees of its machine: the architecture, the chipset, the bus of its disk, its network card. Another one is another layer.
/// With UEFI the chipset is q35; what `firmware` is stands beside this, and for `auto` it follows from the disk.
const MACHINE: &str = "x86_64, i440fx, bios, virtio-scsi, virtio-net";

impl Step for Boot {
    fn summary(&self) -> String {
        match &self.wait_for {
            Some(WaitFor(checks)) => format!("until {}", checks.summary()),
            None => "the guest".to_owned(),
        }
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let Boot { memory_mib: _, cpus: _, network, firmware, tpm, seed, timeout: _, wait_for } = self;
        let wait_for = wait_for.as_ref().map(|WaitFor(checks)| checks);
        let key = StepKey::of(&Keyed { machine: MACHINE, network: *network, firmware: *firmware, tpm: *tpm, wait_for })?;
        Ok(StepKey { inputs: seed.as_ref().map_or(Ok(Vec::new()), Seed::inputs)?, ..key })
    }

    fn confidential(&self) -> Vec<String> {
        self.seed.as_ref().map(Seed::confidential).unwrap_or_default()
    }

    fn action(&self) -> Action<'_> {
        Action::Boot(self)
    }
}
