//! What must hold of collecting, on a real file system.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::hooks;
use super::super::tests::{owner, present, sealed, sealed_in, store};
use super::super::{Layer, Lookup};
use super::*;
use crate::store::{Limits, Verdict};

/// A layer of 64 KiB on `parent`, last used so many seconds ago.
fn layer(store: &Store, name: &str, parent: Option<&Layer>, unused: u64) -> Layer {
    let sealed = sealed(store, name, parent, &[7; 65_536]);
    was_used(&sealed, unused);
    present(store, sealed.record.key)
}

/// Says that it was last used so many seconds ago.
fn was_used(layer: &Layer, ago: u64) {
    let record = File::open(layer.folder.join(record::FILE)).unwrap();
    record.set_modified(SystemTime::now() - Duration::from_secs(ago)).unwrap();
}

/// A layer of the same size on nothing, which took so many seconds to make.
fn leaf(store: &Store, name: &str, duration: f64, unused: u64) {
    let sealed = sealed_in(store, name, None, &[7; 65_536], duration);
    was_used(&sealed, unused);
}

fn names(found: &Collection) -> Vec<&str> {
    found.layers.iter().map(|victim| victim.summary.trim_start_matches("run: ")).collect()
}

fn collect(store: &Store, limits: Limits) -> Collection {
    let dry = store.collect(&Wish::Within(limits), true, &Cancel::default()).unwrap();
    let found = store.collect(&Wish::Within(limits), false, &Cancel::default()).unwrap();
    assert_eq!(names(&dry), names(&found), "a dry run says what goes");
    assert_eq!((dry.bytes, dry.left), (found.bytes, found.left));
    found
}

fn image_count(store: &Store) -> usize {
    fs::read_dir(store.images_dir()).unwrap().count()
}

/// base - old - older tip
///      - used - tip
fn small_tree(store: &Store) -> [Layer; 5] {
    let base = layer(store, "base", None, 9000);
    let old = layer(store, "old", Some(&base), 8000);
    let old_tip = layer(store, "old tip", Some(&old), 5000);
    let used = layer(store, "used", Some(&base), 9000);
    let tip = layer(store, "tip", Some(&used), 10);
    [base, old, old_tip, used, tip]
}

#[test]
fn the_leaf_that_was_not_used_for_the_longest_time_goes_first() {
    let (_folder, store) = store();
    let [base, old, ..] = small_tree(&store);
    let each = base.record.bytes;
    let limits = |max_size| Limits { max_size: Some(max_size), ..Limits::default() };
    assert_eq!(names(&collect(&store, limits(5 * each))), Vec::<&str>::new());
    let found = collect(&store, limits(4 * each));
    assert_eq!(names(&found), ["old tip"]);
    assert_eq!((found.layers[0].why.clone(), found.bytes, found.left), (Why::MaxSize, each, (4, 4 * each)));
    assert!(found.unmet.is_empty());
    // `used` was used by itself long before `old`, but what lies on it was used just now.
    assert_eq!(names(&collect(&store, limits(3 * each))), ["old"]);
    assert_eq!(store.collected()[&old.record.key].why, "--max-size");
    assert_eq!(names(&collect(&store, limits(0))), ["tip", "used", "base"]);
    assert_eq!((image_count(&store), store.layers().unwrap().0.len()), (0, 0));
}

/// What took long to make stays longer than what is made again in a moment, but not past its age.
#[test]
fn what_took_long_goes_later() {
    let (_folder, store) = store();
    leaf(&store, "slow", 60.0, 9000);
    leaf(&store, "quick", 0.1, 5000);
    leaf(&store, "slow and forgotten", 60.0, 90 * 86_400);
    let each = store.layers().unwrap().0[0].record.bytes;
    let limits =
        |count, age| Limits { max_size: Some(count * each), max_age: Some(Duration::from_secs(age)), min_free: None };
    assert_eq!(names(&collect(&store, limits(3, 30 * 86_400))), ["slow and forgotten"]);
    assert_eq!(names(&collect(&store, limits(1, 30 * 86_400))), ["quick"]);
    assert_eq!(names(&collect(&store, limits(1, 8000))), ["slow"]);
}

