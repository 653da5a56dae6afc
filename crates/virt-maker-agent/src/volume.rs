//! The guest's disk: its partitions, and one mount of a file system on one of them.
//!
//! Mounts are made with the kernel's file-descriptor API: a file system can be looked at before it is attached to any
//! folder, and a mount that nobody attached goes with its descriptor. All are `nosuid,nodev,noatime`: no device node
//! of a guest can be opened, and reading leaves no trace on its disk.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, fsconfig_reconfigure, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, fspick,
};
use virt_maker_agent::blocks::DISK;
use virt_maker_agent::fstab::Device;
use virt_maker_agent::partition;
use virt_maker_agent::probe::{Content, Found, probe};
use virt_maker_agent::protocol::{Failure, FailureKind};

use crate::erase;
use crate::ext_features;
use crate::failure::{Result, failure, refused, system};
use crate::loopdev::{LoopDevice, attach};
use crate::lvm::{self, Groups, Logical};
use crate::naming::{self, Names};
use crate::node;

/// What the disk discards: clusters of overlays, in bytes.
const UNIT: u64 = 4096;
/// `_IOWR('X', 121, struct fstrim_range)`, from `linux/fs.h`.
const FITRIM: u32 = 0xc018_5879;

/// The guest's disk.
#[derive(Debug)]
pub struct Disk {
    /// Its name below `/sys/block`, where it is a block device of this kernel.
    node: Option<String>,
    file: File,
    volumes: Vec<Volume>,
    size: u64,
    /// What its places are called where they are mounted from.
    names: Option<Names>,
    /// Volume groups on it that are active.
    groups: Option<Groups>,
    /// Why its logical volumes are not among its places.
    problem: Option<String>,
}

/// A place on the disk that may hold a file system: a partition, all of it, or a logical volume.
#[derive(Debug)]
pub struct Volume {
    /// Number of the partition; 0 for the whole disk. Of a logical volume, that of the first place that LVM has.
    pub number: u32,
    /// What was found there.
    pub found: Option<Found>,
    start: u64,
    length: u64,
    part_uuid: String,
    part_label: String,
    logical: Option<Logical>,
    /// Made when the first file system on it is mounted.
    device: Option<Source>,
}

/// What a file system is mounted from.
#[derive(Debug)]
enum Source {
    /// A block device that is there as long as the disk is.
    Node(String),
    /// A device of the agent's own.
    Loop(LoopDevice),
}

impl Source {
    fn path(&self) -> &str {
        match self {
            Source::Node(path) => path,
            Source::Loop(device) => &device.path,
        }
    }
}

