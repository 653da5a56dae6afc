//! SELinux: the labels of a guest's files.
//!
//! What a step writes has no label, or that of where it was before: no kernel that knows the guest's policy is at work. So
//! labels are given once, at the end, to a guest that has SELinux switched on: every file whose label is missing, or has
//! another type than the guest's own rules say ([`contexts`]), gets the right one, as `setfiles` does it. What its rules leave
//! alone (`<<none>>`), and types that an administrator gives by hand (`customizable_types`), stay.
//!
//! Nothing of the guest runs for this: its rules are read as data, and labels are attributes of files.

mod contexts;

use std::collections::HashSet;

use self::contexts::Contexts;
use super::{FileKind, Guest, Labelled};
use crate::error::{Error, ErrorKind, Result};
use crate::host::Cancel;

/// Raise it when files get other labels than before: artifacts are then made again.
pub const VERSION: u32 = 1;
/// The mark that has the next boot relabel all files.
pub const MARK: &str = "/.autorelabel";
/// Says whether SELinux is on, and which policy is loaded.
pub const CONFIG: &str = "/etc/selinux/config";
/// The configuration is not larger, in bytes.
const CONFIG_MAX: u64 = 1 << 20;
/// Nor are rules.
const RULES_MAX: u64 = 64 << 20;
/// Labels that one call sets, so that a cancellation is heard.
const BATCH: usize = 4096;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relabelled {
    /// The guest's policy, as data of the guest.
    pub policy: String,
    /// Files that got a label.
    pub labelled: usize,
    /// Rules that could not be read, and say nothing therefore.
    pub unreadable: usize,
}

/// The name of the policy that the guest loads when it boots (`targeted`, say); `None` where it loads none. It may be
/// one that is not installed.
pub fn policy(guest: &mut dyn Guest) -> Result<Option<String>> {
    let Some(text) = read(guest, CONFIG, CONFIG_MAX)? else { return Ok(None) };
    let value = |name: &str| {
        let value = |line: &'_ str| line.trim().strip_prefix(name)?.trim_start().strip_prefix('=').map(str::to_owned);
        text.lines().rev().find_map(value).map(|value| value.trim().to_owned())
    };
    let on = value("SELINUX").is_some_and(|mode| ["enforcing", "permissive"].contains(&&*mode.to_lowercase()));
    let name = value("SELINUXTYPE").unwrap_or_else(|| "targeted".into());
    // It becomes part of a path.
    Ok(Some(name).filter(|name| on && !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])))
}

/// Labels the files of a guest whose SELinux is on, and takes the mark away that would have its next boot do it; `None`
/// for any other guest, and an error for one whose policy has no rules.
pub fn relabel(guest: &mut dyn Guest, cancel: &Cancel) -> Result<Option<Relabelled>> {
    let Some(policy) = policy(guest)? else { return Ok(None) };
    let folder = format!("/etc/selinux/{policy}/contexts");
    let rules = format!("{folder}/files/file_contexts");
    let Some(first) = read(guest, &rules, RULES_MAX)? else {
        let message = format!(
            "the guest loads the SELinux policy `{}`, but has no rules for it: {} is not there",
            policy.escape_debug(),
            rules.escape_debug()
        );
        let hint = "install the policy, or switch SELinux off with `selinux: disabled`";
        return Err(Error::new(ErrorKind::Guest, message).with_hint(hint));
    };
    let mut beside =
        |ending: &str| Ok::<_, Error>(read(guest, &format!("{rules}{ending}"), RULES_MAX)?.unwrap_or_default());
    let texts = [first, beside(".homedirs")?, beside(".local")?];
    let aliases = [beside(".subs")?, beside(".subs_dist")?];
    let contexts = Contexts::new(&texts, [&aliases[0], &aliases[1]]);
    let by_hand = read(guest, &format!("{folder}/customizable_types"), CONFIG_MAX)?.unwrap_or_default();
    let by_hand: HashSet<&str> = by_hand.lines().map(str::trim).filter(|line| !line.is_empty()).collect();

    // It is no file that anybody wants to keep, so it needs no label either.
    guest.remove(MARK)?;
    let mut files = guest.labels()?;
    files.sort_by(|one, two| one.path.cmp(&two.path));
    let mut wanted = Vec::new();
    for (count, file) in files.into_iter().enumerate() {
        if count % BATCH == 0 {
            cancel.check()?;
        }
        let path = String::from_utf8_lossy(&file.path);
        let Some(label) = contexts.label(&path, file.kind).and_then(|rule| changed(&file.label, rule, &by_hand)) else {
            continue;
        };
        wanted.push(Labelled { label, ..file });
    }
    for batch in wanted.chunks(BATCH) {
        cancel.check()?;
        guest.set_labels(batch)?;
    }
    Ok(Some(Relabelled { policy, labelled: wanted.len(), unreadable: contexts.unreadable }))
}

/// The label that a file gets in the place of `now`, if it gets one: a label is `user:role:type`, perhaps with `:range`, and of
/// one that is there only the type is changed.
fn changed(now: &[u8], rule: &str, by_hand: &HashSet<&str>) -> Option<Vec<u8>> {
    let parts = |label| std::str::from_utf8(label).ok().map(|label| label.splitn(4, ':').collect::<Vec<_>>());
    let Some(mut old) = parts(now).filter(|old| old.len() >= 3) else { return Some(rule.as_bytes().to_vec()) };
    let new = rule.split(':').nth(2)?;
    if old[2] == new || by_hand.contains(old[2]) {
        return None;
    }
    old[2] = new;
    Some(old.join(":").into_bytes())
}

/// A text of the guest; `None` where there is no such file.
fn read(guest: &mut dyn Guest, path: &str, limit: u64) -> Result<Option<String>> {
    match guest.stat(path)? {
        // A link is followed within the guest.
        Some(stat) if matches!(stat.kind, FileKind::File | FileKind::Symlink) => {
            Ok(Some(String::from_utf8_lossy(&guest.read(path, limit)?).into_owned()))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_label_only_the_type_changes() {
        let by_hand = HashSet::from(["httpd_sys_content_t"]);
        let rule = "system_u:object_r:etc_t:s0";
        for (now, expected) in [
            ("", Some(rule)),
            ("nonsense", Some(rule)),
            ("unconfined_u:object_r:etc_t:s0", None),
            ("unconfined_u:object_r:tmp_t:s0:c1,c2", Some("unconfined_u:object_r:etc_t:s0:c1,c2")),
            ("system_u:object_r:httpd_sys_content_t:s0", None),
            ("a:b:tmp_t", Some("a:b:etc_t")),
        ] {
            let changed = changed(now.as_bytes(), rule, &by_hand);
            assert_eq!(changed.as_deref(), expected.map(str::as_bytes), "{now}");
        }
    }
}
