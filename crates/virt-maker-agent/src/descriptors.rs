//! Open descriptors are rights: what a program inherits, it may use.
//!
//! What must hold: a program that is started has its three standard descriptors and those that it was given on purpose,
//! and nothing else. All that virt-maker opens itself closes when a program is started; what it inherited from its own
//! caller (`exec 5</; virt-maker …`) and what a library opened may not. So the programs of virt-maker call [`close_on_exec`] as
//! the first thing, and once more in each child right before what the child is meant to have is put in place.

use std::io;
use std::os::fd::RawFd;

/// The first descriptor that is not one of the standard ones.
const FIRST: RawFd = 3;
/// Where the search ends on a kernel that cannot do it in one call and sets no limit.
const LIMIT: u64 = 1 << 20;

/// Has all descriptors but the standard ones close when a program is started. They stay open in this process: its caller may
/// have given it one to read (`/dev/fd/63`).
///
/// Only system calls are made and no memory is allocated, so it may be called between fork and exec.
pub fn close_on_exec() -> io::Result<()> {
    // By its number: not every C library has a name for it.
    // SAFETY: the call changes flags in this process's table of descriptors and touches no memory.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int)
    };
    if done == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)) => one_by_one(),
        error => Err(error),
    }
}

/// For kernels before 5.11.
fn one_by_one() -> io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let end = limit.maximum.unwrap_or(LIMIT).min(LIMIT) as RawFd;
    for number in FIRST..end {
        // SAFETY: setting a flag of a descriptor touches no memory; a number that is none gives an error.
        let done = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        if done != 0 {
            match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EBADF) => {}
                error => return Err(error),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    /// An open folder that a program would inherit.
    fn inheritable() -> OwnedFd {
        let folder = std::fs::File::open("/").unwrap();
        // SAFETY: a duplicate is a descriptor of its own.
        unsafe { OwnedFd::from_raw_fd(libc::dup(folder.as_raw_fd())) }
    }

    fn seen_with(close: fn() -> io::Result<()>) -> Vec<String> {
        let _open = [inheritable(), inheritable()];
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ls /proc/$$/fd; :"]);
        // SAFETY: only system calls are made there.
        unsafe { command.pre_exec(close) };
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn a_child_has_the_standard_descriptors_alone() {
        assert!(seen_with(|| Ok(())).len() > 3);
        assert_eq!(seen_with(close_on_exec), ["0", "1", "2"]);
        assert_eq!(seen_with(one_by_one), ["0", "1", "2"]);
    }
}
