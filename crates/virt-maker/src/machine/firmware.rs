//! The firmware of a machine: SeaBIOS, which is qemu's own, or OVMF from the host.
//!
//! OVMF is two files: its code, and a template of its variables. Which ones these are is said by the descriptors that
//! distributions put beside it (qemu's `docs/interop/firmware.json`), in the order of their names; where there are none, the
//! places are known. The code is mapped read-only. The variables are a qcow2 overlay on the template, as qemu takes no snapshot of a
//! raw one, and go with the machine: a machine that boots again later finds its loader by its path alone, as a new one does.
//!
//! Secure Boot takes a template that has Microsoft's keys, by which the loaders of distributions are signed, and code that lets
//! the variables be written in system management mode alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::disk::overlay::{self, Backing};
use crate::disk::{Content, Image, ImageFormat, boots::Boots};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::escape::escape;
use crate::step::FirmwareArgument;

/// Types of machines, with versions.
const PC: &str = "pc-i440fx-7.2,usb=off,vmport=off,hpet=off";
const Q35: &str = "pc-q35-7.2,usb=off,vmport=off,hpet=off";
/// Folders of descriptors; a name in a later one takes the place of the same name in an earlier one.
const DESCRIPTORS: [&str; 2] = ["/usr/share/qemu/firmware", "/etc/qemu/firmware"];
/// What a descriptor says of firmware that enforces signatures, with keys in it.
const SECURE: [&str; 3] = ["secure-boot", "enrolled-keys", "requires-smm"];
/// Code and variables where no descriptor names any: Debian and Ubuntu, Fedora, Arch, openSUSE.
const KNOWN: [(&str, &str); 5] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
];
const KNOWN_SECURE: [(&str, &str); 4] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
    ("/usr/share/qemu/ovmf-x86_64-smm-ms-code.bin", "/usr/share/qemu/ovmf-x86_64-smm-ms-vars.bin"),
];
/// The overlay with the machine's variables, in its folder.
const VARIABLES: &str = "variables.qcow2";

/// What starts the guest's boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF, which starts any loader.
    Uefi,
    /// OVMF, which starts loaders alone that are signed by Microsoft's keys.
    SecureBoot,
}

/// Two files of OVMF.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    code: Flash,
    variables: Flash,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Flash {
    filename: PathBuf,
    #[serde(default = "raw")]
    format: ImageFormat,
}

fn raw() -> ImageFormat {
    ImageFormat::Raw
}

impl Firmware {
    /// What a disk can be booted with: a BIOS where it boots under one, or under nothing that is known.
    pub fn for_disk(boots: &Boots) -> Firmware {
        if !boots.bios && boots.uefi_alone() { Firmware::Uefi } else { Firmware::Bios }
    }

    /// What boots this disk, as somebody wants it; `known` is what it boots, where that was read before.
    pub fn chosen(wanted: FirmwareArgument, known: Option<&Boots>, image: &Image) -> Result<Firmware> {
        let firmware = match wanted {
            FirmwareArgument::Bios => return Ok(Firmware::Bios),
            FirmwareArgument::Auto => None,
            FirmwareArgument::Uefi => Some(Firmware::Uefi),
            FirmwareArgument::SecureBoot => Some(Firmware::SecureBoot),
        };
        let read = || {
            let mut content = Content::open(image).map_err(|error| error.to_string())?;
            let size = content.size();
            Boots::read(&mut content, size)
        };
        // Nobody looked where an earlier version sealed it, or it could not be read.
        let boots = known.map_or_else(read, |known| Ok(known.clone()));
        let (boots, firmware) = match (boots, firmware) {
            (Ok(boots), None) => return Ok(Firmware::for_disk(&boots)),
            // As a machine always did that nobody asked for more.
            (Err(_), None) => return Ok(Firmware::Bios),
            (Ok(boots), Some(firmware)) => (boots, firmware),
            (Err(problem), Some(_)) => {
                let what = "whether the disk boots under UEFI cannot be told";
                return Err(Error::new(ErrorKind::Step, format!("{what}: {problem}")));
            }
        };
        if boots.uefi_alone() {
            return Ok(firmware);
        }
        let has = match &boots.uefi {
            Some(loader) => {
                format!("its loader is {}, which only a variable of the firmware leads to", escape(&loader.path))
            }
            None => "it has no loader for UEFI".to_owned(),
        };
        let message = format!("{} does not boot the disk: {has}", firmware.name());
        Err(Error::new(ErrorKind::Step, message).with_hint(
            "a new machine starts `EFI/BOOT/BOOTX64.EFI` on an EFI system partition; import `bootstrap` with `firmware: both` makes one",
        ))
    }