impl Disk {
    /// Opens a raw image or a block device and looks at what is on it; in an appliance also in its logical volumes.
    pub fn open(path: &str, appliance: bool) -> Result<Disk> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| system(format_args!("open the disk {path}"), error))?;
        let size = file.seek(SeekFrom::End(0)).map_err(|error| system(format_args!("read the disk {path}"), error))?;
        let table = partition::read(&mut file, size).map_err(|error| match error {
            partition::TableError::Read(error) => system("read the partition table", error),
            broken => failure(FailureKind::NoRoot, broken.to_string()),
        })?;
        let places = match table {
            Some(table) => table.partitions.into_iter().map(Volume::of_partition).collect(),
            None => vec![Volume::whole(size)],
        };
        let node = node::name(&file);
        let mut disk = Disk { node, file, volumes: places, size, names: None, groups: None, problem: None };
        for volume in &mut disk.volumes {
            volume.found = probe(&mut disk.file, volume.start, volume.length)
                .map_err(|error| system(format_args!("read {}", volume.name()), error))?;
        }
        let members: Vec<usize> = (0..disk.volumes.len()).filter(|index| disk.volumes[*index].is_member()).collect();
        if appliance && !members.is_empty() {
            // A root outside of LVM is found without it, so this decides nothing yet.
            disk.problem = disk.open_groups(&members).err().map(|problem| problem.message);
        }
        Ok(disk)
    }

    /// What the file system on a place is mounted from, and whether that begins with a whole unit of the disk.
    pub fn mounted_from(&self, volume: usize) -> Option<(&str, bool)> {
        let volume = self.volumes.get(volume)?;
        Some((volume.device.as_ref()?.path(), volume.start.is_multiple_of(UNIT)))
    }

    /// Has the kernel remember what is mounted by the names that the guest knows, as far as it can.
    pub fn name_after_guest(&mut self) {
        self.names = Names::make();
    }

    /// All of it, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds the logical volumes on these places.
    fn open_groups(&mut self, members: &[usize]) -> Result<()> {
        let devices = members.iter().map(|index| self.device(*index, false)).collect::<Result<Vec<String>>>()?;
        let (groups, logical) = lvm::activate(devices)?;
        self.groups = Some(groups);
        let number = self.volumes[members[0]].number;
        for logical in logical {
            let name = logical.name();
            let wrong = |error| system(format_args!("read {name}"), error);
            let mut file = File::open(&logical.node).map_err(wrong)?;
            let length = file.seek(SeekFrom::End(0)).map_err(wrong)?;
            let found = probe(&mut file, 0, length).map_err(wrong)?;
            let device = Some(Source::Node(logical.node.clone()));
            let logical = Some(logical);
            self.volumes.push(Volume { number, found, length, logical, device, ..Volume::whole(length) });
        }
        Ok(())
    }

    /// Lets go of its logical volumes, which nothing may use any more.
    pub fn close(&mut self) -> Result<()> {
        self.groups.take().map_or(Ok(()), Groups::end)
    }

    /// All places on it.
    pub fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    /// Which place a name in fstab means.
    pub fn find(&self, device: &Device) -> Option<usize> {
        let found = |test: &dyn Fn(&Found) -> bool| {
            self.volumes.iter().position(|volume| volume.found.as_ref().is_some_and(test))
        };
        match device {
            Device::Uuid(uuid) => found(&|found| !uuid.is_empty() && found.uuid.eq_ignore_ascii_case(uuid)),
            Device::Label(label) => found(&|found| !label.is_empty() && found.label == *label),
            Device::PartUuid(uuid) => {
                self.volumes.iter().position(|volume| !uuid.is_empty() && volume.part_uuid == *uuid)
            }
            Device::PartLabel(label) => {
                self.volumes.iter().position(|volume| !label.is_empty() && volume.part_label == *label)
            }
            Device::Number(number) => {
                self.volumes.iter().position(|volume| volume.number == *number && volume.logical.is_none())
            }
            Device::Other(name) => self
                .volumes
                .iter()
                .position(|volume| volume.logical.as_ref().is_some_and(|logical| logical.is_called(name))),
        }
    }

    /// Whether there may be more on it than is seen here: containers that nothing has opened.
    pub fn has_closed(&self) -> bool {
        let opened = self.volumes.iter().any(|volume| volume.logical.is_some());
        self.volumes.iter().any(|volume| volume.is_container() && !(opened && volume.is_member()))
    }

    /// One line for each place, for messages.
    pub fn listing(&self) -> String {
        if self.volumes.is_empty() {
            return "the partition table is empty".to_string();
        }
        let lines: Vec<String> =
            self.volumes.iter().map(|volume| format!("{}: {}", volume.name(), volume.content())).collect();
        match &self.problem {
            Some(problem) => format!("{} (its logical volumes are not opened: {problem})", lines.join("; ")),
            None => lines.join("; "),
        }
    }

    /// Path of the device of a place, made where there is none.
    fn device(&mut self, index: usize, read_only: bool) -> Result<String> {
        let volume = &mut self.volumes[index];
        let device = match &mut volume.device {
            Some(device) => device,
            none => {
                let length = volume.length.min(self.size - volume.start);
                let own = self.node.as_deref().and_then(|name| node::of_part(name, volume.start, length, self.size));
                none.insert(match own {
                    Some(path) => Source::Node(path),
                    None => Source::Loop(attach(&self.file, volume.start, length, read_only)?),
                })
            }
        };
        Ok(device.path().to_string())
    }

    /// A failure to write to the file system at a place, with the features that are why, where they are.
    pub fn why_read_only(&self, index: usize, problem: Failure) -> Failure {
        let volume = &self.volumes[index];
        let features = match volume.logical {
            Some(_) => Vec::new(),
            None => ext_features::unwritable(&self.file, volume.start),
        };
        if features.is_empty() {
            return problem;
        }
        let list = features.join(", ");
        let message = format!(
            "{}; it has the feature {list}, with which this kernel only reads it (`tune2fs -O ^{}` takes it away, where it can be)",
            problem.message, features[0]
        );
        Failure { message, ..problem }
    }

    /// Mounts what is at a place without attaching it to a folder. A file system that is writable by nature is mounted
    /// for writing if `writable`.
    pub fn mount(&mut self, index: usize, options: &[(String, String)], writable: bool) -> Result<Mount> {
        let volume = &self.volumes[index];
        let name = volume.name();
        let found = volume.mountable()?;
        let read_only = found.content == Content::ReadOnly;
        let kind = found.kind;
        let context = open_context(kind)?.ok_or_else(|| {
            failure(
                FailureKind::Unsupported,
                format!("{name} has a file system of type {kind}, which this kernel does not have; the engine libguestfs may mount it"),
            )
        })?;
        let device = self.device(index, read_only)?;
        let (source, from) = naming::source(self.names.as_ref(), &device, &self.volumes[index].device_name());
        let configured = fsconfig_set_string(&context, "source", source.as_str())
            .and_then(|()| {
                options.iter().try_for_each(|(key, value)| fsconfig_set_string(&context, key.as_str(), value.as_str()))
            })
            .and_then(|()| if read_only || !writable { fsconfig_set_flag(&context, "ro") } else { Ok(()) })
            // Guests that grew from one base have file systems of one UUID, and several may be open on this host.
            .and_then(|()| if kind == "xfs" { fsconfig_set_flag(&context, "nouuid") } else { Ok(()) });
        let configured = match configured {
            Ok(()) => naming::create(&context, from)?,
            refused => refused,
        };
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOATIME;
        let top = configured
            .and_then(|()| fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes))
            .map_err(|error| refusal(&name, kind, error, &context))
            .map_err(|problem| if writable { self.why_read_only(index, problem) } else { problem })?;
        let is_read_only = || rustix::fs::fstatvfs(&top).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
        if writable && !read_only && is_read_only() {
            // The kernel mounts some without a word, and the first step that writes would wonder.
            return Err(self.why_read_only(index, refused(format!("cannot mount {name}, {kind}, for writing"))));
        }
        Ok(Mount { top, volume: index, kind, read_only, frozen: !writable && !read_only })
    }
}

