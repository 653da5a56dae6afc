//! What the host and the agent say to each other, and how it is framed.
//!
//! # Framing
//! A frame is `kind: u8`, `length: u32` little endian, then `length` bytes. There are two kinds: [`FRAME_MESSAGE`]
//! holds one JSON value (a [`Request`] towards the agent, a [`Reply`] from it) and [`FRAME_DATA`] holds raw bytes of
//! the transfer or of the output that is under way. No frame is longer than [`MAX_FRAME`].
//!
//! # Order
//! One request is under way at a time. The agent answers each with zero or more intermediate frames and exactly one
//! final [`Reply`]: `Done`-like or `Failed`. The first exchange is `Hello`; ends that differ in [`VERSION`] part there.
//! Data frames that reach the agent between requests (typed into a terminal whose program has just ended) are dropped.
//!
//! # Paths
//! Paths are absolute, without `..`, and are resolved within the guest's root: a symlink of the guest never leads out.
//! JSON carries text, so a name that is not UTF-8 cannot be asked for; where the agent lists such names, it replaces
//! the bytes that are not UTF-8 by U+FFFD.
//!
//! Everything that comes from the agent was shaped by the guest and is data: lengths are bounded, names are bytes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version of this protocol; both ends must have the same.
pub const VERSION: u32 = 10;
/// A frame that holds one JSON message.
pub const FRAME_MESSAGE: u8 = 1;
/// A frame that holds raw bytes; an empty one ends a transfer.
pub const FRAME_DATA: u8 = 2;
/// The largest payload of a frame, in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// What the host asks of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// The first request of a connection.
    Hello {
        /// The host's [`VERSION`].
        version: u32,
        /// How commands are to be confined.
        sandbox: Sandbox,
    },
    /// Only in an appliance, the first request after it was restored: makes this clone one of its own. Answer:
    /// [`Reply::Done`].
    Wake(Wake),
    /// Only in an appliance: waits for the disk with this serial number. Answer: [`Reply::Disk`].
    FindDisk {
        /// The serial number.
        serial: String,
    },
    /// Makes a disk known: a raw image as a regular file (a loop device is made for each partition) or a block
    /// device. Finds the guest's root on it and mounts all after the guest's fstab. Answer: [`Reply::Mounted`].
    Mount {
        /// Path of the file or device, as the agent sees it.
        disk: String,
        /// Mount what can be mounted, so that a guest can be mended whose fstab names what is not there.
        #[serde(default)]
        to_mend: bool,
        /// Which file system is its root, where that is said and not found.
        #[serde(default)]
        root: Option<Root>,
    },
    /// Only to an agent in a machine that has booted ([`Sandbox::Machine`]): the guest is the system that the agent runs in. Answer:
    /// [`Reply::Mounted`], with nothing mounted.
    Running,
    /// Only to an agent in a machine that has booted: connects to a TCP port of that machine, says a text, and reads until the other
    /// side closes, a mebibyte at most. What has come when the time is over is the answer. Answer: data frames, an empty one, then
    /// [`Reply::Done`]; or [`Reply::Failed`], of kind [`FailureKind::NotFound`] where nobody answers.
    Talk {
        /// The port, at the loopback address.
        port: u16,
        /// What is said.
        text: String,
        /// How long that may take, in seconds.
        seconds: u64,
    },
    /// Mounts a file system that is no part of the guest, for programs that ask for folders of it ([`Run::caches`]).
    /// Answer: [`Reply::Done`].
    MountCache {
        /// Its name, one plain file name.
        name: String,
        /// Path of a raw image or of a device with one file system, as the agent sees it.
        disk: String,
    },
    /// Runs a program in the guest. Answer: data frames with output (standard output and error, merged, as they
    /// come), notes, then [`Reply::Exited`]. All processes that it left behind are gone by then.
    Run(Run),
    /// Reads a regular file, following symlinks within the guest. Answer: data frames, an empty one, then
    /// [`Reply::Done`]; or, at any point, [`Reply::Failed`].
    Read {
        /// Absolute path in the guest.
        path: String,
        /// A file with more bytes is refused.
        #[serde(default)]
        limit: Option<u64>,
    },
    /// Creates or replaces a regular file, atomically by a rename in its folder. Data frames follow, then an empty
    /// one. A final symlink is replaced, not followed. Answer: [`Reply::Done`].
    Write {
        /// Absolute path in the guest; parents must exist.
        path: String,
        /// Mode and owner.
        attributes: Attributes,
        /// Put the content into the regular file that is there, which keeps all else: mode and owner, other names (hard
        /// links), ACL, extended attributes, capabilities. Where none is there, no difference.
        #[serde(default)]
        in_place: bool,
    },
    /// Creates a folder; one that exists gets the attributes. Answer: [`Reply::Done`].
    Mkdir {
        /// Absolute path in the guest.
        path: String,
        /// Mode and owner; folders made on the way (`parents`) get 0755 and root.
        attributes: Attributes,
        /// Make missing parents too.
        parents: bool,
    },
    /// Creates a symbolic link, replacing a file or a link at `path`. Answer: [`Reply::Done`].
    Symlink {
        /// What the link says, any text.
        target: String,
        /// Absolute path of the link.
        path: String,
    },
    /// Gives a file a second name, in the place of a file or a link. Across file systems, a failure of kind
    /// [`FailureKind::Unsupported`]. Answer: [`Reply::Done`].
    HardLink {
        /// Absolute path of the file; a final symlink is not followed.
        target: String,
        /// Absolute path of the second name.
        path: String,
    },
    /// Sets times and extended attributes, without following a final symlink; those that a file system cannot hold are left
    /// out. Answer: [`Reply::Done`].
    SetMarks {
        /// Of these files.
        marks: Vec<Marks>,
    },
    /// Sets mode and owner without following a final symlink. Answer: [`Reply::Done`].
    SetAttributes {
        /// Absolute path in the guest.
        path: String,
        /// What to set.
        attributes: Attributes,
    },
    /// Says what is at a path, without following a final symlink. Answer: [`Reply::Stat`].
    Stat {
        /// Absolute path in the guest.
        path: String,
    },
    /// How much room the file system has that a path is on. Answer: [`Reply::Space`].
    Space {
        /// Absolute path in the guest.
        path: String,
    },
    /// Names in a folder, sorted, without `.` and `..`. Answer: [`Reply::Names`].
    ReadDir {
        /// Absolute path in the guest.
        path: String,
    },
    /// Everything at and below a path, links not followed below it. Answer: data frames with whole entries
    /// ([`crate::walk`]), an empty one, then [`Reply::Done`]; or, at any point, [`Reply::Failed`].
    Walk {
        /// Absolute path in the guest; a final symlink is followed within the guest.
        path: String,
        /// How many levels below the path; 0 is the path alone. Without it, all.
        #[serde(default)]
        depth: Option<u32>,
    },
    /// Removes a file, a link, or a folder with all in it; what is missing is no error. Answer: [`Reply::Done`].
    Remove {
        /// Absolute path in the guest.
        path: String,
    },
    /// Renames within one file system, replacing the target. Answer: [`Reply::Done`].
    Rename {
        /// Absolute path in the guest.
        from: String,
        /// Absolute path in the guest.
        to: String,
    },
    /// Sends the whole tree as a tar stream, with numeric owners and extended attributes. Answer: data frames, an empty
    /// one, then [`Reply::Done`]; or, at any point, [`Reply::Failed`].
    Archive,
    /// The SELinux label of every file that can have one. Answer: data frames with whole entries ([`crate::label`]), an
    /// empty one, then [`Reply::Done`]; or, at any point, [`Reply::Failed`].
    Labels,
    /// Gives files their SELinux labels. Data frames follow with whole entries ([`crate::label`]), then an empty one.
    /// Answer: [`Reply::Done`].
    SetLabels,
    /// Brings every mounted file system to a clean state on its disk and blocks writes. Answer: [`Reply::Done`].
    Freeze,
    /// Ends a freeze. Answer: [`Reply::Done`].
    Thaw,
    /// Discards the blocks that no mounted file system uses, as far as its kind can. Answer: [`Reply::Done`].
    Trim,
    /// Makes what no mounted file system uses read as zeroes, journals included. Answer: [`Reply::Names`], the types of
    /// those of which something may be left.
    Erase,
    /// In place of the empty data frame of a [`Request::Write`]: the host cannot read on, nothing is to be written.
    /// Answer (to the write): [`Reply::Failed`].
    Cancel,
    /// Looks whether the guest's fstab was written to since it was looked at last, and if so, which disks and folders it names
    /// that are not there. Answer: [`Reply::Names`], a sentence for each that was not told of.
    FstabNews,
    /// Unmounts all and lets go of the disks. Answer: [`Reply::Done`].
    Unmount,
}

