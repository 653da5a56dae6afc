//! What must hold of stores that came from elsewhere: nothing of them is used, and nothing behind them is touched.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::super::tests::{owner, sealed};
use super::super::{Lookup, Wish};
use super::*;
use crate::host::Cancel;

/// A folder of the host with a file, which must stay as it is.
struct Precious {
    folder: TempDir,
}

impl Precious {
    fn new() -> Precious {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("id_ed25519"), "a key").unwrap();
        Precious { folder }
    }

    #[track_caller]
    fn is_whole(&self) {
        let names: Vec<_> = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["id_ed25519"]);
        assert_eq!(fs::read_to_string(self.folder.path().join("id_ed25519")).unwrap(), "a key");
    }
}

/// A store of somebody else, with one layer, moved into `folder` as `store`.
fn foreign(folder: &TempDir) -> std::path::PathBuf {
    let place = folder.path().join("store");
    let theirs = Owner::new(folder.path().join("theirs/secret"), None);
    let store = Store::open(&place, &theirs).unwrap();
    sealed(&store, "base", None, &[7; 512]);
    place
}

fn unmark(place: &Path) {
    fs::write(place.join(MARK), "{\"format\": 4}").unwrap();
}

#[test]
fn a_store_is_used_only_by_whom_it_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let place = foreign(&folder);
    let problem = Store::open(&place, &owner(&folder)).unwrap_err();
    assert_eq!(problem.kind(), ErrorKind::Store);
    assert!(problem.to_string().contains("its mark is of another user"), "{problem}");
    unmark(&place);
    let problem = Store::open(&place, &owner(&folder)).unwrap_err();
    assert!(problem.to_string().contains("it has no mark of yours"), "{problem}");
    assert!(problem.hint().unwrap().contains("cache adopt --store"));
    // Where this user's own store is by default, no mark is needed, and one is made.
    let at_home = Owner::new(folder.path().join("state/secret"), Some(place.clone()));
    assert_eq!(Store::open(&place, &at_home).unwrap().keys().unwrap().len(), 1);
    Store::open(&place, &owner(&folder)).unwrap();
}

/// A copy of `store.json` in another folder proves nothing; a folder that is renamed stays what it is.
#[test]
fn a_mark_is_of_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("mine");
    Store::open(&mine, &owner(&folder)).unwrap();
    let forged = foreign(&folder);
    fs::copy(mine.join(MARK), forged.join(MARK)).unwrap();
    let problem = Store::open(&forged, &owner(&folder)).unwrap_err();
    assert!(problem.to_string().contains("or it was copied here"), "{problem}");
    let moved = folder.path().join("moved");
    fs::rename(&mine, &moved).unwrap();
    Store::open(&moved, &owner(&folder)).unwrap();
}

/// The cases that were shown: a cloned folder whose store is not a store yet, has no mark, or somebody's; and anything in it is
/// a link. In each case nothing behind the link is opened for writing, emptied or removed.
#[test]
fn links_in_a_cloned_store_lead_nowhere() {
    for name in FOLDERS {
        let (folder, precious) = (tempfile::tempdir().unwrap(), Precious::new());
        let place = foreign(&folder);
        fs::remove_dir_all(place.join(name)).unwrap();
        symlink(precious.folder.path(), place.join(name)).unwrap();
        let mut ways = vec![owner(&folder), Owner::new(folder.path().join("theirs/secret"), None)];
        ways.push(Owner::new(folder.path().join("state/secret"), Some(place.clone())));
        for way in &ways {
            let problem = Store::open(&place, way).unwrap_err();
            assert!(problem.to_string().contains("is a link"), "{name}: {problem}");
            assert!(Store::adopt(&place, way, &Cancel::default()).is_err());
        }
        // The same where nothing says that it is a store.
        fs::remove_file(place.join(MARK)).unwrap();
        for way in &ways {
            assert!(Store::open(&place, way).unwrap_err().to_string().contains("not empty and not a store"));
        }
        precious.is_whole();
    }
    let (folder, precious) = (tempfile::tempdir().unwrap(), Precious::new());
    fs::create_dir(folder.path().join("store")).unwrap();
    symlink(precious.folder.path(), folder.path().join("store/locks")).unwrap();
    assert!(Store::open(&folder.path().join("store"), &owner(&folder)).is_err());
    symlink(precious.folder.path(), folder.path().join("link")).unwrap();
    let problem = Store::open(&folder.path().join("link"), &owner(&folder)).unwrap_err();
    assert!(problem.to_string().contains("is a link"), "{problem}");
    precious.is_whole();
}

