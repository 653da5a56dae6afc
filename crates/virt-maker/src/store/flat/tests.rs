//! What must hold of flattening, with real images.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::super::tests::{material, present};
use super::super::{Limits, Outcome, Wish};
use super::*;
use crate::disk::ImageFormat;
use crate::key::Digest;

const SIZE: u64 = 1 << 20;

#[test]
fn every_so_many_layers_one_is_flattened() {
    let mut depth = Depth::new(4);
    let asked: Vec<usize> = (1..=14).filter(|_| depth.add(false)).collect();
    // The base and three on it; then the flat one counts for itself and the base, and two more lie on it.
    assert_eq!(asked, [5, 8, 11, 14]);
    assert!(depth.is_too_deep(), "nothing was done of it");

    let mut depth = Depth::new(4);
    for layer in 1..=14 {
        depth.add(layer % 3 == 2 && layer > 4);
        assert!(depth.images <= 4 && !depth.is_too_deep(), "layer {layer}: {}", depth.images);
    }
}

fn qemu(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A store with a raw base of one MiB and so many overlays, each of which writes some blocks, some of them zeros.
fn chain(layers: usize) -> (TempDir, Store, Vec<LayerKey>) {
    let (folder, store) = super::super::tests::store();
    let mut keys: Vec<LayerKey> = Vec::new();
    let mut parent: Option<Layer> = None;
    for number in 0..=layers {
        let material = material(&number.to_string(), parent.as_ref());
        let workspace = store.workspace().unwrap();
        let format = if number == 0 { ImageFormat::Raw } else { ImageFormat::Qcow2 };
        let folder = workspace.subfolder("draft").unwrap();
        let lock = store.try_lock(material.key()).unwrap().unwrap();
        let scratch = match &parent {
            None => store.scratch_base(folder, material, format, SIZE).unwrap(),
            Some(parent) => store.scratch(folder, material, &parent.record).unwrap(),
        };
        let draft = scratch.into_draft(lock);
        match &parent {
            None => fs::write(draft.image(), vec![0xaa; SIZE as usize]).unwrap(),
            Some(_) => {
                let image = draft.image().display().to_string();
                let write = format!("write -P {} {}k 6k", number + 1, number * 5);
                let zero = format!("write -z {}k 4k", 512 + number * 8);
                qemu("qemu-io", &["-f", "qcow2", "-c", &write, "-c", &zero, &image]);
            }
        }
        let outcome = Outcome { summary: number.to_string(), ..Outcome::default() };
        let layer = draft.commit(&store, outcome, |_| {}).unwrap();
        keys.push(layer.record.key);
        parent = Some(layer);
    }
    (folder, store, keys)
}

/// All that a guest would read.
fn content(store: &Store, key: LayerKey, folder: &Path) -> Vec<u8> {
    let (layer, raw) = (present(store, key), folder.join("content.raw"));
    let (from, to) = (layer.path.display().to_string(), raw.display().to_string());
    qemu("qemu-img", &["convert", "-f", layer.record.format.name(), "-O", "raw", &from, &to]);
    fs::read(raw).unwrap()
}

fn images(layer: &Layer) -> usize {
    let chain = qemu("qemu-img", &["info", "--backing-chain", "--output=json", &layer.path.display().to_string()]);
    serde_json::from_str::<serde_json::Value>(&chain).unwrap().as_array().unwrap().len()
}

#[test]
fn a_flat_image_has_the_same_content_and_everything_on_it_too() {
    let (folder, store, keys) = chain(9);
    let before: Vec<Vec<u8>> = keys.iter().map(|key| content(&store, *key, folder.path())).collect();
    let old = present(&store, keys[6]);
    assert_eq!(store.too_deep(4).unwrap(), [keys[4], keys[7]]);
    let done = store.flatten(keys[6], &Cancel::default()).unwrap();
    assert!(matches!(done, Flattened::Done { images: 7, .. }), "{done:?}");
    assert_eq!(store.flatten(keys[6], &Cancel::default()).unwrap(), Flattened::NotNeeded);
    assert_eq!(store.flatten(keys[1], &Cancel::default()).unwrap(), Flattened::NotNeeded);

    let flat = present(&store, keys[6]);
    assert!(flat.flat && !old.flat);
    assert_eq!((&flat.path, &flat.record.id), (&old.path, &old.record.id));
    assert_eq!(flat.record.digest, crate::host::digest::of_file(&flat.path).unwrap());
    assert_ne!(flat.record.digest, old.record.digest);
    // A build that looked before somebody flattened the layer opens what is there now.
    for layer in [&old, &flat, &present(&store, keys[9])] {
        store.image(layer).unwrap();
    }
    assert_eq!(fs::metadata(&flat.path).unwrap().permissions().mode() & 0o777, 0o400);
    assert_eq!(flat.used, old.used, "to be flattened is no use");
    let depths: Vec<usize> = keys.iter().map(|key| images(&present(&store, *key))).collect();
    assert_eq!(depths, [1, 2, 3, 4, 5, 6, 2, 3, 4, 5]);
    for (key, before) in keys.iter().zip(&before) {
        assert!(content(&store, *key, folder.path()) == *before);
    }
    assert_eq!(store.too_deep(4).unwrap(), [keys[4], keys[9]]);

    // Nothing but the images of the layers is left, and a collection takes each with its layer.
    assert_eq!(fs::read_dir(store.images_dir()).unwrap().count(), keys.len());
    for part in ["tmp", "locks", "leases"] {
        assert_eq!(fs::read_dir(store.root().join(part)).unwrap().count(), 0, "{part}");
    }
    let limits = Limits { max_size: Some(0), ..Limits::default() };
    let gone = store.collect(&Wish::Within(limits), false, &Cancel::default()).unwrap();
    assert_eq!((gone.layers.len(), fs::read_dir(store.images_dir()).unwrap().count()), (keys.len(), 0));
}

/// The states that a crash can leave: the record says both, and either image lies there.
#[test]
fn a_layer_is_good_with_either_image() {
    let (folder, store, keys) = chain(4);
    let before = content(&store, keys[3], folder.path());
    let path = present(&store, keys[3]).path;
    let saved = folder.path().join("saved.qcow2");
    fs::hard_link(&path, &saved).unwrap();
    store.flatten(keys[3], &Cancel::default()).unwrap();
    assert!(present(&store, keys[3]).flat);
    let flat = folder.path().join("flat.qcow2");
    fs::hard_link(&path, &flat).unwrap();

    fs::rename(&saved, &path).unwrap();
    assert!(!present(&store, keys[3]).flat, "the new image did not get there");
    assert!(content(&store, keys[3], folder.path()) == before);
    // Flattened again, as the next build does.
    assert!(matches!(store.flatten(keys[3], &Cancel::default()).unwrap(), Flattened::Done { .. }));
    assert!(present(&store, keys[3]).flat);

    // A copy has another time: its bytes are looked at.
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    assert!(present(&store, keys[3]).flat);
    let mut bad = bytes.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bad).unwrap();
    assert!(matches!(store.lookup(keys[3]), Lookup::Damaged(problem) if problem.contains("not what was sealed")));
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(store.lookup(keys[3]), Lookup::Damaged(problem) if problem.contains("bytes instead of")));
}