/// The root of a guest that has several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its device, as an fstab names it: `UUID=...`, `LABEL=...`, `PARTUUID=...`, `/dev/sda2`.
    pub device: String,
    /// Of a btrfs, the path of the subvolume; without it, the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subvolume: Option<String>,
}

impl Root {
    /// The subvolume as the option `subvol` of a mount has it.
    pub fn subvol(&self) -> Option<String> {
        self.subvolume.as_ref().map(|path| format!("/{}", path.trim_matches('/')))
    }
}

/// What a restored appliance must not share with its siblings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// [`Wake::ENTROPY`] random bytes.
    pub entropy: Vec<u8>,
    /// The time: seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanoseconds: u32,
}

impl Wake {
    /// How many random bytes a clone gets.
    pub const ENTROPY: usize = 64;
}

/// How commands are confined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// Under bubblewrap: own pid, ipc, uts and mount namespaces, dangerous capabilities dropped.
    Bubblewrap {
        /// Path of `bwrap`.
        program: String,
    },
    /// Not at all: the wall is the machine that the agent runs in, and its services are to be reached.
    Machine,
}

/// A program to run in the guest, as root, with the guest's root as its root.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Run {
    /// Program and arguments. With `script`, these are the arguments of the script.
    pub argv: Vec<String>,
    /// A script, which is shown to the guest at a path on a temporary file system and run: by `shell`, or as its own `#!` line
    /// says.
    pub script: Option<String>,
    /// The guest's program that runs the script, with its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// Variables added to a fixed base (`PATH`, `HOME=/root`, `LANG=C.UTF-8`, `DEBIAN_FRONTEND`, ...).
    pub env: BTreeMap<String, String>,
    /// Whether it may use the network; without, its network namespace has only a loopback device.
    pub network: bool,
    /// Text of the `/etc/resolv.conf` that the guest sees while it runs, with `network`.
    pub resolv_conf: Option<String>,
    /// Seconds after which the program and all its processes are killed and the answer is a failure of kind
    /// [`FailureKind::TimedOut`]; `None` for no limit.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// Texts that the program finds in `/run/secrets/NAME`, mode 0400, while it runs.
    #[serde(default)]
    pub secrets: Secrets,
    /// Folders of caches ([`Request::MountCache`]) that the program finds in the place of what the guest has there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<CacheFolder>,
    /// Without the walls that hold root back: with all capabilities, and all calls of the system. In an appliance only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// Run on a pseudo-terminal: data frames from the host are its input, [`Request`]s do not interleave; an empty
    /// data frame ends the input. Used by `--on-failure shell`.
    pub terminal: Option<TerminalSize>,
}

