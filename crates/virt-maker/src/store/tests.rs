//! What must hold of a store, on a real file system.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::disk::ImageFormat;
use crate::key::{Digest, KeyMaterial};

/// The user of the tests, whose secret is beside the store.
pub(super) fn owner(folder: &TempDir) -> Owner {
    Owner::new(folder.path().join("state/secret"), None)
}

pub(super) fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store"), &owner(&folder)).unwrap();
    (folder, store)
}

/// Of a step that nothing else has, on `parent`.
pub(super) fn material(text: &str, parent: Option<&Layer>) -> KeyMaterial {
    KeyMaterial {
        role: "step".into(),
        kind: "run".into(),
        kind_version: 1,
        arguments: json!({"script": text}),
        inputs: Vec::new(),
        parent: parent.map(|parent| parent.record.key),
        options: serde_json::Map::new(),
    }
}

/// A raw layer with this content on `parent`, sealed.
pub(super) fn sealed(store: &Store, text: &str, parent: Option<&Layer>, content: &[u8]) -> Layer {
    sealed_in(store, text, parent, content, 0.0)
}

/// One that took so many seconds to make.
pub(super) fn sealed_in(store: &Store, text: &str, parent: Option<&Layer>, content: &[u8], duration: f64) -> Layer {
    let workspace = store.workspace().unwrap();
    let folder = workspace.subfolder("draft").unwrap();
    let draft = draft_in(store, folder, material(text, parent), parent, ImageFormat::Raw);
    fs::write(draft.image(), content).unwrap();
    commit(store, draft, Outcome { summary: text.into(), seconds: duration, ..Outcome::default() })
}

/// A draft whose image is still to be written.
pub(super) fn draft_in(
    store: &Store,
    folder: PathBuf,
    material: KeyMaterial,
    parent: Option<&Layer>,
    format: ImageFormat,
) -> Draft {
    let lock = loop {
        match store.try_lock(material.key()).unwrap() {
            Some(lock) => break lock,
            None => std::thread::yield_now(),
        }
    };
    let parent_id = parent.map(|parent| parent.record.id.clone());
    Scratch::new(folder, store.images_dir(), material, parent_id, format, 512).unwrap().into_draft(lock)
}

pub(super) fn commit(store: &Store, draft: Draft, outcome: Outcome) -> Layer {
    draft.commit(store, outcome, |_| {}).unwrap()
}

/// Seals a draft of which nothing more is known.
pub(super) fn seal(store: &Store, draft: Draft) -> Layer {
    commit(store, draft, Outcome::default())
}

fn draft(store: &Store, workspace: &Workspace, text: &str) -> Draft {
    let folder = workspace.subfolder(text).unwrap();
    let draft = draft_in(store, folder, material(text, None), None, ImageFormat::Raw);
    fs::write(draft.image(), [7; 512]).unwrap();
    draft
}

