//! Why a layer is missing, for people.

use similar::{ChangeTag, TextDiff};
use virt_maker::host::clock::utc;
use virt_maker::plan::{FieldChange, MissReason};

use crate::text::{duration, harmless};

/// Longest value that stands in a line, in characters.
const SHORT: usize = 100;
/// How many changes are listed at most.
const LISTED: usize = 40;

/// The reason in one line.
pub fn headline(reason: &MissReason) -> String {
    match reason {
        MissReason::ParentMissing => "the layer under it is missing".into(),
        MissReason::NeverMade => "never made".into(),
        MissReason::Changed { other, changes } => {
            let fields: Vec<_> = changes.iter().take(3).map(|change| harmless(&change.field)).collect();
            let more = if changes.len() > fields.len() { ", ..." } else { "" };
            format!("differs from {} in {}{more}", other.short(), fields.join(", "))
        }
        MissReason::Collected { at, why } => format!("collected at {} ({})", utc(*at), harmless(why)),
        MissReason::Damaged { problem } => format!("cannot be used: {}", harmless(problem)),
        MissReason::Forced => "forced".into(),
        MissReason::AlwaysRun => "always run".into(),
        MissReason::Expired { age, ttl } => {
            let time = |seconds: &u64| duration(std::time::Duration::from_secs(*seconds));
            format!("older than its ttl: {} of {}", time(age), time(ttl))
        }
        _ => "missing".into(),
    }
}

/// What changed, with old and new values: a line for each, and a difference line by line where one has several lines.
pub fn details(reason: &MissReason) -> Vec<String> {
    let MissReason::Changed { changes, .. } = reason else { return Vec::new() };
    let mut lines: Vec<String> = changes.iter().take(LISTED).flat_map(change_lines).collect();
    if changes.len() > LISTED {
        lines.push(format!("and {} more", changes.len() - LISTED));
    }
    lines
}

/// Sizes in the form in which people write them: keys have them in bytes.
fn as_written(change: &FieldChange) -> FieldChange {
    let is_size = |part: &str| part == "size" || part.ends_with("_size");
    let of_partition = change.field.contains(".partitions[") && change.field.ends_with("[1]");
    if !change.field.split(['.', '[']).any(is_size) && !of_partition {
        return change.clone();
    }
    let written =
        |value: &Option<String>| value.as_ref().map(|text| size_as_written(text).unwrap_or_else(|| text.clone()));
    FieldChange { field: change.field.clone(), old: written(&change.old), new: written(&change.new) }
}

/// `4G` of 4294967296; `None` for what is no whole number of KiB.
fn size_as_written(text: &str) -> Option<String> {
    let bytes: u64 = text.parse().ok().filter(|bytes| *bytes > 0)?;
    let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    let (unit, bits) = units.into_iter().find(|(_, bits)| bytes.trailing_zeros() >= *bits)?;
    Some(format!("{}{unit}", bytes >> bits))
}

fn change_lines(change: &FieldChange) -> Vec<String> {
    let field = harmless(&change.field);
    let change = &as_written(change);
    let short = |text: &Option<String>| match text {
        None => "(none)".to_owned(),
        Some(text) => format!("`{}`", harmless(text.trim_end_matches('\n'))),
    };
    let long = |text: &Option<String>| {
        text.as_ref().is_some_and(|text| text.trim_end_matches('\n').contains('\n') || text.chars().count() > SHORT)
    };
    if !long(&change.old) && !long(&change.new) {
        return vec![format!("{field}: {} is now {}", short(&change.old), short(&change.new))];
    }
    let (old, new) = (change.old.as_deref().unwrap_or(""), change.new.as_deref().unwrap_or(""));
    let diff = TextDiff::from_lines(old, new);
    let mut lines = vec![format!("{field}:")];
    for (number, group) in diff.grouped_ops(1).iter().enumerate() {
        if number > 0 {
            lines.push("  ...".into());
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let mark = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            lines.push(format!("  {mark} {}", harmless(change.value().trim_end_matches(['\n', '\r']))));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use virt_maker::key::{Digest, LayerKey};

    use super::*;

    fn changed(changes: &[(&str, Option<&str>, Option<&str>)]) -> MissReason {
        let own = |text: &Option<&str>| text.map(str::to_owned);
        let changes = changes
            .iter()
            .map(|(field, old, new)| FieldChange { field: (*field).into(), old: own(old), new: own(new) })
            .collect();
        MissReason::Changed { other: LayerKey(Digest::of(b"x")), changes }
    }

    #[test]
    fn short_values_stand_in_a_line_and_texts_are_compared_by_lines() {
        let reason = changed(&[
            (
                "arguments.script",
                Some("set -e\necho one\necho\u{1b}[31m two\n"),
                Some("set -e\necho 1\necho\u{1b}[31m two\n"),
            ),
            ("options.network", None, Some("false")),
            ("arguments.resize.size", Some("4294967296"), Some("2621440000")),
            ("arguments.resize.partitions[0][1]", None, Some("1073741824")),
            ("arguments.count", Some("4294967296"), Some("1")),
        ]);
        assert_eq!(
            headline(&reason),
            "differs from 2d711642b726 in arguments.script, options.network, arguments.resize.size, ..."
        );
        let expected = [
            "arguments.script:",
            "    set -e",
            "  - echo one",
            "  + echo 1",
            "    echo\\u{1b}[31m two",
            "options.network: (none) is now `false`",
            "arguments.resize.size: `4G` is now `2500M`",
            "arguments.resize.partitions[0][1]: (none) is now `1G`",
            "arguments.count: `4294967296` is now `1`",
        ];
        assert_eq!(details(&reason), expected);
    }
}
