//! The guest's users and groups, from its own files. Passwords are set by a change of `/etc/shadow`, and so are in no
//! argument of any program.

use super::texts;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::Guest;

/// Password and group files are not larger.
const DATABASE_MAX: u64 = 16 << 20;
const SHADOW: &str = "/etc/shadow";

/// A user of the guest.
#[derive(Debug, Clone)]
pub(in crate::step) struct Account {
    pub uid: u32,
    pub gid: u32,
    /// An absolute path, as the guest says it.
    pub home: String,
}

/// A user by name; an error where the guest has none.
pub(in crate::step) fn account(guest: &mut dyn Guest, name: &str) -> Result<Account> {
    let entry = known(guest, "/etc/passwd", name)?;
    let home = entry.get(5).cloned().unwrap_or_default();
    Ok(Account { uid: number(&entry, 2)?, gid: number(&entry, 3)?, home })
}

/// The number of a group; an error where the guest has none.
pub(in crate::step) fn group(guest: &mut dyn Guest, name: &str) -> Result<u32> {
    number(&known(guest, "/etc/group", name)?, 2)
}

/// The entry of a name in a file of the form of `/etc/passwd`.
pub(in crate::step) fn find(guest: &mut dyn Guest, file: &str, name: &str) -> Result<Option<Vec<String>>> {
    let text = guest.read(file, DATABASE_MAX)?;
    let text = String::from_utf8_lossy(&text);
    let mut entries = text.lines().map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
    Ok(entries.find(|fields| fields.first().is_some_and(|first| first == name)))
}

/// Who has a number.
pub(in crate::step) fn holder(guest: &mut dyn Guest, uid: u32) -> Result<Option<String>> {
    let text = guest.read("/etc/passwd", DATABASE_MAX)?;
    let text = String::from_utf8_lossy(&text);
    let mut fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    Ok(fields.find(|fields| fields.get(2) == Some(&&*uid.to_string())).map(|fields| fields[0].to_owned()))
}

fn known(guest: &mut dyn Guest, file: &str, name: &str) -> Result<Vec<String>> {
    find(guest, file, name)?
        .ok_or_else(|| Error::new(ErrorKind::Step, format!("the guest's {file} has no `{}`", name.escape_debug())))
}

/// Gives the password field of a user a new value, made of the old one.
pub(in crate::step) fn set_password(guest: &mut dyn Guest, user: &str, change: impl Fn(&str) -> String) -> Result<()> {
    let mut found = false;
    texts::change(guest, SHADOW, |text| {
        let lines = text.lines().map(|line| {
            let mut fields: Vec<&str> = line.split(':').collect();
            if fields.len() < 2 || fields[0] != user {
                return format!("{line}\n");
            }
            found = true;
            let new = change(fields[1]);
            fields[1] = &new;
            format!("{}\n", fields.join(":"))
        });
        lines.collect()
    })?;
    if found {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Step, format!("the guest's {SHADOW} has no `{}`", user.escape_debug())))
}

/// The number in a field of the guest's user database.
fn number(fields: &[String], index: usize) -> Result<u32> {
    fields
        .get(index)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| Error::new(ErrorKind::Step, "an entry of the guest's user database cannot be read"))
}
