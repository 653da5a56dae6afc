//! Loop devices: a piece of a file, or of a disk, as a block device.
//!
//! Three things must hold.
//! - The device is auto-clear: the kernel frees it when its last user (the mount) goes, however the agent ends.
//! - I/O on the file is buffered. Direct I/O over qemu's FUSE export corrupts file systems silently, so this is checked
//!   after the fact, not assumed from what was asked for.
//! - Sectors have 512 bytes, whatever the file lies on: that is what the guest's disk has.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::failure::{Result, failure, refused, system};
use virt_maker_agent::protocol::FailureKind;

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// How often a free device is asked for when others take it first.
const ATTEMPTS: u32 = 64;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// A loop device that is kept by this handle, and by what is mounted from it.
#[derive(Debug)]
pub struct LoopDevice {
    /// Path of its node.
    pub path: String,
    device: OwnedFd,
}

impl LoopDevice {
    /// The open device.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.device
    }
}

/// Makes a loop device over `length` bytes from `offset` of `file`, which must be open for reading and writing unless
/// `read_only`.
pub fn attach(file: &File, offset: u64, length: u64, read_only: bool) -> Result<LoopDevice> {
    let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        failure(
            FailureKind::Unsupported,
            format!("this kernel has no loop devices (/dev/loop-control: {error}); load the module `loop`, or use the engine libguestfs"),
        )
    })?;
    for _ in 0..ATTEMPTS {
        // SAFETY: the request takes no argument and only gives a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(system("get a free loop device", std::io::Error::last_os_error()));
        }
        let path = format!("/dev/loop{number}");
        let device = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| system(format_args!("open {path}"), error))?;
        match configure(&device, file, offset, length, read_only) {
            Ok(()) => {
                check(&device, &path, offset, length)?;
                return Ok(LoopDevice { path, device });
            }
            // Somebody else got it between the two calls.
            Err(Errno::BUSY) => {}
            Err(error) => return Err(system(format_args!("set up {path}"), error)),
        }
    }
    Err(refused(format!("cannot set up a loop device: {ATTEMPTS} times another process was faster")))
}

fn configure(device: &OwnedFd, file: &File, offset: u64, length: u64, read_only: bool) -> rustix::io::Result<()> {
    let config = LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size: 512,
        info: LoopInfo64 {
            offset,
            sizelimit: length,
            flags: LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 },
            ..empty_info()
        },
        reserved: [0; 8],
    };
    // SAFETY: the request reads one `loop_config`, which lives until the call is over.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// Refuses a device that is not what was asked for. Dropping the handle then frees it.
fn check(device: &impl AsFd, path: &str, offset: u64, length: u64) -> Result<()> {
    let mut info = empty_info();
    // SAFETY: the request writes one `loop_info64`, which is exclusively borrowed here.
    if unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) } != 0 {
        return Err(system(format_args!("ask for the state of {path}"), std::io::Error::last_os_error()));
    }
    judge(info.flags, info.offset, info.sizelimit, offset, length).map_err(|what| refused(format!("{path} {what}")))
}

fn judge(
    flags: u32,
    offset: u64,
    sizelimit: u64,
    wanted_offset: u64,
    wanted_length: u64,
) -> std::result::Result<(), &'static str> {
    if flags & LO_FLAGS_DIRECT_IO != 0 {
        return Err("uses direct I/O, which corrupts guests silently; it is not used");
    }
    if flags & LO_FLAGS_AUTOCLEAR == 0 {
        return Err("would stay when the agent ends; it is not used");
    }
    if (offset, sizelimit) != (wanted_offset, wanted_length) {
        return Err("covers another piece of the disk than was asked for; it is not used");
    }
    Ok(())
}

fn empty_info() -> LoopInfo64 {
    LoopInfo64 {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }

    #[test]
    fn direct_io_is_refused() {
        assert!(judge(LO_FLAGS_AUTOCLEAR, 1, 2, 1, 2).is_ok());
        assert!(judge(LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO, 1, 2, 1, 2).is_err());
        assert!(judge(0, 1, 2, 1, 2).is_err());
        assert!(judge(LO_FLAGS_AUTOCLEAR, 1, 2, 1, 3).is_err());
    }

    #[test]
    fn a_piece_of_a_file_is_mapped_and_freed() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        let piece = attach(&file, 1 << 20, 2 << 20, false).unwrap();
        let sys = format!("/sys/block/{}/", piece.path.strip_prefix("/dev/").unwrap());
        let value = |name: &str| std::fs::read_to_string(format!("{sys}{name}")).unwrap().trim().to_string();
        assert_eq!(value("loop/dio"), "0");
        assert_eq!(value("loop/autoclear"), "1");
        assert_eq!(value("loop/offset"), (1 << 20).to_string());
        assert_eq!(value("size"), (2 * (1 << 20) / 512).to_string());
        assert_eq!(value("queue/logical_block_size"), "512");
    }
}