pub(super) fn present(store: &Store, key: LayerKey) -> Layer {
    match store.lookup(key) {
        Lookup::Present(layer) => *layer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sealed_layer_is_there_and_read_only() {
    let (folder, store) = store();
    let workspace = store.workspace().unwrap();
    let draft = draft(&store, &workspace, "one");
    let key = draft.key();
    assert!(matches!(store.lookup(key), Lookup::Absent));
    let engine = Some("chroot".into());
    commit(&store, draft, Outcome { summary: "echo one".into(), engine, seconds: 0.25, ..Outcome::default() });
    let layer = present(&store, key);
    assert_eq!(layer.record.digest, Digest::of(&[7; 512]));
    assert_eq!((layer.record.length, layer.record.virtual_size), (512, 512));
    assert_eq!(fs::metadata(&layer.path).unwrap().permissions().mode() & 0o777, 0o400);
    let again = Store::open(store.root(), &owner(&folder)).unwrap();
    assert_eq!(present(&again, key).record, layer.record);
    assert_eq!(again.layers().unwrap().0.len(), 1);
}

#[test]
fn another_making_replaces_the_layer_and_has_another_id() {
    let (_folder, store) = store();
    let workspace = store.workspace().unwrap();
    let first = seal(&store, draft(&store, &workspace, "one"));
    let workspace = store.workspace().unwrap();
    let second = seal(&store, draft(&store, &workspace, "one"));
    assert_eq!(first.record.key, second.record.key);
    assert_ne!(first.record.id, second.record.id);
    assert_eq!(present(&store, first.record.key).record.id, second.record.id);
    assert_eq!(images(&store), [second.record.image_name()]);
}

fn images(store: &Store) -> Vec<String> {
    let entries = fs::read_dir(store.images_dir()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A draft that was not sealed, a crash before the last rename, and a damaged record, replaced.
#[test]
fn no_image_stays_without_its_layer() {
    let (_folder, store) = store();
    let workspace = store.workspace().unwrap();
    draft(&store, &workspace, "zero");
    let sealed = seal(&store, draft(&store, &workspace, "one"));
    // The layer's folder is a draft again, as before the last rename.
    fs::rename(&sealed.folder, workspace.path().join("again")).unwrap();
    assert_eq!(images(&store).len(), 2);
    drop(workspace);
    assert_eq!(images(&store), Vec::<String>::new());

    let workspace = store.workspace().unwrap();
    let damaged = seal(&store, draft(&store, &workspace, "two"));
    fs::write(damaged.folder.join("layer.json"), "{").unwrap();
    let workspace = store.workspace().unwrap();
    let whole = seal(&store, draft(&store, &workspace, "two"));
    drop(workspace);
    assert_eq!(images(&store), [whole.record.image_name()]);
}

/// Puts a file with these bytes, written at another time, in the place of one.
fn copied(path: &std::path::Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
}

#[test]
fn what_does_not_fit_is_damaged_not_a_hit() {
    let (_folder, store) = store();
    type Damage<'a> = (&'a str, &'a dyn Fn(&Layer));
    let damage: [Damage<'_>; 9] = [
        ("bytes instead of 512", &|layer| {
            fs::remove_file(&layer.path).unwrap();
            fs::write(&layer.path, [7; 511]).unwrap();
        }),
        ("cannot be read", &|layer| fs::remove_file(&layer.path).unwrap()),
        ("cannot be read", &|layer| fs::write(layer.folder.join("layer.json"), "{").unwrap()),
        ("cannot be read", &|layer| fs::remove_file(layer.folder.join("layer.json")).unwrap()),
        ("has version 99", &|layer| fs::write(layer.folder.join("layer.json"), "{\"version\": 99}").unwrap()),
        ("as id", &|layer| {
            let text = fs::read_to_string(layer.folder.join("layer.json")).unwrap();
            let text = text.replace(&layer.record.id, "../../../../../etc/passwd");
            fs::write(layer.folder.join("layer.json"), text).unwrap();
        }),
        ("checksum does not fit", &|layer| {
            let text = fs::read_to_string(layer.folder.join("layer.json")).unwrap();
            fs::write(layer.folder.join("layer.json"), text.replace("\"length\": 512", "\"length\": 513")).unwrap();
        }),
        ("not what was sealed", &|layer| {
            copied(&layer.path, &[8; 512]);
        }),
        ("does not make its key", &|layer| {
            let text = fs::read_to_string(layer.folder.join("layer.json")).unwrap();
            fs::write(layer.folder.join("layer.json"), text.replace("\"script\": \"", "\"script\": \"x")).unwrap();
        }),
    ];
    for (number, (problem, damage)) in damage.iter().enumerate() {
        let workspace = store.workspace().unwrap();
        let layer = seal(&store, draft(&store, &workspace, &number.to_string()));
        damage(&layer);
        match store.lookup(layer.record.key) {
            Lookup::Damaged(said) => assert!(said.contains(problem), "{said}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.layers().unwrap().1.len(), damage.len());
}

#[test]
fn an_image_with_another_time_is_read_once_and_taken_if_its_bytes_are_right() {
    let (_folder, store) = store();
    let workspace = store.workspace().unwrap();
    let layer = seal(&store, draft(&store, &workspace, "one"));
    let modified = || fs::metadata(&layer.path).unwrap().modified().unwrap();
    let sealed = modified();
    copied(&layer.path, &fs::read(&layer.path).unwrap());
    assert_ne!(modified(), sealed, "a copy has a time of its own");
    assert!(matches!(store.lookup(layer.record.key), Lookup::Present(_)));
    assert_eq!(modified(), sealed, "it gets the time back that it had");
}

#[test]
fn a_lock_excludes_and_ends_with_its_holder() {
    let (_folder, store) = store();
    let key = material("one", None).key();
    let lock = store.try_lock(key).unwrap().unwrap();
    assert!(store.try_lock(key).unwrap().is_none());
    assert_eq!(store.lock_holder(key), Some(std::process::id()));
    drop(lock);
    drop(store.try_lock(key).unwrap().unwrap());
    assert_eq!(fs::read_dir(store.root().join("locks")).unwrap().count(), 0);
}

/// Many threads take one lock in turn; the counter is right only if no two ever have it at once.
#[test]
fn a_lock_excludes_under_contention() {
    let (folder, store) = store();
    let key = material("one", None).key();
    let counter = folder.path().join("counter");
    fs::write(&counter, "0").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let lock = loop {
                        if let Some(lock) = store.try_lock(key).unwrap() {
                            break lock;
                        }
                        std::thread::yield_now();
                    };
                    let count: u32 = fs::read_to_string(&counter).unwrap().parse().unwrap();
                    fs::write(&counter, (count + 1).to_string()).unwrap();
                    drop(lock);
                }
            });
        }
    });
    assert_eq!(fs::read_to_string(&counter).unwrap(), "400");
}

#[test]
fn work_of_dead_processes_is_removed_and_that_of_live_ones_stays() {
    let (folder, store) = store();
    let live = store.workspace().unwrap();
    let dead = store.workspace().unwrap();
    let dead_path = dead.path().to_owned();
    fs::write(dead_path.join("half an overlay"), "x").unwrap();
    // What SIGKILL leaves: the folder stays, the lock is gone with the descriptor.
    let saved = dead_path.with_extension("saved");
    fs::rename(&dead_path, &saved).unwrap();
    drop(dead);
    fs::rename(&saved, &dead_path).unwrap();
    Store::open(store.root(), &owner(&folder)).unwrap();
    assert!(!dead_path.exists());
    assert!(live.path().exists());
}

#[test]
fn other_formats_and_other_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let newer = folder.path().join("newer");
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("store.json"), "{\"format\": 5}").unwrap();
    let error = Store::open(&newer, &owner(&folder)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.to_string().contains("has format 5; this version knows format 4"), "{error}");

    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("thesis.txt"), "x").unwrap();
    assert!(Store::open(&home, &owner(&folder)).unwrap_err().to_string().contains("not empty and not a store"));
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1);

    // Half made, as after a crash: it is made whole.
    let half = folder.path().join("half");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(half.join("layers")).unwrap();
    Store::open(&half, &owner(&folder)).unwrap();
    assert!(half.join("store.json").exists());
}