    /// Whether this host has what is wanted, as far as that can be told without the disk. The error says what is missing.
    pub fn check_chosen(wanted: FirmwareArgument) -> Result<()> {
        match wanted {
            FirmwareArgument::Auto | FirmwareArgument::Bios => Ok(()),
            FirmwareArgument::Uefi => Firmware::Uefi.check(),
            FirmwareArgument::SecureBoot => Firmware::SecureBoot.check(),
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Firmware::Bios => "a BIOS",
            Firmware::Uefi => "UEFI",
            Firmware::SecureBoot => "UEFI with Secure Boot",
        }
    }

    /// Whether this host has it. The error says what is missing.
    pub fn check(self) -> Result<()> {
        if self == Firmware::Bios { Ok(()) } else { self.files().map(drop) }
    }

    /// Where its code lies; none for what is qemu's own.
    pub fn place(self) -> Result<Option<PathBuf>> {
        if self == Firmware::Bios { Ok(None) } else { self.files().map(|files| Some(files.code.filename)) }
    }

    fn files(self) -> Result<Files> {
        let described = descriptors(&DESCRIPTORS.map(Path::new));
        let found = described.iter().find_map(|descriptor| descriptor.files(self));
        let known: &[_] = if self == Firmware::SecureBoot { &KNOWN_SECURE } else { &KNOWN };
        let known = known.iter().map(|(code, variables)| Files {
            code: Flash { filename: code.into(), format: raw() },
            variables: Flash { filename: variables.into(), format: raw() },
        });
        found.into_iter().chain(known).find(Files::are_there).ok_or_else(|| {
            let message = format!("a machine with {} needs OVMF, and this host has none for it", self.name());
            let hint = "it comes with the package `ovmf` (Fedora and Arch: `edk2-ovmf`; openSUSE: `qemu-ovmf-x86_64`)";
            Error::new(ErrorKind::Host, message).with_hint(match self {
                Firmware::SecureBoot => format!("{hint}; its variables have to have Microsoft's keys"),
                _ => hint.to_owned(),
            })
        })
    }

    /// Options of qemu. `folder` is the machine's own; what the firmware writes goes there.
    pub(super) fn options(self, folder: &Path) -> Result<Vec<String>> {
        let mut words = Vec::new();
        let mut say = |option: &str, value: String| words.extend([option.to_owned(), value]);
        if self == Firmware::Bios {
            say("-machine", PC.to_owned());
            return Ok(words);
        }
        let Files { code, variables } = self.files()?;
        let overlay = folder.join(VARIABLES);
        let smm = if self == Firmware::SecureBoot { ",smm=on" } else { "" };
        say("-machine", format!("{Q35}{smm},pflash0=code,pflash1=variables"));
        say("-blockdev", code.node("code")?.to_string());
        variables.overlaid(&overlay)?;
        let file = json!({"driver": "file", "filename": utf8(&overlay)?});
        let backing = variables.node("variables-template")?;
        let node = json!({"driver": "qcow2", "node-name": "variables", "file": file, "backing": backing});
        say("-blockdev", node.to_string());
        if self == Firmware::SecureBoot {
            say("-global", "driver=cfi.pflash01,property=secure,value=on".into());
            // Sleep to memory cannot be resumed from by this firmware with system management mode.
            say("-global", "ICH9-LPC.disable_s3=1".into());
        }
        Ok(words)
    }
}

impl Files {
    fn are_there(&self) -> bool {
        self.code.filename.is_file() && self.variables.filename.is_file()
    }
}

impl Flash {
    fn node(&self, name: &str) -> Result<Value> {
        let file = json!({"driver": "file", "filename": utf8(&self.filename)?, "read-only": true});
        Ok(json!({"driver": self.format.name(), "node-name": name, "read-only": true, "file": file}))
    }

    /// Makes an empty overlay of it. Its header names no path that is used: qemu gets the file below as an option.
    fn overlaid(&self, overlay: &Path) -> Result<()> {
        let failed = || format!("cannot read {}", self.filename.display());
        let size = match self.format {
            ImageFormat::Qcow2 => overlay::virtual_size(&self.filename)?,
            ImageFormat::Raw => fs::metadata(&self.filename).context(ErrorKind::Host, failed)?.len(),
        };
        // Of a machine that was in this folder before.
        let _ = fs::remove_file(overlay);
        overlay::create(overlay, size, Backing { name: "variables", format: self.format })
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::new(ErrorKind::Store, "the path of a firmware is not UTF-8"))
}

/// One descriptor, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Descriptor {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    /// Without it, code and variables are two files.
    mode: Option<String>,
    executable: Option<Flash>,
    nvram_template: Option<Flash>,
}

#[derive(Debug, Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

