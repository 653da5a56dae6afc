//! `blank`: an empty disk with a partition table and file systems, for data: a disk of its own beside the one that a guest
//! boots from. A guest needs a root file system, so steps cannot run on it.
//!
//! Each file system is made in a file of its own and copied to its place, so nothing is mounted and no right is needed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::mkfs::{Fs, Mkfs};
use super::{Import, ImportContext, ImportKey, ImportKind, Made};
use crate::diagnostic::Diagnostic;
use crate::disk::ImageFormat;
use crate::disk::table::copy_data;
use crate::error::{Context, ErrorKind, Result};
use crate::host::Tool;
use crate::host::subordinate::SYSTEM_PATH;
use crate::host::units::disk_size;
use crate::template::{Need, Node, arguments, from_node};

pub(super) static KIND: ImportKind = ImportKind {
    name: "blank",
    about: "Makes an empty disk with a GPT and file systems, for data.",
    arguments: arguments::<Arguments>,
    example: "blank: {size: 4G, partitions: [{size: 1G, fs: swap}, {fs: ext4, label: data}]}",
    needs: &[Need::new("sfdisk", "fdisk")],
    // 2: the features of file systems are pinned.
    version: 2,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// Size of the disk, such as `4G`.
    size: String,
    /// Its partitions, in their order; none leaves the disk without a table.
    #[serde(default)]
    partitions: Vec<PartitionArguments>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PartitionArguments {
    /// Its size; the last one takes the rest without it.
    size: Option<String>,
    /// What is on it; nothing by default.
    fs: Option<Fs>,
    /// Label of the file system, and name of the partition: letters, digits, `-` and `_`, at most 11.
    label: Option<String>,
    /// What its file system has otherwise than by default; see the text.
    mkfs: Option<Mkfs>,
}

struct Blank {
    size: u64,
    partitions: Vec<Part>,
}

struct Part {
    /// In bytes.
    start: u64,
    length: u64,
    fs: Option<Fs>,
    label: Option<String>,
    mkfs: Option<Mkfs>,
}

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;

fn parse(node: &Node) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let mut problems = Vec::new();
    let at = |name: &str| node.get(name).unwrap_or(node);
    let nodes = match node.get("partitions").map(|node| &node.kind) {
        Some(crate::template::Kind::List(items)) => &items[..],
        _ => &[],
    };
    let size = disk_size(&arguments.size).filter(|size| (2 * MIB..=1 << 50).contains(size)).unwrap_or_else(|| {
        problems.push(at("size").diagnostic("expected a size of at least 2M, such as `4G`"));
        u64::MAX >> 8
    });
    // Whole MiB, after the one of the first table and before the one of its copy.
    let end = size / MIB * MIB - MIB;
    let mut start = MIB;
    let mut partitions = Vec::new();
    let count = arguments.partitions.len();
    for (index, (part, node)) in arguments.partitions.into_iter().zip(nodes).enumerate() {
        let at = |name: &str| node.get(name).unwrap_or(node);
        let length = match part.size.as_deref().map(disk_size) {
            Some(Some(length)) if length >= MIB => length,
            None if index + 1 == count => end.saturating_sub(start),
            None => {
                problems.push(node.diagnostic("only the last partition may have no size"));
                MIB
            }
            Some(_) => {
                problems.push(at("size").diagnostic("expected a size of at least 1M, such as `512M`"));
                MIB
            }
        };
        if length == 0 || start.saturating_add(length) > end {
            problems.push(node.diagnostic("the partition does not fit on the disk, of which 1 MiB at each end is for the table"));
            break;
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if part.label.as_ref().is_some_and(|label| {
            label.is_empty() || label.len() > 11 || label.starts_with('-') || !label.bytes().all(plain)
        }) {
            problems.push(at("label").diagnostic("expected at most 11 letters, digits, `-` and `_`"));
        }
        if let (Some(mkfs), Some(node)) = (&part.mkfs, node.get("mkfs")) {
            problems.extend(mkfs.check(part.fs, node));
        }
        partitions.push(Part { start, length, fs: part.fs, label: part.label, mkfs: part.mkfs });
        start += length;
    }
    if problems.is_empty() { Ok(Box::new(Blank { size, partitions })) } else { Err(problems) }
}

impl Import for Blank {
    fn summary(&self) -> String {
        let parts: Vec<&str> = self.partitions.iter().map(|part| part.fs.map_or("empty", Fs::name)).collect();
        format!("{} MiB {}", self.size / MIB, parts.join(" ")).trim_end().to_owned()
    }

    fn has_guest(&self) -> bool {
        false
    }

    fn key_inputs(&self, _: &ImportContext<'_>) -> Result<ImportKey> {
        let part = |part: &Part| {
            // Where one begins follows from what is before it.
            let Part { start: _, length, fs, label, mkfs } = part;
            let mut key = json!({ "length": length, "fs": fs.map(Fs::name), "label": label });
            if let Some(mkfs) = mkfs {
                key["mkfs"] = json!(mkfs);
            }
            key
        };
        let Blank { size, partitions } = self;
        let parts: Vec<_> = partitions.iter().map(part).collect();
        let arguments = json!({ "size": size, "partitions": parts });
        Ok(ImportKey { arguments, inputs: Vec::new(), fetched: None })
    }

    fn make(&self, _: &ImportKey, target: &Path, log: &Path, context: &ImportContext<'_>) -> Result<Made> {
        let made = self.write(target, log, context);
        if made.is_err() {
            let _ = fs::remove_file(target);
        }
        made.map(|()| ImageFormat::Raw.into())
    }
}

impl Blank {
    fn write(&self, target: &Path, log: &Path, context: &ImportContext<'_>) -> Result<()> {
        let failed = || format!("cannot write {}", target.display());
        let disk = File::create_new(target).context(ErrorKind::Store, failed)?;
        disk.set_len(self.size).context(ErrorKind::Store, failed)?;
        if self.partitions.is_empty() {
            return Ok(());
        }
        let mut table = "label: gpt\n".to_owned();
        for part in &self.partitions {
            let kind = part.fs.unwrap_or(Fs::Ext4).partition_type();
            table.push_str(&format!("start={}, size={}, type={kind}", part.start / SECTOR, part.length / SECTOR));
            if let Some(label) = &part.label {
                table.push_str(&format!(", name={label}"));
            }
            table.push('\n');
        }
        Tool::new("sfdisk", "fdisk")
            .env("PATH", SYSTEM_PATH)
            .args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never"])
            .arg(target)
            .input(table)
            .log_to(log)
            .run(context.cancel)?;
        for part in &self.partitions {
            let Some(kind) = part.fs else { continue };
            let place = Removed(target.with_extension("part"));
            let file = File::options().read(true).write(true).create_new(true).open(&place.0);
            let file = file.context(ErrorKind::Store, failed)?;
            file.set_len(part.length).context(ErrorKind::Store, failed)?;
            let mkfs = part.mkfs.clone().unwrap_or_default();
            kind.make(&place.0, part.label.as_deref(), &mkfs, log, context.cancel)?;
            copy_data(&file, 0, part.length, &disk, part.start).context(ErrorKind::Store, failed)?;
        }
        Ok(())
    }
}

/// A file that is removed when this is dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
