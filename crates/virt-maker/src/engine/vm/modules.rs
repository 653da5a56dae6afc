//! The kernel modules of the appliance: which, in which order, and their bytes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::kernel::Kernel;
use crate::error::{Context, Error, ErrorKind, Result};

/// Without these an appliance cannot work.
const REQUIRED: &[&str] = &["virtio_pci", "virtio_console", "virtio_scsi", "sd_mod", "ext4"];
/// Without these some guests cannot be opened, or there is no network. Algorithms come before the file systems that ask
/// for them by name, as nothing loads them on demand in there.
const WANTED: &[&str] = &[
    "crc32c_generic",
    "crc32c_intel",
    "xxhash_generic",
    "sha256_generic",
    "blake2b_generic",
    "virtio_net",
    "af_packet",
    "xfs",
    "btrfs",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_utf8",
    "vfat",
    "isofs",
    "loop",
    // What containers are made on: `podman`, `docker` and the like in a step.
    "overlay",
];
/// What LVM needs: linear and striped volumes. Others (thin, mirrored, cached, snapshots) need more programs besides.
const LVM: &str = "dm_mod";
/// A module is not larger than this, decompressed.
const LARGEST: u64 = 64 << 20;

/// One module, decompressed.
pub struct Module {
    /// Name of its file, `NAME.ko`.
    pub name: String,
    /// What the kernel loads.
    pub bytes: Vec<u8>,
}

/// The modules of a kernel that the appliance needs, each after those that it depends on. What is built in is left out.
pub fn collect(kernel: &Kernel) -> Result<Vec<Module>> {
    let names = REQUIRED.iter().map(|name| (*name, true)).chain(WANTED.iter().map(|name| (*name, false)));
    load_all(kernel, names)?.map_err(|name| {
        Error::new(ErrorKind::Host, format!("the kernel {} has no module {name}", kernel.image.display()))
            .with_hint("the appliance cannot work without it; name another kernel with --kernel")
    })
}

/// As [`collect`], what LVM needs; none where the kernel has no device mapper.
pub fn collect_lvm(kernel: &Kernel) -> Result<Option<Vec<Module>>> {
    Ok(load_all(kernel, [(LVM, true)])?.ok())
}

/// Loads modules, each with whether it is required; inside, the name of one that is required and not there.
fn load_all(
    kernel: &Kernel,
    names: impl IntoIterator<Item = (&'static str, bool)>,
) -> Result<Result<Vec<Module>, &'static str>> {
    let read = |name: &str| {
        let path = kernel.modules.join(name);
        fs::read_to_string(&path).context(ErrorKind::Host, || format!("cannot read {}", path.display()))
    };
    // A kernel without a list of what is built in has all that is not a module built in, for all that is known.
    let builtin = read("modules.builtin").ok();
    let order = match resolve(&read("modules.dep")?, builtin.as_deref(), names) {
        Ok(order) => order,
        Err(name) => return Ok(Err(name)),
    };
    let modules: Result<Vec<Module>> = order
        .into_iter()
        .map(|path| {
            let full = kernel.modules.join(&path);
            let bytes = load(&full).context(ErrorKind::Host, || format!("cannot read {}", full.display()))?;
            Ok(Module { name: format!("{}.ko", name_of(&path)), bytes })
        })
        .collect();
    modules.map(Ok)
}

/// Paths in the order of loading, or the name of what is missing.
fn resolve(
    dep: &str,
    builtin: Option<&str>,
    names: impl IntoIterator<Item = (&'static str, bool)>,
) -> Result<Vec<String>, &'static str> {
    let mut modules: HashMap<String, (&str, Vec<&str>)> = HashMap::new();
    for line in dep.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            modules.insert(name_of(path), (path, needs.split_whitespace().collect()));
        }
    }
    let builtin: Option<HashSet<String>> = builtin.map(|text| text.lines().map(name_of).collect());
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for (name, required) in names {
        match modules.get(name) {
            Some((path, _)) => visit(path, &modules, &mut seen, &mut order),
            None if required && builtin.as_ref().is_some_and(|builtin| !builtin.contains(name)) => return Err(name),
            None => {}
        }
    }
    Ok(order)
}

/// Puts a module after all that it needs. `modules.dep` lists these from the nearest to the farthest, and names circles
/// of none.
fn visit(
    path: &str,
    modules: &HashMap<String, (&str, Vec<&str>)>,
    seen: &mut HashSet<String>,
    order: &mut Vec<String>,
) {
    let name = name_of(path);
    if !seen.insert(name.clone()) {
        return;
    }
    for needed in modules.get(&name).map_or(&[][..], |(_, needs)| needs).iter().rev() {
        visit(needed, modules, seen, order);
    }
    order.push(path.to_owned());
}

