//! What a disk can boot: code for a BIOS, loaders for UEFI. It is read from the disk itself, in process and without a mount, and
//! nothing that a guest wrote is believed: every length is checked, and what cannot be is an error.
//!
//! Formats: the boot sector as the PC BIOS knows it; UEFI 2.10, sections 3.5.1 (the path of a loader on a disk that no variable of
//! the firmware knows) and 13.3 (the system partition); Microsoft's PE, for whether a loader is signed.

mod fat;
mod pe;

use std::io::{self, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};
use virt_maker_agent::partition::{self, Kind, Partition, Scheme, Table, TableError};

use self::fat::{Entry, Fat};

/// Where a firmware without variables of its own looks for a loader on every disk.
const REMOVABLE: &str = "EFI/BOOT/BOOTX64.EFI";
/// Types of partitions: of the EFI system, in a GPT and an MBR; in which GRUB's own code lies.
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const ESP_MBR: u8 = 0xef;
const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";
/// The first sector has code up to here; behind that is the table.
const CODE: usize = 440;
/// Files in one folder of loaders that are looked at.
const LOADERS_MAX: usize = 200;

/// What a disk can boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boots {
    /// A BIOS finds code that boots something.
    pub bios: bool,
    /// UEFI finds a loader, or would, if a variable named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uefi: Option<Loader>,
}

/// A loader for UEFI on x86_64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loader {
    /// Its path on the EFI system partition, with `/`. The guest wrote it: it is data.
    pub path: String,
    /// Whether it has a signature. Whose that is, and whether it holds, is for the firmware to say.
    pub signed: bool,
}

impl Boots {
    /// Looks at a disk of so many bytes. The error says in words what is wrong with it.
    pub fn read<D: Read + Seek>(disk: &mut D, size: u64) -> Result<Boots, String> {
        let unreadable = |error: io::Error| format!("it cannot be read: {error}");
        let mut first = [0; 512];
        if size < first.len() as u64 {
            return Ok(Boots::default());
        }
        read_at(disk, 0, &mut first).map_err(unreadable)?;
        let table = partition::read(disk, size).map_err(|error| match error {
            TableError::Read(error) => unreadable(error),
            TableError::Broken(_) => error.to_string(),
        })?;
        let code = first[510..] == [0x55, 0xaa] && first[..CODE].iter().any(|byte| *byte != 0);
        let Some(table) = table else { return Ok(Boots { bios: code, uefi: None }) };
        let mut uefi = None;
        for partition in table.partitions.iter().filter(|partition| is_esp(partition)) {
            // Firmware takes the first that has one in its place.
            match loader_on(disk, partition)? {
                Some(loader) if loader.is_found() => {
                    uefi = Some(loader);
                    break;
                }
                found => uefi = uefi.or(found),
            }
        }
        let bios = code && boots_by_code(disk, &table, &first[..CODE]).map_err(unreadable)?;
        Ok(Boots { bios, uefi })
    }

    /// Whether UEFI boots it with no variable that names a loader, as on a new machine.
    pub fn uefi_alone(&self) -> bool {
        self.uefi.as_ref().is_some_and(Loader::is_found)
    }

    /// In a few words, such as `BIOS, UEFI (signed)`; empty where it boots nothing.
    pub fn words(&self) -> String {
        let uefi = self.uefi.as_ref().map(|loader| match (loader.is_found(), loader.signed) {
            (true, true) => "UEFI (signed)",
            (true, false) => "UEFI",
            (false, _) => "UEFI (by a variable)",
        });
        let words: Vec<&str> = self.bios.then_some("BIOS").into_iter().chain(uefi).collect();
        words.join(", ")
    }
}

impl Loader {
    /// Whether every firmware finds it by its path.
    fn is_found(&self) -> bool {
        self.path.eq_ignore_ascii_case(REMOVABLE)
    }
}

/// Whether the code of a first sector finds anything to go on with: some programs write one into every disk.
fn boots_by_code<D: Read + Seek>(disk: &mut D, table: &Table, code: &[u8]) -> io::Result<bool> {
    let active = table.partitions.iter().any(|partition| partition.active);
    let says = |word: &[u8]| code.windows(word.len()).any(|part| part == word);
    match table.scheme {
        Scheme::Mbr => {
            let esp = table.partitions.iter().any(is_esp);
            Ok(!esp || active || says(b"GRUB") || says(b"LILO"))
        }
        Scheme::Gpt => {
            let kind = Kind::Guid(BIOS_BOOT.to_owned());
            for partition in table.partitions.iter().filter(|partition| partition.kind == kind) {
                let mut sector = [0; 512];
                read_at(disk, partition.start, &mut sector)?;
                if sector.iter().any(|byte| *byte != 0) {
                    return Ok(true);
                }
            }
            Ok(active)
        }
    }
}

fn is_esp(partition: &Partition) -> bool {
    match &partition.kind {
        Kind::Guid(guid) => guid == ESP,
        Kind::Byte(byte) => *byte == ESP_MBR,
    }
}

/// The loader on a system partition: the one that is always found, or else the first of the others.
fn loader_on<D: Read + Seek>(disk: &mut D, partition: &Partition) -> Result<Option<Loader>, String> {
    let broken = |problem: String| format!("partition {}, its EFI system partition: {problem}", partition.index);
    let mut fat = Fat::open(disk, partition.start, partition.length).map_err(broken)?;
    let root = fat.root();
    let Some(efi) = fat.find(&root, "EFI").map_err(broken)?.filter(|entry| entry.is_folder) else { return Ok(None) };
    let mut folders = fat.list(&efi).map_err(broken)?;
    folders.retain(|folder| folder.is_folder && !folder.name.starts_with('.'));
    folders.sort_by_key(|folder| (!folder.name.eq_ignore_ascii_case("BOOT"), folder.name.clone()));
    for folder in folders {
        let mut files = fat.list(&folder).map_err(broken)?;
        files.sort_by_key(|file| (!file.name.eq_ignore_ascii_case("BOOTX64.EFI"), file.name.clone()));
        for file in files.iter().take(LOADERS_MAX).filter(|file| is_named_as_loader(file)) {
            let signed = pe::signed(|at, bytes| fat.read(file, at, bytes)).map_err(broken)?;
            if let Some(signed) = signed {
                let (folder, file) = (&folder.name, &file.name);
                return Ok(Some(Loader { path: format!("EFI/{folder}/{file}"), signed }));
            }
        }
    }
    Ok(None)
}

fn is_named_as_loader(file: &Entry) -> bool {
    let ending = file.name.len().checked_sub(4).and_then(|at| file.name.get(at..));
    !file.is_folder && ending.is_some_and(|ending| ending.eq_ignore_ascii_case(".efi"))
}

fn read_at<D: Read + Seek>(disk: &mut D, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    disk.seek(SeekFrom::Start(at))?;
    disk.read_exact(bytes)
}

#[cfg(test)]
mod tests;
