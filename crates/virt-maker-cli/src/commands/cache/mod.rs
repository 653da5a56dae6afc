//! `virt-maker cache`: what the store has, what takes its space, and keeping it to its size.

mod adopt;
mod flatten;
mod gc;
mod ls;
mod usage;
mod verify;

use std::io::Write;

use virt_maker::store::Store;

use crate::arguments::StoreArgument;
use crate::arguments::store::{Cache, CacheCommand};
use crate::error::Failure;
use crate::settings;

pub use gc::after_build;

pub fn run(arguments: &Cache) -> Result<(), Failure> {
    match &arguments.command {
        CacheCommand::Ls { store, json } => ls::run(&open(store)?, *json),
        CacheCommand::Usage { human, store, json } => usage::run(&open(store)?, *human, *json),
        CacheCommand::Gc { limits, dry_run, store, json } => {
            let limits = settings::limits(limits, store.store.clone())?;
            gc::run(&open(store)?, &limits, *dry_run, *json)
        }
        CacheCommand::Verify { repair, store, json } => verify::run(&open(store)?, *repair, *json),
        CacheCommand::Flatten { layers, depth, store, json } => {
            let limit = settings::max_depth(depth.max_depth, store.store.clone())?;
            flatten::run(&open(store)?, layers, limit, *json)
        }
        CacheCommand::Adopt { store } => adopt::run(store),
        CacheCommand::Clean { store } => gc::clean(&open(store)?),
        CacheCommand::Pin { layers, store } => pin(&open(store)?, layers),
        CacheCommand::Unpin { layers, store } => unpin(&open(store)?, layers),
    }
}

fn open(argument: &StoreArgument) -> Result<Store, Failure> {
    settings::open_store(argument.store.clone())
}

fn pin(store: &Store, layers: &[String]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for layer in layers {
        let key = store.find(layer)?;
        let how = if store.pin(key)? { "pinned" } else { "was pinned" };
        writeln!(out, "{}  {how}", key.short())?;
    }
    Ok(())
}

fn unpin(store: &Store, layers: &[String]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for layer in layers {
        let key = store.find(layer)?;
        let how = if store.unpin(key)? { "unpinned" } else { "was not pinned" };
        writeln!(out, "{}  {how}", key.short())?;
    }
    Ok(())
}
