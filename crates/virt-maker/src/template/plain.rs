//! Plain values of options, or what was expected in their place.

use super::node::{Kind, Node};
use crate::diagnostic::Diagnostic;
use crate::host::units::time;

/// What is said of a node that is not what was expected there.
pub(super) fn wrong(node: &Node, expected: &str) -> Diagnostic {
    let found = match node.text() {
        Some(text) => format!("`{}`", super::expression::quote(text)),
        None => node.describe().to_owned(),
    };
    node.diagnostic(format!("expected {expected}, found {found}"))
}

/// A text, whatever YAML takes it for.
pub(super) fn text(node: &Node, expected: &str) -> Result<String, Diagnostic> {
    node.text().map(str::to_owned).ok_or_else(|| wrong(node, expected))
}

/// `on` and `off`, and what YAML calls a boolean.
pub(super) fn on_or_off(node: &Node) -> Result<bool, Diagnostic> {
    match (&node.kind, node.text()) {
        (Kind::Bool(value), _) => Ok(*value),
        (_, Some("on")) => Ok(true),
        (_, Some("off")) => Ok(false),
        _ => Err(wrong(node, "`on` or `off`")),
    }
}

/// Seconds, or a number with `s`, `m`, `h`, `d` or `w`.
pub(super) fn seconds(node: &Node) -> Result<u64, Diagnostic> {
    let seconds = node.text().and_then(|text| time(text.trim())).map(|time| time.as_secs());
    seconds.filter(|seconds| *seconds > 0).ok_or_else(|| wrong(node, "a time such as `90s`, `10m`, `12h` or `7d`"))
}
