//! What deleted files leave on a disk: made to read as zeroes, so that it is in no image that is made from it.
//!
//! A discard alone is a wish: a device may leave what is no whole unit of its own (a run of blocks of 1 KiB where the
//! overlay's clusters have 4), and the journal of ext4 holds copies of what went through it (directories, short links,
//! and data with `data=journal`). So the journal is written over by the kernel, and after the discard the file system, clean
//! and read-only for that moment, says which runs of blocks nobody uses: what is not zero there is made so.
//!
//! What no kernel call reaches stays, and is said where a user looks: the log of XFS (names, never contents of files),
//! inodes of deleted files that held their content themselves (ext4 with `inline_data`, btrfs), and on file systems
//! other than ext and XFS what the discard leaves (nothing, where their blocks are whole units of the device).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;

/// `_IOWR('X', 59, struct fsmap_head)`, from `linux/fsmap.h`.
const GETFSMAP: u32 = 0xc0c0_583b;
/// `_IOW('f', 43, __u32)`, from `Documentation/filesystems/ext4/journal.rst`.
const CHECKPOINT: u32 = 0x4004_662b;
/// `EXT4_IOC_CHECKPOINT_FLAG_ZEROOUT`.
const ZEROOUT: u32 = 2;
/// `FMR_OF_SPECIAL_OWNER`, and the owner of what is free.
const SPECIAL: u32 = 0x10;
const FREE: u64 = 1;
/// `FMR_OF_LAST`.
const LAST: u32 = 0x20;
/// Runs that one call gives.
const RUNS: usize = 1024;
/// How much of each end of a run is looked at where a discard was done, to see that it was.
const EDGE: u64 = 64 << 10;
const CHUNK: u64 = 1 << 20;

/// `struct fsmap`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Run {
    device: u32,
    flags: u32,
    physical: u64,
    owner: u64,
    offset: u64,
    length: u64,
    reserved: [u64; 3],
}

/// `struct fsmap_head`, with room for the runs.
#[repr(C)]
struct Request {
    flags: u32,
    flags_out: u32,
    count: u32,
    entries: u32,
    reserved: [u64; 6],
    keys: [Run; 2],
    runs: [Run; RUNS],
}

/// Writes what is in the journal to its places, and zeroes over the journal. False where this kernel cannot; true too where
/// the file system has no journal of this kind.
pub(crate) fn journal(folder: impl AsFd, kind: &str) -> bool {
    let flags = ZEROOUT;
    // SAFETY: the call reads one 32-bit number.
    let done = unsafe { libc::ioctl(folder.as_fd().as_raw_fd(), CHECKPOINT as _, &raw const flags) };
    done == 0 || !kind.starts_with("ext") || std::io::Error::last_os_error().raw_os_error() == Some(libc::ENODEV)
}

/// Makes zero what is not, in the runs that the file system with this top folder, on this device, has free. It has to be
/// clean and read-only meanwhile. `discarded`: whole units of a device read as zeroes already. False where the kind of
/// file system does not say what is free.
pub(crate) fn free_blocks(folder: impl AsFd, device: &File, discarded: bool) -> rustix::io::Result<bool> {
    let own = encoded(rustix::fs::fstat(&folder)?.st_dev);
    // All of them first: what is written below changes nothing of it.
    let mut free: Vec<(u64, u64)> = Vec::new();
    let mut low = Run::default();
    loop {
        let Some((runs, last)) = ask(&folder, low)? else { return Ok(false) };
        let is_free = |run: &&Run| run.device == own && run.flags & SPECIAL != 0 && run.owner == FREE;
        free.extend(runs.iter().filter(is_free).map(|run| (run.physical, run.length)));
        match runs.last() {
            // The next call begins after the last run of this one.
            Some(run) if !last => low = *run,
            _ => break,
        }
    }
    let mut buffer = vec![0; CHUNK as usize];
    for (start, length) in free {
        if discarded && length > 2 * EDGE {
            let first = clear(device, start, EDGE, &mut buffer)?;
            let last = clear(device, start + length - EDGE, EDGE, &mut buffer)?;
            if !first && !last {
                continue;
            }
        }
        clear(device, start, length, &mut buffer)?;
    }
    device.sync_data().map_err(errno)?;
    Ok(true)
}

/// The runs after `low`, and whether they are the last; `None` where this kind of file system cannot say.
fn ask(folder: impl AsFd, low: Run) -> rustix::io::Result<Option<(Vec<Run>, bool)>> {
    let high = Run {
        device: u32::MAX,
        flags: u32::MAX,
        physical: u64::MAX,
        owner: u64::MAX,
        offset: u64::MAX,
        ..Run::default()
    };
    let mut request = Box::new(Request {
        flags: 0,
        flags_out: 0,
        count: RUNS as u32,
        entries: 0,
        reserved: [0; 6],
        keys: [low, high],
        runs: [Run::default(); RUNS],
    });
    // SAFETY: the call reads and writes one `struct fsmap_head` that has room for as many runs as `count` says.
    let done = unsafe { libc::ioctl(folder.as_fd().as_raw_fd(), GETFSMAP as _, &raw mut *request) };
    if done != 0 {
        return match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL) => Ok(None),
            error => Err(Errno::from_raw_os_error(error.unwrap_or(libc::EIO))),
        };
    }
    let runs = request.runs[..RUNS.min(request.entries as usize)].to_vec();
    let last = runs.last().is_none_or(|run| run.flags & LAST != 0);
    Ok(Some((runs, last)))
}

/// Writes zeroes over what is not zero in a run of bytes, and says whether there was any.
fn clear(device: &File, start: u64, length: u64, buffer: &mut [u8]) -> rustix::io::Result<bool> {
    const UNIT: usize = 4096;
    let (mut at, mut any) = (0, false);
    while at < length {
        let part = &mut buffer[..(length - at).min(CHUNK) as usize];
        device.read_exact_at(part, start + at).map_err(errno)?;
        for (index, unit) in part.chunks_mut(UNIT).enumerate() {
            if unit.iter().any(|byte| *byte != 0) {
                any = true;
                unit.fill(0);
                device.write_all_at(unit, start + at + (index * UNIT) as u64).map_err(errno)?;
            }
        }
        at += part.len() as u64;
    }
    Ok(any)
}

/// A device's number as the kernel gives it to `struct fsmap`.
fn encoded(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
