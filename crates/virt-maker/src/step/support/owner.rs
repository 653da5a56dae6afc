//! Owners and modes of files, as arguments.

use serde::Serialize;

use super::accounts;
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::{Attributes, Guest};
use crate::template::Node;

/// A user, perhaps with a group; by name or by number. In a key, a pair of both.
#[derive(Debug, Clone, Serialize)]
#[serde(into = "(String, Option<String>)")]
pub(in crate::step) struct Owner {
    user: String,
    group: Option<String>,
}

impl From<Owner> for (String, Option<String>) {
    fn from(owner: Owner) -> Self {
        (owner.user, owner.group)
    }
}

impl Owner {
    /// Reads `user` or `user:group` (`user.group` is taken too, as older `chown`s do).
    pub(in crate::step) fn parse(text: &str, node: &Node) -> Result<Owner, Diagnostic> {
        let (user, group) = match text.split_once([':', '.']) {
            Some((user, group)) => (user.to_owned(), Some(group.to_owned())),
            None => (text.to_owned(), None),
        };
        if user.is_empty() || group.as_ref().is_some_and(String::is_empty) {
            return Err(node.diagnostic("expected `user` or `user:group`"));
        }
        Ok(Owner { user, group })
    }

    /// As `chown` takes it.
    pub(in crate::step) fn text(&self) -> String {
        match &self.group {
            Some(group) => format!("{}:{group}", self.user),
            None => self.user.clone(),
        }
    }

    /// Its numbers, by the guest's own names.
    pub(in crate::step) fn resolve(&self, guest: &mut dyn Guest) -> Result<(u32, u32)> {
        let (uid, primary) = match self.user.parse() {
            Ok(uid) => (uid, None),
            Err(_) => {
                let account = accounts::account(guest, &self.user)?;
                (account.uid, Some(account.gid))
            }
        };
        let gid = match &self.group {
            None => primary.unwrap_or(0),
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => accounts::group(guest, group)?,
            },
        };
        Ok((uid, gid))
    }
}

/// Mode and owner as a step may say them.
#[derive(Debug, Clone, Default, Serialize)]
pub(in crate::step) struct Looks {
    pub mode: Option<u32>,
    pub owner: Option<Owner>,
}

impl Looks {
    /// Reads the arguments `chmod` and `chown`.
    pub(in crate::step) fn read(
        node: &Node,
        chmod: Option<&str>,
        chown: Option<&str>,
        problems: &mut Vec<Diagnostic>,
    ) -> Looks {
        let at = |name: &str| node.get(name).unwrap_or(node);
        let mode = chmod.map(|text| mode(text, at("chmod")));
        let owner = chown.map(|text| Owner::parse(text, at("chown")));
        Looks { mode: keep(mode, problems), owner: keep(owner, problems) }
    }

    /// What to give to the guest. What was not said is `None`: what is there stays, new files belong to root.
    pub(in crate::step) fn attributes(&self, guest: &mut dyn Guest) -> Result<Attributes> {
        let owner = self.owner.as_ref().map(|owner| owner.resolve(guest)).transpose()?;
        Ok(Attributes { mode: self.mode, uid: owner.map(|(uid, _)| uid), gid: owner.map(|(_, gid)| gid) })
    }

    /// The same for a file of its own: what was not said is 0644 and root's.
    pub(in crate::step) fn of_a_file(&self, guest: &mut dyn Guest) -> Result<Attributes> {
        let given = self.attributes(guest)?;
        Ok(Attributes { mode: given.mode.or(Some(0o644)), uid: given.uid.or(Some(0)), gid: given.gid.or(Some(0)) })
    }
}

/// Reads a mode in octal digits.
pub(in crate::step) fn mode(text: &str, node: &Node) -> Result<u32, Diagnostic> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => {
            let message = format!("`{}` is not a mode; expected octal digits such as 0644", text.escape_debug());
            Err(node.diagnostic(message))
        }
    }
}

/// The value of what was read, or its problem among the others.
pub(in crate::step) fn keep<T>(read: Option<Result<T, Diagnostic>>, problems: &mut Vec<Diagnostic>) -> Option<T> {
    match read? {
        Ok(value) => Some(value),
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}
