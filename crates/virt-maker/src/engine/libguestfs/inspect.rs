//! Which disk holds the guest's root, and what is mounted where.
//!
//! # The quick way
//! One shell command lists the appliance's block devices with `blkid` and looks at each file system that Linux roots
//! live on. If exactly one looks like a root, its `/etc/fstab` is read here and each entry is matched to a device by
//! UUID, LABEL, PARTUUID, PARTLABEL or name. LVM volumes are devices like others, for the appliance activates them.
//! # libguestfs's inspection
//! Where the quick way finds no root (btrfs subvolumes, Windows, ...), `guestfs_inspect_os` decides, at its price.
//!
//! # Two kinds of names
//! What the kernel calls a disk hangs on which one it saw first, and that changes from start to start. libguestfs's calls
//! have names of their own: they count its disks and translate (`/dev/sda` may be the kernel's `/dev/sdb`). So what the
//! shell finds is mounted by the shell, and what libguestfs finds by libguestfs.
//!
//! An entry that cannot be mounted is an error, unless it says `nofail`; one whose disk or folder is not there is left out
//! with a warning, where the tree is the guest's own without it. `noauto`, swap, network and kernel file systems are left out.

use std::collections::HashMap;

use virt_maker_agent::blocks::DISK;
use virt_maker_agent::fstab::{self, Entry, Told};
use virt_maker_agent::protocol::{OsRelease, Root};

use super::ffi::{CallError, Handle, Mark};
use super::launch::{Appliance, CACHE_SERIAL};
use super::shell::quote;
use crate::engine::agent::{MEND, WHICH_ROOT};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;

/// Lists devices, then names those whose file system looks like the root of a Linux system. Not the appliance's own, and
/// not disks of caches, whose serial number tells them.
const LOOK: &str = r#"
udevadm settle
appliance=$(stat -c %D /)
mkdir -p /run/virt-maker-look
blkid -c /dev/null | sed -n 's/:.*//p' | while read -r device; do
    number=$(stat -L -c '%t:%T' "$device")
    [ "$(printf '%x%02x' "0x${number%:*}" "0x${number#*:}")" = "$appliance" ] && continue
    node=/sys/class/block/${device##*/}
    grep -aqs '#CACHE#' $node/device/vpd_pg80 $node/../device/vpd_pg80 && continue
    echo "DEVICE=$device"
    blkid -c /dev/null -p -o export "$device" | grep -v ^DEVNAME=
    for link in $(udevadm info -q symlink -n "$device"); do echo "LINK=/dev/$link"; done
    case $(blkid -c /dev/null -p -s TYPE -o value "$device") in
        ext[234] | xfs | btrfs | f2fs | reiserfs | jfs) ;;
        *) continue ;;
    esac
    mount -o ro "$device" /run/virt-maker-look || { echo UNREADABLE=1; continue; }
    cd /run/virt-maker-look
    if [ -d etc ] && [ ! -L etc ]; then
        for system in bin sbin usr; do
            [ -e $system ] || [ -L $system ] || continue
            for file in etc/os-release etc/fstab etc/passwd usr/lib/os-release; do
                if [ -e $file ] || [ -L $file ]; then echo ROOT=1; break 2; fi
            done
        done
    fi
    cd /
    umount /run/virt-maker-look
done
rmdir /run/virt-maker-look
"#;

const FSTAB: &str = "/etc/fstab";
const NO_DEVICE: &str = "no disk or partition of the guest has this name";

/// The longest value of `os-release` that is passed on, in characters.
const MAX_VALUE: usize = 256;

/// A block device of the appliance with what `blkid` says of it.
#[derive(Debug, Default)]
struct Device {
    path: String,
    tags: HashMap<String, String>,
    links: Vec<String>,
    root: bool,
}

/// What is mounted.
pub(super) struct Mounted {
    /// Device, mount point in the appliance and type of each file system of the guest, in mount order.
    pub file_systems: Vec<FileSystem>,
    /// What the guest says it is.
    pub os: OsRelease,
    /// What is known of its fstab.
    pub fstab: Fstab,
}

/// One mounted file system, as the appliance's kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileSystem {
    pub device: String,
    /// In the appliance, `/sysroot` and below.
    pub path: String,
    pub kind: String,
}

