//! `virt-maker tree`: the store's forking tree.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use virt_maker::export::{self, ExportRecord};
use virt_maker::host::url;
use virt_maker::key::LayerKey;
use virt_maker::store::{Layer, hits};

use super::{print_json, tree_page};
use crate::arguments;
use crate::error::Failure;
use crate::settings;
use crate::text::{age, duration, harmless, size};

/// Version of the JSON document.
const VERSION: u32 = 2;

/// Runs it.
pub fn run(arguments: &arguments::Tree) -> Result<(), Failure> {
    let store = settings::open_store(arguments.opening.store.store.clone())?;
    let (mut layers, problems) = store.layers()?;
    layers.sort_by_key(|layer| (layer.record.created, layer.record.key));
    let exports = export::list(&store.exports_dir());
    let (tags, pins) = (store.tags()?, store.pins()?);
    if arguments.json {
        let hits = hits(&layers);
        let document = |layer: &Layer| {
            let mut document = json!(layer.record);
            document["hits"] = json!(hits.get(&layer.record.key));
            document
        };
        let list: Vec<_> = layers.iter().map(document).collect();
        let mut document = json!({
            "version": VERSION, "layers": list, "exports": exports, "tags": tags, "pins": pins, "problems": problems,
        });
        // Arguments are in the records as keys cover them.
        url::hide_in(&mut document);
        return print_json(&document);
    }
    for problem in problems {
        eprintln!("warning: {}", harmless(&problem));
    }
    if let Some(file) = &arguments.html {
        let diffs = if arguments.diffs { tree_page::diffs(&arguments.opening, &layers)? } else { HashMap::new() };
        return tree_page::write(file, &store, &layers, &exports, &tags, &pins, diffs);
    }
    let mut tree = Tree::new(&layers, &exports);
    for tag in &tags {
        tree.marks.entry(tag.key).or_default().push(&tag.name);
    }
    for pin in &pins {
        tree.marks.entry(pin.key).or_default().push("pinned");
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for root in tree.roots() {
        tree.print(root, "", "", &mut out)?;
    }
    let bytes = layers.iter().map(|layer| layer.record.bytes).sum();
    writeln!(out, "{} layers, {}", layers.len(), size(bytes))?;
    Ok(out.flush()?)
}

struct Tree<'a> {
    layers: &'a [Layer],
    children: HashMap<LayerKey, Vec<usize>>,
    exports: HashMap<LayerKey, Vec<&'a ExportRecord>>,
    marks: HashMap<LayerKey, Vec<&'a str>>,
    now: u64,
}

impl<'a> Tree<'a> {
    fn new(layers: &'a [Layer], exports: &'a [ExportRecord]) -> Tree<'a> {
        let mut children: HashMap<_, Vec<_>> = HashMap::new();
        for (index, layer) in layers.iter().enumerate() {
            if let Some(parent) = layer.record.parent() {
                children.entry(parent).or_default().push(index);
            }
        }
        let mut exported: HashMap<_, Vec<_>> = HashMap::new();
        for record in exports {
            exported.entry(record.layer).or_default().push(record);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Tree { layers, children, exports: exported, marks: HashMap::new(), now }
    }

    /// Bases, and layers whose parent is gone.
    fn roots(&self) -> impl Iterator<Item = usize> {
        let known: std::collections::HashSet<_> = self.layers.iter().map(|layer| layer.record.key).collect();
        (0..self.layers.len())
            .filter(move |index| self.layers[*index].record.parent().is_none_or(|parent| !known.contains(&parent)))
    }

    fn print(&self, index: usize, first: &str, rest: &str, out: &mut impl Write) -> Result<(), Failure> {
        let record = &self.layers[index].record;
        let time = duration(Duration::try_from_secs_f64(record.duration).unwrap_or_default());
        write!(out, "{first}{}  {}: {}", record.key.short(), record.material.kind, harmless(&record.summary))?;
        if !record.within.is_empty() {
            write!(out, "  [{}]", harmless(&record.within.join(" › ")))?;
        }
        let age = age(self.now.saturating_sub(record.created));
        write!(out, "  [{}, {time}, {age} ago]", size(record.bytes))?;
        for mark in self.marks.get(&record.key).into_iter().flatten() {
            write!(out, "  [{mark}]")?;
        }
        for export in self.exports.get(&record.key).into_iter().flatten() {
            write!(out, "  => {}", harmless(&export.target.display().to_string()))?;
        }
        writeln!(out)?;
        let children = self.children.get(&record.key).map_or(&[][..], Vec::as_slice);
        if let [only] = children {
            return self.print(*only, rest, rest, out);
        }
        for (place, child) in children.iter().enumerate() {
            let last = place + 1 == children.len();
            let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.print(*child, &format!("{rest}{branch}"), &format!("{rest}{below}"), out)?;
        }
        Ok(())
    }
}
