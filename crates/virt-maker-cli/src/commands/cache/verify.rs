//! `virt-maker cache verify`: whether every layer is what its record says.

use std::io::Write;

use serde_json::json;
use virt_maker::event::Events;
use virt_maker::host::Cancel;
use virt_maker::inspect::verify;
use virt_maker::store::{Store, Wish};

use crate::commands::print_json;
use crate::error::Failure;
use crate::text::{count, harmless};
use crate::{environment, report, signals};

/// Version of the JSON document.
const VERSION: u32 = 1;
/// The exit code where something is bad and stays.
const BAD: u8 = 6;

pub(super) fn run(store: &Store, repair: bool, as_json: bool) -> Result<(), Failure> {
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let store = &store.clone().waiting(report::waits(&cancel));
    let found = verify(store, &environment::agent(), &Events::new(report::warnings_only), &cancel)?;
    let removed = match repair && !found.bad.is_empty() {
        true => store.collect(&Wish::Bad(found.bad_keys()), false, &cancel)?.layers,
        false => Vec::new(),
    };
    let stays = found.bad.iter().filter(|bad| removed.iter().all(|gone| gone.key != bad.key)).count();
    if as_json {
        let mut document = json!(found);
        document["version"] = json!(VERSION);
        document["removed"] = json!(removed);
        print_json(&document)?;
    } else {
        let mut out = std::io::stdout().lock();
        for bad in &found.bad {
            writeln!(out, "{}  {}", bad.key.short(), harmless(&bad.summary))?;
            bad.problems.iter().try_for_each(|problem| writeln!(out, "    {}", harmless(problem)))?;
        }
        for gone in &removed {
            writeln!(out, "removed {}  {}", gone.key.short(), harmless(&gone.summary))?;
        }
        let (layers, systems, bad) = (found.layers, found.file_systems, found.bad.len());
        let (layers, systems) = (count(layers, "layer"), count(systems, "file system"));
        writeln!(out, "{layers} verified, {systems} checked, {} bad", count(bad, "layer"))?;
        for (reason, layers) in &found.unchecked {
            writeln!(out, "not checked in {}: {}", count(*layers, "layer"), harmless(reason))?;
        }
        if repair && stays > 0 {
            writeln!(out, "{} stay, for they are in use", count(stays, "bad layer"))?;
        }
    }
    if stays > 0 { Err(Failure::Code(BAD)) } else { Ok(()) }
}