/// Looks at a layer never fail while it is flattened, whenever they come; and whoever makes it anew is not disturbed.
#[test]
fn looks_and_makers_at_the_same_time() {
    for round in 0..3 {
        let (_folder, store, keys) = chain(3);
        let stop = AtomicBool::new(false);
        let done = std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        present(&store, keys[3]);
                    }
                });
            }
            // In some rounds somebody holds the key's lock when the image is ready.
            let lock = (round % 3 == 2).then(|| store.try_lock(keys[3]).unwrap().unwrap());
            let done = store.flatten(keys[3], &Cancel::default());
            drop(lock);
            stop.store(true, Ordering::SeqCst);
            done.unwrap()
        });
        assert_eq!(done == Flattened::Busy, round % 3 == 2, "{done:?}");
        assert_eq!(fs::read_dir(store.images_dir()).unwrap().count(), keys.len());
    }
}

#[test]
fn what_is_cancelled_or_not_whole_leaves_everything_as_it_was() {
    let (_folder, store, keys) = chain(3);
    let cancel = Cancel::default();
    cancel.cancel();
    assert_eq!(store.flatten(keys[3], &cancel).unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(!present(&store, keys[3]).flat);
    fs::remove_file(present(&store, keys[1]).path).unwrap();
    assert!(store.flatten(keys[3], &Cancel::default()).is_err());
    assert_eq!(fs::read_dir(store.images_dir()).unwrap().count(), keys.len() - 1);
    assert!(store.flatten(LayerKey(Digest::of(b"nobody")), &Cancel::default()).is_err());
}
