//! The guest's own disk as commands see it: the texts and links that name it in `/sys`, `/proc`, `/dev/disk` and udev's database.
//!
//! What makes boot entries and initial RAM disks (`grub-probe`, `mkinitramfs`, dracut, `kernel-install`, `lsblk`) asks from which
//! device `/` is mounted, whether it is a partition, where it begins, what its file system is, and which modules its buses
//! need. The answers here are those of the booted guest, and the same on each engine: one disk, `sda`, with its partitions.
//!
//! What must hold:
//! - All is made of what is on the guest's disk and of the numbers of the nodes that commands see; nothing is of the host.
//! - Names that the guest wrote (labels) become names of files only in the form that udev gives them.
//! - The buses between the machine and the disk are those that hypervisors have, one behind the other: an image is made for machines that
//!   nobody knows yet, and an initial RAM disk with the modules of «this machine» starts on each.

/// A number of a device: major, minor.
pub type Number = (u32, u32);

/// One block device: the disk, a partition, a logical volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// Its name below `/dev`: `sda`, `sda1`, `mapper/GROUP-VOLUME`.
    pub name: String,
    /// Of its node.
    pub number: Number,
    /// Of the device that a file system of it is mounted from, which `stat` tells of every file.
    pub mounted: Option<Number>,
    /// Its first sector on the disk, and how many there are; of 512 bytes.
    pub start: u64,
    /// See `start`.
    pub sectors: u64,
    /// Number of the partition; 0 for a disk or a volume.
    pub partition: u32,
    /// Identity of the partition, lower case; empty where it has none.
    pub part_uuid: String,
    /// Name of the partition.
    pub part_label: String,
    /// What is on it, as `blkid` calls it; empty where that is unknown.
    pub kind: String,
    /// Identity of the file system.
    pub uuid: String,
    /// Its name.
    pub label: String,
    /// Whether the booted guest swaps to it.
    pub swap: bool,
    /// The device mapper's identity of a logical volume.
    pub mapper_uuid: String,
}

/// One thing to be made, at a path below the folder that all are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A text.
    File(String, String),
    /// A symbolic link, and where it leads.
    Link(String, String),
    /// A folder that nothing may be in.
    Folder(String),
}

/// The disk's name, whatever the kernel below has it as.
pub const DISK: &str = "sda";