/// What is in a folder that is no store yet would count as made by this user.
#[test]
fn a_store_is_not_made_around_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let place = foreign(&folder);
    fs::remove_file(place.join(MARK)).unwrap();
    let problem = Store::open(&place, &owner(&folder)).unwrap_err();
    assert!(problem.to_string().contains("not empty and not a store"), "{problem}");
}

/// Links of files, in a store of one's own: as a later `git pull` into a project's folder can put them there.
#[test]
fn links_of_files_are_not_followed_and_names_of_others_stay() {
    let (folder, precious) = (tempfile::tempdir().unwrap(), Precious::new());
    let place = folder.path().join("store");
    let store = Store::open(&place, &owner(&folder)).unwrap();
    let layer = sealed(&store, "base", None, &[7; 512]);
    let key = layer.record.key;
    let target = precious.folder.path().join("id_ed25519");
    let id = "0".repeat(32);
    let files = [
        format!("locks/{}", "1".repeat(64)),
        format!("locks/{}.flat", "1".repeat(64)),
        format!("leases/{id}"),
        format!("layers/{key}/uses"),
        format!("layers/{key}/children"),
        "tags/name".into(),
        "collected.log".into(),
        format!("builds/{}.json", "1".repeat(64)),
        format!("images/{}-{id}.raw", "2".repeat(64)),
        format!("exports/{}.json", "1".repeat(64)),
    ];
    for file in &files {
        let _ = fs::remove_file(place.join(file));
        symlink(&target, place.join(file)).unwrap();
    }
    symlink(precious.folder.path(), place.join(format!("tmp/{id}"))).unwrap();
    symlink(precious.folder.path(), place.join(format!("layers/{}", "3".repeat(64)))).unwrap();
    fs::create_dir(place.join("tmp/theirs")).unwrap();
    for file in ["locks/key.txt", "leases/key.txt", "images/key.txt", "builds/key.txt", "tmp/theirs/key.txt"] {
        fs::write(place.join(file), "not ours").unwrap();
    }
    // A lock that is no lock: a file with something in it, by the name of one.
    let text = place.join(format!("locks/{}", "4".repeat(64)));
    fs::write(&text, "not ours").unwrap();
    for _ in 0..2 {
        let store = Store::open(&place, &owner(&folder)).unwrap();
        store.count_use(key);
        store.touch(key);
        assert!(store.try_lock(crate::key::LayerKey(crate::key::Digest::parse(&"4".repeat(64)).unwrap())).is_err());
        sealed(&store, "on it", Some(&layer), &[7; 512]);
        let _ = store.collect(&Wish::Within(Default::default()), false, &Cancel::default());
        let _ = store.tags();
    }
    precious.is_whole();
    assert_eq!(fs::read_to_string(&text).unwrap(), "not ours");
    for file in ["locks/key.txt", "leases/key.txt", "images/key.txt", "builds/key.txt", "tmp/theirs/key.txt"] {
        assert_eq!(fs::read_to_string(place.join(file)).unwrap(), "not ours");
    }
    // The files whose lock is all that matters are links too.
    for name in locking::FILES {
        let path = place.join(name);
        fs::remove_file(&path).unwrap();
        symlink(&target, &path).unwrap();
        let opened = Store::open(&place, &owner(&folder)).map(|store| store.lease(&[key]).map(drop));
        assert!(opened.is_err() || opened.is_ok_and(|leased| leased.is_err()) || name == locking::SWEEPING, "{name}");
        fs::remove_file(&path).unwrap();
    }
    precious.is_whole();
    // An image that is a link is none.
    fs::remove_file(&layer.path).unwrap();
    symlink(&target, &layer.path).unwrap();
    assert!(matches!(Store::open(&place, &owner(&folder)).unwrap().lookup(key), Lookup::Damaged(_)));
}

