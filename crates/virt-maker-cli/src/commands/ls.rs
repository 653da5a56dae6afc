//! `virt-maker ls`: files in a layer.

use std::io::Write;

use serde_json::json;
use virt_maker::guest::{Entry, FileKind};
use virt_maker::host::clock::utc;

use super::{looking, print_json};
use crate::arguments::layers::Ls;
use crate::error::Failure;
use crate::text::harmless;

/// Version of the JSON document.
const VERSION: u32 = 1;

pub fn run(arguments: &Ls) -> Result<(), Failure> {
    let mut inside = looking::open(&arguments.layer, &arguments.opening)?;
    let mut entries = inside.guest().walk(&arguments.path, Some(1))?;
    inside.close();
    // Of a folder, what is in it; of anything else, itself.
    let itself = entries.iter().map(|entry| entry.path.len()).min().unwrap_or(0);
    if entries.len() > 1 || entries.iter().all(|entry| entry.kind == FileKind::Directory) {
        entries.retain(|entry| entry.path.len() > itself);
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    if arguments.json {
        let entries: Vec<_> = entries.iter().map(document).collect();
        return print_json(&json!({ "version": VERSION, "entries": entries }));
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for entry in &entries {
        let permissions = looking::permissions(entry.kind, entry.mode);
        let (size, time) = (entry.size, utc(u64::try_from(entry.modified.0).unwrap_or(0)));
        let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let name = harmless(&String::from_utf8_lossy(name));
        write!(out, "{permissions} {:>5} {:>5} {size:>12} {time} {name}", entry.uid, entry.gid)?;
        if entry.kind == FileKind::Symlink {
            write!(out, " -> {}", harmless(&String::from_utf8_lossy(&entry.target)))?;
        }
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

fn document(entry: &Entry) -> serde_json::Value {
    let target = (entry.kind == FileKind::Symlink).then(|| String::from_utf8_lossy(&entry.target));
    json!({
        "path": String::from_utf8_lossy(&entry.path),
        "kind": entry.kind,
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "modified": entry.modified.0,
        "target": target,
    })
}
