//! Packages that were fetched before, kept so that the same suite of another size, or with other packages, fetches only what is new.
//!
//! What must hold:
//! - A package that one set of sources brought is never taken for another's. apt looks at the length of a file that is
//!   there already, and no more, so packages of a mirror that nobody vouches for would pass as checked ones otherwise. So each set
//!   of sources has a folder of its own, named by a digest of them.
//! - No script of a package writes to what is kept. It is a file of its own where scripts run beside the fetched ones ([`Kind::Rpm`]).

use std::ffi::OsString;
use std::fs::{self, File, FileType};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::host::temporary::{self, Durability};
use crate::key::Digest;

/// A package that no base was made with for so long goes.
const UNUSED: Duration = Duration::from_secs(60 * 86_400);

/// Whose packages they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// All in one folder, which scripts see for reading only.
    Deb,
    /// In a folder for each repository, `NAME-HASH/packages`, as dnf keeps them. The hash is of the repository's address.
    Rpm,
}

impl Kind {
    fn ending(self) -> &'static str {
        match self {
            Kind::Deb => "deb",
            Kind::Rpm => "rpm",
        }
    }
}

/// The packages of one set of sources.
pub(super) struct Archive {
    kind: Kind,
    folder: PathBuf,
}

impl Archive {
    /// Of these sources, below a folder for what can be fetched again.
    pub(super) fn of(kind: Kind, cache: &Path, sources: &[String]) -> Archive {
        let name = Digest::of(sources.join("\n").as_bytes()).to_string();
        Archive { kind, folder: cache.join("bootstrap").join(&name[..32]) }
    }

    /// Puts what is kept into the folder that packages are fetched to. Only time depends on it, so nothing of it is an error.
    pub(super) fn fill(&self, target: &Path) {
        for name in self.packages(&self.folder) {
            self.take(&self.folder.join(&name), &target.join(&name));
        }
    }

    /// Keeps what is there after all was fetched, and lets go of what was not used for long.
    pub(super) fn keep(&self, fetched: &Path) {
        for name in self.packages(fetched) {
            let kept = self.folder.join(&name);
            self.take(&fetched.join(&name), &kept);
            let _ = File::open(&kept).and_then(|file| file.set_modified(SystemTime::now()));
        }
        for name in self.packages(&self.folder) {
            let path = self.folder.join(name);
            let used = fs::symlink_metadata(&path).and_then(|stat| stat.modified()).unwrap_or(SystemTime::now());
            if used.elapsed().is_ok_and(|unused| unused > UNUSED) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// The whole packages below a folder, by their paths there: no links, and nothing that is still being fetched.
    fn packages(&self, folder: &Path) -> Vec<PathBuf> {
        let folders = match self.kind {
            Kind::Deb => vec![PathBuf::new()],
            Kind::Rpm => names(folder, FileType::is_dir).map(|name| Path::new(&name).join("packages")).collect(),
        };
        let within = |inner: PathBuf| {
            let found: Vec<_> = names(&folder.join(&inner), FileType::is_file).collect();
            found.into_iter().map(move |name| inner.join(name))
        };
        let all = folders.into_iter().flat_map(within);
        all.filter(|path| path.extension().is_some_and(|ending| ending == self.kind.ending())).collect()
    }

    /// The same file by another name, or a copy where that cannot or must not be; one that is there stays.
    fn take(&self, from: &Path, to: &Path) {
        let Some(folder) = to.parent() else { return };
        if to.symlink_metadata().is_ok() || fs::create_dir_all(folder).is_err() {
            return;
        }
        if self.kind == Kind::Deb && fs::hard_link(from, to).is_ok() {
            return;
        }
        // Under its name only when it is whole: nobody looks at more than its length.
        let copy = |new: &mut File| io::copy(&mut File::open(from)?, new).map(drop);
        let _ = temporary::replace_with(to, 0o644, Durability::None, copy);
    }
}

/// The names in a folder that are of one type. No link is followed.
fn names(folder: &Path, is: fn(&FileType) -> bool) -> impl Iterator<Item = OsString> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(move |entry| entry.file_type().is_ok_and(|found| is(&found))).map(|entry| entry.file_name())
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
        let archive = Archive::of(Kind::Deb, cache.path(), &sources);
        archive.keep(fetched.path());
        let old = SystemTime::now() - UNUSED - Duration::from_secs(10);
        File::options().write(true).open(archive.folder.join("b_1_all.deb")).unwrap().set_modified(old).unwrap();

        let next = tempfile::tempdir().unwrap();
        archive.fill(next.path());
        assert_eq!(archive.packages(next.path()).len(), 2, "no link, no lock");
        fs::remove_file(next.path().join("b_1_all.deb")).unwrap();
        archive.keep(next.path());
        let stranger = Archive::of(Kind::Deb, cache.path(), &[sources[0].replace("deb ", "deb [trusted=yes] ")]);
        let other = tempfile::tempdir().unwrap();
        stranger.fill(other.path());
        assert!(archive.packages(other.path()).is_empty(), "other sources, though of the same suite");
        archive.fill(other.path());
        assert_eq!(archive.packages(other.path()), [PathBuf::from("a_1_amd64.deb")], "the other one was not used for long");
    }
    #[test]
    fn packages_of_repositories_are_copies_and_stay_apart() {
        let cache = tempfile::tempdir().unwrap();
        let (fetched, next) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["one-aa/packages/a.rpm", "two-bb/packages/b.rpm", "one-aa/repodata/c.rpm", "one-aa/packages/lock"] {
            let path = fetched.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let archive = Archive::of(Kind::Rpm, cache.path(), &["mirror".to_owned()]);
        archive.keep(fetched.path());
        // As a script would, when they are installed.
        fs::write(fetched.path().join("one-aa/packages/a.rpm"), "changed").unwrap();
        archive.fill(next.path());
        let mut found = archive.packages(next.path());
        found.sort();
        assert_eq!(found, ["one-aa/packages/a.rpm", "two-bb/packages/b.rpm"].map(PathBuf::from));
        assert_eq!(fs::read_to_string(next.path().join(&found[0])).unwrap(), "one-aa/packages/a.rpm");
    }
}
