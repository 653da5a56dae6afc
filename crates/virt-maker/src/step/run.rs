//! `run`: a script, as root, in the guest.
//!
//! What runs a text without `#!`, and when that fails, is in [`template::Script`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, InGuest, Step, StepContext, StepKey, StepKind, first_line, run_checked};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::{Guest, Run};
use crate::template::{self, Node, arguments, from_node};

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

/// A script. Without a `#!` line, one of `/bin/sh`, which fails when one of its commands does; in a template without `format: 2`, when its last one does. Of a pipe the last command counts where `/bin/sh` knows no `pipefail` (Debian 12): `shell: /bin/bash -euo pipefail`.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Script(String);

#[derive(Serialize)]
struct RunStep {
    script: template::Script,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let Script(script) = from_node(node)?;
    Ok(Box::new(RunStep { script: template::Script::of_step(script, node)? }))
}

impl Step for RunStep {
    fn summary(&self) -> String {
        first_line(self.script.written())
    }

    fn commands(&self) -> String {
        self.script.written().to_owned()
    }

    fn set_shell(&mut self, shell: &str) -> bool {
        self.script.set_shell(shell);
        true
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for RunStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        let (shell, script) = self.script.run();
        let run = Run { script: Some(script), shell, network: KIND.network, ..Run::default() };
        run_checked(guest, &run, "the script")
    }
}
