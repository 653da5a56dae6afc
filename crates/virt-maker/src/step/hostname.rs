//! `hostname`: the guest's name, in `/etc/hostname`, in `/etc/hosts` and, where a guest has it, in
//! `/etc/sysconfig/network`.
//!
//! A guest with cloud-init takes the name that its cloud, or a NoCloud disk, has for it, at its first boot, and leaves
//! `/etc/hosts` as it is. With `keep`, it does not.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::support::{paths, texts};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::Guest;
use crate::template::{Kind, Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "hostname",
    about: "Sets the guest's host name; `{name: NAME, keep: true}` makes it stay where cloud-init would replace it.",
    arguments: arguments::<Schema>,
    example: "hostname: web1.example.org",
    needs: &[],
    // 3: what else the files have (ACL, extended attributes, other names) stays.
    version: 3,
    network: false,
    parse,
};

/// Old Red Hat guests read their name from here.
const SYSCONFIG: &str = "/etc/sysconfig/network";
const HOSTNAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";

/// Read by cloud-init after its own settings.
const CLOUD_INIT: &str = "/etc/cloud/cloud.cfg.d/99-virt-maker-hostname.cfg";
const KEEP: &str = "# Made by virt-maker: the name of the image stays.\npreserve_hostname: true\nmanage_etc_hosts: false\n";

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "for the schema: a name alone, or with what becomes of it")]
enum Schema {
    Name(Name),
    /// With what becomes of it.
    Full(Arguments),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The name.
    name: Name,
    /// Keep it where cloud-init would replace it by the name that a cloud has for the machine.
    #[serde(default)]
    keep: bool,
}

/// A host name: letters, digits and inner hyphens, in parts of at most 63, joined by dots.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Name(String);

#[derive(Serialize)]
struct HostnameStep {
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    keep: bool,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let Arguments { name: Name(name), keep } = match node.kind {
        Kind::Map(_) => from_node(node)?,
        _ => Arguments { name: from_node(node)?, keep: false },
    };
    let node = node.get("name").unwrap_or(node);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        let message = format!("`{}` is not a host name", name.escape_debug());
        let mut diagnostic = node.diagnostic(message);
        diagnostic.hint = Some("letters, digits and inner hyphens, in parts of at most 63, joined by dots".into());
        return Err(vec![diagnostic]);
    }
    Ok(Box::new(HostnameStep { name, keep }))
}

impl Step for HostnameStep {
    fn summary(&self) -> String {
        self.name.clone()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for HostnameStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        let old = texts::read(guest, HOSTNAME)?;
        let before = old.as_deref().unwrap_or_default();
        let before = before.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        let hosts = texts::read(guest, HOSTS)?;
        let new = in_hosts(hosts.as_deref().unwrap_or("127.0.0.1 localhost\n"), before, &self.name);
        texts::write(guest, HOSTS, hosts.as_deref(), &new)?;
        texts::write(guest, HOSTNAME, old.as_deref(), &format!("{}\n", self.name))?;
        if self.keep {
            texts::write(guest, CLOUD_INIT, None, KEEP)?;
        }
        if paths::exists(guest, SYSCONFIG)? {
            texts::change(guest, SYSCONFIG, |old| {
                let others = old.lines().filter(|line| !line.trim_start().starts_with("HOSTNAME="));
                let others: String = others.map(|line| format!("{line}\n")).collect();
                format!("{others}HOSTNAME={}\n", self.name)
            })?;
        }
        Ok(())
    }
}

/// `/etc/hosts` with the new name where the old one was; on a line for 127.0.1.1 where it was nowhere.
fn in_hosts(text: &str, before: Option<&str>, name: &str) -> String {
    let short = name.split('.').next().unwrap_or(name);
    let names = if short == name { name.to_owned() } else { format!("{name} {short}") };
    let old_short = before.map(|old| old.split('.').next().unwrap_or(old));
    let is_old = |word: &str| !word.starts_with("localhost") && (Some(word) == before || Some(word) == old_short);
    let (mut new, mut found) = (String::new(), false);
    for line in text.lines() {
        let (entry, comment) = line.split_at(line.find('#').unwrap_or(line.len()));
        let mut words = entry.split_whitespace();
        let address = words.next().unwrap_or_default();
        let all: Vec<&str> = words.collect();
        if address == "127.0.1.1" && !found {
            found = true;
            new.push_str(&format!("127.0.1.1 {names}{comment}\n"));
        } else if all.iter().any(|word| is_old(word)) {
            found = true;
            let mut kept: Vec<&str> = all.iter().copied().filter(|word| !is_old(word)).collect();
            // In its place: what stands first is what an address is called.
            let place = all.iter().position(|word| is_old(word)).unwrap_or(0);
            kept.insert(place.min(kept.len()), &names);
            new.push_str(&format!("{address} {}{comment}\n", kept.join(" ")));
        } else {
            found |= all.contains(&name);
            new.push_str(line);
            new.push('\n');
        }
    }
    if !found {
        new.push_str(&format!("127.0.1.1 {names}\n"));
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_the_new_name_where_the_old_one_was() {
        for (text, before, name, expected) in [
            ("127.0.0.1 localhost\n127.0.1.1 tiny\n", Some("tiny"), "web", "127.0.0.1 localhost\n127.0.1.1 web\n"),
            ("127.0.1.1\told.lan old # ours\n", Some("old"), "a.b", "127.0.1.1 a.b a# ours\n"),
            ("127.0.0.1 localhost\n", None, "a.b", "127.0.0.1 localhost\n127.0.1.1 a.b a\n"),
            ("127.0.0.1 localhost old\n::1 localhost\n", Some("old"), "web", "127.0.0.1 localhost web\n::1 localhost\n"),
            ("10.0.0.1 web\n", Some("localhost"), "web", "10.0.0.1 web\n"),
            ("# 127.0.1.1 x", Some("x"), "y", "# 127.0.1.1 x\n127.0.1.1 y\n"),
        ] {
            assert_eq!(in_hosts(text, before, name), expected);
        }
    }
}
