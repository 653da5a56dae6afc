//! The guest's fstab: what is to be mounted where.
//!
//! Pure text work; nothing is mounted here. The format is that of fstab(5): six fields at blanks, `\040` and friends
//! for blanks within a field. What virt-maker leaves out on purpose is in [`Entry::is_wanted`].

/// One line of an fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number of the line, from 1.
    pub line: usize,
    /// The device, unescaped.
    pub device: String,
    /// The mount point, unescaped.
    pub mount_point: String,
    /// File system type, a list of types, or `auto`.
    pub kind: String,
    /// Options, split at commas.
    pub options: Vec<String>,
}

/// How an entry names its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// Identity of the file system, in lower case.
    Uuid(String),
    /// Name of the file system.
    Label(String),
    /// Identity of the partition, in lower case.
    PartUuid(String),
    /// Name of the partition.
    PartLabel(String),
    /// A partition of a disk by its number, 0 for the whole disk. Only the guest's first disk can be meant.
    Number(u32),
    /// A name that needs another layer or a second disk: `/dev/mapper/root`, `/dev/sdb1`; the text is the name.
    Other(String),
}

/// Types that have no disk behind them, or one that virt-maker does not mount.
const SKIPPED: &[&str] = &[
    "9p",
    "autofs",
    "binfmt_misc",
    "bpf",
    "ceph",
    "cgroup",
    "cgroup2",
    "cifs",
    "configfs",
    "davfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fuse",
    "fuse.sshfs",
    "fusectl",
    "glusterfs",
    "hugetlbfs",
    "ignore",
    "mqueue",
    "ncpfs",
    "nfs",
    "nfs4",
    "none",
    "nfsd",
    "ocfs2",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "securityfs",
    "smb3",
    "smbfs",
    "swap",
    "sysfs",
    "tmpfs",
    "tracefs",
    "virtiofs",
];

impl Entry {
    /// Whether the entry names something to be mounted: no swap, no pseudo or network file system, no `noauto`, no
    /// bind mount, not what a person plugs in (floppies and CD drives).
    pub fn is_wanted(&self) -> bool {
        self.mount_point.starts_with('/')
            && !SKIPPED.contains(&self.kind.as_str())
            && !self.kind.starts_with("fuse.")
            && !["noauto", "bind", "rbind", "_netdev"].iter().any(|option| self.has(option))
            && !["/dev/fd", "/dev/sr", "/dev/cdrom", "/dev/floppy"].iter().any(|start| self.device.starts_with(start))
    }

    /// Whether the option is given.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|given| given == option)
    }

    /// Whether the guest boots without it.
    pub fn is_optional(&self) -> bool {
        self.has("nofail")
    }

    /// Whether the tree is not the guest's own without it: what a step writes there would land below the mount point.
    pub fn is_essential(&self) -> bool {
        matches!(self.mount_point.trim_end_matches('/'), "" | "/usr" | "/boot" | "/var")
    }

    /// What to say where an entry is left out, whose disk or folder is not there.
    pub fn left_out(&self, why: &str) -> String {
        let Entry { line, device, mount_point, .. } = self;
        let after = match (self.is_optional(), self.is_essential()) {
            (true, _) => "left out, since it is `nofail`",
            (false, false) => {
                "left out; the guest waits for it at its boot: mend the entry, or give it the option `nofail`"
            }
            (false, true) => "left out, so that it can be mended",
        };
        format!("fstab line {line}, {device} on {mount_point}: {why}; {after}")
    }

    /// What to say where a step has just written an entry whose disk or folder is not there.
    pub fn not_there(&self, why: &str) -> String {
        let Entry { line, device, mount_point, .. } = self;
        let after = match (self.is_optional(), self.is_essential()) {
            (true, _) => "the guest boots without it, since it is `nofail`",
            (false, false) => "the guest waits for it at its boot: mend the entry, or give it the option `nofail`",
            (false, true) => "no other build can open this guest: mend the entry, or give it the option `nofail`",
        };
        format!("fstab line {line}, {device} on {mount_point}: {why}; {after}")
    }

    /// What tells entries apart that were told of.
    fn mount(&self) -> (String, String) {
        (self.device.clone(), self.mount_point.clone())
    }

    /// The options that decide WHICH tree is seen or how its names and owners look; all others (`ro`, `noexec`, quota,
    /// ...) serve the running guest and are left out, as a step has to be able to write.
    pub fn mount_options(&self, kind: &str) -> Vec<(String, String)> {
        let kept: &[&str] = match kind {
            "btrfs" => &["subvol", "subvolid", "compress", "compress-force"],
            "vfat" | "exfat" | "ntfs" => {
                &["uid", "gid", "umask", "fmask", "dmask", "iocharset", "codepage", "shortname"]
            }
            _ => &[],
        };
        self.options
            .iter()
            .filter_map(|option| option.split_once('='))
            .filter(|(key, _)| kept.contains(key))
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    }

    /// How the device is named.
    pub fn named_device(&self) -> Device {
        Device::named(&self.device)
    }
}

