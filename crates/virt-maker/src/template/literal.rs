//! Texts that read as values: integers, and the literals of Python that the older format knows (`[1, 'a']`, `{...}`,
//! `True`, `3.5`). The text stays with the value, so where text is wanted it arrives as it was written.

use super::node::{Kind, Node};

/// Deepest nesting; deeper text stays text.
const DEPTH: usize = 50;

/// A text as a node at `place`: in the older format, a value where it reads as one.
pub(super) fn typed(text: String, place: &Node) -> Node {
    if place.source.format() >= 2 {
        return place.with(Kind::String(text));
    }
    let trimmed = text.trim();
    let digits = trimmed.strip_prefix('-').unwrap_or(trimmed);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return match trimmed.parse() {
            Ok(value) => place.with(Kind::Integer { value, text }),
            Err(_) => place.with(Kind::String(text)),
        };
    }
    // Nothing else begins like one of these; most texts are told from their first letter.
    if !trimmed.starts_with(['[', '{', '(', 'T', 'F', 'N', '-', '+', '.'])
        && !digits.starts_with(|c: char| c.is_ascii_digit())
    {
        return place.with(Kind::String(text));
    }
    let mut reader = Reader { rest: trimmed, place };
    match reader.value(0) {
        Some(kind) if reader.rest.is_empty() && !matches!(kind, Kind::String(_)) => {
            let mut node = place.with(kind);
            node.literal = Some(text.into());
            node
        }
        _ => place.with(Kind::String(text)),
    }
}

struct Reader<'a> {
    rest: &'a str,
    place: &'a Node,
}

impl Reader<'_> {
    fn blank(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, mark: &str) -> bool {
        match self.rest.strip_prefix(mark) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Kind> {
        if depth > DEPTH {
            return None;
        }
        self.blank();
        let kind = match self.rest.chars().next()? {
            '[' => self.items("[", "]", depth)?.0,
            '(' => match self.items("(", ")", depth)? {
                // `(1)` is a number in brackets, not a tuple.
                (Kind::List(mut items), false) if items.len() == 1 => items.pop()?.kind,
                (kind, _) => kind,
            },
            '{' => self.braces(depth)?,
            '\'' | '"' => Kind::String(self.quoted()?),
            _ => self.word()?,
        };
        self.blank();
        Some(kind)
    }

    /// Values between brackets; also whether there was a comma.
    fn items(&mut self, open: &str, close: &str, depth: usize) -> Option<(Kind, bool)> {
        let (mut items, mut comma) = (Vec::new(), false);
        self.take(open).then_some(())?;
        loop {
            self.blank();
            if self.take(close) {
                return Some((Kind::List(items), comma));
            }
            items.push(self.place.with(self.value(depth + 1)?));
            if self.take(",") {
                comma = true;
            } else if !self.rest.starts_with(close) {
                return None;
            }
        }
    }

    /// A dictionary, or a set, which becomes a list.
    fn braces(&mut self, depth: usize) -> Option<Kind> {
        self.take("{").then_some(())?;
        let (mut members, mut items) = (Vec::<(Node, Node)>::new(), Vec::new());
        loop {
            self.blank();
            if self.take("}") {
                return match (members.is_empty(), items.is_empty()) {
                    (_, true) => Some(Kind::Map(members)),
                    (true, false) => Some(Kind::List(items)),
                    (false, false) => None,
                };
            }
            let first = self.place.with(self.value(depth + 1)?);
            if self.take(":") {
                let name = first.text()?.to_owned();
                let value = self.place.with(self.value(depth + 1)?);
                // As in Python, the last one of a name counts.
                members.retain(|(key, _)| key.text() != Some(&name));
                members.push((first, value));
            } else {
                items.push(first);
            }
            if !self.take(",") && !self.rest.starts_with('}') {
                return None;
            }
        }
    }

    fn quoted(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let mut text = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                _ if character == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                '\n' => return None,
                '\\' => match characters.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    '0' => text.push('\0'),
                    same @ ('\\' | '\'' | '"') => text.push(same),
                    '\n' => {}
                    digits @ ('x' | 'u' | 'U') => {
                        let count = [('x', 2), ('u', 4), ('U', 8)].iter().find(|(mark, _)| *mark == digits)?.1;
                        let hex: String = (0..count).map_while(|_| characters.next()).map(|(_, c)| c).collect();
                        text.push(char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?);
                    }
                    other => text.extend(['\\', other]),
                },
                other => text.push(other),
            }
        }
        None
    }

    fn word(&mut self) -> Option<Kind> {
        let end =
            self.rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-._".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "True" => return Some(Kind::Bool(true)),
            "False" => return Some(Kind::Bool(false)),
            "None" => return Some(Kind::Null),
            _ => {}
        }
        let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            // Python refuses `007`; so that stays text.
            let plain = digits == "0" || !digits.starts_with('0');
            return plain.then(|| word.parse().ok()).flatten().map(|value| Kind::Integer { value, text: word.into() });
        }
        let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
        let value: f64 = word.parse().ok().filter(|_| numeric)?;
        Some(Kind::Float { value, text: word.into() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::template::value::command_line_value;

    fn read(text: &str) -> Value {
        let place = command_line_value("x", "\"\"", 1);
        let node = typed(text.to_owned(), &place);
        assert_eq!(node.text(), Some(text), "the text stays");
        node.to_json()
    }

    #[test]
    fn literals_of_python_become_values() {
        for (text, expected) in [
            ("12", json!(12)),
            ("-3", json!(-3)),
            ("0644", json!("0644")),
            ("3.5", json!(3.5)),
            ("-1e3", json!(-1000.0)),
            ("True", json!(true)),
            ("None", json!(null)),
            ("[]", json!([])),
            ("[1, 'a', \"b\", [True]]", json!([1, "a", "b", [true]])),
            ("(1, 2)", json!([1, 2])),
            ("(1)", json!(1)),
            ("(1,)", json!([1])),
            ("{'a': 1, 'b': [2]}", json!({"a": 1, "b": [2]})),
            ("{1, 2}", json!([1, 2])),
            ("['\\n\\x41']", json!(["\nA"])),
            ("{}", json!({})),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn other_texts_stay_texts() {
        for text in [
            "",
            "true",
            "word",
            "[ -f /etc/motd ] && true",
            "[1, 2",
            "{a: 1}",
            "1.2.3",
            "4G",
            "'a'",
            "[x]",
            "1 2",
            "-",
            "+",
            "99999999999999999999",
            "[007]",
            "inf",
            "nan",
            "(",
            "{'a'}x",
            "{'a': 1, 2}",
            "1_000",
        ] {
            assert_eq!(read(text), json!(text), "{text}");
        }
        assert_eq!(read(&"[".repeat(100_000)), json!("[".repeat(100_000)));
    }
}
