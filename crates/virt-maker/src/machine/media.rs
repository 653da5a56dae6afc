//! CDs and floppies of a machine: files of ours that it may read and not change.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Firmware;
use crate::error::{Error, ErrorKind, Result};

/// What is in the drives of a machine.
#[derive(Debug, Clone, Default)]
pub struct Media {
    /// CDs, raw; at most [`Media::CDS`]. The machine tries the first one after its disk.
    pub cds: Vec<PathBuf>,
    /// Floppies, raw; at most [`Media::FLOPPIES`].
    pub floppies: Vec<PathBuf>,
    /// A CD for cloud-init. It hangs where the disk does: kernels for clouds have no driver for another drive.
    pub seed: Option<PathBuf>,
}

impl Media {
    /// How many CDs there may be: as many as the IDE controller of the machine takes.
    pub const CDS: usize = 4;
    /// The same of floppies.
    pub const FLOPPIES: usize = 2;

    /// Options of qemu's command line for the drives, which come after those for the disk.
    pub(super) fn options(&self, firmware: Firmware) -> Result<Vec<String>> {
        let mut list = Vec::new();
        let mut say = |option: &str, value: String| list.extend([option.to_owned(), value]);
        // Drives that any system knows, however old it is.
        for (number, path) in self.cds.iter().enumerate() {
            say("-blockdev", node(&format!("cd{number}"), path)?);
            let boots = if number == 0 { ",bootindex=2" } else { "" };
            let rest = format!("drive=cd{number},id=drive-cd{number}{boots}");
            if firmware == Firmware::Bios {
                say("-device", format!("ide-cd,bus=ide.{},unit={},{rest}", number / 2, number % 2));
            } else {
                // The IDE of a q35 is AHCI. On a busy host qemu 10.0 keeps a read of a CD there in flight for ever, and waits for its end
                // when it is to stop: three of four machines hung.
                say("-device", format!("usb-bot,id=cd{number}-bus"));
                say("-device", format!("scsi-cd,bus=cd{number}-bus.0,scsi-id=0,lun=0,{rest}"));
            }
        }
        // A q35 has none by itself.
        if firmware != Firmware::Bios && !self.floppies.is_empty() {
            say("-device", "isa-fdc,id=floppies".into());
        }
        for (number, path) in self.floppies.iter().enumerate() {
            say("-blockdev", node(&format!("floppy{number}"), path)?);
            say("-device", format!("floppy,unit={number},drive=floppy{number},id=drive-floppy{number},drive-type=144"));
        }
        if let Some(path) = &self.seed {
            say("-blockdev", node("seed", path)?);
            say("-device", "scsi-cd,bus=scsi.0,scsi-id=1,drive=seed,id=drive-seed".into());
        }
        Ok(list)
    }
}

fn node(name: &str, path: &Path) -> Result<String> {
    let path = path.to_str().ok_or_else(|| Error::new(ErrorKind::Store, "the store's path is not UTF-8"))?;
    let file = json!({"driver": "file", "filename": path, "read-only": true});
    Ok(json!({"driver": "raw", "node-name": name, "read-only": true, "file": file}).to_string())
}
