//! `virt-maker cache flatten`: images right on the base for layers whose chain is too long.

use std::io::Write;

use serde_json::json;
use virt_maker::host::Cancel;
use virt_maker::key::LayerKey;
use virt_maker::store::{Flattened, Store};

use crate::commands::print_json;
use crate::error::Failure;
use crate::text::{count, size};
use crate::{report, signals};

/// Version of the JSON document.
const VERSION: u32 = 1;

pub(super) fn run(store: &Store, layers: &[String], limit: usize, as_json: bool) -> Result<(), Failure> {
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let store = &store.clone().waiting(report::waits(&cancel));
    let keys = match layers {
        [] => store.too_deep(limit)?,
        named => named.iter().map(|name| store.find(name)).collect::<Result<_, _>>()?,
    };
    let mut done = Vec::new();
    let mut out = std::io::stdout().lock();
    for key in keys {
        let found = store.flatten(key, &cancel)?;
        if !as_json {
            let said = match found {
                Flattened::Done { images, bytes } => format!("flattened: {images} images became 2, {}", size(bytes)),
                Flattened::NotNeeded => "lies on its base already".to_owned(),
                Flattened::Busy => "somebody else flattens it, or makes it anew".to_owned(),
                Flattened::NoRoom => "not flattened: the disk of the store has not enough room".to_owned(),
            };
            writeln!(out, "{}  {said}", key.short())?;
        }
        done.push((key, found));
    }
    let flattened = done.iter().filter(|(_, found)| matches!(found, Flattened::Done { .. })).count();
    if as_json {
        let document = |(key, found): &(LayerKey, Flattened)| {
            let mut document = json!(found);
            document["key"] = json!(key);
            document
        };
        let layers: Vec<_> = done.iter().map(document).collect();
        return print_json(&json!({ "version": VERSION, "layers": layers }));
    }
    Ok(writeln!(out, "{} flattened", count(flattened, "layer"))?)
}
