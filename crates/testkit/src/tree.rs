//! What is in an image, read by the host's kernel from a raw copy: to compare what two engines left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::command::run;

/// Longer texts are compared by their digest alone, in bytes.
const TEXT_MAX: usize = 4 << 10;

/// One file of a guest: everything that two engines must leave alike. Times and inode numbers are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `file`, `directory`, `symlink`, `other`.
    pub kind: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links, for files.
    pub links: u64,
    /// SHA-256 of the content, or the target of a link, in hexadecimal.
    pub content: String,
    /// The text of a short file that is one.
    pub text: Option<String>,
    /// Extended attributes, in hexadecimal.
    pub xattrs: BTreeMap<String, String>,
}

/// All files of the ext4 or xfs root of a qcow2 or raw image, by path.
///
/// # Panics
/// Where the image cannot be converted or mounted.
pub fn tree_of_image(image: &Path, format: &str) -> BTreeMap<String, Entry> {
    let folder = tempfile::tempdir().expect("a folder for a raw copy");
    let raw = folder.path().join("raw");
    run(Command::new("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(image).arg(&raw));
    let offset = root_offset(&raw);
    let mount = Mount::new(&raw, offset, folder.path().join("mnt"));
    let mut tree = BTreeMap::new();
    walk(&mount.0, "", &mut tree);
    tree
}

/// All files below a folder of the host, by path.
pub fn tree_of_folder(folder: &Path) -> BTreeMap<String, Entry> {
    let mut tree = BTreeMap::new();
    walk(folder, "", &mut tree);
    tree
}

/// Offset in bytes of the last partition, or 0 where there is no partition table.
pub fn root_offset(raw: &Path) -> u64 {
    let output = Command::new("sfdisk").arg("--json").arg(raw).output().expect("sfdisk runs");
    let Ok(table) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else { return 0 };
    let last = table["partitiontable"]["partitions"].as_array().and_then(|partitions| partitions.last());
    last.and_then(|partition| partition["start"].as_u64()).unwrap_or(0) * 512
}

/// What differs between two trees: path, there, here.
pub fn difference(
    there: &BTreeMap<String, Entry>,
    here: &BTreeMap<String, Entry>,
) -> BTreeMap<String, (Option<Entry>, Option<Entry>)> {
    let paths = there.keys().chain(here.keys());
    paths
        .filter(|path| there.get(*path) != here.get(*path))
        .map(|path| (path.clone(), (there.get(path).cloned(), here.get(path).cloned())))
        .collect()
}

struct Mount(PathBuf);

impl Mount {
    fn new(raw: &Path, offset: u64, at: PathBuf) -> Mount {
        fs::create_dir(&at).expect("a mount point");
        // `norecovery`: a journal that wants replay must not be hidden by replaying it.
        let options = format!("ro,loop,norecovery,offset={offset}");
        run(Command::new("mount").args(["-o", &options]).arg(raw).arg(&at));
        Mount(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn walk(folder: &Path, name: &str, tree: &mut BTreeMap<String, Entry>) {
    for entry in fs::read_dir(folder).expect("a folder of the guest") {
        let entry = entry.expect("a name in it");
        let path = entry.path();
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        let stat = fs::symlink_metadata(&path).expect("its attributes");
        let kind = stat.file_type();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut text = None;
        let (kind, content) = if kind.is_dir() {
            ("directory", String::new())
        } else if kind.is_symlink() {
            ("symlink", fs::read_link(&path).expect("a link").display().to_string())
        } else if kind.is_file() {
            let bytes = fs::read(&path).expect("a file");
            let digest = hex(&Sha256::digest(&bytes));
            text = String::from_utf8(bytes).ok().filter(|text| text.len() <= TEXT_MAX && !text.contains('\0'));
            ("file", digest)
        } else {
            ("other", format!("{} {}", kind.is_char_device(), stat.rdev()))
        };
        let links = if kind == "file" { stat.nlink() } else { 1 };
        let xattrs = xattrs(&path);
        let mode = stat.mode() & 0o7777;
        tree.insert(name.clone(), Entry { kind, mode, uid: stat.uid(), gid: stat.gid(), links, content, text, xattrs });
        if kind == "directory" {
            walk(&path, &name, tree);
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0u8; 65536];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 65536];
        let name = std::ffi::OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("a value");
        let value = value[..length].iter().map(|byte| format!("{byte:02x}")).collect();
        found.insert(name.to_string_lossy().into_owned(), value);
    }
    found
}
