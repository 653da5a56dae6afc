//! Which braces in a text are Jinja's.
//!
//! Texts of templates are mostly scripts, and shells have braces too. `${#x}` is the length of a variable there, and Jinja
//! takes its `{#` for the begin of a comment: all up to the next `#}` vanishes. From format 2 on a comment is one only
//! where it stands as Jinja's: `{# so #}`, with a blank behind the mark, or at the begin of a line; never behind a `$`.

use std::borrow::Cow;
use std::ops::Range;

/// Words that a `{% %}` of Jinja can begin with.
const WORDS: &[&str] = &[
    "autoescape",
    "block",
    "break",
    "call",
    "continue",
    "do",
    "elif",
    "else",
    "endautoescape",
    "endblock",
    "endcall",
    "endfilter",
    "endfor",
    "endif",
    "endmacro",
    "endraw",
    "endset",
    "endwith",
    "extends",
    "filter",
    "for",
    "from",
    "if",
    "import",
    "include",
    "macro",
    "raw",
    "set",
    "with",
];

/// A part of a text that begins like one of Jinja's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// `{{ }}` or `{% %}`; what is between the marks.
    Code(Range<usize>),
    /// `{# #}`, as Jinja reads it.
    Comment(Range<usize>),
    /// `{#` that is no comment from format 2 on, at this place.
    Hash(usize),
}

/// The parts of a text, in their order. `modern` says that its file has format 2 or later.
pub(super) fn parts(text: &str, modern: bool) -> Vec<Part> {
    let mut found = Vec::new();
    let last_end = text.rfind("#}");
    let mut at = 0;
    while let Some(brace) = text[at..].find('{').map(|offset| at + offset) {
        let rest = &text[brace..];
        at = brace + 1;
        if rest.starts_with("{{") || rest.starts_with("{%") {
            let inside = brace + 2..code_end(text, brace);
            let end = text.len().min(inside.end + 2);
            at = match rest.starts_with("{%") && word(&text[inside.clone()]) == "raw" {
                true => raw_end(text, end),
                false => end,
            };
            found.push(Part::Code(inside));
        } else if rest.starts_with("{#") {
            if modern && !is_comment(text, brace, last_end) {
                found.push(Part::Hash(brace));
                continue;
            }
            at = rest.find("#}").map_or(text.len(), |end| brace + end + 2);
            found.push(Part::Comment(brace..at));
        }
    }
    found
}

/// Whether a text has anything to evaluate.
pub(super) fn is_expression(text: &str, modern: bool) -> bool {
    if text.contains("{{") || text.contains("{%") {
        return true;
    }
    text.contains("{#") && (!modern || parts(text, true).iter().any(|part| matches!(part, Part::Comment(_))))
}

/// The text as the engine has to read it: what is no comment is said to be text. No line moves.
pub(super) fn for_engine(text: &str, modern: bool) -> Cow<'_, str> {
    if !modern || !text.contains("{#") {
        return Cow::Borrowed(text);
    }
    let mut made = String::new();
    let mut from = 0;
    for part in parts(text, true) {
        if let Part::Hash(at) = part {
            made.push_str(&text[from..at]);
            made.push_str("{{'{#'}}");
            from = at + 2;
        }
    }
    made.push_str(&text[from..]);
    Cow::Owned(made)
}

/// Comments of the older format that begin in the middle of a variable of a shell: `${#x}`.
pub(super) fn eaten(text: &str) -> Vec<Range<usize>> {
    if !text.contains("${#") {
        return Vec::new();
    }
    let comment = |part| match part {
        Part::Comment(range) if text[..range.start].ends_with('$') && text[range.clone()].ends_with("#}") => {
            Some(range)
        }
        _ => None,
    };
    parts(text, false).into_iter().filter_map(comment).collect()
}

/// The first braces that are a shell's or another program's and not Jinja's, for a message: of `docker ps --format
/// '{{.Names}}'`, `{{.Names}}`.
pub(super) fn foreign(text: &str, modern: bool) -> Option<&str> {
    let mut found = parts(text, modern).into_iter().filter_map(|part| match part {
        Part::Code(inside) => {
            let (begin, code) = (inside.start - 2, text[inside.clone()].trim_start_matches(['-', '+']).trim_start());
            let block = text[begin..].starts_with("{%");
            let strange = match block {
                true => !WORDS.contains(&word(&text[inside.clone()])),
                false => code.starts_with('.') || text[..begin].ends_with('$'),
            };
            strange.then_some(begin)
        }
        Part::Comment(range) => text[..range.start].ends_with('$').then_some(range.start),
        Part::Hash(_) => None,
    });
    let begin = found.next()?;
    let begin = if text[..begin].ends_with('$') { begin - 1 } else { begin };
    let line = text[begin..].lines().next().unwrap_or_default();
    let end = ["}}", "%}", "}"].iter().filter_map(|mark| Some(line.find(mark)? + mark.len())).next();
    let end = end.unwrap_or_else(|| line.find(char::is_whitespace).unwrap_or(line.len()));
    Some(&line[..end])
}

