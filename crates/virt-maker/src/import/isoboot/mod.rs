//! `isoboot`: boots an installer from a CD, with an empty disk beside it. The base is what is on the disk when the installer is done.
//!
//! Here is what a template says of it, and what its drives are made of; who boots machines is `crate::machine`, and `crate::build` puts
//! the two together. The steps within it are those of every machine that need no agent in the guest: the loader reads them as it reads
//! the steps within `boot`.

mod arguments;
mod files;
mod older;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::download::Download;
use super::{Import, ImportContext, ImportKey, ImportKind, Made};
use crate::disk::media;
use crate::error::{Error, ErrorKind, Result};
use crate::key::HostInput;
use crate::template::{Need, arguments};
use files::Files;
pub use older::keystrokes;

pub(super) static KIND: ImportKind = ImportKind {
    name: "isoboot",
    about: "Boots an installer from a CD (ISO) with an empty disk, and drives it by what its screen shows.",
    arguments: arguments::<arguments::Arguments>,
    example: "isoboot: {url: 'https://example.org/installer.iso', disk: 10G, steps: [{wait_for: {screen: 'boot:'}}, {keys: 'auto<enter>'}]}",
    needs: &[
        Need::new("qemu-system-x86_64", "qemu-system-x86"),
        Need::new("xorriso", "xorriso"),
        Need::new("mformat", "mtools"),
    ],
    version: 1,
    network: false,
    parse: arguments::parse,
};

/// What a guest sees of its machine. Another one may be another system that is installed. With UEFI the chipset is q35, and the CDs hang on
/// USB; what `firmware` is stands beside this.
const MACHINE: &str = "x86_64, i440fx, bios, virtio-scsi, virtio-net, ide-cd";

/// What boots an installer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InstallerFirmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF.
    Uefi,
    /// OVMF with Microsoft's keys.
    SecureBoot,
}

/// When an installer is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When it powers the machine off. Resets before that boot what is on the disk by then.
    PowerOff,
    /// When it resets the machine, or powers it off.
    Reboot,
}

/// An installer and the machine for it, as a template has it.
pub struct Isoboot {
    /// The first of them is the one that boots.
    cds: Vec<Download>,
    /// Files on a CD of their own, and its label.
    files: Option<(Files, String)>,
    floppies: Vec<Files>,
    /// Files that it fetches.
    serve: Option<Files>,
    /// Size of the disk in bytes.
    pub disk: u64,
    /// What boots it.
    pub firmware: InstallerFirmware,
    /// Whether it has a TPM.
    pub tpm: bool,
    /// Memory in MiB. It has no part in the base.
    pub memory_mib: u32,
    /// CPUs, where the template says how many. They have no part in the base.
    pub cpus: Option<u32>,
    /// Whether it reaches the network.
    pub network: bool,
    /// How long all of it may take, in seconds.
    pub timeout: Option<u64>,
    /// When it is done.
    pub until: Until,
}

/// What is in the drives: files that were made for this boot.
#[derive(Debug, Default)]
pub struct Drives {
    /// CDs, raw.
    pub cds: Vec<PathBuf>,
    /// Floppies, raw.
    pub floppies: Vec<PathBuf>,
}

/// The most CDs and floppies that the machine takes.
const CDS: usize = 4;
const FLOPPIES: usize = 2;

impl Isoboot {
    /// Makes what is in the drives, in a folder of its own: copies of what was fetched, whose bytes are those of `key`.
    pub fn drives(&self, key: &ImportKey, folder: &Path, log: &Path, context: &ImportContext<'_>) -> Result<Drives> {
        let mut drives = Drives::default();
        for (number, cd) in self.cds.iter().enumerate() {
            let name = format!("cd/{number}");
            let input = key.inputs.iter().find(|input| input.name == name).cloned();
            let own = ImportKey { arguments: json!({}), inputs: input.into_iter().collect(), fetched: None };
            let target = folder.join(format!("cd{number}.iso"));
            cd.make(&own, &target, log, context)?;
            drives.cds.push(target);
        }
        if let Some((files, label)) = &self.files {
            let target = folder.join("files.iso");
            media::make_cd(&files.load(key)?, &target, label, log, context.cancel)?;
            drives.cds.push(target);
        }
        for (number, files) in self.floppies.iter().enumerate() {
            let target = folder.join(format!("floppy{number}.img"));
            media::make_floppy(&files.load(key)?, &target, log, context.cancel)?;
            drives.floppies.push(target);
        }
        Ok(drives)
    }

    /// The files that the guest may fetch, by their paths; their bytes are those of `key`.
    pub fn served(&self, key: &ImportKey) -> Result<Vec<(String, Vec<u8>)>> {
        self.serve.as_ref().map_or(Ok(Vec::new()), |files| files.load(key))
    }
}

impl Import for Isoboot {
    fn summary(&self) -> String {
        self.cds.first().map(Download::name).unwrap_or_default()
    }

    fn mutable_source(&self) -> Option<&str> {
        self.cds.iter().find_map(Import::mutable_source)
    }

    fn installer(&self) -> Option<&Isoboot> {
        Some(self)
    }

    fn check(&self) -> Result<()> {
        self.cds.iter().try_for_each(Import::check)
    }

    fn key_inputs(&self, context: &ImportContext<'_>) -> Result<ImportKey> {
        let Isoboot {
            cds,
            files,
            floppies,
            serve,
            disk,
            firmware,
            tpm,
            memory_mib: _,
            cpus: _,
            network,
            timeout: _,
            until,
        } = self;
        let mut inputs: Vec<HostInput> = Vec::new();
        for (number, cd) in cds.iter().enumerate() {
            let found = cd.key_inputs(context)?.inputs;
            inputs.extend(found.into_iter().map(|input| HostInput { name: format!("cd/{number}"), ..input }));
        }
        for files in files.iter().map(|(files, _)| files).chain(floppies).chain(serve) {
            files.add_inputs(&mut inputs, context)?;
        }
        let mut arguments = json!({
            "machine": MACHINE,
            "disk": disk,
            "network": network,
            "until": match until {
                Until::PowerOff => "poweroff",
                Until::Reboot => "reboot",
            },
        });
        if let Some((_, label)) = files {
            arguments["label"] = json!(label);
        }
        // As it was before there was a choice.
        if *firmware != InstallerFirmware::Bios {
            arguments["firmware"] = json!(firmware);
        }
        if *tpm {
            arguments["tpm"] = json!(true);
        }
        Ok(ImportKey { arguments, inputs, fetched: None })
    }

    fn make(&self, _: &ImportKey, _: &Path, _: &Path, _: &ImportContext<'_>) -> Result<Made> {
        Err(Error::new(ErrorKind::Internal, "an import `isoboot` that was not booted"))
    }
}
