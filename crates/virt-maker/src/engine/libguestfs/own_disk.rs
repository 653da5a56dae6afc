//! The guest's own disk as commands see it, as the agent has it (`own_disk.rs` there): what is said of it is made by
//! [`virt_maker_agent::blocks`], so that it is the same on each engine.
//!
//! What must hold: nodes are loop devices, read-only from the start; the disk is called `sda`, whatever the appliance's kernel calls
//! it. It is made before the first command of a session.
//!
//! Here the kernel's copies of what was read are not dropped before each command, as a program more would be started for
//! that: what tells of file systems and partitions does not change while they are mounted.

use std::fmt::Write as _;

use virt_maker_agent::blocks::{Block, DISK, Item, Number, items};
use virt_maker_agent::fstab;

use super::inspect::{small_file, unescape};
use super::job::quote;
use super::launch::CACHE_SERIAL;
use super::session::LibguestfsSession;
use crate::error::{ErrorKind, Result};

/// Makes the nodes and says what is there; nothing where the appliance has no loop devices.
const LIST: &str = r#"
appliance=$(stat -c %D /)
show() {
    loop=$(losetup --find --show --read-only "/dev/$1" 2>/dev/null) || return 1
    read -r number <"/sys/class/block/${loop##*/}/dev"
    read -r mounted <"/sys/class/block/$2/dev"
    read -r sectors <"/sys/class/block/$2/size"
    echo "BLOCK=$1"
    echo "NUMBER=$number"
    echo "MOUNTED=$mounted"
    echo "SECTORS=$sectors"
    if [ -e "/sys/class/block/$2/start" ]; then
        read -r start <"/sys/class/block/$2/start"
        echo "START=$start"
    fi
    blkid -c /dev/null -p -o export "/dev/$1" | grep -E '^(TYPE|UUID|LABEL|PART_ENTRY_UUID|PART_ENTRY_NAME)='
    return 0
}
for disk in /sys/block/sd*; do
    name=${disk##*/}
    read -r number <$disk/dev
    [ "$(printf '%x%02x' "${number%:*}" "${number#*:}")" = "$appliance" ] && continue
    grep -aqs '#CACHE#' $disk/device/vpd_pg80 && continue
    show $name $name || exit 0
    for part in $disk/$name[0-9]*; do
        [ ! -e "$part" ] || show "${part##*/}" "${part##*/}" || exit 0
    done
    break
done
for volume in /sys/block/dm-*; do
    [ -e $volume/dm/name ] || continue
    read -r mapper <$volume/dm/name
    read -r uuid <$volume/dm/uuid || :
    show "mapper/$mapper" ${volume##*/} || continue
    echo "MAPPER=$uuid"
done
exit 0
"#;

impl LibguestfsSession {
    /// Has commands see the disk.
    pub(super) fn show_disk(&mut self) -> Result<()> {
        let failed = |session: &Self, error| {
            session.appliance.error(ErrorKind::Internal, "cannot prepare what commands see of the guest's disk", error)
        };
        let text = self.appliance.handle.appliance_sh(&LIST.replace("#CACHE#", CACHE_SERIAL));
        let text = text.map_err(|error| failed(self, error))?;
        let fstab = small_file(&mut self.appliance.handle, "/etc/fstab").unwrap_or_default();
        let blocks = parse(&text, &fstab);
        if blocks.is_empty() {
            return Ok(());
        }
        let done = self.appliance.handle.appliance_sh(&commands(&blocks));
        done.map(drop).map_err(|error| failed(self, error))
    }
}

/// What the shell said, with the disk called as it is to be.
fn parse(text: &str, fstab: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut disk = String::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        if key == "BLOCK" {
            if disk.is_empty() {
                disk = value.to_owned();
            }
            let digits = value.strip_prefix(disk.as_str());
            let name = digits.map_or_else(|| value.to_owned(), |digits| format!("{DISK}{digits}"));
            let partition = digits.and_then(|digits| digits.parse().ok()).unwrap_or(0);
            blocks.push(Block { name, partition, ..Block::default() });
            continue;
        }
        let Some(block) = blocks.last_mut() else { continue };
        match key {
            "NUMBER" => block.number = number(value).unwrap_or_default(),
            "MOUNTED" => block.mounted = number(value),
            "SECTORS" => block.sectors = value.parse().unwrap_or(0),
            "START" => block.start = value.parse().unwrap_or(0),
            "TYPE" => block.kind = unescape(value),
            "UUID" => block.uuid = unescape(value),
            "LABEL" => block.label = unescape(value),
            "PART_ENTRY_UUID" => block.part_uuid = unescape(value),
            "PART_ENTRY_NAME" => block.part_label = unescape(value),
            "MAPPER" => block.mapper_uuid = value.to_owned(),
            _ => {}
        }
    }
    for entry in fstab::parse(fstab).iter().filter(|entry| entry.kind == "swap" && !entry.has("noauto")) {
        let device = entry.named_device();
        let meant = |block: &&mut Block| match &device {
            fstab::Device::Uuid(uuid) => block.uuid.eq_ignore_ascii_case(uuid),
            fstab::Device::Label(label) => block.label == *label,
            fstab::Device::PartUuid(uuid) => block.part_uuid == *uuid,
            fstab::Device::PartLabel(label) => block.part_label == *label,
            fstab::Device::Number(number) => block.partition == *number && !block.name.starts_with("mapper/"),
            fstab::Device::Other(name) => name.strip_prefix("/dev/") == Some(block.name.as_str()),
        };
        if let Some(block) = blocks.iter_mut().find(meant) {
            block.swap = true;
        }
    }
    blocks
}

fn number(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Shell text that puts all in place. Folders are made by one program, as each that starts costs time.
fn commands(blocks: &[Block]) -> String {
    let place = |path: &str| match path.split_once('/') {
        Some(("dev", rest)) => format!("skeleton/dev/{rest}"),
        Some(("udev", rest)) => format!("skeleton/run/udev/{rest}"),
        _ => format!("machine/{path}"),
    };
    let (mut folders, mut text) = (Vec::new(), String::new());
    let mut below = |path: &str| folders.extend(path.rsplit_once('/').map(|(folder, _)| quote(folder)));
    for item in items(blocks) {
        match item {
            Item::Folder(path) => below(&format!("{}/", place(&path))),
            Item::File(path, content) => {
                let path = place(&path);
                below(&path);
                // What the kernel does not have is not covered.
                let there = match path.strip_prefix("machine/proc/") {
                    Some(file) => format!("[ ! -e /proc/{file} ] || "),
                    None => String::new(),
                };
                let _ = writeln!(text, "{there}printf %s {} >{}", quote(&content), quote(&path));
            }
            Item::Link(path, target) => {
                let path = place(&path);
                below(&path);
                // Two file systems of one identity: the first has the name.
                let _ = writeln!(text, "[ -L {0} ] || ln -s {1} {0}", quote(&path), quote(&target));
            }
        }
    }
    for block in blocks {
        let node = format!("skeleton/dev/{}", block.name);
        below(&node);
        let (node, (major, minor)) = (quote(&node), block.number);
        let _ = writeln!(text, "mknod -m 660 {node} b {major} {minor} && chown 0:6 {node}");
    }
    folders.sort();
    folders.dedup();
    format!("set -e\ncd /run/virt-maker\nmkdir -p {}\n{text}", folders.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_called_sda() {
        let blocks = parse(
            "BLOCK=sdb\nNUMBER=7:0\nMOUNTED=8:16\nSECTORS=8192\nBLOCK=sdb2\nNUMBER=7:1\nMOUNTED=8:18\nSTART=2048\n\
             SECTORS=4096\nTYPE=ext4\nUUID=aa\nLABEL=my\\ root\nPART_ENTRY_UUID=bb\nBLOCK=mapper/vg-root\nNUMBER=7:2\n\
             MOUNTED=253:0\nMAPPER=LVM-x\nTYPE=swap\n",
            "/dev/vda2 / ext4\n/dev/mapper/vg-root none swap\n",
        );
        let names: Vec<_> = blocks.iter().map(|block| (block.name.as_str(), block.partition)).collect();
        assert_eq!(names, [("sda", 0), ("sda2", 2), ("mapper/vg-root", 0)]);
        assert_eq!((blocks[1].start, blocks[1].label.as_str(), blocks[1].swap), (2048, "my root", false));
        assert!(blocks[2].swap && blocks[2].mapper_uuid == "LVM-x");
        let text = commands(&blocks);
        assert!(text.contains("mknod -m 660 'skeleton/dev/sda2' b 7 1"), "{text}");
        assert!(parse("", "").is_empty());
    }
}