/// Buses and controllers from the machine to the disk, each with what the kernel finds its module by.
const BUSES: &[(&str, &str)] = &[
    ("pci0000:00", ""),
    // IDE of a PC, SATA, NVMe, VMware's and LSI's SCSI.
    ("0000:00:01.1", "pci:v00008086d00007010sv00001AF4sd00001100bc01sc01i80"),
    ("0000:00:02.0", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"),
    ("0000:00:03.0", "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"),
    ("0000:00:04.0", "pci:v000015ADd000007C0sv000015ADsd000007C0bc01sc00i00"),
    ("0000:00:05.0", "pci:v00001000d00000030sv00001000sd00001000bc01sc00i00"),
    // Hyper-V, Xen.
    ("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f", "vmbus:d96361baa104294db60572e2ffb1dc7f"),
    ("vbd-51712", "xen:vbd"),
    // Virtio: the card, a plain disk, SCSI.
    ("0000:00:06.0", "pci:v00001AF4d00001048sv00001AF4sd00001100bc01sc00i00"),
    ("virtio0", "virtio:d00000002v00001AF4"),
    ("virtio1", "virtio:d00000008v00001AF4"),
    ("host0", ""),
    ("target0:0:0", ""),
    ("0:0:0:0", "scsi:t-0x00"),
];

/// Files and links for these devices: what is in `sys` is for `/sys`, in `proc` for `/proc`, in `dev` for `/dev`, in `udev` for `/run/udev`.
pub fn items(blocks: &[Block]) -> Vec<Item> {
    let mut items = buses();
    for block in blocks {
        in_sys(&mut items, block, block.number, blocks);
        let kernel = block.kernel_name();
        let place = block.place(false);
        for class in ["class/block", if block.partition == 0 { "block" } else { "" }] {
            if !class.is_empty() {
                let up = "../".repeat(class.split('/').count());
                items.push(Item::Link(format!("sys/{class}/{kernel}"), format!("{up}{place}")));
            }
        }
        if let Some(number) = block.mounted.filter(|number| *number != block.number) {
            in_sys(&mut items, block, number, blocks);
        }
        for name in block.links() {
            let up = "../".repeat(name.split('/').count() - 1);
            items.push(Item::Link(format!("dev/{name}"), format!("{up}{}", block.name)));
        }
        for number in block.numbers() {
            items.push(Item::File(format!("udev/data/b{}:{}", number.0, number.1), block.udev()));
            let name = format!("dev/block/{}:{}", number.0, number.1);
            items.push(Item::Link(name, format!("../{}", block.name)));
        }
    }
    items.push(Item::File("proc/partitions".into(), partitions(blocks)));
    items.push(Item::File("proc/swaps".into(), swaps(blocks)));
    items
}

fn buses() -> Vec<Item> {
    let mut items = Vec::new();
    let mut path = "sys/devices".to_string();
    for (name, modalias) in BUSES {
        path = format!("{path}/{name}");
        items.push(Item::Folder(path.clone()));
        if !modalias.is_empty() {
            items.push(Item::File(format!("{path}/modalias"), format!("{modalias}\n")));
            items.push(Item::File(format!("{path}/uevent"), format!("MODALIAS={modalias}\n")));
        }
    }
    for (name, text) in [("vendor", "QEMU    "), ("model", "QEMU HARDDISK   "), ("type", "0")] {
        items.push(Item::File(format!("{path}/{name}"), format!("{text}\n")));
    }
    items.extend(["sys/bus/scsi/devices", "sys/bus/virtio/devices"].map(|path| Item::Folder(path.into())));
    items
}

/// The folder of a device, told with one of its numbers, and the link from that number.
fn in_sys(items: &mut Vec<Item>, block: &Block, number: Number, blocks: &[Block]) {
    let place = block.place(number != block.number);
    let mut files = Vec::new();
    let mut file = |name: &str, text: String| files.push((name.to_string(), text));
    let (major, minor) = number;
    let kind = if block.partition == 0 { "disk" } else { "partition" };
    let mut event = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={}\nDEVTYPE={kind}", block.name);
    if block.partition > 0 {
        event += &format!("\nPARTN={}", block.partition);
        if !block.part_label.is_empty() {
            event += &format!("\nPARTNAME={}", plain(&block.part_label));
        }
        file("partition", block.partition.to_string());
        file("start", block.start.to_string());
    } else {
        let queue = [("rotational", "0"), ("logical_block_size", "512"), ("physical_block_size", "512")];
        for (name, value) in queue.into_iter().chain([("hw_sector_size", "512"), ("minimum_io_size", "512")]) {
            file(&format!("queue/{name}"), value.to_string());
        }
        file("removable", "0".to_string());
        if block.name == DISK {
            let up = if number == block.number { "../.." } else { "../../.." };
            items.push(Item::Link(format!("sys/{place}/device"), up.to_string()));
        }
    }
    file("uevent", event);
    file("dev", format!("{major}:{minor}"));
    file("size", block.sectors.to_string());
    file("ro", "0".to_string());
    if let Some(mapper) = block.name.strip_prefix("mapper/") {
        file("dm/name", mapper.to_string());
        file("dm/uuid", block.mapper_uuid.clone());
    }
    items.extend(files.into_iter().map(|(name, text)| Item::File(format!("sys/{place}/{name}"), format!("{text}\n"))));
    let up = "../".repeat(place.split('/').count());
    items.push(Item::Link(format!("sys/{place}/subsystem"), format!("{up}class/block")));
    items.push(Item::Folder(format!("sys/{place}/holders")));
    items.push(Item::Folder(format!("sys/{place}/slaves")));
    if block.name.starts_with("mapper/") {
        for member in blocks.iter().filter(|block| block.kind == "LVM2_member") {
            let target = format!("{up}../{}", member.place(false));
            items.push(Item::Link(format!("sys/{place}/slaves/{}", member.name), target));
        }
    }
    items.push(Item::Link(format!("sys/dev/block/{major}:{minor}"), format!("../../{place}")));
}

impl Block {
    /// What the kernel calls it.
    fn kernel_name(&self) -> String {
        match self.name.strip_prefix("mapper/") {
            Some(_) => format!("dm-{}", self.number.1),
            None => self.name.clone(),
        }
    }

    /// Its folder below `/sys`. That with the number of what is mounted lies on a disk beside, which no listing shows.
    fn place(&self, beside: bool) -> String {
        let kernel = self.kernel_name();
        if self.name.starts_with("mapper/") {
            return format!("devices/virtual/{}/{kernel}", if beside { "mounted" } else { "block" });
        }
        let mut path = "devices".to_string();
        for (name, _) in BUSES {
            path = format!("{path}/{name}");
        }
        let block = if beside { "mounted/block" } else { "block" };
        match self.partition {
            0 => format!("{path}/{block}/{kernel}"),
            _ => format!("{path}/{block}/{DISK}/{kernel}"),
        }
    }

    fn numbers(&self) -> impl Iterator<Item = Number> {
        std::iter::once(self.number).chain(self.mounted.filter(|number| *number != self.number))
    }

    /// Its other names, below `/dev`.
    fn links(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (by, value) in [
            ("uuid", &self.uuid),
            ("label", &self.label),
            ("partuuid", &self.part_uuid),
            ("partlabel", &self.part_label),
        ] {
            if !value.is_empty() {
                names.push(format!("disk/by-{by}/{}", encoded(value)));
            }
        }
        if let Some(mapper) = self.name.strip_prefix("mapper/") {
            names.push(format!("disk/by-id/dm-name-{}", encoded(mapper)));
            // `-` parts group and volume, and stands doubled in their own names.
            if let Some((group, volume)) = mapper.replace("--", "\0").split_once('-') {
                let name = |part: &str| encoded(&part.replace('\0', "-"));
                names.push(format!("{}/{}", name(group), name(volume)));
            }
        }
        names
    }

    /// Its entry in udev's database.
    fn udev(&self) -> String {
        let mut text = String::new();
        for name in self.links() {
            text += &format!("S:{name}\n");
        }
        text += "I:1\n";
        let mut tell = |key: &str, value: &str| {
            if !value.is_empty() {
                text += &format!("E:{key}={value}\n");
            }
        };
        tell("ID_FS_TYPE", &self.kind);
        let usage = match self.kind.as_str() {
            "" => "",
            "swap" => "other",
            "LVM2_member" | "linux_raid_member" => "raid",
            "crypto_LUKS" => "crypto",
            _ => "filesystem",
        };
        tell("ID_FS_USAGE", usage);
        tell("ID_FS_UUID", &plain(&self.uuid));
        tell("ID_FS_UUID_ENC", &encoded(&self.uuid));
        tell("ID_FS_LABEL", &plain(&self.label));
        tell("ID_FS_LABEL_ENC", &encoded(&self.label));
        if self.partition > 0 {
            tell("ID_PART_ENTRY_NUMBER", &self.partition.to_string());
            tell("ID_PART_ENTRY_OFFSET", &self.start.to_string());
            tell("ID_PART_ENTRY_SIZE", &self.sectors.to_string());
            tell("ID_PART_ENTRY_UUID", &plain(&self.part_uuid));
            tell("ID_PART_ENTRY_NAME", &encoded(&self.part_label));
        }
        if let Some(mapper) = self.name.strip_prefix("mapper/") {
            tell("DM_NAME", mapper);
            tell("DM_UUID", &self.mapper_uuid);
        }
        text + "V:1\n"
    }
}

/// A text as udev makes a name of a link of it: other signs than a few, and all that is no UTF-8, are written as `\xNN`.
fn encoded(text: &str) -> String {
    let mut name = String::new();
    for letter in text.chars() {
        if letter.is_ascii_alphanumeric() || "#+-.:=@_".contains(letter) || !(letter.is_ascii() || letter.is_control())
        {
            name.push(letter);
        } else {
            for byte in letter.to_string().bytes() {
                name += &format!("\\x{byte:02x}");
            }
        }
    }
    // These would be folders.
    if matches!(name.as_str(), "." | "..") { name.replace('.', "\\x2e") } else { name }
}

/// A text with `_` for what udev does not have in a value.
fn plain(text: &str) -> String {
    let keep = |letter: char| letter.is_ascii_alphanumeric() || "#+-.:=@_/".contains(letter) || !letter.is_ascii();
    text.chars().map(|letter| if keep(letter) && !letter.is_control() { letter } else { '_' }).collect()
}

fn partitions(blocks: &[Block]) -> String {
    let lines = blocks.iter().map(|block| {
        let (major, minor) = block.number;
        format!("{major:4} {minor:8} {:10} {}\n", block.sectors / 2, block.kernel_name())
    });
    format!("major minor  #blocks  name\n\n{}", lines.collect::<String>())
}

fn swaps(blocks: &[Block]) -> String {
    let used = blocks.iter().filter(|block| block.swap).enumerate();
    let lines = used.map(|(index, block)| {
        // Without the page that says that it is swap space.
        let size = (block.sectors / 2).saturating_sub(4);
        format!("/dev/{:<34} partition\t{size}\t\t0\t\t-{}\n", block.name, index + 2)
    });
    format!("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Vec<Block> {
        let disk = Block { name: DISK.into(), number: (7, 3), sectors: 8192, ..Block::default() };
        let root = Block {
            name: "sda1".into(),
            number: (7, 4),
            mounted: Some((7, 1)),
            start: 2048,
            sectors: 4096,
            partition: 1,
            part_uuid: "aa-01".into(),
            part_label: "my root".into(),
            kind: "ext4".into(),
            uuid: "0a1b".into(),
            label: "../x".into(),
            ..Block::default()
        };
        let swap = Block { name: "sda2".into(), number: (7, 5), partition: 2, sectors: 64, swap: true, ..root.clone() };
        vec![disk, root, Block { mounted: None, label: String::new(), ..swap }]
    }

    fn text(items: &[Item], wanted: &str) -> String {
        let found = items.iter().find_map(|item| match item {
            Item::File(path, text) if path == wanted => Some(text.clone()),
            Item::Link(path, target) if path == wanted => Some(format!("-> {target}")),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{wanted} is not among {items:#?}"))
    }

    #[test]
    fn numbers_lead_to_what_they_are_of() {
        let items = items(&disk());
        let place = text(&items, "sys/dev/block/7:4").replace("-> ../../", "sys/");
        assert!(place.ends_with("/0:0:0:0/block/sda/sda1"), "{place}");
        for (file, content) in [
            ("start", "2048\n"),
            ("size", "4096\n"),
            ("partition", "1\n"),
            ("dev", "7:4\n"),
            ("uevent", "MAJOR=7\nMINOR=4\nDEVNAME=sda1\nDEVTYPE=partition\nPARTN=1\nPARTNAME=my_root\n"),
        ] {
            assert_eq!(text(&items, &format!("{place}/{file}")), content);
        }
        let mounted = text(&items, "sys/dev/block/7:1").replace("-> ../../", "sys/");
        assert_ne!(mounted, place);
        assert_eq!(text(&items, &format!("{mounted}/dev")), "7:1\n");
        assert_eq!(text(&items, "dev/block/7:1"), "-> ../sda1");
        assert!(text(&items, "sys/block/sda").starts_with("-> ../devices/pci0000:00/"));
        assert!(text(&items, "sys/class/block/sda1").starts_with("-> ../../devices/pci0000:00/"));
    }

    #[test]
    fn names_of_the_guest_stay_names() {
        let items = items(&disk());
        assert_eq!(text(&items, r"dev/disk/by-label/..\x2fx"), "-> ../../sda1");
        assert_eq!(text(&items, r"dev/disk/by-partlabel/my\x20root"), "-> ../../sda1");
        assert!(text(&items, "udev/data/b7:4").contains("E:ID_FS_UUID=0a1b\n"));
        assert_eq!(encoded(".."), r"\x2e\x2e");
        assert_eq!(encoded("é\u{1}"), r"é\x01");
        assert_eq!(plain("a\nE:B=c d"), "a_E:B=c_d");
    }

    #[test]
    fn what_swaps_is_said() {
        let items = items(&disk());
        assert!(text(&items, "proc/swaps").contains("/dev/sda2 "), "{items:#?}");
        assert_eq!(text(&items, "proc/swaps").lines().count(), 2);
        assert!(text(&items, "proc/partitions").ends_with("   7        5         32 sda2\n"));
    }

    #[test]
    fn a_logical_volume_lies_on_its_members() {
        let member =
            Block { name: "sda2".into(), number: (7, 5), partition: 2, kind: "LVM2_member".into(), ..Block::default() };
        let volume = Block { name: "mapper/my--vg-root".into(), number: (7, 6), ..Block::default() };
        let items = items(&[member, volume]);
        assert_eq!(text(&items, "dev/my-vg/root"), "-> ../mapper/my--vg-root");
        assert_eq!(text(&items, "sys/devices/virtual/block/dm-6/dm/name"), "my--vg-root\n");
        assert!(text(&items, "sys/devices/virtual/block/dm-6/slaves/sda2").contains("/block/sda/sda2"));
    }
}
