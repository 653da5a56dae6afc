//! `virt-maker cache gc` and `clean`, and what a build collects when it has ended.

use std::io::Write;
use std::time::SystemTime;

use serde_json::json;
use virt_maker::event::{Event, Events};
use virt_maker::host::{Cancel, clock};
use virt_maker::store::{Collection, Limits, Store, Wish};

use crate::commands::print_json;
use crate::error::Failure;
use crate::text::{age, count, harmless, size};
use crate::{report, signals};

/// Version of the JSON document.
const VERSION: u32 = 1;

pub(super) fn run(store: &Store, limits: &Limits, dry_run: bool, as_json: bool) -> Result<(), Failure> {
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let store = &store.clone().waiting(report::waits(&cancel));
    let found = store.collect(&Wish::Within(*limits), dry_run, &cancel)?;
    if as_json {
        let mut document = json!(found);
        document["version"] = json!(VERSION);
        document["dry_run"] = json!(dry_run);
        return print_json(&document);
    }
    print(&found, dry_run)
}

pub(super) fn clean(store: &Store) -> Result<(), Failure> {
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let store = &store.clone().waiting(report::waits(&cancel));
    let found = store.collect(&Wish::Everything, false, &cancel)?;
    print(&found, false)?;
    match store.clean_beside()? {
        Some(bytes) => writeln!(std::io::stdout(), "{} of downloads, logs and kept overlays removed", size(bytes))?,
        None => eprintln!("warning: the store is in use, so downloads, logs and kept overlays stay"),
    }
    Ok(())
}

/// Collects what passes the limits after a build has ended. What goes wrong here does not make the build fail.
pub fn after_build(store: &Store, limits: &Limits, began: SystemTime, events: &Events, cancel: &Cancel) {
    if limits.is_empty() {
        return;
    }
    match store.collect(&Wish::AfterBuild { limits: *limits, began }, false, cancel) {
        Ok(found) => {
            let unmet = found.unmet.iter().map(|limit| (*limit).to_owned()).collect();
            events.send(Event::StoreCollected { layers: found.layers.len(), bytes: found.bytes, unmet });
        }
        Err(error) => events.warn(format!("the store is not collected: {}", virt_maker::error::chain(&error))),
    }
}

fn print(found: &Collection, dry_run: bool) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let now = clock::now();
    for victim in &found.layers {
        let last = if victim.used == 0 {
            String::new()
        } else {
            format!(", used {} ago", age(now.saturating_sub(victim.used)))
        };
        let what = if victim.summary.is_empty() { "damaged" } else { &victim.summary };
        let why = harmless(&victim.why.to_string());
        writeln!(out, "{}  {:>10}  {}{last}  ({why})", victim.key.short(), size(victim.bytes), harmless(what))?;
    }
    for image in &found.stray_images {
        writeln!(out, "images/{}  (no layer has it)", harmless(image))?;
    }
    let how = if dry_run { "would go" } else { "gone" };
    let (left, bytes) = found.left;
    let (gone, went) = (count(found.layers.len(), "layer"), size(found.bytes));
    writeln!(out, "{gone} {how}, {went}; {left} left, {}, {} of them protected", size(bytes), found.protected)?;
    if found.spared > 0 {
        let were = if found.spared == 1 { "was" } else { "were" };
        writeln!(out, "{} {were} used or kept meanwhile, and stay", count(found.spared, "layer"))?;
    }
    for limit in &found.unmet {
        writeln!(
            out,
            "--{} is not met: the rest is in use, pinned, tagged, or below such a layer",
            limit.replace('_', "-")
        )?;
    }
    Ok(out.flush()?)
}
