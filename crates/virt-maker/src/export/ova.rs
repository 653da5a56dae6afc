//! `ova`: a virtual machine for VMware and VirtualBox: a tar of an OVF descriptor, a manifest with digests, and the disk
//! as a vmdk for streams. Formats: DMTF DSP0243 (OVF 1.1).

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::arguments::{Common, Compressed, Every, OneFile, WholeDisk};
use super::convert::{Removed, Target, convert};
use super::{Export, ExportContext, ExportKind, identity};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, ErrorKind, Result};
use crate::host::{digest, url};
use crate::key::Digest;
use crate::template::{Need, Node, Parts};

pub(super) static KIND: ExportKind = ExportKind {
    name: "ova",
    about: "Writes a virtual machine for VMware and VirtualBox: descriptor, manifest and disk in one file.",
    arguments: Arguments::schema,
    example: "ova: {path: web.ova, cpus: 2, memory: 2048}",
    needs: &[Need::new("qemu-img", "qemu-utils")],
    // 2: the disk's descriptor names the disk, and `href` is a URI.
    version: 2,
    network: false,
    parse,
};

/// What only `ova` takes.
#[derive(Deserialize, JsonSchema)]
struct Own {
    /// Name of the machine; the file's name without its ending by default.
    name: Option<String>,
    /// How many processors it has.
    #[serde(default = "one")]
    cpus: u32,
    /// Its memory in MiB.
    #[serde(default = "memory")]
    memory: u32,
}

/// What says that the machine has UEFI. OVF itself has no word for it, and each reader of one takes a BIOS where nothing is said; this
/// is VMware's word.
const UEFI: &str = "      <vmw:Config xmlns:vmw=\"http://www.vmware.com/schema/ovf\" ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>\n";

type Arguments = (OneFile, Own, WholeDisk, Every);

fn one() -> u32 {
    1
}

fn memory() -> u32 {
    1024
}

struct OvaExport {
    common: Common,
    name: String,
    cpus: u32,
    memory: u32,
}

fn parse(node: &Node) -> Result<Box<dyn Export>, Vec<Diagnostic>> {
    let (file, Own { name, cpus, memory }, disk, every) = Arguments::read(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let stem = file.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.unwrap_or(stem);
    // It names files in the archive, and stands in XML.
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_. ".contains(letter);
    if name.is_empty() || name.len() > 80 || name.starts_with(['.', ' ']) || !name.chars().all(plain) {
        let place = if node.get("name").is_some() { at("name") } else { at("path") };
        problems.push(place.diagnostic("expected a name of letters, digits, blanks, `-`, `_` and `.`"));
    }
    if !(1..=1024).contains(&cpus) {
        problems.push(at("cpus").diagnostic("expected a number from 1 to 1024"));
    }
    if !(4..=64 << 20).contains(&memory) {
        problems.push(at("memory").diagnostic("expected a number of MiB, at least 4"));
    }
    match Common::check(node, file, Compressed::default(), disk, every) {
        Ok(common) if problems.is_empty() => Ok(Box::new(OvaExport { common, name, cpus, memory })),
        Ok(_) => Err(problems),
        Err(more) => Err(problems.into_iter().chain(more).collect()),
    }
}

impl Export for OvaExport {
    fn common(&self) -> &Common {
        &self.common
    }

    fn arguments(&self) -> serde_json::Value {
        let mut key = self.common.key();
        key["machine"] = json!([self.name, self.cpus, self.memory]);
        key
    }

    fn write(&self, temporary: &Path, context: &ExportContext<'_>) -> Result<()> {
        let failed = || "cannot write the ova";
        let disk = Removed(temporary.with_extension("plain"));
        convert(Target::VmdkStream, &disk.0, context)?;
        let disk_name = format!("{}-disk1.vmdk", self.name);
        identity::vmdk(&disk.0, &disk_name, context.key).context(ErrorKind::Export, failed)?;
        let length = fs::metadata(&disk.0).context(ErrorKind::Export, failed)?.len();
        let digest = digest::of_file(&disk.0).context(ErrorKind::Export, failed)?;
        context.cancel.check()?;
        let descriptor = self.descriptor(&disk_name, length, context);
        let manifest = format!(
            "SHA256({0}.ovf)= {1}\nSHA256({disk_name})= {digest}\n",
            self.name,
            Digest::of(descriptor.as_bytes())
        );
        let output = File::create_new(temporary).context(ErrorKind::Export, failed)?;
        let mut archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, output));
        // The descriptor has to be the first file.
        for (name, text) in [(format!("{}.ovf", self.name), &descriptor), (format!("{}.mf", self.name), &manifest)] {
            let mut header = header(text.len() as u64);
            archive.append_data(&mut header, name, text.as_bytes()).context(ErrorKind::Export, failed)?;
        }
        let input = File::open(&disk.0).context(ErrorKind::Export, failed)?;
        let input = BufReader::with_capacity(1 << 20, input);
        archive.append_data(&mut header(length), &disk_name, input).context(ErrorKind::Export, failed)?;
        let mut output = archive.into_inner().context(ErrorKind::Export, failed)?;
        context.cancel.check()?;
        output.flush().context(ErrorKind::Export, failed)
    }
}

/// The same bytes at every export: no time, no owner.
fn header(length: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(length);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

impl OvaExport {
    fn descriptor(&self, disk: &str, length: u64, context: &ExportContext<'_>) -> String {
        include_str!("ova.xml")
            .replace("@NAME@", &self.name)
            // A reference is a URI; nothing else of what a name may have would be wrong in one.
            .replace("@DISK@", &url::encoded(disk, true))
            .replace("@LENGTH@", &length.to_string())
            .replace("@CAPACITY@", &context.virtual_size.to_string())
            .replace("@FIRMWARE@", if context.uefi { UEFI } else { "" })
            .replace("@CPUS@", &self.cpus.to_string())
            .replace("@MEMORY@", &self.memory.to_string())
    }
}
