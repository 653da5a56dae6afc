//! `local_run`: a script on the host, where its user allows templates to do that.
//!
//! A layer of its own, in which nothing of the guest changes: so it runs once, in its place among the other steps, and
//! runs again when something before it changes. One that fails ends the build and leaves no layer.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Action, InGuest, Step, StepContext, StepKey, StepKind, first_line};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, ErrorKind, Result};
use crate::guest::Guest;
use crate::host::Script;
use crate::key::Digest;
use crate::template::{self, Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "local_run",
    about: "Runs a script on the host, if that is allowed. Without a `#!` line it is a shell script.",
    arguments: arguments::<Text>,
    example: "local_run: date",
    needs: &[],
    version: 2,
    network: false,
    parse,
};

/// A script. It runs on the host, in the template's folder, as whoever builds. Without a `#!` line, one of `/bin/sh`, which fails when one of its commands does; in a template without `format: 2`, when its last one does. Of a pipe the last command counts where `/bin/sh` knows no `pipefail` (Debian 12): `shell: /bin/bash -euo pipefail`.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Text(String);

struct LocalRunStep {
    script: template::Script,
    folder: PathBuf,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let Text(script) = from_node(node)?;
    Ok(Box::new(LocalRunStep { script: template::Script::of_step(script, node)?, folder: node.source.folder.clone() }))
}

impl Step for LocalRunStep {
    fn summary(&self) -> String {
        first_line(self.script.written())
    }

    fn set_shell(&mut self, shell: &str) -> bool {
        self.script.set_shell(shell);
        true
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let LocalRunStep { script, folder } = self;
        // What it does, it does to this host: one of the same words in another folder is another one.
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let folder = Digest::of(folder.as_os_str().as_encoded_bytes());
        StepKey::of(&json!({ "script": script, "folder": folder }))
    }

    fn runs_on_host(&self) -> bool {
        true
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for LocalRunStep {
    fn run(&self, _: &StepKey, _: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        let (shell, text) = self.script.run();
        let script = Script { text: &text, shell: &shell, folder: &self.folder, env: &[], scratch: context.scratch };
        script.run(context.cancel, context.output.clone()).context(ErrorKind::Step, || "the script on the host failed")
    }
}
