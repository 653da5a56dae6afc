//! JSON values as YAML text for people: block style, texts of several lines as such.

use serde_json::Value;

/// A document; what it says read as YAML is the value again.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// A value at the begin of a line.
fn block(value: &Value, indent: usize, out: &mut String) {
    let margin = " ".repeat(indent);
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                out.push_str(&format!("{margin}{}:", scalar(name)));
                after(value, indent + 2, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                item_text(item, indent, out);
            }
        }
        other => out.push_str(&format!("{margin}{}\n", flat(other))),
    }
}

fn item_text(item: &Value, indent: usize, out: &mut String) {
    let margin = " ".repeat(indent);
    match item {
        // The first member stands beside the hyphen.
        Value::Object(members) if !members.is_empty() => {
            let mut text = String::new();
            block(item, indent + 2, &mut text);
            out.push_str(&format!("{margin}- {}", &text[indent + 2..]));
        }
        other => {
            out.push_str(&format!("{margin}-"));
            after(other, indent + 2, out);
        }
    }
}

/// A value after `name:` or a hyphen.
fn after(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        Value::String(text) if literal(text) => {
            let keep = if text.ends_with('\n') { "|" } else { "|-" };
            out.push_str(&format!(" {keep}\n"));
            for line in text.lines() {
                match line {
                    "" => out.push('\n'),
                    line => out.push_str(&format!("{}{line}\n", " ".repeat(indent))),
                }
            }
        }
        other => out.push_str(&format!(" {}\n", flat(other))),
    }
}

/// Whether a text can stand as a block of lines and come out the same.
fn literal(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n', '\t'])
        && text.chars().all(|c| {
            c == '\n' || (c != '\u{feff}' && !c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}'))
        })
        && text.lines().all(|line| !line.trim().is_empty() || line.is_empty())
}

fn flat(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// A text on one line: plain where YAML reads it as the same text, else as JSON has it.
fn scalar(text: &str) -> String {
    let letters = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c) || c == ' ';
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain =
        first && text.chars().all(letters) && !text.ends_with(' ') && !words.contains(&text.to_lowercase().as_str());
    if plain { text.to_owned() } else { serde_json::to_string(text).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_shown_in_blocks() {
        let value = json!({
            "name": "web one",
            "odd": ["true", "0644", "a: b", "", "x\n\n", 5, null, [], {}],
            "steps": [{"run": "set -e\n\necho hi\n", "timeout": 5}, {"install": ["a", "b"]}, [1, [2]]],
            "last": "a\nb",
        });
        let expected = "name: web one\nodd:\n  - \"true\"\n  - \"0644\"\n  - \"a: b\"\n  - \"\"\n  - \"x\\n\\n\"\n  - 5\n  - null\n  - []\n  - {}\n\
            steps:\n  - run: |\n      set -e\n\n      echo hi\n    timeout: 5\n  - install:\n      - a\n      - b\n  -\n    - 1\n    -\n      - 2\nlast: |-\n  a\n  b\n";
        assert_eq!(document(&value), expected);
    }
}