/// How the kernel calls a module: without folder and suffix, and with `_` for `-`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.replace('-', "_")
}

/// Reads a module, plain or as distributions compress it.
fn load(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let suffix = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    let mut reader: Box<dyn Read> = match &*suffix {
        "gz" => Box::new(flate2::read::MultiGzDecoder::new(file)),
        "xz" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(file)),
        "zst" => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    };
    let mut bytes = Vec::new();
    reader.by_ref().take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST || !bytes.starts_with(b"\x7fELF") {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is no kernel module"));
    }
    Ok(without_signature(bytes))
}

/// A module without the signature at its end (the kernel's Documentation/admin-guide/module-signing.rst). The host's
/// package manager has vouched for it; to check it again would be slow where the CPU is emulated, and a kernel that
/// insists on signatures does so only where a machine was booted securely, which this one is not.
fn without_signature(mut bytes: Vec<u8>) -> Vec<u8> {
    const END: &[u8] = b"~Module signature appended~\n";
    /// `struct module_signature`, whose last four bytes are the length of the signature, the most significant first.
    const DESCRIPTION: usize = 12;
    let Some(rest) = bytes.strip_suffix(END).and_then(|rest| rest.len().checked_sub(DESCRIPTION).map(|at| (rest, at)))
    else {
        return bytes;
    };
    let (rest, at) = rest;
    let length = u32::from_be_bytes(rest[at + 8..].try_into().expect("four bytes")) as usize;
    if let Some(end) = at.checked_sub(length) {
        bytes.truncate(end);
    }
    bytes
}

/// What says whether the modules changed.
pub fn index(kernel: &Kernel) -> PathBuf {
    kernel.modules.join("modules.dep")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const DEP: &str = "\
kernel/drivers/virtio/virtio_ring.ko.xz:
kernel/drivers/virtio/virtio.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/char/virtio_console.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/scsi/virtio_scsi.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/md/dm-mod.ko.xz:
kernel/drivers/scsi/sd_mod.ko.xz:
";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let builtin = "kernel/fs/ext4/ext4.ko\n";
        let required = || REQUIRED.iter().map(|name| (*name, true));
        let order = resolve(DEP, Some(builtin), required()).unwrap();
        let names: Vec<String> = order.iter().map(|path| name_of(path)).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio_pci", "virtio_console", "virtio_scsi", "sd_mod"]);
        assert_eq!(resolve(DEP, Some(""), required()), Err("ext4"));
        assert!(resolve(DEP, None, required()).is_ok());
        let order = resolve(DEP, Some(builtin), [(LVM, true)]).unwrap();
        assert_eq!(order, ["kernel/drivers/md/dm-mod.ko.xz"]);
        assert_eq!(resolve("", Some(""), [(LVM, true)]), Err(LVM));
    }

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let module = b"\x7fELF and so on".to_vec();
        let signed =
            [&module[..], &[9; 300], &[0; 8], &300_u32.to_be_bytes(), b"~Module signature appended~\n"].concat();
        assert_eq!(without_signature(signed), module);
        assert_eq!(without_signature(module.clone()), module);
        let wrong = [&[0; 8][..], &300_u32.to_be_bytes(), b"~Module signature appended~\n"].concat();
        assert_eq!(without_signature(wrong.clone()), wrong);
    }

    #[test]
    fn compressed_modules_are_the_same_module() {
        let folder = tempfile::tempdir().unwrap();
        let module = [b"\x7fELF".as_slice(), &[7; 100_000]].concat();
        let gz = {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(&module).unwrap();
            out.finish().unwrap()
        };
        let xz = {
            let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
            out.write_all(&module).unwrap();
            out.finish().unwrap()
        };
        let zst = zstd::encode_all(&module[..], 1).unwrap();
        for (name, bytes) in [("a.ko", &module), ("a.ko.gz", &gz), ("a.ko.xz", &xz), ("a.ko.zst", &zst)] {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            assert!(load(&path).unwrap() == module, "{name}");
            assert_eq!(name_of(name), "a");
        }
        let path = folder.path().join("b.ko.xz");
        fs::write(&path, &xz[..xz.len() / 2]).unwrap();
        assert!(load(&path).is_err());
    }
}