/// A quick step's layer is worth less than what was there before; thrown away by its own build, no build would come to an end of it.
#[test]
fn what_a_build_used_goes_last_after_it() {
    let (_folder, store) = store();
    leaf(&store, "slow", 60.0, 100);
    leaf(&store, "made just now", 0.1, 0);
    let each = store.layers().unwrap().0[0].record.bytes;
    let began = SystemTime::now() - Duration::from_secs(50);
    let after = |max_size| {
        let limits = Limits { max_size: Some(max_size), ..Limits::default() };
        store.collect(&Wish::AfterBuild { limits, began }, false, &Cancel::default()).unwrap()
    };
    assert_eq!(names(&after(each)), ["slow"]);
    assert_eq!(names(&after(0)), ["made just now"]);
}

#[test]
fn age_and_free_space_are_limits_too() {
    let (_folder, store) = store();
    let [base, ..] = small_tree(&store);
    let age = |seconds| Limits { max_age: Some(Duration::from_secs(seconds)), ..Limits::default() };
    assert_eq!(names(&collect(&store, age(6000))), Vec::<&str>::new());
    let found = collect(&store, age(4000));
    assert_eq!(names(&found), ["old tip", "old"]);
    assert!(matches!(found.layers[1].why, Why::MaxAge { unused: 5000.. }), "{:?}", found.layers[1].why);
    let disk = rustix::fs::statvfs(store.root()).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    // Other programs use the disk meanwhile, so the store asks for much more than one layer has.
    let found = collect(&store, Limits { min_free: Some(free + (1 << 40)), ..Limits::default() });
    assert_eq!((names(&found), &found.unmet[..]), (vec!["tip", "used", "base"], &["min_free"][..]));
    drop(base);
}

#[test]
fn what_is_leased_pinned_or_tagged_stays_and_all_below_it() {
    let (_folder, store) = store();
    let [_, old, old_tip, used, tip] = small_tree(&store);
    let everything = || {
        let found = store.collect(&Wish::Everything, false, &Cancel::default()).unwrap();
        let mut names: Vec<_> = names(&found).into_iter().map(str::to_owned).collect();
        names.sort();
        (names.join(" "), found.protected)
    };
    let lease = store.lease(&[tip.record.key]).unwrap();
    store.tag(used.record.key, "mine").unwrap();
    assert_eq!(everything(), ("old old tip".into(), 3));
    drop(lease);
    assert_eq!(everything(), ("tip".into(), 2));
    assert!(store.untag("mine").unwrap());
    assert!(store.pin(used.record.parent().unwrap()).unwrap());
    assert_eq!(everything(), ("used".into(), 1));
    assert!(store.unpin(used.record.parent().unwrap()).unwrap());
    assert_eq!(everything(), ("base".into(), 0));
    // What is gone cannot be named or kept.
    assert!(store.tag(old.record.key, "late").unwrap_err().to_string().contains("no layer"));
    assert!(store.pin(old_tip.record.key).is_err());
}

#[test]
fn what_can_never_be_used_goes_without_a_limit() {
    let (_folder, store) = store();
    let [base, old, old_tip, used, tip] = small_tree(&store);
    assert_eq!(names(&collect(&store, Limits::default())), Vec::<&str>::new());
    // Its parent is made anew; a record is damaged; a folder was removed by hand, so its image and its child are left.
    layer(&store, "old", Some(&base), 0);
    fs::write(tip.folder.join(record::FILE), "{").unwrap();
    let alone = layer(&store, "alone", Some(&used), 0);
    fs::remove_dir_all(&used.folder).unwrap();
    let found = collect(&store, Limits::default());
    let mut went = names(&found);
    went.sort_unstable();
    assert_eq!(went, ["", "alone", "old tip"]);
    assert!(found.layers.iter().all(|victim| matches!(victim.why, Why::Unusable { .. })));
    let mut strays = found.stray_images.clone();
    strays.sort();
    let mut expected = vec![used.record.image_name(), tip.record.image_name()];
    expected.sort();
    assert_eq!(strays, expected);
    assert_eq!((image_count(&store), store.layers().unwrap().0.len()), (2, 2));
    drop((old, old_tip, alone));
}

#[test]
fn a_layer_that_was_used_since_it_was_chosen_stays() {
    let (_folder, store) = store();
    let [base, old, old_tip, ..] = small_tree(&store);
    let tree = Tree::read(&store).unwrap();
    let mut found = tree.choose(&Wish::Everything, &HashSet::new(), 0);
    assert_eq!(found.layers.len(), 5);
    store.touch(old_tip.record.key);
    store.remove_layers(&tree, &Wish::Everything, &mut found, &Cancel::default()).unwrap();
    assert_eq!(names(&found), ["tip", "used"]);
    assert_eq!((found.spared, found.left.0), (3, 3));
    for kept in [base, old, old_tip] {
        assert!(matches!(store.lookup(kept.record.key), Lookup::Present(_)));
    }
}

