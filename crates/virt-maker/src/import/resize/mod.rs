//! Making the disk of a base larger, and its partitions with their file systems.
//!
//! The numbers, types, identities, names and attributes of partitions stay, and so does each place that can: a guest boots
//! by them. Where a partition that grows is the last one, or has room behind it, nothing is moved: the table gets another
//! end, and the file system grows in its place (ext by `resize2fs`, without a mount; xfs, btrfs, ntfs and LVM in
//! libguestfs's appliance). Else what lies behind it is copied to a new place. See [`mod@layout`].

mod grow;
mod layout;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use self::grow::Grow;
use self::layout::{Wanted, layout};
use super::ImportContext;
use crate::diagnostic::Diagnostic;
use crate::disk::table::{Partition, SECTOR, Table, copy_data, number};
use crate::disk::{ImageFormat, overlay};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::Tool;
use crate::host::units::disk_size;
use crate::template::{Kind, Node, from_node};

/// How a disk is made larger. Any other key is a partition, and its value that partition's new size.
#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "for the schema; read from the node, whose keys are names of partitions")]
pub(super) struct ResizeArguments {
    /// The new size of the disk, such as `10G`.
    size: String,
    /// The partition that gets the new room, with its file system: `root` (where `/` is), or one such as `/dev/sda1`.
    expand: Option<String>,
}

/// Arguments that were checked.
#[derive(Debug, Clone)]
pub(super) struct Resize {
    size: u64,
    expand: Option<Expand>,
    /// Numbers of partitions with their new sizes in bytes.
    partitions: Vec<(u32, u64)>,
}

/// Which partition gets all the room that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expand {
    Root,
    Number(u32),
}

