//! `click`: clicks on the screen of a machine that runs.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, OnMachine, Step, StepContext, StepKey, StepKind, first_line};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::running::Running;
use crate::host::escape::escape;
use crate::template::{Kind, Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "click",
    about: "Clicks on the screen of a machine that runs: at a place in pixels, or on a text, which `tesseract` looks for.",
    arguments: arguments::<Arguments>,
    example: "boot: {steps: [{click: {x: 320, y: 240}}]}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

/// How long a text is looked for, and how often; longer where the machine is emulated.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// The text that is clicked on, which stands in one line; or a mapping.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "read from the node, so that errors have their places")]
enum Arguments {
    Short(String),
    Long(Long),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Long {
    /// Pixels from the left edge.
    x: Option<u32>,
    /// Pixels from the upper edge.
    y: Option<u32>,
    /// A text in place of `x` and `y`.
    text: Option<String>,
    /// Which button: `left`, `middle` or `right`.
    #[serde(default)]
    button: Button,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Button {
    #[default]
    Left,
    Middle,
    Right,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum On {
    Place(u32, u32),
    Text(String),
}

#[derive(Serialize)]
struct ClickStep {
    on: On,
    button: Button,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments = match &node.kind {
        Kind::Map(_) => from_node(node)?,
        _ => Long { x: None, y: None, text: Some(from_node::<String>(node)?), button: Button::default() },
    };
    let Long { x, y, text, button } = arguments;
    let on = match (x, y, text) {
        (Some(x), Some(y), None) => On::Place(x, y),
        (None, None, Some(text)) if !text.trim().is_empty() => On::Text(text),
        _ => return Err(vec![node.diagnostic("expected a place, as in `{x: 320, y: 240}`, or a text")]),
    };
    Ok(Box::new(ClickStep { on, button }))
}

impl Step for ClickStep {
    fn summary(&self) -> String {
        match &self.on {
            On::Place(x, y) => format!("at {x}, {y}"),
            On::Text(text) => first_line(text),
        }
    }

    fn key_inputs(&self) -> Result<StepKey> {
        StepKey::of(self)
    }

    fn action(&self) -> Action<'_> {
        Action::OnMachine(self)
    }
}

impl OnMachine for ClickStep {
    fn asks_the_guest(&self) -> bool {
        false
    }

    fn run(&self, machine: &mut dyn Running, _: &StepContext<'_>) -> Result<()> {
        let button = match self.button {
            Button::Left => "left",
            Button::Middle => "middle",
            Button::Right => "right",
        };
        let text = match &self.on {
            On::Place(x, y) => return machine.click((*x, *y), button),
            On::Text(text) => text,
        };
        let (begin, limit) = (Instant::now(), PATIENCE * machine.slowness());
        loop {
            if let Some(place) = machine.find_on_screen(text)? {
                return machine.click(place, button);
            }
            if begin.elapsed() >= limit {
                let what = format!("`{}` is not on the screen, after {} s", escape(text), limit.as_secs());
                return Err(machine.trouble(what));
            }
            machine.pause(PAUSE)?;
        }
    }
}