/// The word that a block begins with.
fn word(code: &str) -> &str {
    let code = code.trim_start_matches(['-', '+']).trim_start();
    &code[..code.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(code.len())]
}

/// Whether the `{#` at `at` stands as a comment of Jinja's does.
fn is_comment(text: &str, at: usize, last_end: Option<usize>) -> bool {
    let (before, behind) = (&text[..at], &text[at + 2..]);
    let behind_mark = behind.strip_prefix(['-', '+']).unwrap_or(behind);
    // Nothing is looked at twice, however long the text is.
    let blank = before.trim_end_matches([' ', '\t']);
    let begins_line = blank.is_empty() || blank.ends_with('\n');
    let spaced = behind_mark.starts_with(char::is_whitespace);
    !before.ends_with('$') && (spaced || begins_line) && last_end.is_some_and(|end| end >= at + 2)
}

/// Where the `{{` or `{%` at `at` is closed; the end of the text where it is not.
fn code_end(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let close: &[u8] = if bytes[at + 1] == b'{' { b"}}" } else { b"%}" };
    let (mut quote, mut braces, mut here) = (None, 0usize, at + 2);
    while here < bytes.len() {
        match (quote, bytes[here]) {
            (Some(_), b'\\') => here += 1,
            (Some(mark), byte) if byte == mark => quote = None,
            (Some(_), _) => {}
            (None, mark @ (b'"' | b'\'')) => quote = Some(mark),
            (None, b'{') => braces += 1,
            (None, b'}') if braces > 0 => braces -= 1,
            (None, _) if bytes[here..].starts_with(close) => return here,
            _ => {}
        }
        here += 1;
    }
    bytes.len()
}

/// Behind the `{% endraw %}` of the block whose text begins at `at`.
fn raw_end(text: &str, at: usize) -> usize {
    let mut from = at;
    while let Some(begin) = text[from..].find("{%").map(|offset| from + offset) {
        if word(&text[begin + 2..]) == "endraw" {
            return text[begin..].find("%}").map_or(text.len(), |end| begin + end + 2);
        }
        from = begin + 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_those_that_stand_as_comments() {
        for (text, comment) in [
            ("a{# gone #}b", true),
            ("{#- gone -#}", true),
            ("{#gone#}\n", true),
            ("x\n  {#gone#}", true),
            ("${#x}", false),
            ("${# x #}", false),
            ("echo a{#b} c#}", false),
            ("{# no end", false),
            ("{% raw %}{# text #}{% endraw %}", true),
        ] {
            assert_eq!(is_expression(text, true), comment, "{text}");
            assert!(is_expression(text, false), "{text}");
        }
    }

    #[test]
    fn what_is_no_comment_is_text_for_the_engine() {
        let same = ["{# a #}b", "{% raw %}${#x}{% endraw %}", "{{ '${#' }}", "plain"];
        same.iter().for_each(|text| assert_eq!(for_engine(text, true), *text));
        assert_eq!(for_engine("n=${#x}\n{{ a }} {# c #}", true), "n=${{'{#'}}x}\n{{ a }} {# c #}");
        assert_eq!(for_engine("n=${#x}", false), "n=${#x}");
    }

    #[test]
    fn what_the_older_format_swallows_is_found() {
        assert_eq!(eaten("a ${#x}\nb\nc #} d {# e #}").as_slice(), std::slice::from_ref(&(3..14)));
        assert_eq!(eaten("{{ '${#' }} #}"), []);
        assert_eq!(eaten("${#x}"), [], "an error of Jinja's");
    }

    #[test]
    fn braces_of_others_are_told() {
        for (text, found) in [
            ("docker ps --format '{{.Names}}'", Some("{{.Names}}")),
            ("docker ps --format '{{ .Names }}'", Some("{{ .Names }}")),
            ("date +{%m}", Some("{%m}")),
            ("x=${{ y }}", Some("${{ y }}")),
            ("n=${#x}", Some("${#x}")),
            ("{{ a }}{% if b %}{% endif %}{# c #}", None),
        ] {
            assert_eq!(foreign(text, false), found, "{text}");
        }
    }
}
