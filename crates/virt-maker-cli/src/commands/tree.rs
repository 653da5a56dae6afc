//! `virt-maker tree`: the store's forking tree.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use serde_json::json;
use virt_maker::error::{Context, ErrorKind};
use virt_maker::export::{self, ExportRecord};
use virt_maker::host::{clock, url};
use virt_maker::key::LayerKey;
use virt_maker::store::{Layer, hits};

use super::{print_json, tree_page};
use crate::arguments;
use crate::error::Failure;
use crate::text::{age, count, duration, harmless, size};
use crate::{html, settings};

/// Version of the JSON document.
const VERSION: u32 = 2;

pub fn run(arguments: &arguments::Tree) -> Result<(), Failure> {
    if let Some(page) = &arguments.html {
        html::Page::check(page)
            .context(ErrorKind::Host, || format!("cannot write the page {}", page.display()))
            .map_err(|error| error.with_hint("name a file in a folder that is there and can be written"))?;
    }
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
    writeln!(out, "{}, {}", count(layers.len(), "layer"), size(bytes))?;
    Ok(out.flush()?)
}

struct Tree<'a> {
    layers: &'a [Layer],
    children: HashMap<LayerKey, Vec<usize>>,
    exports: HashMap<LayerKey, Vec<&'a ExportRecord>>,
    marks: HashMap<LayerKey, Vec<&'a str>>,
    now: u64,
    /// Columns of the terminal; `None` where there is none.
    width: Option<usize>,
}

/// How many columns of what a step does are shown at least, however narrow the terminal is.
const LEAST: usize = 24;

/// A line of the tree in this width: what the step does is cut, so that size and age stay.
fn fitting(line: &str, facts: &str, width: Option<usize>) -> String {
    let (length, after) = (line.chars().count(), facts.chars().count());
    match width {
        Some(width) if length + after > width && length > LEAST => {
            let room = width.saturating_sub(after).max(LEAST);
            let cut: String = line.chars().take(room.saturating_sub(1).min(length)).collect();
            let whole = if room > length { line.to_owned() } else { format!("{cut}…") };
            format!("{whole}{facts}").chars().take(width).collect()
        }
        _ => format!("{line}{facts}"),
    }
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
        let now = clock::now();
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok();
        let width = size.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
        Tree { layers, children, exports: exported, marks: HashMap::new(), now, width }
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
        let mut line =
            format!("{first}{}  {}: {}", record.key.short(), record.material.kind, harmless(&record.summary));
        if !record.within.is_empty() {
            line.push_str(&format!("  [{}]", harmless(&record.within.join(" › "))));
        }
        let age = age(self.now.saturating_sub(record.created));
        let mut facts = format!("  [{}, {time}, {age} ago]", size(record.bytes));
        for mark in self.marks.get(&record.key).into_iter().flatten() {
            facts.push_str(&format!("  [{mark}]"));
        }
        for export in self.exports.get(&record.key).into_iter().flatten() {
            facts.push_str(&format!("  => {}", harmless(&export.target.display().to_string())));
        }
        writeln!(out, "{}", fitting(&line, &facts, self.width))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_its_terminal() {
        let (line, facts) =
            ("│  0123456789ab  run: apt-get -y install something long", "  [1.0 MiB, 2.0 s, 3 min ago]");
        let whole = format!("{line}{facts}");
        assert_eq!(fitting(line, facts, None), whole);
        assert_eq!(fitting(line, facts, Some(200)), whole);
        let fit = fitting(line, facts, Some(70));
        assert!(fit.chars().count() == 70 && fit.ends_with(facts) && fit.contains('…'), "{fit}");
        assert_eq!(fitting(line, facts, Some(30)).chars().count(), 30);
    }
}