impl Descriptor {
    /// Its files, where it describes what is wanted.
    fn files(&self, wanted: Firmware) -> Option<Files> {
        let has = |feature: &str| self.features.iter().any(|known| known == feature);
        let secure = SECURE.iter().all(|feature| has(feature));
        let fits = match wanted {
            Firmware::Bios => false,
            Firmware::Uefi => !has("requires-smm") && !has("enrolled-keys"),
            Firmware::SecureBoot => secure,
        };
        let runs = |target: &Target| target.architecture == "x86_64" && target.machines.iter().any(|name| is_q35(name));
        let split = self.mapping.device == "flash" && self.mapping.mode.as_deref().is_none_or(|mode| mode == "split");
        let is_uefi = self.interface_types.iter().any(|kind| kind == "uefi");
        // Confidential machines have firmware of their own kind.
        let special = has("intel-tdx") || has("amd-sev-snp") && !has("acpi-s3") && !has("amd-sev");
        if !(fits && split && is_uefi && !special && self.targets.iter().any(runs)) {
            return None;
        }
        Some(Files { code: self.mapping.executable.clone()?, variables: self.mapping.nvram_template.clone()? })
    }
}

/// Whether a pattern of machines, such as `pc-q35-*`, takes ours.
fn is_q35(pattern: &str) -> bool {
    let name = Q35.split(',').next().unwrap_or(Q35);
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => pattern == name || pattern == "q35",
    }
}

/// All descriptors, in the order of their names. One that cannot be read, or that is empty, hides its name and is no more.
fn descriptors(folders: &[&Path]) -> Vec<Descriptor> {
    let mut files = BTreeMap::new();
    for folder in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|ending| ending == "json") {
                files.insert(entry.file_name(), entry.path());
            }
        }
    }
    let read = |path: &PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
    files.values().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(name: &str, features: &[&str], format: &str) -> String {
        let flash = |what: &str| json!({"filename": format!("/fw/{name}-{what}"), "format": format});
        let mapping = json!({"device": "flash", "executable": flash("code"), "nvram-template": flash("vars")});
        let target = json!({"architecture": "x86_64", "machines": ["pc-q35-*"]});
        json!({"description": "x", "interface-types": ["uefi"], "mapping": mapping, "targets": [target],
               "features": features, "tags": []})
        .to_string()
    }

    #[test]
    fn firmware_is_found_by_its_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let (system, own) = (folder.path().join("system"), folder.path().join("own"));
        for folder in [&system, &own] {
            fs::create_dir(folder).unwrap();
        }
        let write = |folder: &Path, name: &str, text: String| fs::write(folder.join(name), text).unwrap();
        write(
            &system,
            "40-secure.json",
            described("secure", &["secure-boot", "enrolled-keys", "requires-smm"], "qcow2"),
        );
        write(&system, "50-empty.json", described("empty", &["secure-boot", "requires-smm"], "raw"));
        write(&system, "60-plain.json", described("plain", &["acpi-s3"], "raw"));
        write(&system, "70-later.json", described("later", &[], "raw"));
        write(&system, "10-broken.json", "{".into());
        write(
            &system,
            "20-stateless.json",
            described("x", &[], "raw").replace("\"device\"", "\"mode\":\"stateless\",\"device\""),
        );
        write(&system, "30-arm.json", described("x", &[], "raw").replace("x86_64", "aarch64"));
        let found = |firmware| {
            let all = descriptors(&[&system, &own]);
            all.iter().find_map(|one| one.files(firmware)).map(|files| files.code.filename.display().to_string())
        };
        assert_eq!(found(Firmware::Uefi).as_deref(), Some("/fw/plain-code"));
        assert_eq!(found(Firmware::SecureBoot).as_deref(), Some("/fw/secure-code"));
        // An administrator hides one, and gives another one in the place of a third.
        write(&own, "60-plain.json", String::new());
        write(&own, "40-secure.json", described("own", &["secure-boot", "enrolled-keys", "requires-smm"], "raw"));
        assert_eq!(found(Firmware::Uefi).as_deref(), Some("/fw/later-code"));
        assert_eq!(found(Firmware::SecureBoot).as_deref(), Some("/fw/own-code"));
    }

    #[test]
    fn a_disk_gets_the_firmware_that_boots_it() {
        let loader = |path: &str| Some(crate::disk::boots::Loader { path: path.into(), signed: true });
        let (there, elsewhere) = (loader("EFI/BOOT/BOOTX64.EFI"), loader("EFI/debian/shimx64.efi"));
        for (bios, uefi, expected) in [
            (true, None, Firmware::Bios),
            (true, there.clone(), Firmware::Bios),
            (false, there, Firmware::Uefi),
            (false, elsewhere, Firmware::Bios),
            (false, None, Firmware::Bios),
        ] {
            assert_eq!(Firmware::for_disk(&Boots { bios, uefi }), expected);
        }
    }
}