/// A crash between the rename and the removal of the image.
#[test]
fn a_crash_leaves_what_the_next_process_removes() {
    let (folder, store) = store();
    let base = layer(&store, "base", None, 0);
    let workspace = store.workspace().unwrap();
    fs::rename(&base.folder, workspace.path().join(base.record.key.to_string())).unwrap();
    // The lock goes with the process, the folder stays.
    let saved = workspace.path().with_extension("saved");
    let path = workspace.path().to_owned();
    fs::rename(&path, &saved).unwrap();
    drop(workspace);
    fs::rename(&saved, &path).unwrap();
    assert_eq!(image_count(&store), 1);
    Store::open(store.root(), &owner(&folder)).unwrap();
    assert_eq!((image_count(&store), path.exists()), (0, false));
}

#[test]
fn the_lease_of_a_dead_process_protects_nothing() {
    let (folder, store) = store();
    let base = layer(&store, "base", None, 0);
    let lease = store.lease(&[base.record.key]).unwrap();
    let path = fs::read_dir(store.leases_dir()).unwrap().next().unwrap().unwrap().path();
    Store::open(store.root(), &owner(&folder)).unwrap();
    assert!(path.exists(), "a live lease was swept");
    fs::copy(&path, store.leases_dir().join("d".repeat(32))).unwrap();
    assert_eq!(store.close_gate().unwrap().leased().unwrap().len(), 1);
    assert_eq!(fs::read_dir(store.leases_dir()).unwrap().count(), 1);
    drop(lease);
    fs::write(store.leases_dir().join("d".repeat(32)), base.record.key.to_string()).unwrap();
    Store::open(store.root(), &owner(&folder)).unwrap();
    assert_eq!(fs::read_dir(store.leases_dir()).unwrap().count(), 0);
}

/// Threads lease a layer and look for it, others make it where it is missing, one collects everything without a pause.
/// What was found under a lease stays as long as that.
#[test]
fn collecting_and_leasing_at_the_same_time() {
    let (_folder, store) = store();
    let base = layer(&store, "base", None, 0);
    let key = layer(&store, "tip", Some(&base), 0).record.key;
    // Nobody's layer: who makes both takes the locks of both.
    let turn = super::super::tests::material("turn", None).key();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                rounds += store.collect(&Wish::Everything, false, &Cancel::default()).unwrap().layers.len();
            }
            rounds
        });
        let users: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut found, mut made) = (0, 0);
                    for round in 0..100 {
                        let lease = store.lease(&[base.record.key, key]).unwrap();
                        let lock = loop {
                            if let Some(lock) = store.try_lock(turn).unwrap() {
                                break lock;
                            }
                            std::thread::yield_now();
                        };
                        if store.chain(key).is_ok() {
                            found += 1;
                        } else {
                            let base = layer(&store, "base", None, 0);
                            layer(&store, "tip", Some(&base), 0);
                            made += 1;
                        }
                        drop(lock);
                        for _ in 0..20 {
                            assert_eq!(store.chain(key).unwrap().len(), 2);
                        }
                        drop(lease);
                        std::thread::sleep(Duration::from_millis(round % 7));
                    }
                    (found, made)
                })
            })
            .collect();
        let counts: Vec<_> = users.into_iter().map(|user| user.join()).collect();
        done.store(true, Ordering::Relaxed);
        let counts: Vec<(u32, u32)> = counts.into_iter().map(Result::unwrap).collect();
        let collected = collector.join().unwrap();
        let made: u32 = counts.iter().map(|(_, made)| made).sum();
        assert!(collected > 1 && made > 0, "{collected} collected, {counts:?}");
    });
    let left = store.collect(&Wish::Everything, false, &Cancel::default()).unwrap();
    assert_eq!((left.left.0, image_count(&store)), (0, 0));
}

