//! `screenshot`: keeps a picture of the screen of a machine that runs, beside the log of the layer. It has no part in the layer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, OnMachine, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::running::Running;
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "screenshot",
    about: "Keeps a picture (PNG) of the screen of a machine that runs, beside the log of the layer.",
    arguments: arguments::<Name>,
    example: "boot: {steps: [{screenshot: login}]}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

/// Its name: letters, digits, `-` and `_`.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Name(String);

struct ScreenshotStep {
    name: String,
}

/// A picture changes nothing.
#[derive(Serialize)]
struct Keyed {}

/// The longest name.
const LONGEST: usize = 60;

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let Name(name) = from_node(node)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.is_empty() || name.len() > LONGEST || !name.bytes().all(plain) {
        let message = format!("expected a name of at most {LONGEST} letters, digits, `-` and `_`");
        return Err(vec![node.diagnostic(message)]);
    }
    Ok(Box::new(ScreenshotStep { name }))
}

impl Step for ScreenshotStep {
    fn summary(&self) -> String {
        self.name.clone()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(&Keyed {})
    }

    fn action(&self) -> Action<'_> {
        Action::OnMachine(self)
    }
}

impl OnMachine for ScreenshotStep {
    fn asks_the_guest(&self) -> bool {
        false
    }

    fn run(&self, machine: &mut dyn Running, context: &StepContext<'_>) -> Result<()> {
        let path = machine.screenshot(&self.name)?;
        // The folder is another one when the step is done, or has failed.
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (context.output)(format!("virt-maker: the screen is kept beside this log, as {file}\n").as_bytes());
        Ok(())
    }
}
