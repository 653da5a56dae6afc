//! What a template says of an installer: in this tool's form, or in that of the older one.

use schemars::JsonSchema;
use serde::Deserialize;

use super::files::Files;
use super::{CDS, FLOPPIES, InstallerFirmware, Isoboot, Until};
use crate::diagnostic::Diagnostic;
use crate::host::units::{disk_size, size, time};
use crate::import::Import;
use crate::import::download;
use crate::template::{Kind, Node, from_node};

/// The disk and the memory where nothing else is said: those of the older tool.
const DISK: u64 = 16 << 30;
const MEMORY: u64 = 2 << 30;
/// What is taken: of a disk, of memory.
const DISKS: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;
const MEMORIES: std::ops::RangeInclusive<u64> = 64 << 20..=1 << 40;
/// The label of the CD with `files`.
const LABEL: &str = "FILES";
const LABEL_MAX: usize = 16;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "some are read from the node, and the steps by the loader")]
pub(super) struct Arguments {
    /// The CD that boots: `http://`, `https://` or `file://`, or a path.
    url: Option<String>,
    /// `sha256:` and 64 digits, or `sha512:` and 128, of the file as it is downloaded.
    checksum: Option<String>,
    /// Size of the empty disk, such as `10G`; 16G without it.
    disk: Option<String>,
    /// More CDs.
    #[serde(default)]
    cds: Vec<Cd>,
    /// Files on a CD of their own, by name: a text, or `{source: FILE}`.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    files: Option<serde::de::IgnoredAny>,
    /// The label of that CD: what an installer looks for, such as `cidata` or `OEMDRV`. `FILES` without it.
    label: Option<String>,
    /// Files on a floppy, by name, as in `files`.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    floppy: Option<serde::de::IgnoredAny>,
    /// Files that the installer fetches over HTTP, by their paths, as in `files`: at `http://169.254.2.4/`, which nobody else reaches.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    serve: Option<serde::de::IgnoredAny>,
    /// What starts its boot loader: `bios` (without it), `uefi`, or `secure-boot`, which is UEFI with Microsoft's keys.
    firmware: Option<InstallerFirmware>,
    /// Whether it has a TPM 2.0. It is a new one, and what is stored in it goes with the machine.
    tpm: Option<bool>,
    /// How much memory the machine has, such as `4G`; 2G without it.
    #[schemars(with = "Option<String>")]
    memory: Option<serde::de::IgnoredAny>,
    /// How many CPUs it has. Without it, two, or one where the host has no more.
    cpus: Option<u32>,
    /// Whether it reaches the network: `true` or `false`. It gets an address in any case.
    network: Option<bool>,
    /// How long all of it may take, such as `2h`. Without it an hour, and four where the machine is emulated.
    #[schemars(with = "Option<String>")]
    timeout: Option<serde::de::IgnoredAny>,
    /// When the installer is done: `poweroff` (without it) or `reboot`, at the first reset.
    until: Option<UntilArgument>,
    /// What is done meanwhile, in order: `wait_for` a text on the screen or the console, `keys`, `type`, `click`, `screenshot`.
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    steps: Option<serde::de::IgnoredAny>,
    /// In templates of the older tool, the CDs: the first one boots.
    isos: Option<Vec<String>>,
    /// The same, `disk`.
    size: Option<String>,
    /// The same, `cpus`.
    cores: Option<u32>,
    /// The same, memory in MiB.
    #[schemars(with = "Option<u32>")]
    ram: Option<serde::de::IgnoredAny>,
    /// The same, floppies: each a mapping of names to a text, or to the path of a file.
    #[schemars(with = "Option<Vec<serde_json::Map<String, serde_json::Value>>>")]
    floppies: Option<serde::de::IgnoredAny>,
    /// The same, `steps`: a list of `ocr`, which waits for texts and then presses keys, and `blind`, which waits for `delay_time`.
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    keystrokes: Option<serde::de::IgnoredAny>,
    /// The same, seconds before keys that are pressed blindly; 40 without it.
    #[schemars(with = "Option<f64>")]
    delay_time: Option<serde::de::IgnoredAny>,
    /// The same, seconds between two keys; 0.1 without it.
    #[schemars(with = "Option<f64>")]
    key_delay_time: Option<serde::de::IgnoredAny>,
    /// In templates of the older tool, options of qemu. They reach the host, so only an empty one is taken.
    #[schemars(with = "Option<serde_json::Value>")]
    extra_opts: Option<serde::de::IgnoredAny>,
}

/// A CD.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Cd {
    /// `http://`, `https://` or `file://`, or a path.
    url: String,
    /// As that of the first one.
    checksum: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum UntilArgument {
    Poweroff,
    Reboot,
}