/// Finds the root, mounts all, and reads `/etc/os-release`.
pub(super) fn mount(appliance: &mut Appliance, to_mend: bool, said: Option<&Root>, events: &Events) -> Result<Mounted> {
    let text = appliance
        .handle
        .appliance_sh(&LOOK.replace("#CACHE#", CACHE_SERIAL))
        .map_err(|error| appliance.error(ErrorKind::Internal, "cannot list the guest's file systems", error))?;
    let devices = parse_devices(&text);
    let roots: Vec<&Device> = devices.iter().filter(|device| device.root).collect();
    let told = match (said, roots.as_slice()) {
        (Some(said), _) => {
            let Some(root) = named(&devices, &fstab::Device::named(&said.device)) else {
                let list: Vec<&str> = devices.iter().map(|device| device.path.as_str()).collect();
                let message =
                    format!("the root is said to be {}: no such device; there is {}", said.device, list.join(", "));
                return Err(Error::new(ErrorKind::Guest, message));
            };
            let options = said.subvol().map(|path| format!("subvol={path}"));
            mount_by_fstab(appliance, &devices, root, &options.unwrap_or_default(), to_mend, events)?
        }
        (None, [root]) => mount_by_fstab(appliance, &devices, root, "", to_mend, events)?,
        (None, []) => {
            mount_by_inspection(appliance, &devices, to_mend, events)?;
            Told::default()
        }
        (None, several) => return Err(several_roots(several.iter().map(|device| device.path.as_str()))),
    };
    let mounts = appliance
        .handle
        .appliance_sh("cat /proc/self/mounts")
        .map_err(|error| appliance.error(ErrorKind::Internal, "cannot list what is mounted", error))?;
    let mark = Fstab::mark(appliance);
    let os = os_release(&mut appliance.handle);
    Ok(Mounted { file_systems: parse_mounts(&mounts), os, fstab: Fstab { devices, mark, told } })
}

fn several_roots<'a>(roots: impl Iterator<Item = &'a str>) -> Error {
    let list = roots.collect::<Vec<_>>().join(", ");
    Error::new(ErrorKind::Guest, format!("the guest has more than one root file system: {list}")).with_hint(WHICH_ROOT)
}

fn parse_devices(text: &str) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match (key, devices.last_mut()) {
            ("DEVICE", _) => devices.push(Device { path: value.into(), ..Device::default() }),
            ("LINK", Some(device)) => device.links.push(value.into()),
            ("ROOT", Some(device)) => device.root = true,
            (_, Some(device)) => {
                device.tags.insert(key.into(), unescape(value));
            }
            (_, None) => {}
        }
    }
    devices
}

/// Undoes a backslash before a character (`blkid`) or before three octal digits (mounts).
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        if next != '\\' {
            out.push(next);
            continue;
        }
        let digits: String = rest.clone().take(3).collect();
        match u8::from_str_radix(&digits, 8) {
            Ok(code) if digits.len() == 3 => {
                out.push(char::from(code));
                rest.nth(2);
            }
            _ => out.extend(rest.next()),
        }
    }
    out
}

/// Entries to be mounted after the root, outer mount points first.
fn wanted(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> =
        fstab::parse(text).into_iter().filter(|entry| entry.is_wanted() && entry.mount_point != "/").collect();
    entries.sort_by_key(|entry| entry.mount_point.matches('/').count());
    entries
}

/// The device that an entry means.
fn find_device<'a>(devices: &'a [Device], entry: &Entry) -> Option<&'a Device> {
    named(devices, &entry.named_device())
}

/// The device of a name.
fn named<'a>(devices: &'a [Device], name: &fstab::Device) -> Option<&'a Device> {
    let tagged = |tag: &str, value: &str, exact: bool| {
        devices.iter().find(|device| {
            device.tags.get(tag).is_some_and(|have| have == value || !exact && have.eq_ignore_ascii_case(value))
        })
    };
    let called =
        |name: &str| devices.iter().find(|device| device.path == name || device.links.iter().any(|link| link == name));
    match name {
        fstab::Device::Uuid(value) => tagged("UUID", value, false),
        fstab::Device::Label(value) => tagged("LABEL", value, true),
        fstab::Device::PartUuid(value) => tagged("PART_ENTRY_UUID", value, false),
        fstab::Device::PartLabel(value) => tagged("PART_ENTRY_NAME", value, true),
        fstab::Device::Number(0) => devices.iter().find(|device| !device.tags.contains_key("PART_ENTRY_NUMBER")),
        fstab::Device::Number(number) => tagged("PART_ENTRY_NUMBER", &number.to_string(), true),
        // Names of partitions of other disks would hit the appliance's own names.
        fstab::Device::Other(name) if name.starts_with("/dev/sd") => None,
        fstab::Device::Other(name) => called(name),
    }
}