impl Volume {
    fn of_partition(partition: partition::Partition) -> Volume {
        Volume {
            number: partition.index,
            found: None,
            start: partition.start,
            length: partition.length,
            part_uuid: partition.uuid,
            part_label: partition.label,
            logical: None,
            device: None,
        }
    }

    fn whole(size: u64) -> Volume {
        Volume {
            number: 0,
            found: None,
            start: 0,
            length: size,
            part_uuid: String::new(),
            part_label: String::new(),
            logical: None,
            device: None,
        }
    }

    /// How messages call it.
    pub fn name(&self) -> String {
        if let Some(logical) = &self.logical {
            return logical.name();
        }
        match self.number {
            0 => "the whole disk".to_string(),
            number => format!("partition {number}"),
        }
    }

    /// What it is called below `/dev` of the guest.
    pub fn device_name(&self) -> String {
        match (&self.logical, self.number) {
            (Some(logical), _) => format!("mapper/{}", logical.mapper()),
            (None, 0) => DISK.to_string(),
            (None, number) => format!("{DISK}{number}"),
        }
    }

    /// Where it begins on the disk, and how long it is, in bytes.
    pub fn range(&self) -> (u64, u64) {
        (self.start, self.length)
    }

    /// Identity and name of the partition, empty where there is none.
    pub fn part_names(&self) -> (&str, &str) {
        (&self.part_uuid, &self.part_label)
    }

