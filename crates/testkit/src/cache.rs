//! The cache of fixtures: each is built once per recipe, by whichever test process comes first, and never changed.
//!
//! A fixture is a read-only file named after a digest of everything that shaped it. It is made in a temporary folder
//! beside its final place, under a lock, and renamed: a test process that is killed leaves no half fixture.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

/// The folder of cached fixtures: `target/testkit-cache` of this workspace, or the value of `TESTKIT_CACHE`, so that
/// several checkouts can share the slow ones. It exists when this returns.
pub fn cache_dir() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "a switch for developers, of the test kit and not of the library")]
    let chosen = std::env::var_os("TESTKIT_CACHE").filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = chosen.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/testkit-cache"));
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
    dir.canonicalize().unwrap_or_else(|error| panic!("cannot resolve {}: {error}", dir.display()))
}

/// The fixture `<stem>-<digest of recipe>.<extension>`. `build` gets a path that does not exist yet and a folder for
/// its intermediate files, and runs at most once for all processes on this machine.
pub fn fixture(stem: &str, extension: &str, recipe: &[u8], build: impl FnOnce(&Path, &Path)) -> PathBuf {
    let dir = cache_dir();
    let digest = Sha256::digest(recipe);
    let short: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{stem}-{short}.{extension}");
    let target = dir.join(&name);
    if target.exists() {
        return target;
    }
    let _lock = lock_file(&dir.join(format!("{name}.lock")));
    if target.exists() {
        return target;
    }
    let temporary = tempfile::Builder::new().prefix(".building-").tempdir_in(&dir).expect("a temporary folder");
    let unfinished = temporary.path().join(&name);
    build(&unfinished, temporary.path());
    let permissions = std::fs::Permissions::from_mode(0o444);
    std::fs::set_permissions(&unfinished, permissions).expect("the fixture was built");
    std::fs::rename(&unfinished, &target).expect("renaming within one folder");
    target
}

/// Appliances and machines that all test processes may run at the same time: more starve each other on a small host.
const APPLIANCES: usize = 3;

/// The lock under which appliances and machines run, [`APPLIANCES`] of them for all test processes. Held until it is
/// dropped.
pub fn appliance_lock() -> ApplianceLock {
    let slots: Vec<File> =
        (0..APPLIANCES).map(|slot| open_lock(&cache_dir().join(format!("appliance-{slot}.lock")))).collect();
    loop {
        for slot in &slots {
            match flock(slot, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return ApplianceLock(slot.try_clone().expect("a descriptor can be copied")),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => panic!("cannot lock a slot for an appliance: {error}"),
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// See [`appliance_lock`].
pub struct ApplianceLock(#[expect(dead_code, reason = "the lock is held as long as the file is open")] File);

/// Opens and locks `path` exclusively; the lock goes when the file is dropped, or with the process.
pub(crate) fn lock_file(path: &Path) -> File {
    let file = open_lock(path);
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return file,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => panic!("cannot lock {}: {error}", path.display()),
        }
    }
}

fn open_lock(path: &Path) -> File {
    File::options().create(true).truncate(false).write(true).open(path).expect("a lock file")
}
