//! What a disk that is made boots under, and so how it is laid out.
//!
//! ```text
//! bios   1: 1 MiB  BIOS boot                         2: from 2 MiB    root
//! both   1: 1 MiB  BIOS boot   2: 2 MiB  ESP (126)   3: from 128 MiB  root
//! uefi                         1: 2 MiB  ESP (126)   2: from 128 MiB  root
//! ```
//! The root is the last, so that it can grow.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Where the BIOS boot partition starts; it has 1 MiB.
pub(super) const BOOT_START: u64 = MIB;
/// Where the EFI system partition starts, and how long it is.
pub(super) const ESP_START: u64 = 2 * MIB;
pub(super) const ESP_LENGTH: u64 = 126 * MIB;
/// What is behind the root file system: the copy of the partition table.
const BEHIND: u64 = MIB;

/// Types of partitions.
const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649, name=bios";
const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp";
const ROOT: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root";

/// What starts the boot loader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::import) enum Firmware {
    /// A BIOS: GRUB in a partition of its own.
    #[default]
    Bios,
    /// UEFI, also with Secure Boot: the distribution's signed shim and GRUB on an EFI system partition.
    Uefi,
    /// Both of them, each with its loader, and with one menu.
    Both,
}

/// One partition of a layout, in bytes.
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) length: u64,
    /// Its type and its name, as `sfdisk` reads them.
    pub(super) kind: &'static str,
}

impl Firmware {
    pub(in crate::import) fn has_bios(self) -> bool {
        self != Firmware::Uefi
    }

    pub(in crate::import) fn has_uefi(self) -> bool {
        self != Firmware::Bios
    }

    /// As templates name it.
    pub(in crate::import) fn name(self) -> &'static str {
        match self {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
            Firmware::Both => "both",
        }
    }

    /// Where the root file system starts, in bytes.
    pub(in crate::import) fn root_start(self) -> u64 {
        if self.has_uefi() { ESP_START + ESP_LENGTH } else { BOOT_START + MIB }
    }

    /// What of the disk is not the root file system.
    pub(in crate::import) fn overhead(self) -> u64 {
        self.root_start() + BEHIND
    }

    /// Adds itself to what a base's key covers. A disk for a BIOS is what every earlier version made, so nothing is said of it.
    pub(in crate::import) fn enter(self, arguments: &mut Value) {
        if self.has_uefi() {
            arguments["firmware"] = self.name().into();
        }
    }

    /// The partitions of a disk of so many bytes, in their order. The root is the last one.
    pub(super) fn parts(self, size: u64) -> Vec<Part> {
        let mut parts = Vec::new();
        if self.has_bios() {
            parts.push(Part { start: BOOT_START, length: MIB, kind: BIOS_BOOT });
        }
        if self.has_uefi() {
            parts.push(Part { start: ESP_START, length: ESP_LENGTH, kind: ESP });
        }
        parts.push(Part { start: self.root_start(), length: size - self.overhead(), kind: ROOT });
        parts
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn layouts_fill_a_disk_without_overlaps() {
        for firmware in [Firmware::Bios, Firmware::Uefi, Firmware::Both] {
            let parts = firmware.parts(1 << 30);
            assert!(parts.windows(2).all(|pair| pair[0].start + pair[0].length <= pair[1].start));
            let root = parts.last().unwrap();
            assert_eq!((root.start, root.start + root.length), (firmware.root_start(), (1 << 30) - MIB));
        }
        // What earlier versions made.
        assert_eq!((Firmware::Bios.root_start(), Firmware::Bios.overhead()), (2 * MIB, 3 * MIB));
    }

    #[test]
    fn a_disk_for_a_bios_has_the_key_that_it_had() {
        let mut key = json!({"size": 1});
        Firmware::Bios.enter(&mut key);
        assert_eq!(key, json!({"size": 1}));
        Firmware::Both.enter(&mut key);
        assert_eq!(key, json!({"size": 1, "firmware": "both"}));
    }
}