    /// Whether LVM made it.
    pub fn is_logical(&self) -> bool {
        self.logical.is_some()
    }

    /// The device mapper's identity of a logical volume.
    pub fn mapper_uuid(&self) -> &str {
        self.logical.as_ref().map_or("", Logical::uuid)
    }

    /// Path of its device, where there is one.
    pub fn node(&self) -> Option<&str> {
        self.device.as_ref().map(Source::path)
    }

    /// What messages say is on it.
    pub fn content(&self) -> &'static str {
        self.found.as_ref().map_or("nothing that is known", |found| found.kind)
    }

    /// Whether a layer below has to be opened first, or what is there is unknown to everybody here.
    pub fn is_container(&self) -> bool {
        matches!(&self.found, Some(Found { content: Content::Container, .. }))
    }

    /// Whether LVM has it.
    fn is_member(&self) -> bool {
        matches!(&self.found, Some(Found { kind: "LVM2_member", .. }))
    }

    fn mountable(&self) -> Result<&Found> {
        let unsupported = |what: &str| {
            Err(failure(
                FailureKind::Unsupported,
                format!(
                    "{} holds {what}, which the agent does not open; the engine libguestfs may mount it",
                    self.name()
                ),
            ))
        };
        match &self.found {
            Some(found @ Found { content: Content::FileSystem { .. } | Content::ReadOnly, .. }) => Ok(found),
            Some(Found { content: Content::Swap, .. }) => Err(refused(format!("{} is swap space", self.name()))),
            Some(found) => unsupported(found.kind),
            None => unsupported("a file system of an unknown type"),
        }
    }
}

/// A context for a new mount; `None` where the kernel does not have the type. ext2 and ext3 fall back to ext4's driver.
fn open_context(kind: &str) -> Result<Option<OwnedFd>> {
    for name in [kind, "ext4"] {
        match fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(context) => return Ok(Some(context)),
            Err(Errno::NODEV) if matches!(kind, "ext2" | "ext3") && name != "ext4" => {}
            Err(Errno::NODEV) => return Ok(None),
            Err(error) => return Err(system(format_args!("prepare a mount of type {name}"), error)),
        }
    }
    Ok(None)
}

/// A refused mount, with what the kernel says about it.
fn refusal(name: &str, kind: &str, error: Errno, context: &OwnedFd) -> Failure {
    let mut said = Vec::new();
    let mut buffer = [0u8; 1024];
    // Each read gives one message, such as `e xfs: bad version`.
    while let Ok(count @ 1..) = rustix::io::read(context, &mut buffer) {
        said.push(String::from_utf8_lossy(&buffer[..count]).trim().to_string());
    }
    let reason = if said.is_empty() { String::new() } else { format!(" ({})", said.join("; ")) };
    let refused = system(format_args!("mount {name}, {kind}{reason}"), error);
    match error {
        Errno::PERM | Errno::ACCESS | Errno::NOMEM | Errno::BUSY => refused,
        // It does not like what is there, and whoever made that can mend it.
        _ => Failure { kind: FailureKind::NoRoot, ..refused },
    }
}

/// One mounted file system.
#[derive(Debug)]
pub struct Mount {
    /// Its top folder.
    pub top: OwnedFd,
    /// Which place of the disk.
    pub volume: usize,
    /// Type as the kernel calls it.
    pub kind: &'static str,
    /// Read-only by nature.
    read_only: bool,
    /// Read-only for now.
    frozen: bool,
}

