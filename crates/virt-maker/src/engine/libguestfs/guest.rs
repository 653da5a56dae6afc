//! Files of the guest, through libguestfs's calls.
//!
//! Its daemon does these inside a chroot, so no symlink leads out of the guest; the calls that it does outside (`rm_rf`)
//! get a path whose folder has been resolved inside. Replacing is by a rename within the folder.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};

use super::ffi::{CallError, Handle};
use super::session::LibguestfsSession;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::{Attributes, Entry, Exit, FileKind, Guest, Labelled, Marks, OsRelease, Run, Space, Stat};
use crate::host::random;

/// What goes with one call, in bytes; more is streamed.
const INLINE: usize = 1 << 20;
const UNREADABLE: &str = "cannot read what is to be written into the guest";

/// The first [`INLINE`] bytes.
fn head(content: &mut dyn Read) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    content.take(INLINE as u64).read_to_end(&mut head).context(ErrorKind::Step, || UNREADABLE)?;
    Ok(head)
}

impl LibguestfsSession {
    pub(super) fn call<T>(&mut self, what: &str, call: impl FnOnce(&mut Handle) -> Result<T, CallError>) -> Result<T> {
        let done = call(&mut self.appliance.handle);
        done.map_err(|error| self.appliance.error(ErrorKind::Step, what, error))
    }

    /// As [`Self::call`], for a change of `path`: says why the system does not permit it.
    fn change<T>(
        &mut self,
        path: &str,
        what: &str,
        call: impl FnOnce(&mut Handle) -> Result<T, CallError>,
    ) -> Result<T> {
        call(&mut self.appliance.handle).map_err(|error| self.denied(path, what, error))
    }

    /// Checks a path and splits off its last name.
    pub(super) fn split<'a>(&self, path: &'a str) -> Result<(&'a str, &'a str)> {
        self.appliance.cancel.check()?;
        let path = path.trim_end_matches('/');
        match path.rsplit_once('/') {
            Some((folder, name)) if path.starts_with('/') && !matches!(name, "" | "." | "..") => {
                Ok((if folder.is_empty() { "/" } else { folder }, name))
            }
            _ => Err(Error::new(ErrorKind::Step, format!("{path:?} is no absolute path of a file in the guest"))),
        }
    }

    /// A name beside `path` that nothing has.
    fn beside(&self, path: &str) -> Result<String> {
        let (folder, _) = self.split(path)?;
        Ok(format!("{}/.virt-maker-{}", folder.trim_end_matches('/'), random::id()?))
    }

    /// Puts `temporary` in the place of `path`, or removes it where something failed.
    fn settle(&mut self, made: Result<()>, temporary: &str, path: &str) -> Result<()> {
        let placed =
            made.and_then(|()| self.change(path, &format!("cannot replace {path}"), |g| g.rename(temporary, path)));
        if placed.is_err() {
            let _ = self.appliance.handle.rm(temporary);
        }
        placed
    }

    fn put(&mut self, path: &str, content: &mut dyn Read) -> Result<()> {
        let head = head(content)?;
        let what = format!("cannot write {path}");
        if head.len() < INLINE {
            return self.call(&what, |g| g.write(path, &head));
        }
        let (reader, writer) =
            pipe_with(PipeFlags::CLOEXEC).context(ErrorKind::Host, || "cannot make a pipe for an upload")?;
        let (writer, mut sent) = (std::fs::File::from(writer), 0);
        let handle = &mut self.appliance.handle;
        let (fed, uploaded) = std::thread::scope(|scope| {
            // This thread owns the reading end: when the upload ends early, the writer sees a broken pipe.
            let upload = scope.spawn(move || {
                let name = format!("/dev/fd/{}", reader.as_raw_fd());
                let uploaded = handle.upload(&name, path);
                drop(reader);
                uploaded
            });
            let mut writer = Counted { to: writer, bytes: 0 };
            let fed = writer.write_all(&head).and_then(|()| std::io::copy(content, &mut writer)).map(drop);
            sent = writer.bytes;
            drop(writer);
            (fed, upload.join().expect("an upload does not panic"))
        });
        // The upload's error is the cause where both failed, since the pipe broke by it.
        if let Err(mut error) = uploaded {
            // This call alone gives no errno for a write that failed. What it wrote is removed by now, so a full disk has
            // no more room than for what was sent.
            let (folder, _) = self.split(path)?;
            let space = self.appliance.handle.space(folder);
            if error.errno == 0 && space.is_ok_and(|space| space.free <= sent) {
                error.errno = libc::ENOSPC;
            }
            return Err(self.appliance.error(ErrorKind::Step, what, error));
        }
        fed.context(ErrorKind::Step, || UNREADABLE)
    }

    /// Sets owner, then mode, because a change of the owner takes away set-id bits.
    fn apply(&mut self, path: &str, now: Now, wanted: Attributes) -> Result<()> {
        let (uid, gid) = (wanted.uid.unwrap_or(now.uid), wanted.gid.unwrap_or(now.gid));
        let moved = (uid, gid) != (now.uid, now.gid);
        let what = format!("cannot set owner and mode of {path}");
        if moved {
            self.change(path, &what, |g| g.lchown(uid as i32, gid as i32, path))?;
        }
        let mode = wanted.mode.unwrap_or(now.mode);
        if now.link {
            if wanted.mode.is_some() {
                return Err(Error::new(ErrorKind::Step, format!("{path} is a symbolic link, which has no mode")));
            }
            return Ok(());
        }
        if moved || mode != now.mode { self.change(path, &what, |g| g.chmod(mode as i32, path)) } else { Ok(()) }
    }

    fn now(&mut self, path: &str, follow: bool) -> Result<Option<(Now, u32)>> {
        match self.appliance.handle.stat(path, follow) {
            Ok(raw) => {
                let kind = raw.mode & libc::S_IFMT;
                let now = Now { mode: raw.mode & 0o7777, uid: raw.uid, gid: raw.gid, link: kind == libc::S_IFLNK };
                Ok(Some((now, kind)))
            }
            Err(error) if matches!(error.errno, libc::ENOENT | libc::ENOTDIR) => Ok(None),
            Err(error) => Err(self.appliance.error(ErrorKind::Step, format!("cannot look at {path}"), error)),
        }
    }
}

