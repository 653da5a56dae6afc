//! `selinux`: the mode that SELinux has from the next boot on, and relabelling.
//!
//! Labels of a guest whose SELinux is on are given at each export ([`crate::guest::selinux`]), and not by steps. What `relabel`
//! leaves is the usual mark: a guest that is exported without (its mode is `disabled` now, its policy is not there yet) labels all
//! its files at a later boot, before anything else, and then boots again by itself.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::support::{paths, texts};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::selinux::{CONFIG, MARK};
use crate::guest::{Attributes, Guest};
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "selinux",
    about: "Sets the mode of SELinux from the next boot on, or has all files relabelled.",
    arguments: arguments::<Wanted>,
    example: "selinux: permissive",
    needs: &[],
    // 2: what else the file has (ACL, extended attributes, other names) stays.
    version: 2,
    network: false,
    parse,
};

/// What is wanted of SELinux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    /// The policy is enforced.
    Enforcing,
    /// The policy is not enforced; what it would refuse is logged.
    Permissive,
    /// No policy is loaded.
    Disabled,
    /// All files are relabelled: at each export where SELinux is on then, else by the first boot that loads a policy.
    Relabel,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    Ok(Box::new(from_node::<Wanted>(node)?))
}

impl Wanted {
    fn name(self) -> &'static str {
        match self {
            Wanted::Enforcing => "enforcing",
            Wanted::Permissive => "permissive",
            Wanted::Disabled => "disabled",
            Wanted::Relabel => "relabel",
        }
    }
}

impl Step for Wanted {
    fn summary(&self) -> String {
        self.name().to_owned()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(&json!({ "wanted": self.name() }))
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for Wanted {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        if !paths::exists(guest, CONFIG)? {
            let message = format!("the guest has no SELinux: {CONFIG} is not there");
            return Err(Error::new(ErrorKind::Step, message).with_hint("install its policy before, or leave this out"));
        }
        if *self == Wanted::Relabel {
            let attributes = Attributes { mode: Some(0o644), uid: Some(0), gid: Some(0) };
            return guest.write(MARK, &mut "".as_bytes(), attributes);
        }
        texts::change(guest, CONFIG, |text| {
            let is_mode = |line: &str| line.trim_start().starts_with("SELINUX=");
            let line = format!("SELINUX={}", self.name());
            let kept = text.lines().map(|old| if is_mode(old) { line.as_str() } else { old });
            let mut new: String = kept.map(|line| format!("{line}\n")).collect();
            if !text.lines().any(is_mode) {
                new.push_str(&line);
                new.push('\n');
            }
            new
        })
    }
}
