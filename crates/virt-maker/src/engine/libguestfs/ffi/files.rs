//! Calls about files of the guest.

use std::ffi::{CStr, c_int};

use super::{CallError, Handle, RawAttributes, RawSpace, RawStat, c};
use crate::guest::Space;

impl Handle {
    /// Creates or overwrites a file of at most 2 MiB.
    pub(in super::super) fn write(&mut self, path: &str, content: &[u8]) -> Result<(), CallError> {
        let path = c(path).map_err(CallError::nul)?;
        // SAFETY: pointer and length are those of the slice.
        let status = unsafe { (self.library.write)(self.raw(), path.as_ptr(), content.as_ptr().cast(), content.len()) };
        self.status("write", status)
    }

    /// An extended attribute of a file, not of what a link leads to; none where it has not got that one.
    pub(in super::super) fn attribute(&mut self, path: &str, name: &CStr) -> Result<Option<Vec<u8>>, CallError> {
        let path = c(path).map_err(CallError::nul)?;
        let mut length = 0;
        // SAFETY: the library sets `length` to the bytes of the buffer that it returns, which is ours to free.
        unsafe {
            let bytes = (self.library.lgetxattr)(self.raw(), path.as_ptr(), name.as_ptr(), &mut length);
            if bytes.is_null() {
                let error = self.error("lgetxattr");
                // A file system may have no attributes at all.
                return if matches!(error.errno, libc::ENODATA | libc::EOPNOTSUPP) { Ok(None) } else { Err(error) };
            }
            let copy = std::slice::from_raw_parts(bytes.cast::<u8>(), length).to_vec();
            libc::free(bytes.cast());
            Ok(Some(copy))
        }
    }

    /// At most `count` bytes (at most 2 MiB) from the start of a file.
    pub(in super::super) fn head(&mut self, path: &str, count: usize) -> Result<Vec<u8>, CallError> {
        let path = c(path).map_err(CallError::nul)?;
        let count = c_int::try_from(count).unwrap_or(c_int::MAX);
        let mut length = 0;
        // SAFETY: the library sets `length` to the bytes of the buffer that it returns, which is ours to free.
        unsafe {
            let bytes = (self.library.pread)(self.raw(), path.as_ptr(), count, 0, &mut length);
            if bytes.is_null() {
                return Err(self.error("pread"));
            }
            let copy = std::slice::from_raw_parts(bytes.cast::<u8>(), length).to_vec();
            libc::free(bytes.cast());
            Ok(copy)
        }
    }

    /// What is at a path, following a final symlink or not.
    pub(in super::super) fn stat(&mut self, path: &str, follow: bool) -> Result<RawAttributes, CallError> {
        let path = c(path).map_err(CallError::nul)?;
        let call = if follow { self.library.statns } else { self.library.lstatns };
        // SAFETY: the struct is ours until it is freed; its head has this layout.
        unsafe {
            let stat = call(self.raw(), path.as_ptr());
            if stat.is_null() {
                return Err(self.error("lstatns"));
            }
            let RawStat { dev, ino, mode, uid, gid, size, changed: [a, b, c, d], .. } = *stat;
            (self.library.free_statns)(stat);
            let mark = [dev, ino, size, a, b, c, d];
            Ok(RawAttributes { mode: mode as u32, uid: uid as u32, gid: gid as u32, size: size as u64, mark })
        }
    }

    /// The room in the file system that a path is on.
    pub(in super::super) fn space(&mut self, path: &str) -> Result<Space, CallError> {
        let path = c(path).map_err(CallError::nul)?;
        // SAFETY: the struct is ours until it is freed; its head has this layout.
        unsafe {
            let stat = (self.library.statvfs)(self.raw(), path.as_ptr());
            if stat.is_null() {
                return Err(self.error("statvfs"));
            }
            let RawSpace { frsize, blocks, bavail, .. } = *stat;
            (self.library.free_statvfs)(stat);
            let bytes = |count: i64| (frsize as u64).saturating_mul(count as u64);
            Ok(Space { free: bytes(bavail), total: bytes(blocks) })
        }
    }

    /// What a symbolic link says.
    pub(in super::super) fn readlink(&mut self, path: &str) -> Result<String, CallError> {
        let path = c(path).map_err(CallError::nul)?;
        // SAFETY: the handle is open, the string lives until the call returns.
        let text = unsafe { (self.library.readlink)(self.raw(), path.as_ptr()) };
        self.text("readlink", text)
    }

    /// A path without symbolic links, resolved inside the guest's root.
    pub(in super::super) fn realpath(&mut self, path: &str) -> Result<String, CallError> {
        let path = c(path).map_err(CallError::nul)?;
        // SAFETY: the handle is open, the string lives until the call returns.
        let text = unsafe { (self.library.realpath)(self.raw(), path.as_ptr()) };
        self.text("realpath", text)
    }

    /// Names in a folder, without dots.
    pub(in super::super) fn ls(&mut self, path: &str) -> Result<Vec<String>, CallError> {
        let path = c(path).map_err(CallError::nul)?;
        // SAFETY: the handle is open, the string lives until the call returns.
        let list = unsafe { (self.library.ls)(self.raw(), path.as_ptr()) };
        self.list("ls", list)
    }
}