impl Mount {
    /// Writes all to the disk, in a clean state, and makes the file system read-only.
    ///
    /// This is a remount, not the kernel's freeze, for three reasons that were tried: a freeze of XFS leaves a log
    /// that `xfs_repair` wants replayed; file systems without a journal know no freeze that marks them clean; and a
    /// frozen file system whose last mount goes (the agent was killed) keeps its loop device for good.
    pub fn freeze(&mut self) -> Result<()> {
        if self.read_only || self.frozen {
            return Ok(());
        }
        self.reconfigure("ro").map_err(|error| match error {
            Errno::BUSY => refused(
                "a file of the guest is still open for writing, so its file system cannot be brought to a clean state",
            ),
            error => system("bring a file system to a clean state", error),
        })?;
        self.frozen = true;
        Ok(())
    }

    /// Discards the blocks that it does not use; nothing where its kind, or the device, cannot, which it says. (Over a FUSE
    /// export of qemu, a run that is no whole clusters of the overlay is one that the device cannot: an ext4 with blocks of
    /// 1 KiB keeps what it has. The clusters of overlays have 4 KiB, as blocks of file systems that are not tiny.)
    pub fn trim(&self) -> Result<bool> {
        if self.read_only {
            return Ok(false);
        }
        let what = "discard the unused blocks of a file system";
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.top, ".", flags, Mode::empty()).map_err(|error| system(what, error))?;
        // Blocks that were freed a moment ago are discarded only when the journal has told the disk so.
        rustix::fs::syncfs(&folder).map_err(|error| system(what, error))?;
        // `struct fstrim_range`: start, length, and the shortest run that is worth it.
        let mut range = [0u64, u64::MAX, 0];
        // SAFETY: FITRIM reads and writes one `struct fstrim_range`, which is three 64-bit numbers.
        let done = unsafe { libc::ioctl(folder.as_raw_fd(), FITRIM as _, range.as_mut_ptr()) };
        match (done, std::io::Error::last_os_error().raw_os_error()) {
            (0.., _) => Ok(true),
            (_, Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL)) => Ok(false),
            (_, error) => Err(system(what, Errno::from_raw_os_error(error.unwrap_or(libc::EIO)))),
        }
    }

    /// Makes what it does not use read as zeroes, its journal included; see [`crate::erase`]. False where this kernel
    /// cannot do that to its kind. `device` is what it is mounted from, and
    /// `aligned` says that it begins with a whole unit of the disk.
    pub fn erase(&mut self, device: &str, aligned: bool) -> Result<bool> {
        if self.read_only {
            return Ok(true);
        }
        let what = "clear the unused blocks of a file system";
        // An error that the device has with a discard is not told by the kernel: only whole units are sure.
        let whole = rustix::fs::fstatvfs(&self.top).is_ok_and(|fs| fs.f_bsize.is_multiple_of(UNIT)) && aligned;
        let discarded = self.trim()? && whole;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::openat(&self.top, ".", flags, Mode::empty()).map_err(|error| system(what, error))?;
        let journal = erase::journal(&top, self.kind);
        self.freeze()?;
        let cleared = File::options()
            .read(true)
            .write(true)
            .open(device)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            .and_then(|device| erase::free_blocks(&top, &device, discarded));
        self.thaw()?;
        let cleared = cleared.map_err(|error| system(what, error))?;
        Ok(journal && (cleared || discarded))
    }

    /// Allows writing again.
    pub fn thaw(&mut self) -> Result<()> {
        if self.frozen {
            self.reconfigure("rw").map_err(|error| system("make a file system writable", error))?;
            self.frozen = false;
        }
        Ok(())
    }

    /// Ends a freeze that is not ours.
    pub fn unfreeze(&self) {
        /// `FITHAW` of `linux/fs.h`.
        const FITHAW: libc::c_ulong = 0xc004_5878;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(top) = rustix::fs::openat(&self.top, ".", flags, Mode::empty()) {
            // SAFETY: the call has no argument that the kernel would follow.
            unsafe { libc::ioctl(top.as_raw_fd(), FITHAW as _, 0) };
        }
    }

    fn reconfigure(&self, flag: &str) -> rustix::io::Result<()> {
        let context = fspick(&self.top, "", FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC)?;
        fsconfig_set_flag(&context, flag)?;
        fsconfig_reconfigure(&context)
    }
}
