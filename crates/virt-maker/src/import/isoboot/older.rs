//! `keystrokes` of the older tool as steps of this one.
//!
//! ```yaml
//! keystrokes:
//!   - ocr: [{'boot:': [linux, enter]}]   # waits for each text on the screen, and then presses keys
//!   - blind: [tab]                       # waits for `delay_time` seconds
//! ```
//! An item of the keys is the name of a key or a combination, or a text that is typed.

use crate::diagnostic::Diagnostic;
use crate::guest::keyboard;
use crate::template::{Kind, Node};

/// What the older tool takes where a template does not say, in seconds.
const DELAY: f64 = 40.0;
const KEY_DELAY: f64 = 0.1;
const TIMEOUT: &str = "3600";
/// The longest that is taken, in seconds.
const DELAY_MAX: f64 = 86_400.0;
const KEY_DELAY_MAX: f64 = 10.0;

/// The steps that the arguments of an import `isoboot` have in the older form: names of steps and their arguments, at their places.
pub fn keystrokes(arguments: &Node, problems: &mut Vec<Diagnostic>) -> Vec<(Node, Node)> {
    let Some(node) = arguments.get("keystrokes") else { return Vec::new() };
    let seconds = |name: &str, default: f64, most: f64, problems: &mut Vec<Diagnostic>| match arguments.get(name) {
        None => default,
        Some(node) => match node.text().and_then(|text| text.trim().parse::<f64>().ok()) {
            Some(seconds) if (0.0..=most).contains(&seconds) => seconds,
            _ => {
                problems.push(node.diagnostic(format!("expected a number of seconds from 0 to {most}")));
                default
            }
        },
    };
    let older = Older {
        delay: seconds("delay_time", DELAY, DELAY_MAX, problems).ceil() as u64,
        pace: ((seconds("key_delay_time", KEY_DELAY, KEY_DELAY_MAX, problems) * 1000.0) as i64).max(1),
        timeout: arguments.get("timeout").and_then(Node::text).unwrap_or(TIMEOUT).to_owned(),
    };
    let mut steps = Vec::new();
    for item in list(node, problems) {
        match item.members() {
            [(key, texts)] if key.text() == Some("ocr") => {
                for text in list(texts, problems) {
                    let [(text, keys)] = text.members() else {
                        problems.push(text.diagnostic("expected a text on the screen with its keys: `{'boot:': [enter]}`"));
                        continue;
                    };
                    steps.push(older.wait(text));
                    steps.extend(older.keys(keys, 0, problems));
                }
            }
            [(key, keys)] if key.text() == Some("blind") => steps.extend(older.keys(keys, older.delay, problems)),
            _ => problems.push(item.diagnostic("expected `ocr: [{TEXT: [KEYS]}]` or `blind: [KEYS]`")),
        }
    }
    steps
}

struct Older {
    /// Seconds.
    delay: u64,
    /// Milliseconds.
    pace: i64,
    timeout: String,
}

impl Older {
    fn wait(&self, text: &Node) -> (Node, Node) {
        let string = |value: &str| text.with(Kind::String(value.to_owned()));
        let pattern = regex_lite::escape(text.text().unwrap_or_default());
        let arguments = vec![(string("screen"), string(&pattern)), (string("timeout"), string(&self.timeout))];
        (string("wait_for"), text.with(Kind::Map(arguments)))
    }

    fn keys(&self, node: &Node, after: u64, problems: &mut Vec<Diagnostic>) -> Option<(Node, Node)> {
        let mut keys = String::new();
        for key in list(node, problems) {
            match key.text() {
                Some(name) if keyboard::is_name(name) => keys.push_str(&format!("<{name}>")),
                Some(text) => keys.push_str(&text.replace('<', "<lt>")),
                None => problems.push(key.diagnostic(format!("expected a key or a text, found {}", key.describe()))),
            }
        }
        let string = |value: &str| node.with(Kind::String(value.to_owned()));
        let pace = node.with(Kind::Integer { value: self.pace, text: self.pace.to_string() });
        let mut arguments = vec![(string("keys"), string(&keys)), (string("pace"), pace)];
        if after > 0 {
            arguments.push((string("after"), string(&after.to_string())));
        }
        // A text may be waited for alone.
        (!keys.is_empty()).then(|| (string("keys"), node.with(Kind::Map(arguments))))
    }
}

fn list<'a>(node: &'a Node, problems: &mut Vec<Diagnostic>) -> Vec<&'a Node> {
    match &node.kind {
        Kind::List(items) => items.iter().collect(),
        Kind::Null => Vec::new(),
        _ => {
            problems.push(node.diagnostic(format!("expected a list, found {}", node.describe())));
            Vec::new()
        }
    }
}