/// Attributes as they are.
#[derive(Clone, Copy)]
struct Now {
    mode: u32,
    uid: u32,
    gid: u32,
    link: bool,
}

/// A writer that knows how much it took.
struct Counted<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

impl Guest for LibguestfsSession {
    fn os(&self) -> &OsRelease {
        &self.os
    }

    fn run(&mut self, run: &Run) -> Result<Exit> {
        self.run_command(run)
    }

    fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>> {
        self.split(path)?;
        let what = format!("cannot read {path}");
        let raw = self.call(&what, |g| g.stat(path, true))?;
        if raw.mode & libc::S_IFMT != libc::S_IFREG {
            return Err(Error::new(ErrorKind::Step, format!("{path} is no regular file")));
        }
        if raw.size > limit {
            let message = format!("{path} has {} bytes, at most {limit} were expected", raw.size);
            return Err(Error::new(ErrorKind::Step, message));
        }
        match raw.size {
            0 => Ok(Vec::new()),
            size if size <= INLINE as u64 => self.call(&what, |g| g.head(path, size as usize)),
            _ => {
                let copy = self.work_dir.join("download");
                let name = copy.to_string_lossy().into_owned();
                let done = self.call(&what, |g| g.download(path, &name));
                let bytes = done.and_then(|()| std::fs::read(&copy).context(ErrorKind::Host, || what));
                let _ = std::fs::remove_file(&copy);
                bytes
            }
        }
    }

    fn write(&mut self, path: &str, content: &mut dyn Read, attributes: Attributes) -> Result<()> {
        let temporary = self.beside(path)?;
        let before = self.now(path, false)?.filter(|(_, kind)| *kind == libc::S_IFREG);
        let base = before.map_or(Attributes { mode: Some(0o644), uid: Some(0), gid: Some(0) }, |(now, _)| Attributes {
            mode: Some(now.mode),
            uid: Some(now.uid),
            gid: Some(now.gid),
        });
        let wanted = Attributes {
            mode: attributes.mode.or(base.mode),
            uid: attributes.uid.or(base.uid),
            gid: attributes.gid.or(base.gid),
        };
        // No mode that a file has, so that the daemon's own default does not matter.
        let fresh = Now { mode: u32::MAX, uid: 0, gid: 0, link: false };
        let made = self.put(&temporary, content).and_then(|()| self.apply(&temporary, fresh, wanted));
        self.settle(made, &temporary, path)
    }

    fn rewrite(&mut self, path: &str, content: &mut dyn Read) -> Result<()> {
        match self.now(path, false)? {
            Some((now, libc::S_IFREG)) => {
                let temporary = self.beside(path)?;
                let head = head(content)?;
                let put = self.put(&temporary, &mut head.as_slice().chain(content));
                if head.len() >= INLINE {
                    let done = put.and_then(|()| self.replace_content(&temporary, path));
                    let _ = self.appliance.handle.rm(&temporary);
                    return done;
                }
                // There was room for all of it, and is again: what `path` holds is not lost to a full disk.
                let _ = self.appliance.handle.rm(&temporary);
                put.and_then(|()| self.write_over(path, &head, now.mode))
            }
            _ => self.write(path, content, Attributes::default()),
        }
    }

