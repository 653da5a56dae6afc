//! What lies on a layer, without a look at all others: so that a miss can be explained by its neighbours.
//!
//! `layers/KEY/children` has a line with the key of each layer that was sealed on KEY, `bases` at the top one for each
//! base. A line is appended after the seal and not synced; a layer that was collected leaves its line behind, one that
//! was made twice has two. So a line is a place to look, and nothing more: only explanations depend on it, and one
//! that a power cut took makes them poorer and not wrong.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Layer, LayerRecord, Lookup, Store, record};
use crate::host::own;
use crate::host::temporary::{self, Durability};
use crate::key::{Digest, LayerKey};

/// A list is written anew when so many of its lines mean nothing any more.
const STALE_MAX: usize = 256;

impl Store {
    /// The layers on `parent` that can be read, in no particular order; all bases for `None`. Whether they can be used, on the
    /// making of the parent that is there, is another question.
    pub fn children(&self, parent: Option<LayerKey>) -> Vec<Layer> {
        let place = place(&self.root().join("layers"), parent);
        let text = own::read_text(&place).unwrap_or_default();
        let keys: HashSet<LayerKey> = text.lines().filter_map(Digest::parse).map(LayerKey).collect();
        let keys: Vec<LayerKey> = keys.into_iter().collect();
        let found = self.look_up_all(&keys).into_iter().filter_map(|found| match found {
            Lookup::Present(layer) if layer.record.parent() == parent => Some(*layer),
            _ => None,
        });
        let found: Vec<Layer> = found.collect();
        if text.lines().count() > found.len() + STALE_MAX {
            shorten(&place, &found);
        }
        found
    }
}

/// Notes that a layer was sealed. It is of no use to whoever seals, so it may fail.
pub(super) fn note(layers: &Path, record: &LayerRecord) {
    if let Ok(mut file) = own::appender(&place(layers, record.parent())) {
        // One write to the end: lines of several processes do not mix.
        let _ = file.write_all(format!("{}\n", record.key).as_bytes());
    }
}

/// Gives a layer that was made anew the list that the one before had.
pub(super) fn keep(before: &Path, layer: &Path) {
    let _ = fs::rename(before.join(record::CHILDREN), layer.join(record::CHILDREN));
}

fn place(layers: &Path, parent: Option<LayerKey>) -> PathBuf {
    match parent {
        Some(parent) => layers.join(parent.to_string()).join(record::CHILDREN),
        None => layers.with_file_name("bases"),
    }
}

/// Writes the list with those that are there. A line that comes in this moment may be lost.
fn shorten(place: &Path, layers: &[Layer]) {
    let text: String = layers.iter().map(|layer| format!("{}\n", layer.record.key)).collect();
    let _ = temporary::replace(place, text.as_bytes(), Durability::None);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{sealed, store};
    use super::super::{Limits, Wish};
    use super::*;
    use crate::host::Cancel;

    fn seal(store: &Store, name: &str, parent: Option<&Layer>) -> Layer {
        sealed(store, name, parent, &[7; 512])
    }

    fn names(store: &Store, parent: Option<&Layer>) -> Vec<String> {
        let found = store.children(parent.map(|parent| parent.record.key));
        let mut names: Vec<_> = found.into_iter().map(|layer| layer.record.summary).collect();
        names.sort();
        names
    }

    #[test]
    fn children_are_those_that_are_there() {
        let (_folder, store) = store();
        let base = seal(&store, "base", None);
        seal(&store, "other base", None);
        let [one, _two] = ["one", "two"].map(|name| seal(&store, name, Some(&base)));
        seal(&store, "on one", Some(&one));
        assert_eq!(names(&store, None), ["base", "other base"]);
        assert_eq!(names(&store, Some(&base)), ["one", "two"]);
        assert_eq!(names(&store, Some(&one)), ["on one"]);
        // The base is made anew: what was made on the one before is still known, and told apart by whoever asks.
        let base = seal(&store, "base", None);
        assert_eq!(names(&store, Some(&base)), ["one", "two"]);
        seal(&store, "three", Some(&base));
        store.collect(&Wish::Within(Limits::default()), false, &Cancel::default()).unwrap();
        assert_eq!(names(&store, Some(&base)), ["three"], "the others can never be used again");

        let list = base.folder.join(record::CHILDREN);
        for _ in 0..300 {
            note(&store.root().join("layers"), &one.record);
        }
        assert!(fs::metadata(&list).unwrap().len() > 300 * 65);
        assert_eq!(names(&store, Some(&base)), ["three"]);
        assert_eq!(fs::metadata(&list).unwrap().len(), 65, "it is short again");
        fs::write(&list, "not a key\n").unwrap();
        assert_eq!(names(&store, Some(&base)), Vec::<String>::new());
    }
}