fn mount_by_fstab(
    appliance: &mut Appliance,
    devices: &[Device],
    root: &Device,
    options: &str,
    to_mend: bool,
    events: &Events,
) -> Result<Told> {
    let mut told = Told::default();
    mount_by_name(appliance, options, &root.path, "/").map_err(|error| {
        let what = match options.strip_prefix("subvol=/") {
            Some(path) => format!("the root is said to be subvolume {path} of {}, which cannot be mounted", root.path),
            None => format!("cannot mount the guest's root, {}", root.path),
        };
        appliance.error(ErrorKind::Guest, what, error)
    })?;
    let fstab = match small_file(&mut appliance.handle, FSTAB) {
        Ok(fstab) => fstab,
        Err(error) if error.errno == libc::ENOENT => String::new(),
        Err(error) => return Err(appliance.error(ErrorKind::Guest, "cannot read the guest's /etc/fstab", error)),
    };
    for entry in wanted(&fstab) {
        let Entry { device: source, mount_point, .. } = &entry;
        let mounted = match find_device(devices, &entry) {
            Some(device) => appliance.handle.realpath(mount_point).and_then(|place| {
                let kind = device.tags.get("TYPE").map_or("", String::as_str);
                let options: Vec<String> =
                    entry.mount_options(kind).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
                mount_by_name(appliance, &options.join(","), &device.path, &place)
            }),
            None => Err(CallError { call: "fstab", message: NO_DEVICE.into(), errno: libc::ENOENT }),
        };
        match mounted {
            Ok(()) => {}
            Err(error) if may_miss(&entry, &error, to_mend) && !appliance.cancel.is_cancelled() => {
                events.warn(entry.left_out(&error.to_string()).escape_debug().to_string());
                told.note(&entry);
            }
            Err(error) => {
                let what = format!("the guest's /etc/fstab wants {source} at {mount_point}, which cannot be mounted");
                return Err(appliance.error(ErrorKind::Guest, what, error).with_hint(MEND));
            }
        }
    }
    Ok(told)
}

/// The guest's fstab as it was looked at last, with the disks that it can name.
pub(super) struct Fstab {
    devices: Vec<Device>,
    mark: Option<Mark>,
    told: Told,
}

impl Fstab {
    /// One call, which reads nothing of the file.
    fn mark(appliance: &mut Appliance) -> Option<Mark> {
        appliance.handle.stat(FSTAB, true).ok().map(|stat| stat.mark)
    }

    /// See [`crate::guest::Guest::fstab_news`].
    pub(super) fn news(&mut self, appliance: &mut Appliance) -> Result<Vec<String>> {
        let mark = Fstab::mark(appliance);
        if mark == self.mark {
            return Ok(Vec::new());
        }
        let text = match mark {
            None => String::new(),
            Some(_) => small_file(&mut appliance.handle, FSTAB)
                .map_err(|error| appliance.error(ErrorKind::Guest, "cannot read the guest's /etc/fstab", error))?,
        };
        let mut missing = Vec::new();
        for entry in wanted(&text) {
            let why = match find_device(&self.devices, &entry) {
                None => NO_DEVICE.to_owned(),
                Some(_) => match appliance.handle.realpath(&entry.mount_point) {
                    Ok(_) => continue,
                    Err(error) => error.to_string(),
                },
            };
            missing.push((entry, why));
        }
        self.mark = mark;
        Ok(self.told.news(&missing))
    }
}

/// Whether a guest is opened without what could not be mounted.
fn may_miss(entry: &Entry, error: &CallError, to_mend: bool) -> bool {
    entry.is_optional() || to_mend || error.errno == libc::ENOENT && !entry.is_essential()
}

/// Mounts the device that the kernel calls `device` at `place` of the guest, which goes through no link. A partition of the guest's
/// disk is mounted by the name that commands see ([`CALL`]).
fn mount_by_name(appliance: &mut Appliance, options: &str, device: &str, place: &str) -> Result<(), CallError> {
    let options = if options.is_empty() { String::new() } else { format!("-o {} ", quote(options)) };
    let place = quote(&format!("/sysroot{place}"));
    let letters =
        device.strip_prefix("/dev/sd").map(|rest| rest.trim_end_matches(|letter: char| letter.is_ascii_digit()));
    let command = match letters {
        Some(letters) if !letters.is_empty() => {
            let called = format!("/dev/{DISK}{}", &device["/dev/sd".len() + letters.len()..]);
            format!("device={}\ncalled={called}\n{CALL}mount {options}-- $called {place}\n{UNCALL}", quote(device))
        }
        _ => format!("mount {options}-- {} {place}", quote(device)),
    };
    appliance.handle.appliance_sh(&command).map(drop)
}

