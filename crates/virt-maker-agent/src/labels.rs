//! SELinux labels of the guest's files: read for all of them, and set.
//!
//! What must hold: labels are an attribute in the guest's file systems and nothing else here. No policy is loaded and no
//! program of the guest runs, so a kernel that has SELinux switched off (that of an appliance) sets whatever it is told.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags, StatxFlags, XattrFlags};
use rustix::io::Errno;
use virt_maker_agent::label::{ATTRIBUTE, LABEL_MAX, Labelled};
use virt_maker_agent::protocol::{Frame, Reply, Request};

use crate::failure::{Result, cannot, refused};
use crate::guest::open_unlinked;
use crate::link::{Broken, Link};
use crate::walker::Listed;

impl Listed for Labelled {
    /// What lies on a file system without such attributes is not listed, but it is looked into.
    fn look(
        folder: &OwnedFd,
        name: &CStr,
        path: Vec<u8>,
        flags: AtFlags,
    ) -> rustix::io::Result<(bool, Option<Labelled>)> {
        let stat = rustix::fs::statx(folder, name, flags, StatxFlags::TYPE)?;
        let kind = match u32::from(stat.stx_mode) & libc::S_IFMT {
            libc::S_IFDIR => b'd',
            libc::S_IFLNK => b'l',
            libc::S_IFCHR => b'c',
            libc::S_IFBLK => b'b',
            libc::S_IFIFO => b'p',
            libc::S_IFSOCK => b's',
            _ => b'f',
        };
        let mut room = [0; LABEL_MAX];
        let label = match rustix::fs::lgetxattr(&*by_descriptor(folder, name.to_bytes()), ATTRIBUTE, &mut room[..]) {
            Ok(length) => room[..length].split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
            // None, or one that no kernel made: both are to be replaced.
            Err(Errno::NODATA | Errno::RANGE) => Vec::new(),
            Err(Errno::NOTSUP) => return Ok((kind == b'd', None)),
            Err(error) => return Err(error),
        };
        Ok((kind == b'd', Some(Labelled { kind, path, label })))
    }

    fn put(&self, frame: &mut Vec<u8>) {
        self.encode(frame);
    }

    fn take(frame: &mut &[u8]) -> Option<Labelled> {
        Labelled::decode(frame)
    }
}

/// A name in an open folder as a path whose last part these calls do not follow.
fn by_descriptor(folder: &OwnedFd, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", folder.as_raw_fd()).as_bytes(), name].concat()
}

/// Sets labels, one after another. The folder of the last one stays open for the next.
pub struct Labeller {
    root: OwnedFd,
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Labeller {
    /// For the tree at `root`.
    pub fn new(root: impl AsFd) -> Result<Labeller> {
        let root = root.as_fd().try_clone_to_owned().map_err(|error| cannot("open the guest's root", error))?;
        Ok(Labeller { root, last: None })
    }

    fn set(&mut self, entry: &Labelled) -> Result<()> {
        let shown = || String::from_utf8_lossy(&entry.path).into_owned();
        let failed = |error: Errno| match error {
            Errno::PERM | Errno::INVAL | Errno::ACCESS => {
                refused(format!("this kernel does not let {} be labelled `{}`", shown(), text(&entry.label)))
            }
            error => cannot(format_args!("label {}", shown()), error),
        };
        let at = entry.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let (folder, name) = (&entry.path[..at], &entry.path[at + 1..]);
        if self.last.as_ref().is_none_or(|(path, _)| path != folder) {
            let relative = folder.strip_prefix(b"/").unwrap_or(b".");
            let opened = open_unlinked(&self.root, relative, OFlags::PATH | OFlags::DIRECTORY).map_err(failed)?;
            self.last = Some((folder.to_vec(), opened));
        }
        let Some((_, folder)) = &self.last else { return Ok(()) };
        let value = CString::new(entry.label.clone()).map_err(|_| refused("a label contains a NUL"))?;
        rustix::fs::lsetxattr(&*by_descriptor(folder, name), ATTRIBUTE, value.as_bytes_with_nul(), XattrFlags::empty())
            .map_err(failed)
    }
}

fn text(label: &[u8]) -> String {
    String::from_utf8_lossy(label).into_owned()
}

/// Takes the data of [`Request::SetLabels`] to its end, also after a failure, so that both ends agree on where they are.
pub fn receive(link: &mut Link, mut labeller: Result<Labeller>) -> std::result::Result<Result<Reply>, Broken> {
    loop {
        match link.receive()? {
            Some(Frame::Data(bytes)) if bytes.is_empty() => return Ok(labeller.map(|_| Reply::Done)),
            Some(Frame::Data(bytes)) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let entry = Labelled::decode(&mut rest).ok_or(Broken::Protocol("a label that cannot be read"))?;
                    if let Ok(open) = &mut labeller
                        && let Err(problem) = open.set(&entry)
                    {
                        labeller = Err(problem);
                    }
                }
            }
            Some(Frame::Message(Request::Cancel)) => return Ok(Err(refused("the host cancelled the labels"))),
            Some(Frame::Message(_)) => return Err(Broken::Protocol("a request among labels")),
            None => return Err(Broken::Closed),
        }
    }
}
