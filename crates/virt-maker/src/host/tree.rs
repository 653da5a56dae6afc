//! A tree of the host's files that enters a key and then a guest: one walk says what is in it.
//!
//! What must hold: what is hashed is what is copied. The walk's list is what enters the key, and whoever copies goes by that
//! list, opens each file by [`HostPath::below`] (which follows no link), and compares the digest of the bytes that passed. So a
//! file that the walk did not see is not copied, and one that changed is an error.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::digest;
use super::permit::HostPath;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::key::Digest;

/// Something in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where in the tree, relative; empty for its root.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What something in a tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// SHA-256 of its bytes.
        digest: Digest,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// A symbolic link, with what it says.
    Link(String),
    /// A folder.
    Folder,
}

/// What to do where a link leads out of the tree: the place behind it, or an error.
pub type Behind<'a> = dyn Fn(&Path) -> Result<HostPath> + 'a;

/// How a tree is walked.
pub struct Walk<'a> {
    /// For messages: who takes the tree.
    pub what: &'a str,
    /// Names that are left out, with all below them.
    pub skip: &'a dyn Fn(&OsStr) -> bool,
    /// Most entries.
    pub most: usize,
    /// For links that lead out of the tree: what lies behind is walked as if it lay there.
    pub behind: &'a Behind<'a>,
}

impl Walk<'_> {
    /// Everything in the tree, parents before their children, in the order of names. The root may be a single file.
    pub fn list(&self, root: &HostPath) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.add(root, "", "", &mut HashSet::new(), &mut entries)?;
        Ok(entries)
    }

    /// `within` is the name in the tree that the links are judged by: where one that led out was followed, that place.
    fn add(
        &self,
        path: &HostPath,
        name: &str,
        within: &str,
        above: &mut HashSet<PathBuf>,
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        let failed = || format!("cannot read {}, which {} takes", path.display(), self.what);
        if entries.len() >= self.most {
            let message = format!("there are more than {} files in what {} takes", self.most, self.what);
            return Err(Error::new(ErrorKind::Template, message).with_hint("give it a folder of its own"));
        }
        let stat = path.metadata().context(ErrorKind::Template, failed)?;
        let mut push = |kind| entries.push(Entry { name: name.to_owned(), kind });
        let kind = stat.file_type();
        if kind.is_file() {
            let file = path.open().context(ErrorKind::Template, failed)?;
            let digest = digest::of_open_file(&file).context(ErrorKind::Template, failed)?;
            push(EntryKind::File { digest, executable: stat.mode() & 0o100 != 0 });
        } else if kind.is_symlink() {
            let target = link_target(path)?;
            if !leads_out(within, &target) {
                push(EntryKind::Link(target));
                return Ok(());
            }
            let behind = (self.behind)(path.named())?;
            return self.add(&behind, name, "", above, entries);
        } else if kind.is_dir() {
            if !above.insert(path.real().to_owned()) {
                let message = format!("{} is a folder in itself, by a link", path.display());
                return Err(Error::new(ErrorKind::Template, message));
            }
            push(EntryKind::Folder);
            let names = fs::read_dir(path.real())
                .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>());
            let mut names = names.context(ErrorKind::Template, failed)?;
            names.sort();
            for child in names.iter().filter(|name| !(self.skip)(name)) {
                let Some(child) = child.to_str() else {
                    let message = format!("the name {child:?} in {} is not UTF-8", path.display());
                    return Err(Error::new(ErrorKind::Template, message));
                };
                let below = |name: &str| if name.is_empty() { child.to_owned() } else { format!("{name}/{child}") };
                self.add(&path.below(child), &below(name), &below(within), above, entries)?;
            }
            above.remove(path.real());
        } else {
            let message = format!("{} is neither file, folder nor link; {} cannot take it", path.display(), self.what);
            return Err(Error::new(ErrorKind::Template, message));
        }
        Ok(())
    }
}

/// What a link says.
pub fn link_target(path: &HostPath) -> Result<String> {
    let failed = || format!("cannot read the link {}", path.display());
    let target = fs::read_link(path.real()).context(ErrorKind::Template, failed)?;
    target.into_os_string().into_string().map_err(|_| Error::new(ErrorKind::Template, failed()))
}

/// Whether a link called `name` within a folder leads out of that folder.
pub fn leads_out(name: &str, target: &str) -> bool {
    let mut depth = Path::new(name).components().count() as i64 - 1;
    for part in Path::new(target).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return true,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::host::permit::{Door, Permissions, Places};

    #[test]
    fn links_that_leave_the_folder_are_found() {
        for (name, target, out) in [
            ("a", "b", false),
            ("a", "sub/b", false),
            ("sub/a", "../b", false),
            ("a", "../b", true),
            ("sub/a", "../../b", true),
            ("a", "sub/../../b", true),
            ("a", "/etc/passwd", true),
            ("a", ".", false),
        ] {
            assert_eq!(leads_out(name, target), out, "{name} -> {target}");
        }
    }

    fn door(folder: &Path) -> Door {
        let places = Places { templates: vec![folder.join("web.yml")], ..Places::default() };
        Door::new(Permissions::default(), &places)
    }

    #[test]
    fn a_walk_lists_what_is_there_and_what_lies_behind_links() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["tree/sub", "shared", "tree/skipped"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("tree/sub/file"), "one").unwrap();
        fs::write(at("tree/tool"), "two").unwrap();
        fs::set_permissions(at("tree/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at("shared/role"), "three").unwrap();
        symlink("sub/file", at("tree/inside")).unwrap();
        symlink("../shared", at("tree/outside")).unwrap();
        let door = door(folder.path());
        let behind = |path: &Path| door.read(path).map_err(|refusal| Error::new(ErrorKind::Template, refusal.message));
        let walk = Walk { what: "a test", skip: &|name| name == "skipped", most: 100, behind: &behind };
        let root = door.read(&at("tree")).unwrap();
        let file = |text: &str, executable| EntryKind::File { digest: Digest::of(text.as_bytes()), executable };
        let wanted = [
            ("", EntryKind::Folder),
            ("inside", EntryKind::Link("sub/file".into())),
            ("outside", EntryKind::Folder),
            ("outside/role", file("three", false)),
            ("sub", EntryKind::Folder),
            ("sub/file", file("one", false)),
            ("tool", file("two", true)),
        ];
        let wanted: Vec<Entry> = wanted.into_iter().map(|(name, kind)| Entry { name: name.into(), kind }).collect();
        assert_eq!(walk.list(&root).unwrap(), wanted);

        // A folder that holds itself has no end.
        symlink("../tree", at("shared/again")).unwrap();
        let error = walk.list(&root).unwrap_err();
        assert!(error.to_string().contains("a folder in itself"), "{error}");
        fs::remove_file(at("shared/again")).unwrap();

        // What is behind a link is asked of the door.
        symlink("/etc/passwd", at("tree/stolen")).unwrap();
        let error = walk.list(&root).unwrap_err();
        assert!(error.to_string().contains("may not read"), "{error}");
    }
}