/// What was damaged when the victims were chosen may be made anew before they go, by a process that has ended by then.
#[test]
fn a_damaged_layer_that_was_made_anew_stays() {
    let (_folder, store) = store();
    let base = layer(&store, "base", None, 0);
    fs::write(base.folder.join(record::FILE), "{").unwrap();
    let tree = Tree::read(&store).unwrap();
    let wish = Wish::Within(Limits::default());
    let mut found = tree.choose(&wish, &HashSet::new(), 0);
    assert_eq!(found.layers.len(), 1);
    let again = layer(&store, "base", None, 0);
    store.remove_layers(&tree, &wish, &mut found, &Cancel::default()).unwrap();
    assert_eq!((names(&found).len(), found.spared), (0, 1));
    assert_eq!(present(&store, base.record.key).record.id, again.record.id);
    // Damaged as it is now, it goes.
    fs::write(again.folder.join(record::FILE), "{").unwrap();
    let found = store.collect(&wish, false, &Cancel::default()).unwrap();
    assert_eq!((found.layers.len(), image_count(&store)), (1, 0));
}

/// `verify --repair` names what it found bad; that may be made anew before it is collected.
#[test]
fn a_bad_layer_that_was_made_anew_is_not_bad() {
    let (_folder, store) = store();
    let base = layer(&store, "base", None, 0);
    let verdict = |id: Option<&str>| {
        let verdict = Verdict { problem: "bits flipped".into(), id: id.map(str::to_owned) };
        Wish::Bad(HashMap::from([(base.record.key, verdict)]))
    };
    let again = layer(&store, "base", None, 0);
    for wish in [verdict(Some(&base.record.id)), verdict(None)] {
        assert_eq!(store.collect(&wish, false, &Cancel::default()).unwrap().layers.len(), 0);
    }
    let bad = verdict(Some(&again.record.id));
    assert_eq!(store.collect(&bad, false, &Cancel::default()).unwrap().layers.len(), 1);
}

/// The window of a seal in which a draft has its record, its own file is gone, and its folder is not renamed yet. It opens
/// between the two files that who collects looks for, and closes when that one is through.
#[test]
fn a_draft_between_its_record_and_its_rename_keeps_its_image() {
    use std::sync::mpsc::channel;
    let (_folder, store) = store();
    let workspace = store.workspace().unwrap();
    let material = super::super::tests::material("it", None);
    let folder = workspace.subfolder("draft").unwrap();
    let draft = super::super::tests::draft_in(&store, folder, material, None, crate::disk::ImageFormat::Raw);
    fs::write(draft.image(), [7; 512]).unwrap();
    let (image, key) = (draft.image(), draft.key());
    let ((begin, began), (open, opened), (close, closed)) = (channel(), channel(), channel::<()>());
    std::thread::scope(|scope| {
        let sealing = store.clone();
        scope.spawn(move || {
            began.recv().unwrap();
            hooks::at("seal: recorded, not yet renamed", move || {
                open.send(()).unwrap();
                let _ = closed.recv();
            });
            super::super::tests::seal(&sealing, draft);
        });
        hooks::at("image_of: between its two files", move || {
            begin.send(()).unwrap();
            opened.recv().unwrap();
        });
        let found = store.collect(&Wish::Within(Limits::default()), false, &Cancel::default()).unwrap();
        assert!(hooks::was_reached());
        drop(close);
        assert_eq!(found.stray_images, Vec::<String>::new());
    });
    assert!(image.exists() && matches!(store.lookup(key), Lookup::Present(_)));
}

/// A draft that becomes a layer after what is in the making was looked for, and before what is made is.
#[test]
fn a_draft_that_becomes_a_layer_meanwhile_keeps_its_image() {
    let (_folder, store) = store();
    // In the place of a layer that is damaged, or of another making.
    for damaged in [false, true] {
        let before = layer(&store, "it", None, 0);
        if damaged {
            fs::write(before.folder.join(record::FILE), "{").unwrap();
        }
        let workspace = store.workspace().unwrap();
        let material = super::super::tests::material("it", None);
        let folder = workspace.subfolder("draft").unwrap();
        let draft = super::super::tests::draft_in(&store, folder, material, None, crate::disk::ImageFormat::Raw);
        fs::write(draft.image(), [7; 512]).unwrap();
        let (image, key, sealing) = (draft.image(), draft.key(), store.clone());
        hooks::at("strays: drafts are known", move || drop(super::super::tests::seal(&sealing, draft)));
        let found = store.collect(&Wish::Within(Limits::default()), false, &Cancel::default()).unwrap();
        assert!(hooks::was_reached());
        assert!(
            image.exists() && matches!(store.lookup(key), Lookup::Present(_)),
            "{damaged}: {:?}",
            found.stray_images
        );
    }
}