#[test]
fn what_others_may_write_to_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("store");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    // An empty folder of the user's own gets the mode that a store has.
    fs::create_dir(&place).unwrap();
    mode(&place, 0o775);
    Store::open(&place, &owner(&folder)).unwrap();
    assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o755);
    for part in ["", "images"] {
        mode(&place.join(part), 0o770);
        let problem = Store::open(&place, &owner(&folder)).unwrap_err();
        assert!(problem.to_string().contains("written to by others (mode 0770)"), "{problem}");
        mode(&place.join(part), 0o700);
    }
    Store::open(&place, &owner(&folder)).unwrap();
    mode(folder.path(), 0o777);
    let problem = Store::open(&place, &owner(&folder)).unwrap_err();
    assert!(crate::error::chain(&problem).contains("by everybody"), "{problem}");
    mode(folder.path(), 0o1777);
    Store::open(&place, &owner(&folder)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&place, Some(12345), None).unwrap();
        let problem = Store::open(&place, &owner(&folder)).unwrap_err();
        assert!(problem.to_string().contains("belongs to user 12345 and not to user 0"), "{problem}");
    }
}

#[test]
fn adopting_looks_at_everything_and_is_believed_then() {
    let folder = tempfile::tempdir().unwrap();
    let place = foreign(&folder);
    unmark(&place);
    let adopt = || Store::adopt(&place, &owner(&folder), &Cancel::default());
    let refused = |what: &str| {
        let problem = adopt().unwrap_err();
        assert!(problem.to_string().contains(what), "{what}: {problem}");
    };
    symlink("/etc/passwd", place.join("logs/x.log")).unwrap();
    refused("is a link");
    fs::remove_file(place.join("logs/x.log")).unwrap();
    fs::create_dir_all(place.join("cache/downloads")).unwrap();
    fs::set_permissions(place.join("cache/downloads"), fs::Permissions::from_mode(0o777)).unwrap();
    refused("written to by others");
    fs::set_permissions(place.join("cache/downloads"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(fs::read_to_string(place.join(MARK)).unwrap(), "{\"format\": 4}", "nothing was changed");
    let adopted = adopt().unwrap();
    assert_eq!((adopted.layers, adopted.damaged.len(), adopted.before), (1, 0, false));
    Store::open(&place, &owner(&folder)).unwrap();
    assert!(adopt().unwrap().before);
    assert!(Store::adopt(&folder.path().join("none"), &owner(&folder), &Cancel::default()).is_err());
}

/// A forged layer under a key that a reviewed template has: all of it fits together, and its image names a file of the host.
#[test]
fn a_header_that_names_another_file_is_not_adopted_and_not_opened() {
    use crate::disk::ImageFormat;
    use crate::disk::overlay::{self, Backing};
    let (folder, precious) = (tempfile::tempdir().unwrap(), Precious::new());
    let place = foreign(&folder);
    let theirs = Owner::new(folder.path().join("theirs/secret"), None);
    let store = Store::open(&place, &theirs).unwrap();
    let host = precious.folder.path().join("id_ed25519");
    let base = sealed(&store, "base", None, &[7; 512]);
    let forge = |name: &str| {
        let workspace = store.workspace().unwrap();
        let material = super::super::tests::material(name, Some(&base));
        let folder = workspace.subfolder("d").unwrap();
        let draft = super::super::tests::draft_in(&store, folder, material, Some(&base), ImageFormat::Qcow2);
        overlay::create(&draft.image(), 512, Backing { name, format: ImageFormat::Raw }).unwrap();
        super::super::tests::seal(&store, draft)
    };
    let good = forge(&base.record.image_name());
    assert_eq!(store.image(&good).unwrap().images(), 2);
    let other = sealed(&store, "another base", None, &[7; 512]).record.image_name();
    for name in [host.to_str().unwrap(), "../../../etc/shadow", &other] {
        let forged = forge(name);
        assert!(matches!(store.lookup(forged.record.key), Lookup::Present(_)), "it fits together");
        let problem = store.image(&forged).unwrap_err();
        assert!(problem.to_string().contains("is not opened: its header names"), "{problem}");
        unmark(&place);
        let problem = Store::adopt(&place, &owner(&folder), &Cancel::default()).unwrap_err();
        assert!(problem.to_string().contains("its header names"), "{problem}");
        fs::remove_dir_all(&forged.folder).unwrap();
    }
    precious.is_whole();
}