/// Entries whose disk or folder is not there and that were told of, so that nothing is said twice.
#[derive(Debug, Default)]
pub struct Told(Vec<(String, String)>);

impl Told {
    /// It is said by somebody else.
    pub fn note(&mut self, entry: &Entry) {
        self.0.push(entry.mount());
    }

    /// What to say of an fstab that was written since: these are all entries with something missing that it has now, each with
    /// what that is.
    pub fn news(&mut self, missing: &[(Entry, String)]) -> Vec<String> {
        let new = missing.iter().filter(|(entry, _)| !self.0.contains(&entry.mount()));
        let news = new.map(|(entry, why)| entry.not_there(why)).collect();
        self.0 = missing.iter().map(|(entry, _)| entry.mount()).collect();
        news
    }
}

impl Device {
    /// What a name means where an fstab has it.
    pub fn named(name: &str) -> Device {
        if let Some((key, value)) = name.split_once('=') {
            let value = value.trim_matches(|sign| sign == '"' || sign == '\'');
            return match key {
                // The dash-less, upper-case serial numbers of FAT compare as well as UUIDs when lowered.
                "UUID" => Device::Uuid(value.to_ascii_lowercase()),
                "LABEL" => Device::Label(value.to_string()),
                "PARTUUID" => Device::PartUuid(value.to_ascii_lowercase()),
                "PARTLABEL" => Device::PartLabel(value.to_string()),
                _ => Device::Other(name.to_string()),
            };
        }
        if let Some((by, value)) = name.strip_prefix("/dev/disk/by-").and_then(|rest| rest.split_once('/')) {
            let value = udev_unescape(value);
            return match by {
                "uuid" => Device::Uuid(value.to_ascii_lowercase()),
                "label" => Device::Label(value),
                "partuuid" => Device::PartUuid(value.to_ascii_lowercase()),
                "partlabel" => Device::PartLabel(value),
                _ => Device::Other(name.to_string()),
            };
        }
        // The first disk under the names that the common buses give it.
        for disk in ["/dev/sda", "/dev/vda", "/dev/xvda", "/dev/hda"] {
            if let Some(number) = name.strip_prefix(disk).and_then(partition_number) {
                return Device::Number(number);
            }
        }
        for disk in ["/dev/nvme0n1", "/dev/mmcblk0"] {
            match name.strip_prefix(disk) {
                Some("") => return Device::Number(0),
                Some(rest) => {
                    if let Some(number @ 1..) = rest.strip_prefix('p').and_then(partition_number) {
                        return Device::Number(number);
                    }
                }
                None => {}
            }
        }
        Device::Other(name.to_string())
    }
}

/// `""` is the whole disk, `"3"` a partition; anything else is no partition of this disk.
fn partition_number(digits: &str) -> Option<u32> {
    if digits.is_empty() {
        return Some(0);
    }
    if digits.len() > 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|number| *number > 0)
}

/// The entries of an fstab. Lines that are empty, comments, or too short to mean anything yield none.
pub fn parse(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut fields = line.split_ascii_whitespace();
        let (Some(device), Some(mount_point), Some(kind)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let options = fields.next().unwrap_or("defaults");
        entries.push(Entry {
            line: index + 1,
            device: unescape(device),
            mount_point: unescape(mount_point),
            kind: kind.to_string(),
            options: options.split(',').map(unescape).collect(),
        });
    }
    entries
}

/// Resolves fstab's `\040`: a backslash and three octal digits. Anything else stands for itself.
fn unescape(field: &str) -> String {
    decode(field, |rest| {
        let digits = rest.get(1..4)?;
        let value = u16::from_str_radix(digits, 8).ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        Some((u8::try_from(value).ok()?, 4))
    })
}

/// Resolves udev's `\x20` in the names under `/dev/disk`.
fn udev_unescape(name: &str) -> String {
    decode(name, |rest| {
        let digits = rest.strip_prefix("\\x")?.get(..2)?;
        let value =
            u8::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        Some((value, 4))
    })
}