    fn mkdir(&mut self, path: &str, attributes: Attributes, parents: bool) -> Result<()> {
        let (folder, _) = self.split(path)?;
        let what = format!("cannot make the folder {path}");
        if parents && folder != "/" {
            self.call(&what, |g| g.mkdir_p(folder))?;
        }
        let (now, wanted) = match self.appliance.handle.mkdir(path) {
            Ok(()) => {
                let wanted = Attributes { mode: attributes.mode.or(Some(0o755)), ..attributes };
                (Now { mode: u32::MAX, uid: 0, gid: 0, link: false }, wanted)
            }
            Err(error) if error.errno == libc::EEXIST => match self.now(path, true)? {
                Some((now, libc::S_IFDIR)) => (now, attributes),
                _ => return Err(Error::new(ErrorKind::Step, format!("{path} is there and no folder"))),
            },
            Err(error) => return Err(self.appliance.error(ErrorKind::Step, what, error)),
        };
        self.apply(path, now, wanted)
    }

    fn symlink(&mut self, target: &str, path: &str) -> Result<()> {
        let temporary = self.beside(path)?;
        let made = self.call(&format!("cannot make the link {path}"), |g| g.ln_s(target, &temporary));
        self.settle(made, &temporary, path)
    }

    fn hard_link(&mut self, target: &str, path: &str) -> Result<()> {
        self.remove(path)?;
        match self.appliance.handle.ln(target, path) {
            Ok(()) => Ok(()),
            Err(error) if error.errno == libc::EXDEV => {
                Err(Error::new(ErrorKind::Unsupported, format!("{target} and {path} lie on different file systems")))
            }
            Err(error) => Err(self.denied(target, &format!("cannot make {path} a second name of {target}"), error)),
        }
    }

    fn set_marks(&mut self, marks: &[Marks]) -> Result<()> {
        self.write_marks(marks)
    }

    fn set_attributes(&mut self, path: &str, attributes: Attributes) -> Result<()> {
        self.appliance.cancel.check()?;
        match self.now(path, false)? {
            Some((now, _)) => self.apply(path, now, attributes),
            None => Err(Error::new(ErrorKind::Step, format!("{path} is not there in the guest"))),
        }
    }

    fn stat(&mut self, path: &str) -> Result<Option<Stat>> {
        self.appliance.cancel.check()?;
        let raw = match self.appliance.handle.stat(path, false) {
            Ok(raw) => raw,
            Err(error) if matches!(error.errno, libc::ENOENT | libc::ENOTDIR) => return Ok(None),
            Err(error) => {
                return Err(self.appliance.error(ErrorKind::Step, format!("cannot look at {path}"), error));
            }
        };
        let kind = match raw.mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::File,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFLNK => FileKind::Symlink,
            _ => FileKind::Other,
        };
        let target = match kind {
            FileKind::Symlink => Some(self.call(&format!("cannot read the link {path}"), |g| g.readlink(path))?),
            _ => None,
        };
        Ok(Some(Stat { kind, mode: raw.mode & 0o7777, uid: raw.uid, gid: raw.gid, size: raw.size, target }))
    }

    fn space(&mut self, path: &str) -> Result<Space> {
        self.appliance.cancel.check()?;
        self.call(&format!("cannot look at the file system of {path}"), |g| g.space(path))
    }

    fn read_dir(&mut self, path: &str) -> Result<Vec<String>> {
        self.appliance.cancel.check()?;
        let mut names = self.call(&format!("cannot list {path}"), |g| g.ls(path))?;
        names.sort();
        Ok(names)
    }

    fn fstab_news(&mut self) -> Result<Vec<String>> {
        self.appliance.cancel.check()?;
        self.fstab.news(&mut self.appliance)
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        let (folder, name) = self.split(path)?;
        let what = format!("cannot remove {path}");
        match self.now(path, false)? {
            None => Ok(()),
            Some((_, libc::S_IFDIR)) => {
                let folder = self.call(&what, |g| g.realpath(folder))?;
                let real = format!("{}/{name}", folder.trim_end_matches('/'));
                self.change(path, &what, |g| g.rm_rf(&real))
            }
            Some(_) => self.change(path, &what, |g| g.rm(path)),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.split(from)?;
        self.split(to)?;
        self.change(from, &format!("cannot rename {from} to {to}"), |g| g.rename(from, to))
    }

    fn archive(&mut self, target: &Path) -> Result<()> {
        self.appliance.cancel.check()?;
        let Some(name) = target.to_str() else {
            return Err(Error::new(ErrorKind::Export, format!("the path {} is not UTF-8", target.display())));
        };
        self.call("cannot archive the guest", |g| g.tar_out("/", name))
    }

    fn walk(&mut self, path: &str, depth: Option<u32>) -> Result<Vec<Entry>> {
        self.list_tree(path, depth)
    }

    fn read_to(&mut self, path: &str, out: &mut dyn Write) -> Result<u64> {
        self.copy_out(path, out)
    }

    fn labels(&mut self) -> Result<Vec<Labelled>> {
        self.list_labels()
    }

    fn set_labels(&mut self, labels: &[Labelled]) -> Result<()> {
        self.write_labels(labels)
    }

    fn trim(&mut self) -> Result<()> {
        self.trim_all()
    }
}