/// A folder of a cache, for as long as a program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheFolder {
    /// The name of the cache.
    pub cache: String,
    /// The folder in it, one plain name.
    pub folder: String,
    /// Where the program finds it: an absolute path in the guest, which is made.
    pub target: String,
}

/// Texts by their names; the names are plain file names. What is printed of them are the names alone.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secrets(pub BTreeMap<String, String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Size of a terminal in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Mode and owner of a file; `None` leaves what is there (for new files: 0644 or 0755, root).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits, including set-id and sticky bits (`0o7777` at most).
    pub mode: Option<u32>,
    /// User id in the guest.
    pub uid: Option<u32>,
    /// Group id in the guest.
    pub gid: Option<u32>,
}

/// What a file has besides content, mode and owner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Marks {
    /// Absolute path in the guest.
    pub path: String,
    /// When its content changed: seconds since 1970 and nanoseconds.
    pub modified: Option<(i64, u32)>,
    /// Extended attributes by their names.
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Answer to `Hello`.
    Welcome {
        /// The agent's [`VERSION`].
        version: u32,
    },
    /// Answer to `Mount`.
    Mounted(Mounted),
    /// Answer to `FindDisk`.
    Disk {
        /// Path of its device, as the agent sees it.
        path: String,
    },
    /// Answer to `Run`.
    Exited(Exit),
    /// Before [`Reply::Exited`], any number: what the person who builds should know.
    Note {
        /// A sentence.
        text: String,
    },
    /// Answer to `Stat`; `None` where nothing is there.
    Stat {
        /// What is there.
        stat: Option<Stat>,
    },
    /// Answer to `Space`.
    Space(Space),
    /// Answer to `ReadDir`.
    Names {
        /// File names; bytes that are not UTF-8 are replaced.
        names: Vec<String>,
    },
    /// The request is done.
    Done,
    /// The request could not be done; the session goes on.
    Failed(Failure),
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Its exit status.
    Status(i32),
    /// The number of the signal that killed it.
    Signal(i32),
}