/// Replaces each sequence at a backslash for which `escape` gives its byte and its length.
fn decode(text: &str, escape: impl Fn(&str) -> Option<(u8, usize)>) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        let (byte, used) = escape(rest).unwrap_or((b'\\', 1));
        bytes.push(byte);
        rest = &rest[used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> Device {
        parse(&format!("{name} /mnt ext4 defaults 0 0"))[0].named_device()
    }

    #[test]
    fn a_common_fstab_is_read() {
        let entries = parse(
            "# comment\n\nUUID=AAAA-bbbb / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1\n\
             \tLABEL=my\\040data  /srv/my\\040data\text4\tdefaults,nofail 0 2\n/dev/sda5 none swap sw 0 0\nproc /proc proc\nbroken line\n",
        );
        assert_eq!(entries.len(), 4);
        assert_eq!(entries[0].line, 3);
        assert_eq!(entries[0].named_device(), Device::Uuid("aaaa-bbbb".into()));
        assert!(entries[0].is_wanted() && !entries[0].is_optional());
        assert_eq!(entries[1].mount_point, "/srv/my data");
        assert_eq!(entries[1].named_device(), Device::Label("my data".into()));
        assert!(entries[1].is_optional());
        assert!(!entries[2].is_wanted());
        assert!(!entries[3].is_wanted());
    }

    #[test]
    fn devices_are_named_in_many_ways() {
        assert_eq!(device("/dev/sda"), Device::Number(0));
        assert_eq!(device("/dev/sda1"), Device::Number(1));
        assert_eq!(device("/dev/vda15"), Device::Number(15));
        assert_eq!(device("/dev/xvda2"), Device::Number(2));
        assert_eq!(device("/dev/hda3"), Device::Number(3));
        assert_eq!(device("/dev/nvme0n1"), Device::Number(0));
        assert_eq!(device("/dev/nvme0n1p2"), Device::Number(2));
        assert_eq!(device("/dev/nvme0n1p"), Device::Other("/dev/nvme0n1p".into()));
        assert_eq!(device("/dev/nvme0n12"), Device::Other("/dev/nvme0n12".into()));
        assert_eq!(device("/dev/sdaa1"), Device::Other("/dev/sdaa1".into()));
        assert_eq!(device("/dev/sdb1"), Device::Other("/dev/sdb1".into()));
        assert_eq!(device("/dev/sda0"), Device::Other("/dev/sda0".into()));
        assert_eq!(device("/dev/sda99999999999999999999"), Device::Other("/dev/sda99999999999999999999".into()));
        assert_eq!(device("/dev/mapper/vg-root"), Device::Other("/dev/mapper/vg-root".into()));
        assert_eq!(device("PARTUUID=ABCD-01"), Device::PartUuid("abcd-01".into()));
        assert_eq!(device("PARTLABEL=\"root\""), Device::PartLabel("root".into()));
        assert_eq!(device("/dev/disk/by-uuid/1234-ABCD"), Device::Uuid("1234-abcd".into()));
        assert_eq!(device("/dev/disk/by-label/my\\x20disk"), Device::Label("my disk".into()));
        assert_eq!(device("/dev/disk/by-id/ata-1"), Device::Other("/dev/disk/by-id/ata-1".into()));
    }

    #[test]
    fn what_is_not_mounted() {
        for line in [
            "tmpfs /tmp tmpfs defaults",
            "server:/x /srv nfs4 defaults",
            "//server/x /srv cifs guest",
            "/dev/sda9 /media ext4 noauto",
            "/srv /home none bind",
            "/srv /home ext4 rbind",
            "/dev/sr0 /media/cdrom0 udf,iso9660 user",
            "user@host:/ /mnt fuse.sshfs defaults",
            "/dev/sda2 swap swap defaults",
        ] {
            assert!(!parse(line)[0].is_wanted(), "{line}");
        }
    }

    #[test]
    fn only_options_that_shape_the_tree_are_kept() {
        let entry = &parse("UUID=1 / btrfs ro,noatime,subvol=@root,compress=zstd:1,space_cache=v2 0 0")[0];
        assert_eq!(
            entry.mount_options("btrfs"),
            [("subvol".into(), "@root".into()), ("compress".into(), "zstd:1".into())]
        );
        assert_eq!(entry.mount_options("ext4"), []);
        let entry = &parse("UUID=1 /boot/efi vfat umask=0077,fmask=0177,ro")[0];
        assert_eq!(entry.mount_options("vfat").len(), 2);
    }

    #[test]
    fn odd_escapes_stand_for_themselves() {
        for (text, expected) in [
            (r"a\134b", r"a\b"),
            (r"a\9", r"a\9"),
            (r"a\", r"a\"),
            (r"a\777", r"a\777"),
            (r"\04é", r"\04é"),
            ("\\0\u{e9}4x", "\\0\u{e9}4x"),
            (r"\+12", r"\+12"),
        ] {
            assert_eq!(unescape(text), expected);
        }
        assert_eq!(udev_unescape(r"\x2"), r"\x2");
    }
}
