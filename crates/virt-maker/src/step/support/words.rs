//! Arguments that are one text or a list of texts, and names.

use crate::diagnostic::Diagnostic;
use crate::template::{Kind, Node, from_node, several_in_one};

/// The nodes of one value, or of each in a list; none for nothing.
pub(in crate::step) fn items(node: &Node) -> Vec<&Node> {
    match &node.kind {
        Kind::Null => Vec::new(),
        Kind::List(items) => items.iter().collect(),
        _ => vec![node],
    }
}

/// Texts that `check` likes, each with its own message where it does not.
pub(in crate::step) fn texts(
    node: &Node,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<Vec<String>, Vec<Diagnostic>> {
    let (mut texts, mut problems) = (Vec::new(), Vec::new());
    for node in items(node) {
        match from_node::<String>(node) {
            Ok(text) => match check(&text) {
                Ok(()) => texts.push(text),
                Err(message) => {
                    let mut problem = node.diagnostic(message);
                    problem.hint = several_in_one(node, &text, |part| check(part).is_ok());
                    problems.push(problem);
                }
            },
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(texts) } else { Err(problems) }
}

/// Checks the name of a user, a group or a unit: never an option, never anything for a shell or a path.
pub(in crate::step) fn name(text: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@:+\\".contains(&byte);
    if !text.is_empty() && text.len() <= 255 && !text.starts_with(['-', '.']) && text.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!("`{}` is not a name", text.escape_debug()))
}

/// Checks the name of a user or group after `useradd`'s own rules.
pub(in crate::step) fn login(text: &str) -> Result<(), String> {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    let mut bytes = text.bytes();
    if bytes.next().is_some_and(first) && bytes.all(rest) && text.len() <= 32 {
        return Ok(());
    }
    Err(format!(
        "`{}` is not the name of a user or a group: lower-case letters, digits, `-` and `_`",
        text.escape_debug()
    ))
}

/// One word of a shell, whatever is in it.
pub(in crate::step) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
