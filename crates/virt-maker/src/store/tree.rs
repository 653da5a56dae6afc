//! All layers of a store at one moment, as a tree: what lies on what, what can be used, what is kept.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use super::lease::ClosedGate;
use super::record::Making;
use super::wish::{Verdict, Wish};
use super::{Layer, LayerRecord, Lookup, Store};
use crate::error::Result;
use crate::key::LayerKey;

/// All layers at one moment.
pub(super) struct Tree {
    pub(super) layers: Vec<Layer>,
    pub(super) index: HashMap<LayerKey, usize>,
    /// For each layer the one under it, where that is the making that it lies on.
    pub(super) parent: Vec<Option<usize>>,
    /// Entries whose record cannot be used.
    pub(super) damaged: Vec<(LayerKey, String)>,
    /// Which makings those are.
    pub(super) makings: HashMap<LayerKey, Making>,
}

impl Tree {
    pub(super) fn read(store: &Store) -> Result<Tree> {
        let keys = store.keys()?;
        let (mut layers, mut damaged, mut makings) = (Vec::new(), Vec::new(), HashMap::new());
        for (key, mut found) in keys.iter().zip(store.look_up_all(&keys)) {
            if matches!(found, Lookup::Damaged(_)) {
                // Looked at once more, after it is known which making that is: it may be made anew in any moment.
                makings.insert(*key, Making::of(&store.layer_dir(*key)));
                found = store.lookup(*key);
            }
            match found {
                Lookup::Present(layer) => layers.push(*layer),
                Lookup::Absent => {}
                Lookup::Damaged(problem) => damaged.push((*key, problem)),
            }
        }
        let index: HashMap<_, _> = layers.iter().enumerate().map(|(place, layer)| (layer.record.key, place)).collect();
        let under = |record: &LayerRecord| {
            let place = *index.get(&record.parent()?)?;
            (record.parent_id.as_ref() == Some(&layers[place].record.id)).then_some(place)
        };
        let parent = layers.iter().map(|layer| under(&layer.record)).collect();
        Ok(Tree { layers, index, parent, damaged, makings })
    }

    /// What is leased, pinned or tagged, and all below it.
    pub(super) fn protected(&self, store: &Store, gate: &ClosedGate<'_>, wish: &Wish) -> Result<HashSet<LayerKey>> {
        let mut wanted = gate.leased()?;
        if !matches!(wish, Wish::Bad(_)) {
            wanted.extend(store.tags()?.iter().map(|tag| tag.key));
            wanted.extend(store.pins()?.iter().map(|pin| pin.key));
        }
        let mut protected = HashSet::with_capacity(wanted.len());
        for key in wanted {
            let mut next = Some(key);
            while let Some(key) = next.filter(|key| protected.insert(*key)) {
                next = match self.index.get(&key) {
                    Some(place) => self.layers[*place].record.parent(),
                    // Sealed since the tree was read, perhaps.
                    None => match store.lookup(key) {
                        Lookup::Present(layer) => layer.record.parent(),
                        _ => None,
                    },
                };
            }
        }
        Ok(protected)
    }

    /// Why each layer can never be used, where it cannot.
    pub(super) fn unusable(&self, bad: &HashMap<LayerKey, Verdict>, order: &[usize]) -> HashMap<usize, String> {
        let mut unusable: HashMap<usize, String> = HashMap::new();
        for place in order {
            let record = &self.layers[*place].record;
            let verdict = bad.get(&record.key).filter(|verdict| verdict.id.as_ref() == Some(&record.id));
            let problem = match (verdict, record.parent(), self.parent[*place]) {
                (Some(verdict), ..) => verdict.problem.clone(),
                (None, None, _) => continue,
                (None, Some(key), None) if self.index.contains_key(&key) => "the layer under it was made anew".into(),
                (None, Some(_), None) => "the layer under it is gone".into(),
                (None, Some(key), Some(under)) if unusable.contains_key(&under) => {
                    format!("it lies on layer {}", key.short())
                }
                _ => continue,
            };
            unusable.insert(*place, problem);
        }
        unusable
    }