/// What `--force` replaces while somebody else uses it: the image stays until they have done with it, and then it goes.
#[test]
fn a_layer_that_others_use_keeps_its_image_when_it_is_made_anew() {
    let (folder, store) = store();
    let old = sealed(&store, "base", None, &[1; 512]);
    let above = sealed(&store, "above", Some(&old), &[2; 512]);
    let other = Store::open(store.root(), &owner(&folder)).unwrap();
    let images = || fs::read_dir(store.images_dir()).unwrap().count();
    // Of one who has leased what lies on it, and of one who leases the layer and makes it anew himself.
    let lease = other.lease(&[above.record.key]).unwrap();
    let own = store.lease(&[old.record.key]).unwrap();
    let new = sealed(&store, "base", None, &[3; 512]);
    assert_ne!(new.path, old.path);
    assert_eq!(fs::read(&old.path).unwrap(), [1; 512]);
    assert_eq!(images(), 3);
    // Neither does a process that begins or collects meanwhile remove it.
    Store::open(store.root(), &owner(&folder)).unwrap();
    store.collect(&Wish::Within(Limits::default()), false, &crate::host::Cancel::default()).unwrap();
    assert!(old.path.exists());
    assert!(other.image(&above).is_err(), "a raw layer lies on nothing, so this one is forged");
    drop((lease, own));
    Store::open(store.root(), &owner(&folder)).unwrap();
    assert!(!old.path.exists());
    assert_eq!(fs::read_dir(store.tmp_dir()).unwrap().count(), 0);
    // Where nobody else has it, it goes at once.
    let _own = store.lease(&[old.record.key]).unwrap();
    let newer = sealed(&store, "base", None, &[4; 512]);
    assert!(newer.path.exists() && !new.path.exists());
}

/// The folder of the old making may be lost; then the image is one of a key that is there, in another making.
#[test]
fn images_of_other_makings_are_collected_when_nobody_uses_the_layer() {
    let (folder, store) = store();
    let layer = sealed(&store, "base", None, &[1; 512]);
    let stray = store.images_dir().join(format!("{}-{}.raw", layer.record.key, "0".repeat(32)));
    fs::write(&stray, "x").unwrap();
    let foreign = store.images_dir().join("notes.txt");
    fs::write(&foreign, "x").unwrap();
    let other = Store::open(store.root(), &owner(&folder)).unwrap();
    let lease = other.lease(&[layer.record.key]).unwrap();
    let collect = || store.collect(&Wish::Within(Limits::default()), false, &crate::host::Cancel::default()).unwrap();
    assert_eq!(collect().stray_images, Vec::<String>::new());
    drop(lease);
    assert_eq!(collect().stray_images.len(), 1);
    assert!(!stray.exists() && layer.path.exists() && foreign.exists());
}
