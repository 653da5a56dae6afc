//! Making the disk of a base larger, and one of its partitions with its file system.
//!
//! Where that partition is the last one on the disk, nothing is moved: the table gets another end, and the file system
//! grows in its place (ext by `resize2fs`, without a mount; xfs and btrfs in libguestfs's appliance).
//! Otherwise the real `virt-resize` copies the disk, and what it made is refused if partitions have other numbers then:
//! what a guest boots by would be wrong.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ImportContext;
use super::text::parse_size;
use crate::diagnostic::Diagnostic;
use crate::disk::table::{Partition, SECTOR, Table, copy_data, is_ext, number};
use crate::disk::{ImageFormat, overlay};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::Tool;
use crate::host::guestfs_settings;
use crate::host::walls::Walls;
use crate::template::{Kind, Node, from_node};

/// How a disk is made larger. Any other key is a partition, and its value that partition's new size.
#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "for the schema; read from the node, whose keys are names of partitions")]
pub(super) struct ResizeArguments {
    /// The new size of the disk, such as `10G`.
    size: String,
    /// The partition that gets the new room, with its file system, such as `/dev/sda1`.
    expand: Option<String>,
}

/// Arguments that were checked.
#[derive(Debug, Clone)]
pub(super) struct Resize {
    size: u64,
    expand: Option<String>,
    /// Partitions with their new sizes in bytes.
    partitions: Vec<(String, u64)>,
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
            Ok(text) => match parse_size(&text).filter(|size| (1 << 20..=1 << 60).contains(size)) {
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
                    Ok(name) if number(&name).is_some() => resize.expand = Some(name),
                    Ok(_) => wrong.push(value.diagnostic("expected the name of a partition, such as `/dev/sda1`")),
                    Err(found) => wrong.extend(found),
                },
                name if number(name).is_some() => resize.partitions.push((name.to_owned(), size_of(value))),
                name => wrong.push(key.diagnostic(format!(
                    "`{}` is neither `size`, `expand` nor a partition such as `/dev/sda1`",
                    name.escape_debug()
                ))),
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
        json!({
            "size": self.size,
            "expand": self.expand.as_deref().and_then(number),
            "partitions": self.partitions.iter().map(|(name, size)| json!([number(name), size])).collect::<Vec<_>>(),
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
        let expanded = match self.expand.as_deref().and_then(number) {
            None => None,
            Some(wanted) => {
                Some(table.partitions.iter().find(|partition| partition.number == wanted).ok_or_else(|| {
                    let there: Vec<String> = table.partitions.iter().map(|found| found.number.to_string()).collect();
                    let message = format!("the base has no partition {wanted}; it has {}", there.join(", "));
                    Error::new(ErrorKind::Base, message)
                })?)
            }
        };
        let last = table.partitions.iter().max_by_key(|partition| partition.start);
        let in_place = self.partitions.is_empty()
            && expanded.is_none_or(|partition| {
                last.is_some_and(|last| last.number == partition.number) && (table.gpt || partition.number <= 4)
            });
        match in_place {
            true => self.in_place(target, &table, expanded, log, context)?,
            false => self.by_copy(target, &table, log, context)?,
        }
        Ok(ImageFormat::Raw)
    }

    fn in_place(
        &self,
        target: &Path,
        table: &Table,
        expanded: Option<&Partition>,
        log: &Path,
        context: &ImportContext<'_>,
    ) -> Result<()> {
        let failed = || "cannot make the disk of the base larger";
        let file = File::options().read(true).write(true).open(target).context(ErrorKind::Store, failed)?;
        file.set_len(self.size).context(ErrorKind::Store, failed)?;
        // What is on the disk is the work of whoever made the base.
        let tool =
            |name, package, path: &Path| Ok::<_, Error>(Walls::for_data().write(path)?.tool(name, package).log_to(log));
        if table.gpt {
            // The second table is at the end of the disk.
            tool("sfdisk", "fdisk", target)?
                .args(["--quiet", "--relocate", "gpt-bak-std"])
                .arg(target)
                .run(context.cancel)?;
        }
        let Some(partition) = expanded else { return Ok(()) };
        tool("sfdisk", "fdisk", target)?
            .args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never", "-N", &partition.number.to_string()])
            .arg(target)
            .input(", +\n")
            .run(context.cancel)?;
        let grown = Table::read(target, context.cancel)?;
        let grown = grown.partitions.iter().find(|found| found.number == partition.number);
        let length = grown.filter(|grown| grown.start == partition.start).map(|grown| grown.sectors * SECTOR);
        let length = length.ok_or_else(|| {
            // Of two copies that differ, or that are no table at all, it may take the other one.
            let message = format!(
                "the partition table of the base is damaged: partition {} is not where it was",
                partition.number
            );
            Error::new(ErrorKind::Base, message).with_hint("`sfdisk --verify` says what is wrong with it")
        })?;
        let offset = partition.start * SECTOR;
        if !is_ext(&file, offset).context(ErrorKind::Base, failed)? {
            return grow_mounted(target, partition, log, context);
        }
        // Apart from the disk: `resize2fs` cuts the file that it works on to the size of the file system, wherever in
        // that file it begins.
        let place = Removed(with_ending(target, "part"));
        let part = File::options().read(true).write(true).create_new(true).open(&place.0);
        let part = part.context(ErrorKind::Store, failed)?;
        copy_data(&file, offset, partition.sectors * SECTOR, &part, 0).context(ErrorKind::Store, failed)?;
        part.set_len(length).context(ErrorKind::Store, failed)?;
        // Status 1 says that something was mended. A fixed text: the path is an argument.
        let check = "e2fsck -f -p \"$1\" >&2 || [ $? -le 1 ]";
        tool("sh", "dash", &place.0)?.args(["-c", check, "sh"]).arg(&place.0).run(context.cancel)?;
        tool("resize2fs", "e2fsprogs", &place.0)?.arg(&place.0).run(context.cancel)?;
        let gone = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, gone, offset, partition.sectors * SECTOR).context(ErrorKind::Store, failed)?;
        copy_data(&part, 0, length, &file, offset).context(ErrorKind::Store, failed)
    }