pub(super) fn parse(node: &Node) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let mut cds = Vec::new();
    match (arguments.url, arguments.isos) {
        (Some(url), None) => {
            cds.push(download::of_cd((url, at("url")), (arguments.checksum, at("checksum")), &mut problems));
        }
        (None, Some(isos)) if !isos.is_empty() => {
            let nodes = items(at("isos"));
            for (url, at) in isos.into_iter().zip(nodes) {
                cds.push(download::of_cd((url, at), (None, at), &mut problems));
            }
        }
        _ => problems.push(node.diagnostic("expected the CD that boots: `url: installer.iso`")),
    }
    for (Cd { url, checksum }, node) in arguments.cds.into_iter().zip(items(at("cds"))) {
        let at = |name: &str| node.get(name).unwrap_or(node);
        cds.push(download::of_cd((url, at("url")), (checksum, at("checksum")), &mut problems));
    }
    let files = node.get("files").and_then(|node| Files::read(node, "files", &mut problems));
    if cds.len() + usize::from(files.is_some()) > CDS {
        problems.push(at("cds").diagnostic(format!("the machine has drives for {CDS} CDs, with that of `files`")));
    }
    let label = arguments.label.unwrap_or_else(|| LABEL.to_owned());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if label.is_empty() || label.len() > LABEL_MAX || !label.bytes().all(plain) {
        let message = format!("expected at most {LABEL_MAX} letters, digits, `-`, `_` and `.`");
        problems.push(at("label").diagnostic(message));
    }
    if node.get("label").is_some() && node.get("files").is_none() {
        problems.push(at("label").diagnostic("`label` is that of the CD with `files`, and there are none"));
    }
    let mut floppies: Vec<Files> = Vec::new();
    let each = node.get("floppy").into_iter().chain(node.get("floppies").map(items).unwrap_or_default());
    for (number, node) in each.enumerate() {
        floppies.extend(Files::read(node, &format!("floppy/{number}"), &mut problems));
    }
    if floppies.len() > FLOPPIES {
        problems.push(at("floppies").diagnostic(format!("the machine has drives for {FLOPPIES} floppies")));
    }
    let serve = node.get("serve").and_then(|node| Files::read_deep(node, "serve", &mut problems));
    if let Some(node) = node.get("extra_opts").filter(|node| !says_nothing(node)) {
        problems.push(Diagnostic {
            hint: Some("leave it out: `memory`, `cpus` and `network` say what the machine is like".into()),
            ..node.diagnostic("options of qemu reach the host, so `extra_opts` is not taken")
        });
    }
    let disk = match arguments.disk.or(arguments.size).map(|text| disk_size(text.trim())) {
        None => DISK,
        Some(Some(size)) if DISKS.contains(&size) => size,
        Some(_) => {
            let at = node.get("disk").unwrap_or_else(|| at("size"));
            problems.push(at.diagnostic("expected the size of a disk, such as `10G`"));
            DISK
        }
    };
    let memory = memory(node, &mut problems);
    let cpus = arguments.cpus.or(arguments.cores);
    if let Some(0 | 256..) = cpus {
        let at = node.get("cpus").unwrap_or_else(|| at("cores"));
        problems.push(at.diagnostic("expected a number of CPUs from 1 to 255"));
    }
    let timeout = match node.get("timeout") {
        None => None,
        Some(node) => match node.text().and_then(|text| time(text.trim())).map(|time| time.as_secs()) {
            Some(seconds @ 1..) => Some(seconds),
            _ => {
                problems.push(node.diagnostic("expected a time such as `90s` or `10m`"));
                None
            }
        },
    };
    let until = match arguments.until {
        Some(UntilArgument::Reboot) => Until::Reboot,
        Some(UntilArgument::Poweroff) | None => Until::PowerOff,
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let files = files.map(|files| (files, label));
    let memory_mib = (memory >> 20) as u32;
    let network = arguments.network.unwrap_or(true);
    let (firmware, tpm) = (arguments.firmware.unwrap_or_default(), arguments.tpm.unwrap_or(false));
    Ok(Box::new(Isoboot { cds, files, floppies, serve, disk, firmware, tpm, memory_mib, cpus, network, timeout, until }))
}

fn memory(node: &Node, problems: &mut Vec<Diagnostic>) -> u64 {
    let mib = |node: &Node| node.integer().and_then(|mib| u64::try_from(mib).ok()).and_then(|mib| mib.checked_mul(1 << 20));
    let (node, found) = match (node.get("memory"), node.get("ram")) {
        (Some(node), _) => (node, node.text().and_then(|text| size(text.trim()))),
        (None, Some(node)) => (node, mib(node)),
        (None, None) => return MEMORY,
    };
    found.filter(|size| MEMORIES.contains(size)).unwrap_or_else(|| {
        problems.push(node.diagnostic("expected a size of memory from 64M on, such as `2G`"));
        MEMORY
    })
}

/// The items of a list; a value that is none is its only one.
fn items(node: &Node) -> Vec<&Node> {
    match &node.kind {
        Kind::List(items) => items.iter().collect(),
        Kind::Null => Vec::new(),
        _ => vec![node],
    }
}

fn says_nothing(node: &Node) -> bool {
    match &node.kind {
        Kind::Null => true,
        Kind::List(items) => items.is_empty(),
        _ => node.text().is_some_and(|text| text.trim().is_empty()),
    }
}
