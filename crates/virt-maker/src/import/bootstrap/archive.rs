//! Packages that were fetched before, kept so that the same suite of another size, or with other packages, fetches only what is new.
//!
//! What must hold: a package that one set of sources brought is never taken for another's. apt looks at the length of a file that is
//! there already, and no more, so packages of a mirror that nobody vouches for would pass as checked ones otherwise. So each set
//! of sources has a folder of its own, named by a digest of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::key::Digest;

/// A package that no base was made with for so long goes.
const UNUSED: Duration = Duration::from_secs(60 * 86_400);

/// The packages of one set of sources.
pub(super) struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Of these sources, below a folder for what can be fetched again.
    pub(super) fn of(cache: &Path, sources: &[String]) -> Archive {
        let name = Digest::of(sources.join("\n").as_bytes()).to_string();
        Archive { folder: cache.join("bootstrap").join(&name[..32]) }
    }

    /// Puts what is kept into the folder that packages are fetched to. Only time depends on it, so nothing of it is an error.
    pub(super) fn fill(&self, target: &Path) {
        for path in packages(&self.folder) {
            if let Some(name) = path.file_name() {
                take(&path, &target.join(name));
            }
        }
    }

    /// Keeps what is there after all was fetched, and lets go of what was not used for long.
    pub(super) fn keep(&self, fetched: &Path) {
        if fs::create_dir_all(&self.folder).is_err() {
            return;
        }
        for path in packages(fetched) {
            let Some(name) = path.file_name() else { continue };
            let kept = self.folder.join(name);
            take(&path, &kept);
            let _ = File::open(&kept).and_then(|file| file.set_modified(SystemTime::now()));
        }
        for path in packages(&self.folder) {
            let used = fs::symlink_metadata(&path).and_then(|stat| stat.modified()).unwrap_or(SystemTime::now());
            if used.elapsed().is_ok_and(|unused| unused > UNUSED) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The whole packages in a folder: no links, and nothing that is still being fetched.
fn packages(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let whole = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    whole.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ending| ending == "deb")).collect()
}

/// The same file by another name, or a copy where that cannot be; one that is there stays.
fn take(from: &Path, to: &Path) {
    if to.symlink_metadata().is_ok() || fs::hard_link(from, to).is_ok() {
        return;
    }
    // Under its name only when it is whole: nobody looks at more than its length.
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    if fs::copy(from, &part).and_then(|_| fs::rename(&part, to)).is_err() {
        let _ = fs::remove_file(&part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_stay_with_their_sources_and_go_when_nobody_uses_them() {
        let cache = tempfile::tempdir().unwrap();
        let fetched = tempfile::tempdir().unwrap();
        for name in ["a_1_amd64.deb", "b_1_all.deb", "lock", "partial"] {
            fs::write(fetched.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", fetched.path().join("c.deb")).unwrap();
        let sources = vec!["deb http://deb.debian.org/debian bookworm main".to_owned()];
        let archive = Archive::of(cache.path(), &sources);
        archive.keep(fetched.path());
        let old = SystemTime::now() - UNUSED - Duration::from_secs(10);
        File::options().write(true).open(archive.folder.join("b_1_all.deb")).unwrap().set_modified(old).unwrap();

        let next = tempfile::tempdir().unwrap();
        archive.fill(next.path());
        assert_eq!(packages(next.path()).len(), 2, "no link, no lock");
        fs::remove_file(next.path().join("b_1_all.deb")).unwrap();
        archive.keep(next.path());
        let stranger = Archive::of(cache.path(), &[sources[0].replace("deb ", "deb [trusted=yes] ")]);
        let other = tempfile::tempdir().unwrap();
        stranger.fill(other.path());
        assert!(packages(other.path()).is_empty(), "other sources, though of the same suite");
        archive.fill(other.path());
        assert_eq!(packages(other.path()), [other.path().join("a_1_amd64.deb")], "the other one was not used for long");
    }
}