/// Gives `$device` the name `$called`, which the kernel remembers of a mount. A link of that name in `names` says which it is.
const CALL: &str = r#"
names=/run/virt-maker-names
if [ "$device" != "$called" ]; then
    [ -d $names ] || mkdir $names
    read -r number <"/sys/class/block/${device##*/}/dev"
    ln -sf "$device" "$names/${called##*/}"
    mknod $names/node b "${number%:*}" "${number#*:}"
    made=
    [ -e $called ] || { : >$called && made=1; }
    mount --bind $names/node $called
fi
"#;

/// Takes it back after the mount.
const UNCALL: &str = r#"
status=$?
if [ "$device" != "$called" ]; then
    umount $called
    rm $names/node ${made:+"$called"}
fi
exit $status
"#;

fn mount_by_inspection(appliance: &mut Appliance, devices: &[Device], to_mend: bool, events: &Events) -> Result<()> {
    let roots = appliance
        .handle
        .inspect_os()
        .map_err(|error| appliance.error(ErrorKind::Guest, "libguestfs could not inspect the guest", error))?;
    let root = match roots.as_slice() {
        [root] => root,
        [] => return Err(no_root(devices)),
        several => match itself(appliance, several)? {
            Some(root) => root,
            None => return Err(several_roots(several.iter().map(String::as_str))),
        },
    };
    let mut mounts = appliance
        .handle
        .inspect_get_mountpoints(root)
        .map_err(|error| appliance.error(ErrorKind::Guest, "libguestfs could not read the guest's fstab", error))?;
    mounts.sort_by_key(|(mount_point, _)| mount_point.len());
    for (mount_point, mountable) in mounts {
        let Err(error) = appliance.handle.mount_options("", &mountable, &mount_point) else { continue };
        let what = format!("the guest wants {mountable} at {mount_point}, which cannot be mounted");
        // libguestfs does not say whether the disk is there, nor which options the entry has.
        let essential = matches!(mount_point.as_str(), "/" | "/usr" | "/boot" | "/var");
        if appliance.cancel.is_cancelled() || mount_point == "/" || essential && !to_mend {
            return Err(appliance.error(ErrorKind::Guest, what, error).with_hint(MEND));
        }
        events.warn(format!("{what} and is left out: {error}").escape_debug().to_string());
    }
    Ok(())
}

/// Of several roots, the one that its own fstab mounts as `/`: the fstab in a snapshot names what the snapshot was taken of.
fn itself<'a>(appliance: &mut Appliance, roots: &'a [String]) -> Result<Option<&'a String>> {
    let mut own = Vec::new();
    for root in roots {
        let mounts = appliance.handle.inspect_get_mountpoints(root).map_err(|error| {
            appliance.error(ErrorKind::Guest, format!("libguestfs could not read the fstab in {root}"), error)
        })?;
        let is_btrfs = root.starts_with("btrfsvol:");
        if is_btrfs && mounts.iter().any(|(place, mountable)| place == "/" && mountable == root) {
            own.push(root);
        }
    }
    Ok(if let [one] = own[..] { Some(one) } else { None })
}

fn no_root(devices: &[Device]) -> Error {
    let kinds: Vec<String> = devices
        .iter()
        .map(|device| {
            let kind = device.tags.get("TYPE").or_else(|| device.tags.get("PTTYPE"));
            format!("{} ({})", device.path, kind.map_or("unknown", String::as_str))
        })
        .collect();
    let found = if kinds.is_empty() { "nothing that libguestfs knows".into() } else { kinds.join(", ") };
    let error = Error::new(ErrorKind::Guest, format!("the guest has no root file system; on its disk is: {found}"));
    if devices.iter().any(|device| device.tags.get("TYPE").is_some_and(|kind| kind == "crypto_LUKS")) {
        return error.with_hint("an encrypted root cannot be opened: virt-maker has no key for it");
    }
    error.with_hint("the base must be a disk image of an installed operating system")
}

