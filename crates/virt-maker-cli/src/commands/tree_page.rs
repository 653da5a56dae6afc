//! `virt-maker tree --html`: the picture of the store's forking tree.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use virt_maker::export::ExportRecord;
use virt_maker::host::{clock, url};
use virt_maker::inspect::Look;
use virt_maker::key::LayerKey;
use virt_maker::store::{Layer, Pin, Store, Tag, hits};

use super::{diff, looking};
use crate::arguments::layers::Opening;
use crate::error::Failure;
use crate::html::{Page, Pictures};

/// Bytes of a log that the page carries: its end.
const LOG_MAX: u64 = 16 << 10;
/// Bytes of logs in all; a store of many thousands of layers would make a page that no browser opens.
const LOGS_MAX: u64 = 16 << 20;
/// Files that the page names of one layer.
const DIFF_MAX: usize = 500;

const BODY: &str = "<header><h1>virt-maker tree</h1><span id=\"sum\"></span>\
    <input type=\"search\" id=\"filter\" placeholder=\"find a step, a key, an artifact\" aria-label=\"filter\"></header>\n\
    <main><div id=\"rows\"></div><aside id=\"side\"></aside></main>";

/// What is known of layers besides their records.
#[derive(Default)]
struct About {
    exports: HashMap<LayerKey, Vec<String>>,
    tags: HashMap<LayerKey, Vec<String>>,
    pins: HashSet<LayerKey>,
    /// The images that the layer was last a part of.
    images: HashMap<LayerKey, Vec<String>>,
    /// What files differ from those of the parent.
    diffs: HashMap<LayerKey, String>,
    hits: HashMap<LayerKey, u64>,
}

/// What files differ between each layer and its parent, where both are there. A layer that cannot be opened gets the
/// reason in place of them.
pub fn diffs(opening: &Opening, layers: &[Layer]) -> Result<HashMap<LayerKey, String>, Failure> {
    let (store, opener) = looking::prepare(opening)?;
    let known: HashSet<LayerKey> = layers.iter().map(|layer| layer.record.key).collect();
    let mut found = HashMap::new();
    for record in layers.iter().map(|layer| &layer.record) {
        opener.cancel().check()?;
        let Some(parent) = record.parent().filter(|parent| known.contains(parent)) else { continue };
        let compare = || {
            let open = |key: LayerKey| Look::find(&store, &key.to_string());
            virt_maker::inspect::diff(&store, open(parent)?, open(record.key)?, &opener, false)
        };
        let text = match compare() {
            Ok(difference) => {
                let mut lines: Vec<_> = difference.changes.iter().take(DIFF_MAX).map(diff::line).collect();
                if difference.changes.len() > DIFF_MAX {
                    lines.push(format!("… and {} more", difference.changes.len() - DIFF_MAX));
                }
                if lines.is_empty() { "no file differs".into() } else { lines.join("\n") }
            }
            Err(error) => format!("not known: {}", virt_maker::error::chain(&error)),
        };
        found.insert(record.key, text);
    }
    Ok(found)
}

/// Writes the page. `layers` are in the order of their making.
pub fn write(
    file: &Path,
    store: &Store,
    layers: &[Layer],
    exports: &[ExportRecord],
    tags: &[Tag],
    pins: &[Pin],
    diffs: HashMap<LayerKey, String>,
) -> Result<(), Failure> {
    let failures = store.failures();
    let hits = hits(layers);
    let mut about = About { pins: pins.iter().map(|pin| pin.key).collect(), diffs, hits, ..About::default() };
    for export in exports {
        about.exports.entry(export.layer).or_default().push(export.target.display().to_string());
    }
    for tag in tags {
        about.tags.entry(tag.key).or_default().push(tag.name.clone());
    }
    for note in store.build_notes() {
        for layer in &note.layers {
            about.images.entry(layer.key).or_default().push(note.title());
        }
    }
    let mut room = LOGS_MAX;
    let mut log = |path: &Path| {
        let text = end_of(path, LOG_MAX.min(room)).unwrap_or_default();
        room = room.saturating_sub(text.len() as u64);
        text
    };
    let mut pictures = Pictures::default();
    let layers: Vec<Value> = layers
        .iter()
        .map(|layer| {
            let mut value = describe(layer, &about, log(&layer.log()));
            value["screens"] = json!(pictures.take_all(&layer.screenshots()));
            value
        })
        .collect();
    let failures: Vec<Value> = failures
        .iter()
        .map(|failure| {
            json!({
                "parent": failure.material.parent, "kind": failure.material.kind, "summary": failure.summary,
                "arguments": shown(&failure.material.arguments), "inputs": failure.material.inputs,
                "created": failure.failed, "error": failure.error, "log": log(&failure.log),
                "screens": pictures.take_all(&failure.pictures()),
            })
        })
        .collect();
    let now = clock::now();
    let mut data = json!({ "version": 1, "now": now, "layers": layers, "failures": failures });
    // Arguments are in the records as keys cover them.
    url::hide_in(&mut data);
    let page = Page {
        title: "virt-maker tree",
        style: include_str!("../html/tree.css"),
        script: include_str!("../html/tree.js"),
        body: BODY,
        data: &data,
    };
    let place = |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    Ok(page.write(file).map_err(place)?)
}

fn describe(layer: &Layer, about: &About, log: String) -> Value {
    let record = &layer.record;
    let used = layer.used.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    json!({
        "key": record.key, "parent": record.parent(), "role": record.material.role, "kind": record.material.kind,
        "summary": record.summary, "within": record.within, "arguments": shown(&record.material.arguments), "inputs": record.material.inputs,
        "bytes": record.bytes, "duration": record.duration, "created": record.created, "engine": record.engine,
        "used": used, "hits": about.hits.get(&record.key), "flat": layer.flat, "exports": about.exports.get(&record.key), "tags": about.tags.get(&record.key),
        "pinned": about.pins.contains(&record.key), "images": about.images.get(&record.key),
        "diff": about.diffs.get(&record.key), "log": log,
    })
}

/// The arguments of a step; a text alone is shown as it stands.
fn shown(arguments: &Value) -> Value {
    match arguments.as_object().map(|members| members.values().collect::<Vec<_>>()).as_deref() {
        Some([Value::String(only)]) => json!(only),
        _ => arguments.clone(),
    }
}

/// The last bytes of a file as text.
fn end_of(path: &Path, most: u64) -> std::io::Result<String> {
    use std::io::Seek;
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(std::io::SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(if length > most && most > 0 { format!("…{text}") } else { text })
}