    /// When each layer, or anything on it, was last used. `order` has parents before children.
    pub(super) fn used(&self, order: &[usize]) -> Vec<SystemTime> {
        let mut used: Vec<SystemTime> = self.layers.iter().map(|layer| layer.used).collect();
        for place in order.iter().rev() {
            if let Some(parent) = self.parent[*place] {
                used[parent] = used[parent].max(used[*place]);
            }
        }
        used
    }

    /// All layers with parents before children, and how deep each lies.
    pub(super) fn order(&self) -> (Vec<usize>, Vec<usize>) {
        let mut depth = vec![usize::MAX; self.layers.len()];
        for start in 0..self.layers.len() {
            let mut path = Vec::new();
            let mut next = Some(start);
            while let Some(place) = next.filter(|place| depth[*place] == usize::MAX) {
                path.push(place);
                next = self.parent[place];
            }
            let first = next.map_or(0, |place| depth[place] + 1);
            for (place, own) in path.into_iter().rev().zip(first..) {
                depth[place] = own;
            }
        }
        let mut order: Vec<usize> = (0..self.layers.len()).collect();
        order.sort_by_key(|place| depth[*place]);
        (order, depth)
    }
}

/// A layer, with what is known of it beyond its record.
#[derive(Debug)]
pub struct Listed {
    /// The layer.
    pub layer: Layer,
    /// When it, or anything on it, was last used.
    pub used: SystemTime,
    /// How many images were built that took it, or anything on it that is still there, from the store.
    pub hits: u64,
    /// Why it can never be used, where it cannot.
    pub problem: Option<String>,
    /// A live process uses it.
    pub leased: bool,
    /// It is pinned.
    pub pinned: bool,
    /// Its names.
    pub tags: Vec<String>,
}

/// How many images were built that took each layer, or anything on it that is still there, from the store.
pub fn hits(layers: &[Layer]) -> HashMap<LayerKey, u64> {
    let parents: HashMap<LayerKey, Option<LayerKey>> =
        layers.iter().map(|layer| (layer.record.key, layer.record.parent())).collect();
    let mut hits: HashMap<LayerKey, u64> = parents.keys().map(|key| (*key, 0)).collect();
    for layer in layers.iter().filter(|layer| layer.uses > 0) {
        // A key covers its parent's, so there is no way back to where it began.
        let below = |key: &LayerKey| parents.get(key).copied().flatten();
        for key in std::iter::successors(Some(layer.record.key), below) {
            *hits.entry(key).or_default() += layer.uses;
        }
    }
    hits.retain(|key, _| parents.contains_key(key));
    hits
}

/// An entry whose record cannot be used, and why.
pub type Damaged = (LayerKey, String);

impl Store {
    /// All layers, parents before children, and the entries whose record cannot be used, each with the reason.
    pub fn listing(&self) -> Result<(Vec<Listed>, Vec<Damaged>)> {
        let mut tree = Tree::read(self)?;
        let leased = self.close_gate()?.leased()?;
        let pinned: HashSet<_> = self.pins()?.into_iter().map(|pin| pin.key).collect();
        let mut tags: HashMap<LayerKey, Vec<String>> = HashMap::new();
        for tag in self.tags()? {
            tags.entry(tag.key).or_default().push(tag.name);
        }
        let (order, _) = tree.order();
        let (used, mut hits) = (tree.used(&order), hits(&tree.layers));
        let mut problems = tree.unusable(&HashMap::new(), &order);
        let mut layers: Vec<_> = std::mem::take(&mut tree.layers).into_iter().map(Some).collect();
        let mut listed = Vec::with_capacity(layers.len());
        for place in order {
            let Some(layer) = layers[place].take() else { continue };
            let key = layer.record.key;
            listed.push(Listed {
                used: used[place],
                hits: hits.remove(&key).unwrap_or_default(),
                problem: problems.remove(&place),
                leased: leased.contains(&key),
                pinned: pinned.contains(&key),
                tags: tags.remove(&key).unwrap_or_default(),
                layer,
            });
        }
        Ok((listed, tree.damaged))
    }
}
