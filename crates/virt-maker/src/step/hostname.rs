//! `hostname`: the guest's name, in `/etc/hostname` and, where a guest has it, in `/etc/sysconfig/network`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Step, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::{Attributes, Guest};
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "hostname",
    about: "Sets the guest's host name.",
    arguments: arguments::<Name>,
    example: "hostname: web1.example.org",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

/// Old Red Hat guests read their name from here.
const SYSCONFIG: &str = "/etc/sysconfig/network";
/// No such file is larger.
const SYSCONFIG_MAX: u64 = 1 << 20;

/// A host name: letters, digits and inner hyphens, in parts of at most 63, joined by dots.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Name(String);

struct HostnameStep {
    name: String,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let Name(name) = from_node(node)?;
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
    Ok(Box::new(HostnameStep { name }))
}

impl Step for HostnameStep {
    fn summary(&self) -> String {
        self.name.clone()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        Ok(StepKey { arguments: json!({ "name": self.name }), inputs: Vec::new() })
    }

    fn run(&self, _: &StepKey, guest: &mut dyn Guest) -> Result<()> {
        let text = format!("{}\n", self.name);
        guest.write("/etc/hostname", &mut text.as_bytes(), Attributes::default())?;
        let Some(stat) = guest.stat(SYSCONFIG)? else { return Ok(()) };
        let old = guest.read(SYSCONFIG, SYSCONFIG_MAX)?;
        let old = String::from_utf8_lossy(&old);
        let others: String =
            old.lines().filter(|line| !line.trim_start().starts_with("HOSTNAME=")).map(|line| format!("{line}\n")).collect();
        let new = format!("{others}HOSTNAME={}\n", self.name);
        let attributes = Attributes { mode: Some(stat.mode), uid: Some(stat.uid), gid: Some(stat.gid) };
        guest.write(SYSCONFIG, &mut new.as_bytes(), attributes)
    }
}
