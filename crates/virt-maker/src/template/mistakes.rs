//! What helps somebody who writes a first template: each of these says what was probably meant by something that is wrong.

use super::node::{Kind, Node};

/// Where all steps are told of.
pub(crate) const LIST: &str = "`virt-maker runners steps` lists all";

/// What the parser says of a `: ` in a text, of tabs, and of what begins with a quote or a special sign and goes on otherwise.
const COLON: [&str; 2] = ["mapping values are not allowed", "illegal placement of ':'"];
const TAB: [&str; 1] = ["tab"];
const QUOTED: [&str; 2] = ["trailing content after double-quoted", "unexpected character"];

/// What helps where a file is no YAML, by what the parser says of it.
pub(super) fn not_yaml(said: &str) -> Option<&'static str> {
    let said = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if said(&COLON) {
        return Some("a text with `: ` in it stands in quotes, or below a `|` on lines of its own");
    }
    if said(&TAB) {
        return Some("YAML is indented with blanks, not with tabs");
    }
    if said(&QUOTED) {
        return Some("a text that begins with a quote or a special sign stands in quotes as a whole, or below a `|`");
    }
    None
}

/// What helps where a mapping or a list is the name of a member: an expression is both for YAML.
pub(super) fn bare_expression(key: &Node) -> Option<String> {
    let line = key.source.text.lines().nth(key.line.saturating_sub(1))?;
    line.contains("{{").then(|| "an expression stands in quotes, as in `'{{ name }}'`".to_owned())
}

/// What helps where a step should stand and something else does. `is_step` knows the names of steps.
pub(super) fn no_step(node: &Node, is_step: impl Fn(&str) -> bool) -> String {
    let text = node.text().unwrap_or_default().trim();
    match text {
        "" => format!("a step is a name with arguments, as in `- install: [nginx]`; {LIST}"),
        name if is_step(name) => format!("a step ends with a colon and has arguments behind it: `- {name}: ...`"),
        text if is_word(text) => {
            format!("a package is installed by `- install: [{text}]`, a program is started by `- run: {text}`; {LIST}")
        }
        _ => format!("commands stand behind `run`, as in `- run: apt-get update`; {LIST}"),
    }
}

/// Whether a text may name a package or a program.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
}

/// What helps where a list is wanted and a text is there.
pub(crate) fn no_list(node: &Node) -> Option<String> {
    match (&node.kind, &node.origin) {
        (Kind::String(_), Some(_)) => {
            Some("on the command line, a list is given as JSON: `-p 'NAME=[\"one\", \"two\"]'`".to_owned())
        }
        (Kind::String(_), None) => {
            Some("a list stands in brackets, `[one, two]`, or on lines that begin with `- `".to_owned())
        }
        _ => None,
    }
}

/// What helps where one text holds what are several, each of which is good by itself.
pub(crate) fn several_in_one(node: &Node, text: &str, is_good: impl Fn(&str) -> bool) -> Option<String> {
    let parts: Vec<&str> = text.split([',', ' ', ';']).map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.len() < 2 || !parts.iter().all(|part| is_good(part)) {
        return None;
    }
    let list = format!("several are a list: `[{}]`", parts.join(", "));
    Some(if node.origin.is_some() { format!("{list}; {}", no_list(node)?) } else { list })
}

/// What helps where something else stands in the place of a mapping, and no example is at hand.
pub(super) fn takes(fields: &[&str]) -> String {
    format!("{TAKES}{}", fields.join(", "))
}

/// Whether an example tells more than this.
pub(crate) fn is_less_than_an_example(hint: &str) -> bool {
    hint.starts_with(TAKES)
}

const TAKES: &str = "its arguments are: ";

/// What helps where the arguments of something are wrong as a whole.
pub(crate) fn as_in(example: &str) -> Option<String> {
    let example = example.trim();
    (!example.is_empty() && !example.contains('\n')).then(|| format!("as in `{example}`"))
}

/// The hint of an unknown step without arguments, which may be a package that is to be installed.
pub(crate) fn package_instead(key: &Node, arguments: &Node, hint: Option<String>) -> Option<String> {
    let name = key.text().unwrap_or_default();
    let (package, known) = (is_word(name), hint.as_deref().is_some_and(|hint| hint.starts_with("did you mean")));
    match arguments.kind {
        Kind::Null if package && !known => {
            Some(format!("a package is installed by `install: [{name}]`; of steps, {}", hint.unwrap_or_default()))
        }
        _ => hint,
    }
}

/// Of some arguments, the one that a message about them names; all of them where it names none.
pub(crate) fn named_in<'a>(arguments: &'a Node, message: &str) -> &'a Node {
    let named = |node: &&Node| node.text().is_some_and(|text| text.len() > 1 && message.contains(text));
    let below: Vec<&Node> = match &arguments.kind {
        Kind::List(items) => items.iter().collect(),
        Kind::Map(members) => members.iter().map(|(_, value)| value).collect(),
        _ => Vec::new(),
    };
    // The longest: `a` is in `a/b` too.
    below.into_iter().filter(named).max_by_key(|node| node.text().map(str::len)).unwrap_or(arguments)
}
