//! What is true in a `when`.
//!
//! Jinja takes every text but the empty one for true. But `no` is a text in YAML, and whatever `-p tls=no` says is one, so
//! text that says no is false here, and never true: by itself, and where it is negated or joined with `and` and `or`.

use minijinja::value::{Value, ValueKind};

/// The filter that stands behind a name whose truth is asked.
pub(super) const FILTER: &str = "__truth";

/// Words of expressions that are no names of variables.
const WORDS: [&str; 14] =
    ["not", "and", "or", "if", "else", "in", "is", "true", "false", "none", "True", "False", "None", "loop"];

/// What a word says that stands for a boolean, in any case of its letters; none for other texts.
pub(super) fn says(text: &str) -> Option<bool> {
    let word = text.trim().to_ascii_lowercase();
    match word.as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

/// Whether a text is true.
pub(super) fn text_holds(text: &str) -> bool {
    !matches!(text.trim(), "" | "0") && says(text) != Some(false)
}

/// Whether a value is true.
pub(super) fn value_holds(value: &Value) -> bool {
    value.as_str().map_or_else(|| value.is_true(), text_holds)
}

/// A value as [`FILTER`] gives it on: text that says no is false.
pub(super) fn filter(value: Value) -> Value {
    match value.kind() {
        ValueKind::String if !value_holds(&value) => Value::from(false),
        _ => value,
    }
}

/// An expression in which each variable whose truth is asked goes through [`FILTER`].
pub(super) fn guarded(expression: &str) -> String {
    let mut made = String::new();
    let mut before = String::from("(");
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let length = token(rest, first);
        let (token, after) = rest.split_at(length);
        rest = after;
        if token.trim().is_empty() {
            made.push_str(token);
            continue;
        }
        let is_name = (first.is_alphabetic() || first == '_') && !WORDS.contains(&token);
        let next = after.trim_start();
        let word = &next[..next.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(next.len())];
        let asked = matches!(&*before, "(" | "not" | "and" | "or" | "if")
            && (next.is_empty() || next.starts_with(')') || matches!(word, "and" | "or" | "else" | "if"));
        match is_name && asked {
            true => made.push_str(&format!("({token}|{FILTER})")),
            false => made.push_str(token),
        }
        // A bracket behind a name is that of a call.
        let call = token == "(" && before == "name";
        before = match (is_name, call) {
            (true, _) => "name".into(),
            (_, true) => "call".into(),
            _ => token.to_owned(),
        };
    }
    made
}

/// The length of the first token: blanks, a text, a name with its members, or one character.
fn token(text: &str, first: char) -> usize {
    let while_true = |is: fn(char) -> bool| text.find(|c: char| !is(c)).unwrap_or(text.len());
    match first {
        _ if first.is_whitespace() => while_true(char::is_whitespace),
        '\'' | '"' => {
            let mut escaped = false;
            for (at, character) in text.char_indices().skip(1) {
                match character {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    _ if character == first => return at + 1,
                    _ => {}
                }
            }
            text.len()
        }
        _ if first.is_alphanumeric() || first == '_' => {
            let mut depth = 0usize;
            for (at, character) in text.char_indices() {
                match character {
                    '[' => depth += 1,
                    ']' if depth > 0 => depth -= 1,
                    _ if depth > 0 || character.is_alphanumeric() || matches!(character, '_' | '.') => {}
                    _ => return at,
                }
            }
            text.len()
        }
        _ => first.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_whose_truth_is_asked_are_guarded() {
        for (text, expected) in [
            ("tls", "(tls|__truth)"),
            ("not tls", "not (tls|__truth)"),
            ("a.b and not (c or d['x'])", "(a.b|__truth) and not ((c|__truth) or (d['x']|__truth))"),
            ("tls == 'no'", "tls == 'no'"),
            ("'a' in packages", "'a' in packages"),
            ("f(x) and y is defined", "f(x) and y is defined"),
            ("x | default(y)", "x | default(y)"),
            ("1 + n", "1 + n"),
            ("true", "true"),
            ("'é' ~ x", "'é' ~ x"),
        ] {
            assert_eq!(guarded(text), expected, "{text}");
        }
    }
}
