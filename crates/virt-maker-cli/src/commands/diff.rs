//! `virt-maker diff`: what differs between two layers.

use std::io::Write;

use serde_json::json;
use similar::TextDiff;
use virt_maker::guest::FileKind;
use virt_maker::inspect::{Change, Changed, Look, diff};

use super::{looking, print_json};
use crate::arguments::layers::Diff;
use crate::error::Failure;
use crate::text::{harmless, size};

/// Version of the JSON document.
const VERSION: u32 = 1;

pub fn run(arguments: &Diff) -> Result<(), Failure> {
    let (store, opener) = looking::prepare(&arguments.opening)?;
    let (one, two) = (Look::find(&store, &arguments.one)?, Look::find(&store, &arguments.two)?);
    let ids = (one.id(), two.id());
    let found = diff(&store, one, two, &opener, arguments.content)?;
    if arguments.json {
        let change = |changed: &Changed| {
            let mut document = json!(changed);
            if let Some((before, after)) = &changed.texts {
                document["diff"] = json!(unified(before, after));
            }
            document
        };
        let changes: Vec<_> = found.changes.iter().map(change).collect();
        return print_json(&json!({"version": VERSION, "one": ids.0, "two": ids.1, "changes": changes}));
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for changed in &found.changes {
        writeln!(out, "{}", line(changed))?;
        if let Some((before, after)) = &changed.texts {
            for line in unified(before, after).lines() {
                writeln!(out, "    {}", looking::harmless_lines(line))?;
            }
        }
    }
    Ok(out.flush()?)
}

/// A file that differs, in one line.
pub fn line(changed: &Changed) -> String {
    let mark = match changed.change {
        Change::Added => 'A',
        Change::Changed => 'C',
        Change::Removed => 'D',
    };
    format!("{mark} {}  {}", harmless(&changed.path), facts(changed))
}

fn unified(before: &str, after: &str) -> String {
    TextDiff::from_lines(before, after).unified_diff().context_radius(3).to_string()
}

/// What is there, or how it changed: size, mode, owner; only what differs where both are there.
fn facts(changed: &Changed) -> String {
    let (before, after) = match (&changed.before, &changed.after) {
        (Some(only), None) | (None, Some(only)) => {
            let link = only.target.as_ref().map(|target| format!(", -> {}", harmless(target))).unwrap_or_default();
            let mode = looking::permissions(only.kind, only.mode);
            return format!("({}, {mode}, {}:{}{link})", size(only.size), only.uid, only.gid);
        }
        (Some(before), Some(after)) => (before, after),
        (None, None) => return String::new(),
    };
    let mut parts = Vec::new();
    if before.kind == FileKind::File && after.kind == FileKind::File {
        if before.size == after.size {
            parts.push(size(after.size));
        } else {
            parts.push(format!("{} -> {}", size(before.size), size(after.size)));
        }
    }
    let mode = |facts: &virt_maker::inspect::Facts| looking::permissions(facts.kind, facts.mode);
    if mode(before) != mode(after) {
        parts.push(format!("{} -> {}", mode(before), mode(after)));
    }
    if (before.uid, before.gid) != (after.uid, after.gid) {
        parts.push(format!("{}:{} -> {}:{}", before.uid, before.gid, after.uid, after.gid));
    }
    if before.target != after.target {
        let target = |text: &Option<String>| harmless(text.as_deref().unwrap_or("(no link)"));
        parts.push(format!("{} -> {}", target(&before.target), target(&after.target)));
    }
    format!("({})", parts.join(", "))
}
