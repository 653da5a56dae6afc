//! Locks on files that processes have among themselves (flock(2)). They end with their process.

use std::fs::File;
use std::io;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Whether a lock is shared with others who have it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// With others.
    Shared,
    /// Alone.
    Exclusive,
}

/// Takes a lock if it can be had at once; whether it was taken. [`super::waiting`] waits for one.
///
/// An error is one of the file system: it may have no locks.
pub fn try_lock(file: &File, how: Lock) -> io::Result<bool> {
    let how = match how {
        Lock::Shared => FlockOperation::NonBlockingLockShared,
        Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(file, how) {
        Ok(()) => Ok(true),
        // A signal that came meanwhile may be the end of the wait, so it is not tried again here.
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a lock was taken; not, too, where the file system has none.
pub fn got(file: &File, how: Lock) -> bool {
    try_lock(file, how).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_alone_or_several_together() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let [one, other] = [0, 1].map(|_| File::open(place.path()).unwrap());
        assert!(try_lock(&one, Lock::Shared).unwrap() && got(&other, Lock::Shared));
        assert!(!try_lock(&one, Lock::Exclusive).unwrap());
        drop(other);
        assert!(try_lock(&one, Lock::Exclusive).unwrap());
        let other = File::open(place.path()).unwrap();
        assert!(!try_lock(&other, Lock::Shared).unwrap() && !got(&other, Lock::Exclusive));
        drop(one);
        assert!(got(&other, Lock::Exclusive));
    }
}
