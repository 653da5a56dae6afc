//! `virt-maker tag`: names for layers.

use std::io::Write;

use serde_json::json;
use virt_maker::host::clock::utc;

use super::print_json;
use crate::arguments::store::Tag;
use crate::error::Failure;
use crate::settings;

/// Version of the JSON document.
const VERSION: u32 = 1;

pub fn run(arguments: &Tag) -> Result<(), Failure> {
    let store = settings::open_store(arguments.store.store.clone())?;
    if let Some(name) = &arguments.remove {
        return match store.untag(name)? {
            true => Ok(()),
            false => Err(Failure::Usage(format!("there is no tag `{}`", name.escape_debug()))),
        };
    }
    if let (Some(layer), Some(name)) = (&arguments.layer, &arguments.name) {
        let key = store.find(layer)?;
        if let Some(before) = store.tag(key, name)?.filter(|before| *before != key) {
            eprintln!("`{name}` was layer {} before", before.short());
        }
    }
    let tags = store.tags()?;
    if arguments.json {
        return print_json(&json!({"version": VERSION, "tags": tags}));
    }
    if arguments.layer.is_none() {
        let mut out = std::io::stdout().lock();
        for tag in tags {
            writeln!(out, "{}  {}  {}", tag.key.short(), utc(tag.created), tag.name)?;
        }
    }
    Ok(())
}
