//! `virt-maker cache ls`: all layers, the one first that would be collected first.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use virt_maker::disk::boots::Boots;
use virt_maker::store::{Listed, Store};

use crate::commands::print_json;
use crate::error::Failure;
use crate::text::{age, count, harmless, size};

/// Version of the JSON document.
const VERSION: u32 = 2;

pub(super) fn run(store: &Store, as_json: bool) -> Result<(), Failure> {
    let (mut layers, damaged) = store.listing()?;
    // Parents were used when their children were, so in reverse they follow them.
    layers.reverse();
    layers.sort_by_key(|listed| (listed.problem.is_none(), listed.used));
    if as_json {
        let layers: Vec<_> = layers.iter().map(document).collect();
        let damaged: Vec<_> = damaged.iter().map(|(key, problem)| json!({"key": key, "problem": problem})).collect();
        return print_json(&json!({"version": VERSION, "layers": layers, "damaged": damaged}));
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for listed in &layers {
        let record = &listed.layer.record;
        let (bytes, last) = (size(record.bytes), age(since(listed.used)));
        write!(out, "{}  {bytes:>10}  {:>10}, used {last:>6} ago", record.key.short(), count(listed.hits, "hit"))?;
        write!(out, "  {}: {}", record.material.kind, harmless(&record.summary))?;
        let marks = [(listed.leased, "in use"), (listed.pinned, "pinned"), (listed.layer.flat, "flat")];
        for mark in marks.iter().filter(|(is, _)| *is).map(|(_, mark)| mark) {
            write!(out, "  [{mark}]")?;
        }
        // A layer boots as its base does, with few exceptions, so a line of each base is enough to see.
        if let Some(boots) = record.boots.as_ref().filter(|_| record.parent().is_none()).map(Boots::words)
            && !boots.is_empty()
        {
            write!(out, "  [boots under {boots}]")?;
        }
        for tag in &listed.tags {
            write!(out, "  [{tag}]")?;
        }
        if let Some(problem) = &listed.problem {
            write!(out, "  (never used again: {})", harmless(problem))?;
        }
        writeln!(out)?;
    }
    for (key, problem) in &damaged {
        writeln!(out, "{}  (damaged: {})", key.short(), harmless(problem))?;
    }
    writeln!(
        out,
        "{}, {}",
        count(layers.len(), "layer"),
        size(layers.iter().map(|listed| listed.layer.record.bytes).sum())
    )?;
    Ok(out.flush()?)
}

fn since(time: SystemTime) -> u64 {
    SystemTime::now().duration_since(time).map_or(0, |since| since.as_secs())
}

fn document(listed: &Listed) -> serde_json::Value {
    let record = &listed.layer.record;
    json!({
        "key": record.key,
        "parent": record.parent(),
        "kind": record.material.kind,
        "summary": record.summary,
        "bytes": record.bytes,
        "created": record.created,
        "used": listed.used.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        "hits": listed.hits,
        "flat": listed.layer.flat,
        "boots": record.boots,
        "in_use": listed.leased,
        "pinned": listed.pinned,
        "tags": listed.tags,
        "problem": listed.problem,
    })
}
