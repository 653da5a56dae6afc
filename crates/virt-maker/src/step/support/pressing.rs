//! What the steps have in common that press keys: their arguments, and how they press.

use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::guest::keyboard::{self, Chord, Layout, Wrong};
use crate::guest::running::Running;
use crate::host::units;
use crate::step::{Action, OnMachine, Step, StepContext, StepKey};
use crate::template::{Node, closest};

/// The pause after each key where a template does not say. The keyboard's queue holds eight keys.
const PACE: Duration = Duration::from_millis(50);
/// The longest.
const SLOWEST: Duration = Duration::from_secs(10);

/// Keys, and when they are pressed.
pub(in crate::step) struct Pressing {
    pub(in crate::step) keys: Vec<Chord>,
    after: Duration,
    pace: Duration,
}

impl Pressing {
    /// Keys that were read, with `after` and `pace` of the arguments in `node`.
    pub(in crate::step) fn read(keys: Vec<Chord>, node: &Node) -> Result<Pressing, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        if keys.is_empty() {
            problems.push(node.diagnostic("no key is pressed here"));
        }
        let after = node.get("after").map(|node| (node, node.text().and_then(|text| units::time(text.trim()))));
        let after = match after {
            None => Duration::ZERO,
            Some((_, Some(time))) => time,
            Some((node, None)) => {
                problems.push(node.diagnostic("expected a time such as `5s` or `1m`"));
                Duration::ZERO
            }
        };
        let pace = match node.get("pace").map(|node| (node, node.integer().and_then(|pace| u64::try_from(pace).ok()))) {
            None => PACE,
            Some((_, Some(pace))) if Duration::from_millis(pace) <= SLOWEST && pace > 0 => Duration::from_millis(pace),
            Some((node, _)) => {
                problems.push(node.diagnostic("expected a number of milliseconds from 1 to 10000"));
                PACE
            }
        };
        if problems.is_empty() { Ok(Pressing { keys, after, pace }) } else { Err(problems) }
    }

    /// Presses them.
    pub(in crate::step) fn press(&self, machine: &mut dyn Running) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(200);
        let mut left = self.after;
        while !left.is_zero() {
            let part = left.min(LOOK);
            machine.pause(part)?;
            left -= part;
        }
        machine.press(&self.keys, self.pace)
    }
}

/// A step that presses keys.
pub(in crate::step) struct PressStep {
    pub(in crate::step) pressing: Pressing,
    pub(in crate::step) summary: String,
    pub(in crate::step) key: StepKey,
}

impl Step for PressStep {
    fn summary(&self) -> String {
        self.summary.clone()
    }

    fn key_inputs(&self) -> Result<StepKey> {
        Ok(self.key.clone())
    }

    fn action(&self) -> Action<'_> {
        Action::OnMachine(self)
    }
}

impl OnMachine for PressStep {
    fn asks_the_guest(&self) -> bool {
        false
    }

    fn run(&self, machine: &mut dyn Running, _: &StepContext<'_>) -> Result<()> {
        self.pressing.press(machine)
    }
}

/// What is wrong with keys, at their place.
pub(in crate::step) fn told(wrong: Wrong, layout: Layout, at: &Node) -> Diagnostic {
    match wrong {
        Wrong::Open => Diagnostic {
            hint: Some("the sign `<` itself is `<lt>`; in `type` nothing is special".into()),
            ..at.diagnostic("a `<` begins the name of a key, and no `>` ends it")
        },
        Wrong::Name(name) => {
            let last = name.rsplit('-').next().unwrap_or_default().to_ascii_lowercase();
            let hint = match closest(&last, keyboard::names()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known are letters, digits and: {}", keyboard::names().collect::<Vec<_>>().join(", ")),
            };
            Diagnostic { hint: Some(hint), ..at.diagnostic(format!("no key has the name `{}`", name.escape_debug())) }
        }
        Wrong::Sign(sign) => Diagnostic {
            hint: Some("`layout` says what the guest takes the keyboard for: `us`, `de`, `fr` or `gb`".into()),
            ..at.diagnostic(format!("the layout `{}` has no key for `{}`", layout.name(), sign.escape_debug()))
        },
    }
}
