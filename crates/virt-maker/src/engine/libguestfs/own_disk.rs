//! The guest's own disk as commands see it, as the agent has it (`own_disk.rs` there): what is said of it is made by
//! [`virt_maker_agent::blocks`], so that it is the same on each engine.
//!
//! What must hold: nodes are loop devices, read-only from the start; the disk is called `sda`, whatever the appliance's kernel calls
//! it. It is made before the first command of a session.
//!
//! Here the kernel's copies of what was read are not dropped before each command, as a program more would be started for
//! that: what tells of file systems and partitions does not change while they are mounted.

use std::collections::HashSet;
use std::io;

use tar::EntryType;
use virt_maker_agent::blocks::{Block, DISK, Item, Number, items};
use virt_maker_agent::fstab;
use virt_maker_agent::machine::command_line;

use super::inspect::{small_file, unescape};
use super::job::COMMAND_LINE;
use super::launch::CACHE_SERIAL;
use super::packed::Packed;
use super::session::LibguestfsSession;
use crate::error::{Context, ErrorKind, Result};

/// Makes the nodes and says what is there; nothing where the appliance has no loop devices.
///
/// Without KVM a program takes 50 ms to start there, so all that the shell can do is left to it.
const LIST: &str = r#"
while read -r _ _ number _ place rest; do
    case $place in
        /) appliance=$number ;;
        # Behind the options, any number of fields, a dash and the type.
        /sysroot) rest=${rest#* - } && rest=${rest#* } && root=${rest%% *} ;;
    esac
done </proc/self/mountinfo
shown=
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
    shown="$shown
/dev/$1"
}
list() {
    for disk in /sys/block/sd*; do
        name=${disk##*/}
        read -r number <$disk/dev
        [ "$number" != "$appliance" ] || continue
        serial=
        # No end of line is behind it, so `read` fails; and not every disk has one.
        { read -r serial <$disk/device/vpd_pg80; } 2>/dev/null
        case $serial in *'#CACHE#'*) continue ;; esac
        show $name $name || return
        for part in $disk/$name[0-9]*; do
            [ ! -e "$part" ] || show "${part##*/}" "${part##*/}" || return
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
}
list
# It was mounted by the name that commands see.
called=/run/virt-maker-names/${root##*/}
[ ! -e "$called" ] || root=$called
echo "ROOT=$root"
set -f
IFS='
'
blkid -c /dev/null -p -o export $shown "$root"
exit 0
"#;

impl LibguestfsSession {
    /// Has commands see the disk, and that the kernel was started for the guest's own root.
    pub(super) fn show_disk(&mut self) -> Result<()> {
        let failed = |session: &Self, error| {
            session.appliance.error(ErrorKind::Internal, "cannot prepare what commands see of the guest's disk", error)
        };
        let text = self.appliance.handle.appliance_sh(&LIST.replace("#CACHE#", CACHE_SERIAL));
        let text = text.map_err(|error| failed(self, error))?;
        let fstab = small_file(&mut self.appliance.handle, "/etc/fstab").unwrap_or_default();
        let found = parse(&text, &fstab);
        let packed = pack(&found.blocks, found.root.as_deref())
            .context(ErrorKind::Internal, || "cannot pack what commands see of the guest's disk".to_owned())?;
        let (archive, unpack) = packed.finish(ARCHIVE)?;
        self.upload("disk.tar", &archive, ARCHIVE)?;
        let done = self.appliance.handle.appliance_sh(&unpack);
        done.map(drop).map_err(|error| failed(self, error))
    }
}

/// What the shell said.
struct Found {
    /// With the disk called as it is to be.
    blocks: Vec<Block>,
    /// The identity of the file system that is the guest's root.
    root: Option<String>,
}

fn parse(text: &str, fstab: &str) -> Found {
    let mut blocks: Vec<Block> = Vec::new();
    let mut disk = String::new();
    let (mut root, mut root_device, mut of_root) = (None, "", false);
    // What the appliance calls them, and the one that a line is about.
    let (mut called, mut about) = (Vec::new(), None);
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        if key == "BLOCK" {
            if disk.is_empty() {
                disk = value.to_owned();
            }
            let digits = value.strip_prefix(disk.as_str());
            let name = digits.map_or_else(|| value.to_owned(), |digits| format!("{DISK}{digits}"));
            let partition = digits.and_then(|digits| digits.parse().ok()).unwrap_or(0);
            about = Some(blocks.len());
            called.push(value);
            blocks.push(Block { name, partition, ..Block::default() });
            continue;
        }
        if key == "ROOT" {
            root_device = value;
            continue;
        }
        if key == "DEVNAME" {
            of_root = value == root_device;
            about = value.strip_prefix("/dev/").and_then(|name| called.iter().position(|called| *called == name));
            continue;
        }
        if of_root && key == "UUID" {
            root = Some(unescape(value));
        }
        let Some(block) = about.and_then(|about| blocks.get_mut(about)) else { continue };
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
    Found { blocks, root }
}

fn number(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Where the archive lies in the appliance.
const ARCHIVE: &str = "/run/virt-maker/disk.tar";

/// All that is put in place.
fn pack(blocks: &[Block], root: Option<&str>) -> io::Result<Packed> {
    let place = |path: &str| match path.split_once('/') {
        Some(("dev", rest)) => format!("skeleton/dev/{rest}"),
        Some(("udev", rest)) => format!("skeleton/run/udev/{rest}"),
        _ => format!("machine/{path}"),
    };
    let mut packed = Packed::new();
    packed.file(COMMAND_LINE, 0o644, command_line(root).as_bytes())?;
    let mut taken = HashSet::new();
    for block in blocks {
        let path = place(&format!("dev/{}", block.name));
        // `disk`.
        packed.node(&path, EntryType::Block, 0o660, 6, block.number)?;
        taken.insert(path);
    }
    let all = items(blocks);
    // A volume group may be called `disk`, and one of its volumes `by-uuid`: what is a folder for others stays one.
    let parent = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let folders: HashSet<String> = all
        .iter()
        .filter_map(|item| match item {
            Item::Folder(path) => Some(place(path)),
            Item::File(path, _) | Item::Link(path, _) => parent(&place(path)),
        })
        .collect();
    for item in all {
        match item {
            Item::Folder(path) => packed.folder(&place(&path), 0o755)?,
            Item::File(path, content) => packed.file(&place(&path), 0o644, content.as_bytes())?,
            Item::Link(path, target) => {
                let path = place(&path);
                // Two file systems of one identity: the first has the name.
                if !folders.contains(&path) && taken.insert(path.clone()) {
                    packed.link(&path, &target)?;
                }
            }
        }
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_called_sda() {
        let Found { blocks, root } = parse(
            "BLOCK=sdb\nNUMBER=7:0\nMOUNTED=8:16\nSECTORS=8192\nBLOCK=sdb2\nNUMBER=7:1\nMOUNTED=8:18\nSTART=2048\n\
             SECTORS=4096\nBLOCK=mapper/vg-root\nNUMBER=7:2\nMOUNTED=253:0\nMAPPER=LVM-x\nROOT=/dev/sdb2\nDEVNAME=/dev/sdb\nPTTYPE=dos\n\n\
             DEVNAME=/dev/sdb2\nLABEL=my\\ root\nUUID=aa\nVERSION=1.0\nTYPE=ext4\nPART_ENTRY_UUID=bb\n\n\
             DEVNAME=/dev/mapper/vg-root\nTYPE=swap\n\nDEVNAME=/dev/sdc\nLABEL=other\n",
            "/dev/vda2 / ext4\n/dev/mapper/vg-root none swap\n",
        );
        let names: Vec<_> = blocks.iter().map(|block| (block.name.as_str(), block.partition)).collect();
        assert_eq!(names, [("sda", 0), ("sda2", 2), ("mapper/vg-root", 0)]);
        assert_eq!((blocks[1].start, blocks[1].label.as_str(), blocks[1].swap), (2048, "my root", false));
        assert!(blocks[2].swap && blocks[2].mapper_uuid == "LVM-x");
        assert_eq!((blocks[1].kind.as_str(), blocks[2].label.as_str()), ("ext4", ""));
        assert_eq!(root.as_deref(), Some("aa"));
        // No device is shown, and the root is of none that would be.
        let Found { blocks, root } = parse("ROOT=/run/names/sda2\nDEVNAME=/run/names/sda2\nUUID=aa\n", "");
        assert!(blocks.is_empty() && root.as_deref() == Some("aa"));
        let Found { blocks, root } = parse("", "");
        assert!(blocks.is_empty() && root.is_none());
    }

    #[test]
    fn all_is_in_one_archive() {
        let root = Block {
            name: "sda1".into(),
            number: (7, 1),
            partition: 1,
            uuid: "a a".into(),
            label: "x".repeat(120),
            ..Block::default()
        };
        let twin = Block { name: "sda2".into(), number: (7, 2), partition: 2, label: String::new(), ..root.clone() };
        let named_so = Block {
            name: "mapper/disk-by--uuid".into(),
            number: (7, 3),
            mapper_uuid: "LVM-x".into(),
            ..Block::default()
        };
        let (archive, text) = pack(&[root, twin, named_so], Some("a-b")).unwrap().finish("/a.tar").unwrap();
        let mut found = std::collections::BTreeMap::new();
        let mut read = tar::Archive::new(archive.as_slice());
        for entry in read.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let target = entry.link_name().unwrap().map(|target| target.to_str().unwrap().to_owned());
            // Others say nothing there.
            let number = |number: io::Result<Option<u32>>| number.ok().flatten();
            let device = number(header.device_major()).zip(number(header.device_minor()));
            let facts = (header.entry_type(), header.mode().unwrap(), header.gid().unwrap(), target, device);
            let before = found.insert(path.clone(), facts);
            assert!(before.is_none(), "{path} is there twice");
        }
        let link = |target: &str| (EntryType::Symlink, 0o777, 0, Some(target.to_owned()), None);
        let plain = |kind, mode| (kind, mode, 0, None, None);
        assert_eq!(found["skeleton/dev/sda2"], (EntryType::Block, 0o660, 6, None, Some((7, 2))));
        // The first of two with one identity has the name.
        assert_eq!(found[r"skeleton/dev/disk/by-uuid/a\x20a"], link("../../sda1"));
        assert_eq!(found[&format!("skeleton/dev/disk/by-label/{}", "x".repeat(120))], link("../../sda1"));
        // A volume whose group and name give the path of a folder has no link there.
        assert!(!found.contains_key("skeleton/dev/disk/by-uuid"), "{found:?}");
        assert_eq!(found["machine/proc/cmdline"], plain(EntryType::Regular, 0o644));
        assert_eq!(found["machine/sys/bus/scsi/devices"], plain(EntryType::Directory, 0o755));
        assert_eq!(found["skeleton/run/udev/data/b7:1"], plain(EntryType::Regular, 0o644));
        assert!(text.contains("[ -e '/proc/swaps' ] || set -- \"$@\" '--exclude=machine/proc/swaps'\n"), "{text}");
    }
}
