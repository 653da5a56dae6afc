//! The files of a guest as FUSE wants them.
//!
//! All names are listed once, when the layer is opened: it does not change. A file's bytes are fetched when it is opened,
//! into a file without a name, and let go of when it is closed. Devices, sockets and pipes are left out.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};
use rustix::fs::OFlags;
use virt_maker::error::Result;
use virt_maker::guest::{Entry, FileKind};
use virt_maker::inspect::Inside;
use virt_maker::store::Workspace;

/// For how long the kernel may believe what it was told: nothing ever changes.
const FOREVER: Duration = Duration::from_secs(3600);

pub(super) struct View {
    /// The node with inode number N is at N - 1; the root is the first.
    nodes: Vec<Node>,
    state: Mutex<State>,
    scratch: Workspace,
}

struct Node {
    entry: Entry,
    parent: u64,
    children: BTreeMap<OsString, u64>,
}

struct State {
    inside: Inside,
    open: HashMap<u64, Arc<File>>,
    next: u64,
}

impl View {
    /// Lists the guest. `scratch` is for the bytes of open files.
    pub(super) fn new(mut inside: Inside, scratch: Workspace) -> Result<View> {
        let mut entries = inside.guest().walk("/", None)?;
        // Folders before what is in them.
        entries.sort_by(|one, two| one.path.cmp(&two.path));
        let mut nodes: Vec<Node> = Vec::new();
        let mut numbers: HashMap<Vec<u8>, u64> = HashMap::new();
        for entry in entries.into_iter().filter(|entry| entry.kind != FileKind::Other) {
            let number = nodes.len() as u64 + 1;
            let path = if entry.path == b"/" { Vec::new() } else { entry.path.clone() };
            let mut parent = 1;
            if let Some(place) = path.iter().rposition(|byte| *byte == b'/') {
                let Some(above) = numbers.get(&path[..place]) else { continue };
                parent = *above;
                let name = OsStr::from_bytes(&path[place + 1..]).to_owned();
                nodes[parent as usize - 1].children.insert(name, number);
            }
            if entry.kind == FileKind::Directory {
                numbers.insert(path, number);
            }
            nodes.push(Node { entry, parent, children: BTreeMap::new() });
        }
        let state = State { inside, open: HashMap::new(), next: 1 };
        Ok(View { nodes, state: Mutex::new(state), scratch })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, number: INodeNo) -> Option<&Node> {
        self.nodes.get(u64::from(number).checked_sub(1)? as usize)
    }

    fn attributes(&self, number: u64) -> Option<FileAttr> {
        let Node { entry, children, .. } = self.node(INodeNo(number))?;
        let (seconds, nanoseconds) = entry.modified;
        let modified = match u64::try_from(seconds) {
            Ok(seconds) => UNIX_EPOCH + Duration::new(seconds, nanoseconds),
            Err(_) => SystemTime::UNIX_EPOCH,
        };
        let size = if entry.kind == FileKind::Symlink { entry.target.len() as u64 } else { entry.size };
        Some(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: modified,
            mtime: modified,
            ctime: modified,
            crtime: modified,
            kind: kind(entry.kind),
            perm: (entry.mode & 0o7777) as u16,
            nlink: 1 + u32::from(entry.kind == FileKind::Directory) + children.len().min(1) as u32,
            uid: entry.uid,
            gid: entry.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// The bytes of a file, in one of ours without a name.
    fn fetch(&self, path: &str) -> std::io::Result<File> {
        let flags = OFlags::TMPFILE.bits() as i32;
        let mut file =
            OpenOptions::new().read(true).write(true).custom_flags(flags).mode(0o600).open(self.scratch.path())?;
        self.state().inside.guest().read_to(path, &mut file).map_err(std::io::Error::other)?;
        Ok(file)
    }
}

fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::File | FileKind::Other => FileType::RegularFile,
    }
}

impl Filesystem for View {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = self.node(parent).and_then(|node| node.children.get(name));
        match number.and_then(|number| self.attributes(*number)) {
            Some(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(u64::from(number)) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.node(number) {
            Some(node) if node.entry.kind == FileKind::Symlink => reply.data(&node.entry.target),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let Some(node) = self.node(number) else { return reply.error(Errno::ENOENT) };
        // The agent takes paths as text.
        let Ok(path) = std::str::from_utf8(&node.entry.path) else { return reply.error(Errno::EILSEQ) };
        match self.fetch(path) {
            Ok(file) => {
                let mut state = self.state();
                let handle = state.next;
                state.next += 1;
                state.open.insert(handle, Arc::new(file));
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.state().open.get(&u64::from(handle)).cloned() else { return reply.error(Errno::EBADF) };
        let mut bytes = vec![0; size as usize];
        let mut done = 0;
        while done < bytes.len() {
            match file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) => return reply.error(Errno::EIO),
            }
        }
        reply.data(&bytes[..done]);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.state().open.remove(&u64::from(handle));
        reply.ok();
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(node) = self.node(number) else { return reply.error(Errno::ENOENT) };
        let own = [(OsStr::new("."), u64::from(number)), (OsStr::new(".."), node.parent)];
        let below = node.children.iter().map(|(name, number)| (name.as_os_str(), *number));
        for (place, (name, number)) in own.into_iter().chain(below).enumerate().skip(offset as usize) {
            let kind = self.node(INodeNo(number)).map_or(FileType::Directory, |node| kind(node.entry.kind));
            if reply.add(INodeNo(number), place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