impl Resize {
    /// Reads the argument `resize`.
    pub(super) fn read(node: &Node) -> Result<Resize, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let mut resize = Resize { size: 0, expand: None, partitions: Vec::new() };
        if !matches!(node.kind, Kind::Map(_)) {
            return Err(vec![node.diagnostic(format!("expected a mapping with `size`, found {}", node.describe()))]);
        }
        let mut size_of = |value: &Node| match from_node::<String>(value) {
            Ok(text) => match disk_size(&text).filter(|size| (1 << 20..=1 << 60).contains(size)) {
                Some(size) => size,
                None => {
                    problems.push(value.diagnostic("expected a size such as `10G` or `2500M`"));
                    0
                }
            },
            Err(found) => {
                problems.extend(found);
                0
            }
        };
        let mut wrong = Vec::new();
        for (key, value) in node.members() {
            match key.text().unwrap_or_default() {
                "size" => resize.size = size_of(value),
                "expand" => match from_node::<String>(value) {
                    Ok(name) if name == "root" => resize.expand = Some(Expand::Root),
                    Ok(name) => match number(&name) {
                        Some(number) => resize.expand = Some(Expand::Number(number)),
                        None => wrong
                            .push(value.diagnostic("expected `root`, or the name of a partition, such as `/dev/sda1`")),
                    },
                    Err(found) => wrong.extend(found),
                },
                name => match number(name) {
                    Some(number) => resize.partitions.push((number, size_of(value))),
                    None => wrong.push(key.diagnostic(format!(
                        "`{}` is neither `size`, `expand` nor a partition such as `/dev/sda1`",
                        name.escape_debug()
                    ))),
                },
            }
        }
        problems.extend(wrong);
        if node.get("size").is_none() {
            problems.push(node.diagnostic("the argument `size` is missing"));
        }
        if problems.is_empty() { Ok(resize) } else { Err(problems) }
    }

    /// What enters a key.
    pub(super) fn key(&self) -> Value {
        let Resize { size, expand, partitions } = self;
        json!({
            // Bases of earlier versions may have numbers of `virt-resize`, or a larger partition without a file system.
            "layout": 2,
            "size": size,
            "expand": expand.as_ref().map(|expand| match expand {
                Expand::Root => json!("root"),
                Expand::Number(number) => json!(number),
            }),
            "partitions": partitions.iter().map(|(number, size)| json!([number, size])).collect::<Vec<_>>(),
        })
    }

    /// Makes the disk at `target` larger; the result is raw.
    pub(super) fn apply(
        &self,
        target: &Path,
        format: ImageFormat,
        log: &Path,
        context: &ImportContext<'_>,
    ) -> Result<ImageFormat> {
        let failed = || "cannot make the disk of the base larger";
        let before = match format {
            ImageFormat::Qcow2 => overlay::virtual_size(target)?,
            ImageFormat::Raw => fs::metadata(target).context(ErrorKind::Base, failed)?.len(),
        };
        if before > self.size {
            let message = format!("the base has a disk of {before} bytes, more than the {} of `resize`", self.size);
            return Err(Error::new(ErrorKind::Base, message).with_hint("a disk is only made larger"));
        }
        if format == ImageFormat::Qcow2 {
            let raw = with_ending(target, "raw");
            Tool::new("qemu-img", "qemu-utils")
                .confined()
                .args(["convert", "-W", "-m", "16", "-f", "qcow2", "-O", "raw"])
                .arg(target)
                .arg(&raw)
                .log_to(log)
                .run(context.cancel)?;
            fs::rename(&raw, target).context(ErrorKind::Store, failed)?;
        }
        let table = Table::read(target, context.cancel)?;
        let expand = match self.expand {
            None => None,
            Some(Expand::Root) => Some(grow::root_of(target, &table, context.cancel)?),
            Some(Expand::Number(number)) => Some(number),
        };
        let sizes = self.partitions.iter().map(|(number, size)| (*number, Wanted::Bytes(*size)));
        let wanted: Vec<_> = expand.map(|number| (number, Wanted::Rest)).into_iter().chain(sizes).collect();
        let places = layout(&table, self.size, &wanted)?;
        // Before anything is written: an error later would come after minutes.
        let mut growing = Vec::new();
        for (old, new) in table.partitions.iter().zip(&places).filter(|(old, _)| !old.is_extended()) {
            if wanted.iter().any(|(number, _)| *number == old.number) {
                growing.push((Grow::for_partition(target, old, context.cancel)?, old, new));
            }
        }
        let change = table.change(places.clone(), target, context.cancel)?;
        let moved = table.partitions.iter().zip(&places).any(|(old, new)| old.start != new.start);
        if moved {
            self.moved(target, &table, &places).context(ErrorKind::Store, failed)?;
        } else {
            let file = File::options().write(true).open(target).context(ErrorKind::Store, failed)?;
            file.set_len(self.size).context(ErrorKind::Store, failed)?;
        }
        change.write(target, context.cancel)?;
        for (grow, old, new) in growing {
            if new.sectors > old.sectors {
                grow.grow(target, new, old.sectors, log, context.cancel)?;
            }
        }
        Ok(ImageFormat::Raw)
    }

    /// Copies the disk to a larger one on which partitions lie where `places` says.
    fn moved(&self, target: &Path, table: &Table, places: &[Partition]) -> std::io::Result<()> {
        let copy = with_ending(target, "resized");
        let made = || {
            let (from, to) =
                (File::open(target)?, File::options().read(true).write(true).create_new(true).open(&copy)?);
            to.set_len(self.size)?;
            // The table, and what boots a disk by BIOS.
            let first = table.partitions.iter().map(|partition| partition.start).min().unwrap_or(0);
            copy_data(&from, 0, first * SECTOR, &to, 0)?;
            for (old, new) in table.partitions.iter().zip(places) {
                copy_data(&from, old.start * SECTOR, old.sectors * SECTOR, &to, new.start * SECTOR)?;
                if old.start != new.start {
                    hidden_sectors(&to, old.start, new.start)?;
                }
            }
            fs::rename(&copy, target)
        };
        let made = made();
        let _ = fs::remove_file(&copy);
        made
    }
}

/// FAT and NTFS say in their first sector how many sectors lie before them; boot loaders believe it.
fn hidden_sectors(disk: &File, old: u64, new: u64) -> std::io::Result<()> {
    const PLACE: u64 = 28;
    let (mut known, mut signature) = ([0; 4], [0; 2]);
    disk.read_exact_at(&mut known, new * SECTOR + PLACE)?;
    disk.read_exact_at(&mut signature, new * SECTOR + 510)?;
    match (u32::try_from(old), u32::try_from(new)) {
        (Ok(old), Ok(new_place)) if known == old.to_le_bytes() && signature == [0x55, 0xaa] => {
            disk.write_all_at(&new_place.to_le_bytes(), new * SECTOR + PLACE)
        }
        _ => Ok(()),
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{ending}"));
    PathBuf::from(name)
}