/// A guest that is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mounted {
    /// What is mounted where, in mount order; the first is `/`.
    pub file_systems: Vec<FileSystem>,
    /// What the guest says it is.
    pub os: OsRelease,
    /// What was left out and why (an entry with `nofail`, for instance).
    pub warnings: Vec<String>,
}

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// Where in the guest.
    pub mount_point: String,
    /// Type as the kernel calls it: `ext4`, `xfs`, ...
    pub kind: String,
    /// Number of the partition, from 1; 0 where the file system takes the whole disk.
    pub partition: u32,
}

/// The parts of `/etc/os-release` that virt-maker uses. The guest wrote them: they are data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsRelease {
    /// `ID`, such as `debian`; empty where unknown.
    pub id: String,
    /// `ID_LIKE`, split at blanks.
    pub id_like: Vec<String>,
    /// `VERSION_ID`.
    pub version_id: String,
    /// `PRETTY_NAME`.
    pub pretty_name: String,
}

/// The room in a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Free bytes, without those that are kept for root: programs of a step run without that right.
    pub free: u64,
    /// All bytes.
    pub total: u64,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// The kind of file.
    pub kind: FileKind,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Target, for a symbolic link.
    pub target: Option<String>,
}

/// Kinds of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Regular file.
    File,
    /// Folder.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Device, socket or pipe.
    Other,
}

/// Why a request could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort of failure, for decisions.
    pub kind: FailureKind,
    /// One sentence that says what was tried and what came of it.
    pub message: String,
}

/// Sorts of failure that a host decides upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// This kernel cannot mount it, another engine may: LVM, LUKS, an unknown file system.
    Unsupported,
    /// No root file system was found, or none that can be mounted: a partition table or a file system is damaged.
    NoRoot,
    /// More than one root file system was found.
    SeveralRoots,
    /// An fstab entry cannot be mounted.
    Fstab,
    /// The guest's file system is full.
    GuestFull,
    /// Nothing is at that path in the guest.
    NotFound,
    /// What the guest has there does not allow it: a file in the place of a folder, a link that leads nowhere or in
    /// circles, a folder that is not empty, a file system that is read-only, a name that is too long.
    Obstructed,
    /// A program ran longer than it may ([`Run::timeout`]).
    TimedOut,
    /// The other end broke the protocol.
    Protocol,
    /// Anything else that the system refused.
    System,
}

impl Failure {
    /// The failure of a program that was stopped after `seconds`.
    pub fn timed_out(seconds: u64) -> Failure {
        let message = format!("stopped after {seconds} s: that is the timeout, and it had not ended by then");
        Failure { kind: FailureKind::TimedOut, message }
    }
}

/// One frame, as read.
#[derive(Debug)]
pub enum Frame<M> {
    /// A message.
    Message(M),
    /// Bytes; empty at the end of a transfer.
    Data(Vec<u8>),
}

/// Writes a message frame and flushes.
pub fn write_message<M: Serialize>(out: &mut impl Write, message: &M) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    write_frame(out, FRAME_MESSAGE, &body)
}

/// Writes one data frame and flushes. `bytes` must not be longer than [`MAX_FRAME`].
pub fn write_data(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write_frame(out, FRAME_DATA, bytes)
}

fn write_frame(out: &mut impl Write, kind: u8, body: &[u8]) -> io::Result<()> {
    if body.len() > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame longer than the protocol allows"));
    }
    // One write for the whole frame: two would wake the other end twice.
    let mut frame = Vec::with_capacity(5 + body.len());
    frame.push(kind);
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(body);
    out.write_all(&frame)?;
    out.flush()
}

/// Reads one frame; `None` where the stream ends between frames. An end within a frame is an error.
pub fn read_frame<M: DeserializeOwned>(input: &mut impl Read) -> io::Result<Option<Frame<M>>> {
    let mut head = [0u8; 5];
    let first = loop {
        match input.read(&mut head[..1]) {
            Ok(count) => break count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    if first == 0 {
        return Ok(None);
    }
    input.read_exact(&mut head[1..])?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    match head[0] {
        FRAME_MESSAGE => Ok(Some(Frame::Message(serde_json::from_slice(&body)?))),
        FRAME_DATA => Ok(Some(Frame::Data(body))),
        kind => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of unknown kind {kind}"))),
    }
}
