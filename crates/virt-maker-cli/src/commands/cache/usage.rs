//! `virt-maker cache usage`: what takes the space.

use std::io::Write;

use serde_json::json;
use virt_maker::store::{Share, Store};

use crate::commands::print_json;
use crate::error::Failure;
use crate::text::{count, harmless, size};

/// Version of the JSON document.
const VERSION: u32 = 1;

pub(super) fn run(store: &Store, human: bool, as_json: bool) -> Result<(), Failure> {
    let usage = store.usage()?;
    if as_json {
        let mut document = json!(usage);
        document["version"] = json!(VERSION);
        document["store"] = json!(store.root());
        return print_json(&document);
    }
    let bytes = |bytes: u64| if human { size(bytes) } else { bytes.to_string() };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut line = |share: Share, what: &str| {
        writeln!(out, "{:>14}  {:>6}  {what}", bytes(share.bytes), share.layers).map_err(Failure::Output)
    };
    line(usage.all, "all layers")?;
    line(usage.shared, "shared by two or more templates")?;
    line(usage.unclaimed, "of no template as it was last built")?;
    for template in &usage.templates {
        let values: Vec<_> = template.matrix.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let matrix = if values.is_empty() { String::new() } else { format!(" ({})", values.join(", ")) };
        let all = format!("{} of {}", bytes(template.all.bytes), count(template.all.layers, "layer"));
        let name = format!("{}{matrix}", template.template.display());
        line(template.alone, &harmless(&format!("alone in {name}, which has {all} in all")))?;
    }
    for (folder, used) in usage.beside {
        writeln!(out, "{:>14}  {:>6}  {folder}/", bytes(used), "")?;
    }
    for problem in usage.problems {
        eprintln!("warning: {}", harmless(&problem));
    }
    Ok(out.flush()?)
}