/// The first MiB of a text file.
pub(super) fn small_file(handle: &mut Handle, path: &str) -> Result<String, CallError> {
    handle.head(path, 1 << 20).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What the guest says it is; empty where it says nothing.
fn os_release(handle: &mut Handle) -> OsRelease {
    let text = small_file(handle, "/etc/os-release").or_else(|_| small_file(handle, "/usr/lib/os-release"));
    parse_os_release(&text.unwrap_or_default())
}

fn parse_os_release(text: &str) -> OsRelease {
    let mut os = OsRelease::default();
    for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
        let quoted = ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q));
        let value: String = unescape(quoted.unwrap_or(value)).chars().take(MAX_VALUE).collect();
        match key {
            "ID" => os.id = value,
            "ID_LIKE" => os.id_like = value.split_whitespace().map(str::to_owned).collect(),
            "VERSION_ID" => os.version_id = value,
            "PRETTY_NAME" => os.pretty_name = value,
            _ => {}
        }
    }
    os
}

/// File systems at `/sysroot` and below, from `/proc/self/mounts`.
fn parse_mounts(text: &str) -> Vec<FileSystem> {
    let mut mounts = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(' ').map(unescape);
        let (Some(device), Some(path), Some(kind)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if path == "/sysroot" || path.starts_with("/sysroot/") {
            mounts.push(FileSystem { device, path, kind });
        }
    }
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_mount_points_come_first() {
        let fstab = "UUID=1-2 / ext4\nLABEL=esp /boot/efi vfat\n/dev/sda3 none swap\n/dev/vda2 /boot ext4\n";
        let seen: Vec<String> = wanted(fstab).into_iter().map(|entry| entry.mount_point).collect();
        assert_eq!(seen, ["/boot", "/boot/efi"]);
    }

    #[test]
    fn devices_are_found_by_tag_and_by_the_guest_s_own_name() {
        let devices = parse_devices(
            "DEVICE=/dev/sdb1\nUUID=AB-CD\nLABEL=my\\ boot\nPART_ENTRY_NUMBER=1\nLINK=/dev/disk/by-id/x\n\
             DEVICE=/dev/sdb2\nUUID=ef\nPART_ENTRY_UUID=aa\nPART_ENTRY_NUMBER=2\nROOT=1\n\
             DEVICE=/dev/vg/root\nUUID=gh\nLINK=/dev/mapper/vg-root\n",
        );
        let find = |source: &str| {
            let entry = fstab::parse(&format!("{source} /x auto defaults 0 0")).remove(0);
            find_device(&devices, &entry).map(|device| device.path.as_str())
        };
        for (source, path) in [
            ("UUID=ab-cd", Some("/dev/sdb1")),
            ("LABEL=my\\040boot", Some("/dev/sdb1")),
            ("PARTUUID=AA", Some("/dev/sdb2")),
            ("/dev/vda2", Some("/dev/sdb2")),
            ("/dev/nvme0n1p1", Some("/dev/sdb1")),
            ("/dev/mapper/vg-root", Some("/dev/vg/root")),
            ("/dev/disk/by-id/x", Some("/dev/sdb1")),
            ("/dev/vda3", None),
            ("/dev/vdb1", None),
            ("UUID=none", None),
        ] {
            assert_eq!(find(source), path, "{source}");
        }
        assert!(devices[1].root && !devices[0].root);
    }

    #[test]
    fn os_release_is_unquoted() {
        let os = parse_os_release("ID=debian\nID_LIKE=\"a b\"\nVERSION_ID='12'\nPRETTY_NAME=\"say \\\"hi\\\"\"\n");
        assert_eq!((os.id.as_str(), os.version_id.as_str()), ("debian", "12"));
        assert_eq!(os.id_like, ["a", "b"]);
        assert_eq!(os.pretty_name, "say \"hi\"");
    }

    #[test]
    fn mounts_of_the_guest_are_those_below_sysroot() {
        let mounts = parse_mounts(
            "/dev/sda / ext2 rw 0 0\n/dev/sdb1 /sysroot ext4 rw 0 0\n/dev/sdb2 /sysroot/a\\040b xfs rw 0 0\n/x /sysrooted ext4 rw 0 0\n",
        );
        let paths: Vec<_> = mounts.iter().map(|mount| (mount.path.as_str(), mount.kind.as_str())).collect();
        assert_eq!(paths, [("/sysroot", "ext4"), ("/sysroot/a b", "xfs")]);
    }
}
