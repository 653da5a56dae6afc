//! `run`: a script, as root, in the guest.
//!
//! A text without `#!` is a shell script and fails when its last command does, as a script of `/bin/sh` always did;
//! who wants it to end at the first failure writes `set -e`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Step, StepContext, StepKey, StepKind, first_line, run_checked};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::{Guest, Run};
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "run",
    about: "Runs a script in the guest, as root. Without a `#!` line it is a shell script.",
    arguments: arguments::<Script>,
    example: "run: echo 'Welcome' > /etc/motd",
    needs: &[],
    version: 1,
    network: true,
    parse,
};

/// A script. Without a `#!` line, one of `/bin/sh`, which fails when its last command does.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Script(String);

struct RunStep {
    script: String,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let Script(script) = from_node(node)?;
    if script.trim().is_empty() {
        return Err(vec![node.diagnostic("the script is empty")]);
    }
    Ok(Box::new(RunStep { script }))
}

impl Step for RunStep {
    fn summary(&self) -> String {
        first_line(&self.script)
    }

    fn key_inputs(&self) -> Result<StepKey> {
        Ok(StepKey { arguments: json!({ "script": self.script }), inputs: Vec::new() })
    }

    fn run(&self, _: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        let script = if self.script.starts_with("#!") { self.script.clone() } else { format!("#!/bin/sh\n{}", self.script) };
        let run = Run { script: Some(script), network: KIND.network, ..Run::default() };
        run_checked(guest, &run, "the script")
    }
}