    fn by_copy(&self, target: &Path, table: &Table, log: &Path, context: &ImportContext<'_>) -> Result<()> {
        let failed = || "cannot make the disk of the base larger";
        let copy = with_ending(target, "resized");
        let made = || -> Result<()> {
            for settings in guestfs_settings() {
                let file = File::create(&copy).context(ErrorKind::Store, failed)?;
                file.set_len(self.size).context(ErrorKind::Store, failed)?;
                let mut tool = Tool::new("virt-resize", "guestfs-tools")
                    .env("LIBGUESTFS_BACKEND", "direct")
                    .env("LIBGUESTFS_BACKEND_SETTINGS", *settings)
                    .args(["--format", "raw", "--output-format", "raw"]);
                if let Some(name) = &self.expand {
                    tool = tool.args(["--expand", name]);
                }
                for (name, size) in &self.partitions {
                    tool = tool.arg("--resize").arg(format!("{name}={size}b"));
                }
                match tool.arg("--").arg(target).arg(&copy).log_to(log).run(context.cancel) {
                    Ok(_) => break,
                    // There are hosts whose KVM starts nothing; only an error without it counts.
                    Err(error) if settings.is_empty() && error.kind() == ErrorKind::Host && error.hint().is_none() => {}
                    Err(error) => return Err(error),
                }
            }
            let after = Table::read(&copy, context.cancel)?;
            let numbers = after.partitions.iter().map(Partition::identity);
            if !numbers.eq(table.partitions.iter().map(Partition::identity)) {
                let message = "`virt-resize` gave the partitions of the base other numbers, so its guest may not boot";
                return Err(Error::new(ErrorKind::Base, message)
                    .with_hint("expand the last partition of the disk, which is done in its place"));
            }
            fs::rename(&copy, target).context(ErrorKind::Store, failed)
        };
        let made = made();
        let _ = fs::remove_file(&copy);
        made
    }
}

/// Grows xfs or btrfs, which has to be mounted for it, in libguestfs's appliance.
fn grow_mounted(target: &Path, partition: &Partition, log: &Path, context: &ImportContext<'_>) -> Result<()> {
    // The appliance numbers partitions as the table does.
    let device = format!("/dev/sda{}", partition.number);
    let script =
        format!("run\nvfs-type {device}\nmount {device} /\n-xfs-growfs /\n-btrfs-filesystem-resize /\nstatvfs /\n");
    for settings in guestfs_settings() {
        let tool = Tool::new("guestfish", "guestfish")
            .env("LIBGUESTFS_BACKEND", "direct")
            .env("LIBGUESTFS_BACKEND_SETTINGS", *settings)
            .args(["--rw", "--format=raw", "-a"])
            .arg(target)
            .input(script.clone())
            .log_to(log);
        match tool.run(context.cancel) {
            Ok(said) => {
                let said = String::from_utf8_lossy(&said);
                let kind = said.lines().next().unwrap_or_default().trim().to_owned();
                if matches!(kind.as_str(), "xfs" | "btrfs") {
                    return Ok(());
                }
                let message =
                    format!("the partition to expand has no file system that can grow: `{}`", kind.escape_debug());
                return Err(Error::new(ErrorKind::Base, message).with_hint("ext, xfs and btrfs can"));
            }
            Err(error) if settings.is_empty() && error.kind() == ErrorKind::Host && error.hint().is_none() => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::Host, "guestfish cannot be run"))
}

/// A file that is removed when this is dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{ending}"));
    PathBuf::from(name)
}
