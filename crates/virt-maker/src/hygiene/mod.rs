//! Hygiene: what a guest carries that an image for many machines should not: its identity, traces of use, caches.
//!
//! One table ([`rules`]) says what is looked for, how bad it is, and what [`clean`] does about it. Looking changes
//! nothing. What is cleaned and needed comes back: at the next boot the guest makes a new machine-id and new SSH host
//! keys (a guest that would not make keys gets a unit that does), and other names of its own ([`again`]). What somebody may have put there on purpose (keys that
//! may log in, a `resolv.conf`) is reported and stays.

mod again;
mod leftovers;
mod rules;

use std::fmt;

use self::rules::{Action, RULES, Rule};
use crate::error::Result;
use crate::guest::{FileKind, Guest};
pub use leftovers::Leftovers;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Only takes space, or tells little.
    Note,
    /// Tells of a machine or of people, or lets somebody in.
    Warning,
    /// All machines that are made from the image share what each must have for itself.
    Error,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What it is, in a few words.
    pub what: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Paths in the guest, as data of the guest.
    pub paths: Vec<String>,
    /// Whether [`clean`] removes it.
    pub cleaned: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        let shown: Vec<String> = self.paths.iter().take(SHOWN).map(|path| path.escape_debug().to_string()).collect();
        write!(f, "{}: {}", self.what, shown.join(", "))?;
        match self.paths.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// All that is looked for, in a few words each.
pub fn known() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.what)
}

/// Looks for everything in the table; the worst comes first.
pub fn inspect(guest: &mut dyn Guest) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for rule in RULES {
        let paths = found(guest, rule)?;
        if !paths.is_empty() {
            let cleaned = rule.action != Action::Report && again::is_certain(guest, rule.again)?;
            findings.push(Finding { what: rule.what, severity: rule.severity, paths, cleaned });
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

/// Removes what can be removed. Says what it was, and what was found besides and stays: its findings are those that are not
/// `cleaned`. The worst comes first.
pub fn clean(guest: &mut dyn Guest) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for rule in RULES {
        let paths = found(guest, rule)?;
        if paths.is_empty() {
            continue;
        }
        if rule.action == Action::Report || !again::is_certain(guest, rule.again)? {
            findings.push(Finding { what: rule.what, severity: rule.severity, paths, cleaned: false });
            continue;
        }
        for path in &paths {
            match rule.action {
                Action::Remove => guest.remove(path)?,
                // A mode of its own stays: some logs may be written by one user only.
                Action::Empty => guest.rewrite(path, &mut "".as_bytes())?,
                Action::Lines(is_one) => {
                    let old = guest.read(path, TEXT_MAX)?;
                    let kept: Vec<&[u8]> =
                        old.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_one(line)).collect();
                    guest.rewrite(path, &mut &*kept.concat())?;
                }
                Action::Report => {}
            }
        }
        again::prepare(guest, rule.again)?;
        findings.push(Finding { what: rule.what, severity: rule.severity, paths, cleaned: true });
    }
    again::host_keys(guest)?;
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

/// What is to be said of what [`clean`] found and left; nothing where it left nothing.
pub fn left(findings: &[Finding]) -> Option<String> {
    let left: Vec<String> =
        findings.iter().filter(|finding| !finding.cleaned).map(|finding| finding.to_string()).collect();
    (!left.is_empty()).then(|| format!("found, and not removed; is it there on purpose? {}", left.join("; ")))
}

/// Files that are looked into are not larger.
const TEXT_MAX: u64 = 1 << 20;
/// Folders are not looked into deeper than this.
const DEPTH_MAX: usize = 16;

fn found(guest: &mut dyn Guest, rule: &Rule) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for pattern in rule.patterns {
        let parts: Vec<&str> = pattern.split('/').skip(1).collect();
        expand(guest, "", &parts, 0, &mut paths)?;
    }
    paths.sort();
    paths.dedup();
    let mut kept = Vec::new();
    for path in paths {
        let Some(stat) = guest.stat(&path)? else { continue };
        let is_one = match (rule.action, stat.kind) {
            (Action::Empty, FileKind::File) => stat.size > 0,
            (Action::Empty, _) => false,
            (Action::Lines(_), kind) if kind != FileKind::File => false,
            _ => true,
        };
        if is_one && (rule.counts)(&path) && says(guest, rule, &path, stat.kind, stat.size)? {
            kept.push(path);
        }
    }
    Ok(kept)
}

/// Whether the content of a file is what the rule is about, where that matters.
fn says(guest: &mut dyn Guest, rule: &Rule, path: &str, kind: FileKind, size: u64) -> Result<bool> {
    let line: fn(&[u8]) -> bool = match (rule.action, rule.line) {
        (Action::Lines(line), _) | (_, Some(line)) => line,
        _ => return Ok(true),
    };
    if kind != FileKind::File || size > TEXT_MAX {
        return Ok(false);
    }
    Ok(guest.read(path, TEXT_MAX)?.split(|byte| *byte == b'\n').any(line))
}

/// Paths after a pattern: `*` is any text within a name, `**` any number of folders.
fn expand(guest: &mut dyn Guest, folder: &str, parts: &[&str], depth: usize, paths: &mut Vec<String>) -> Result<()> {
    let Some((part, rest)) = parts.split_first() else {
        paths.push(folder.to_owned());
        return Ok(());
    };
    if !part.contains('*') {
        return expand(guest, &format!("{folder}/{part}"), rest, depth, paths);
    }
    // A link to a folder is not entered: what it leads to has a path of its own.
    let is_folder = match folder {
        "" => true,
        _ => guest.stat(folder)?.is_some_and(|stat| stat.kind == FileKind::Directory),
    };
    if !is_folder || depth > DEPTH_MAX {
        return Ok(());
    }
    for name in guest.read_dir(if folder.is_empty() { "/" } else { folder })? {
        // Names that are not UTF-8 come with a stand-in, and nothing can be asked about them.
        if name.contains('\u{fffd}') {
            continue;
        }
        let path = format!("{folder}/{name}");
        if *part == "**" {
            if guest.stat(&path)?.is_some_and(|stat| stat.kind == FileKind::Directory) {
                expand(guest, &path, parts, depth + 1, paths)?;
            } else if rest.first().is_none_or(|pattern| matches(pattern, &name)) {
                paths.push(path);
            }
        } else if matches(part, &name) {
            expand(guest, &path, rest, depth + 1, paths)?;
        }
    }
    Ok(())
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => {
            let Some(rest) = name.strip_prefix(before) else { return false };
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(after, &rest[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*", "x", true),
            ("*.gz", "a.gz", true),
            ("*.gz", "a.gz2", false),
            ("ssh_host_*_key", "ssh_host_rsa_key", true),
            ("ssh_host_*_key", "ssh_host_rsa_key.pub", false),
            ("a*b*c", "a-b-b-c", true),
            ("é*", "éa", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
