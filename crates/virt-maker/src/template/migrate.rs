//! A template of the older format as one of format 2 that means the same.
//!
//! The text is changed only where the two formats differ, so comments, layout and the keys of all layers stay:
//!
//! - scripts without a `#!` line get `shell: /bin/sh`, the shell of the older format, which goes on after a failure;
//! - texts of `params`, `matrix`, `for` and `with` that the older format took for values are written as these values;
//! - a text that it took for a list or a mapping is one; a `content` that names a file is a `source`;
//! - what Jinja took for a comment, and would be text now, is gone.
//!
//! What cannot be told from the text alone is a note.

use std::ops::Range;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};

use super::braces;
use super::literal::typed;
use super::node::{Kind, Node, SourceFile, prints_as};
use super::options::OPTIONS;

/// Keys of runners whose value is a script.
const SCRIPTS: [&str; 3] = ["run", "firstboot", "local_run"];
/// Scripts of exports, which have no `shell` beside them.
const HOST_SCRIPTS: [&str; 2] = ["pre_script", "post_script"];
/// What is said of one that cannot get a line of its own.
const FOLDED: &str = "this script went on after a command that failed, and ends there now: if that was meant to be, write it below \
                      `|` with `#!/bin/sh` as its first line";
/// What is said where scripts got a shell.
const SHELL: &str = "scripts stay as they were by `shell: /bin/sh`: only their last command counts; without it, a script ends at the \
                     first command that fails";
/// Keys whose value is text whatever it looks like.
const TEXTS: [&str; 13] = [
    "run",
    "firstboot",
    "local_run",
    "pre_script",
    "post_script",
    "content",
    "description",
    "name",
    "match",
    "replace",
    "example",
    "cache_key",
    "when",
];
/// Keys below which there are values for expressions.
const DATA: [&str; 5] = ["params", "matrix", "for", "with", "default"];
/// Keys whose members have names of the template's own.
const NAMES: [&str; 6] = ["params", "with", "env", "matrix", "define", "secrets"];

/// The template, and what there is to say.
#[derive(Debug)]
pub struct Migrated {
    /// Its text.
    pub text: String,
    /// Lines, from 1, with what somebody should look at.
    pub notes: Vec<(usize, String)>,
}

/// Rewrites the text of a template that can be read; `is_file` says whether a path in it names a file. The error is a
/// sentence.
pub fn migrate(text: &str, is_file: &dyn Fn(&str) -> bool) -> Result<Migrated, String> {
    let tree = read(text).map_err(|error| format!("this is not YAML: {}", error.info()))?;
    let Some(Tree { value: Value::Map { members, flow }, .. }) = &tree else {
        return Err("expected a mapping".into());
    };
    let mut work =
        Work { text, is_file, edits: Vec::new(), notes: Vec::new(), scripts: Vec::new(), reaches_out: false };
    let first = members.iter().map(|(key, _)| key.start).min().unwrap_or(0);
    let format = members.iter().find(|(key, _)| key.name() == Some("format"));
    match format.map(|(_, value)| value) {
        Some(Tree { value: Value::Scalar { text, range, .. }, .. }) if text == "1" => {
            work.edits.push((range.clone(), "2".into()));
        }
        Some(_) => return Err("it has a `format` already".into()),
        None => {}
    }
    members.iter().for_each(|(key, value)| work.member(key, value, false, &[]));

    let alone = !work.reaches_out
        && members.iter().any(|(key, _)| key.name() == Some("spec"))
        && members.iter().all(|(key, _)| !["from", "to", "use", "defaults"].contains(&key.name().unwrap_or_default()));
    if let Some(at) = work.scripts.first().map(|(at, _)| *at) {
        work.note(at, SHELL.into());
    }
    let mut head = if format.is_none() { vec!["format: 2".to_owned()] } else { Vec::new() };
    if alone && !work.scripts.is_empty() {
        head.push("defaults: {shell: /bin/sh}".into());
    } else {
        for (at, flow) in std::mem::take(&mut work.scripts) {
            let indent = text[..at].rsplit('\n').next().unwrap_or_default();
            let margin: String = indent.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let gap = if flow { ", ".to_owned() } else { format!("\n{margin}") };
            work.edits.push((at..at, format!("shell: /bin/sh{gap}")));
        }
    }
    let (at, gap) = if *flow { (first, ", ") } else { (above(text, first), "\n") };
    let head: String = head.iter().map(|line| format!("{line}{gap}")).collect();
    if !head.is_empty() {
        work.edits.push((at..at, head));
    }
    work.edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut made = String::new();
    let mut from = 0;
    for (range, new) in work.edits {
        if range.start >= from {
            made.push_str(&text[from..range.start]);
            made.push_str(&new);
            from = range.end;
        }
    }
    made.push_str(&text[from..]);
    work.notes.sort();
    work.notes.dedup();
    Ok(Migrated { text: made, notes: work.notes })
}

/// Where lines go that stand above the first key: below the comment at the file's begin, above one that is the key's own.
fn above(text: &str, key: usize) -> usize {
    let line = text[..key].rfind('\n').map_or(0, |at| at + 1);
    let mut at = line;
    while at > 0 {
        let before = text[..at - 1].rfind('\n').map_or(0, |end| end + 1);
        if !text[before..at].trim_start().starts_with('#') {
            return at;
        }
        at = before;
    }
    line
}

struct Work<'t> {
    text: &'t str,
    is_file: &'t dyn Fn(&str) -> bool,
    edits: Vec<(Range<usize>, String)>,
    notes: Vec<(usize, String)>,
    /// Where scripts without a `#!` line stand: at their keys, and whether that is within `{}`.
    scripts: Vec<(usize, bool)>,
    /// It takes in other files.
    reaches_out: bool,
}

impl Work<'_> {
    fn note(&mut self, at: usize, message: String) {
        let message = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.notes.push((self.text[..at].matches('\n').count() + 1, message));
    }

    /// A member of a mapping that has the keys `beside`. `data` says that its value is one for expressions.
    fn member(&mut self, key: &Tree, value: &Tree, data: bool, beside: &[&str]) {
        let name = key.name().unwrap_or_default();
        self.reaches_out |= name == "include" && !beside.is_empty();
        self.scalar(key, "", false);
        match name {
            "copy" => self.content(value),
            _ if HOST_SCRIPTS.contains(&name) => self.host_script(value),
            _ => {}
        }
        let data = data || DATA.contains(&name);
        self.value(value, name, data);
    }

    fn value(&mut self, value: &Tree, name: &str, data: bool) {
        match &value.value {
            Value::Scalar { .. } => self.scalar(value, name, data),
            Value::List(items) => items.iter().for_each(|item| self.value(item, name, data)),
            Value::Map { members, flow } => {
                let beside: Vec<&str> = members.iter().filter_map(|(key, _)| key.name()).collect();
                // A step that is data gets its shell as well: a whole list of steps may be a parameter.
                if !NAMES.contains(&name) {
                    self.step(members, *flow, &beside);
                }
                members.iter().for_each(|(key, value)| self.member(key, value, data && !is_step(&beside), &beside));
            }
            Value::Other => {}
        }
    }

    /// A mapping that may be a step with a script.
    fn step(&mut self, members: &[(Tree, Tree)], flow: bool, beside: &[&str]) {
        let script = members.iter().find(|(key, _)| SCRIPTS.contains(&key.name().unwrap_or_default()));
        if let Some((key, Tree { value: Value::Scalar { text, .. }, .. })) = script
            && is_step(beside)
            && !beside.contains(&"shell")
            && !text.starts_with("#!")
        {
            self.scripts.push((key.start, flow));
        }
    }

    /// The arguments of `copy`: its content may be the name of a file.
    fn content(&mut self, arguments: &Tree) {
        let Value::Map { members, .. } = &arguments.value else { return };
        let Some((key, value)) = members.iter().find(|(key, _)| key.name() == Some("content")) else { return };
        let Value::Scalar { text, .. } = &value.value else { return };
        let path = text.trim_end();
        let Value::Scalar { range, .. } = &key.value else { return };
        if path.contains('\n') || path.is_empty() {
            return;
        }
        if !braces::is_expression(path, false) {
            if (self.is_file)(path) {
                self.edits.push((range.clone(), "source".into()));
            }
        } else if path.starts_with("{{") && path.ends_with("}}") && !path.contains("file_contents") {
            self.note(key.start, "where this `content` is the name of a file, say `source`".into());
        }
    }

    /// A script on the host has its shell in its first line.
    fn host_script(&mut self, value: &Tree) {
        let Value::Scalar { text, range, style } = &value.value else { return };
        if text.starts_with("#!") || text.trim().is_empty() {
            return;
        }
        match style {
            ScalarStyle::Literal => {
                let begin = match self.text[range.start..].starts_with('|') {
                    true => self.text[range.start..].find('\n').map_or(range.end, |at| range.start + at + 1),
                    false => self.text[..range.start].rfind('\n').map_or(0, |at| at + 1),
                };
                let body = &self.text[begin..];
                let lines = body.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
                let margin = &lines[..lines.len() - lines.trim_start().len()];
                self.edits.push((begin..begin, format!("{margin}#!/bin/sh\n")));
            }
            ScalarStyle::Folded => self.note(range.start, FOLDED.into()),
            _ => self.edits.push((range.clone(), serde_json::Value::from(format!("#!/bin/sh\n{text}")).to_string())),
        }
    }

    /// A text, and what the older format made of it.
    fn scalar(&mut self, tree: &Tree, name: &str, data: bool) {
        let Value::Scalar { text, range, style } = &tree.value else { return };
        self.comments(text, range);
        let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
        if block || braces::is_expression(text, false) {
            let list = text.trim_start().starts_with('[') || text.trim_start().starts_with("{'");
            if list && !TEXTS.contains(&name) && !block {
                match read(text) {
                    Ok(Some(Tree { value: Value::List(_) | Value::Map { .. }, .. })) => {
                        self.edits.push((range.clone(), text.clone()));
                    }
                    _ => self
                        .note(range.start, "the older format made a list or a mapping of this text: write one".into()),
                }
            }
            return;
        }
        let read = old_value(text, *style == ScalarStyle::Plain);
        let written = match &read.kind {
            Kind::List(_) | Kind::Map(_) if data || !TEXTS.contains(&name) => read.to_json().to_string(),
            _ if !data => return,
            Kind::Integer { value, text: digits } if value.to_string() == *digits => digits.clone(),
            Kind::Float { value, .. } => minijinja::Value::from(*value).to_string(),
            Kind::Bool(value) => value.to_string(),
            Kind::Null => "null".into(),
            _ => return,
        };
        if *style == ScalarStyle::Plain
            && (written == *text || matches!(read.kind, Kind::Bool(_) | Kind::Null) && core(text))
        {
            return;
        }
        if let Kind::Float { value, .. } = &read.kind
            && !prints_as(*value, text)
        {
            self.note(
                range.start,
                format!("`{text}` arrived as {written}, and still does; say '{text}' where that was meant"),
            );
        }
        self.edits.push((range.clone(), written));
    }

    /// Removes what was a comment and would be text now.
    fn comments(&mut self, text: &str, range: &Range<usize>) {
        if !text.contains("{#") {
            return;
        }
        let kept = braces::parts(text, true);
        for part in braces::parts(text, false) {
            let braces::Part::Comment(comment) = &part else { continue };
            let shown = &text[comment.clone()];
            // One without an end is an error in the older format.
            if kept.contains(&part) || !shown.ends_with("#}") {
                continue;
            }
            let source = &self.text[range.clone()];
            let Some(at) = source.find(shown) else {
                self.note(range.start, "Jinja took a part of this text for a comment; remove that part".into());
                continue;
            };
            self.edits.push((range.start + at..range.start + at + shown.len(), String::new()));
            let line = shown.lines().next().unwrap_or_default();
            self.note(
                range.start,
                format!("`{line}` was taken for a comment, and is gone; with `format: 2` it may stand here"),
            );
        }
    }
}

/// Whether a mapping with these keys may be a step with a script.
fn is_step(keys: &[&str]) -> bool {
    let known = |key: &&str| OPTIONS.contains(key) || SCRIPTS.contains(key) || *key == "for";
    keys.iter().any(|key| SCRIPTS.contains(key)) && keys.iter().all(known)
}

/// Whether YAML itself reads a plain word as a boolean or as nothing.
fn core(text: &str) -> bool {
    !matches!(Node::plain_scalar(text), Kind::String(_))
}

/// What the older format makes of a text.
fn old_value(text: &str, plain: bool) -> Node {
    let source = SourceFile {
        path: Arc::default(),
        folder: Default::default(),
        text: String::new(),
        via: None,
        files: Arc::default(),
        format: 1.into(),
    };
    let place = Node::new(Kind::Null, 1, 1, Arc::new(source));
    match Node::plain_scalar(text) {
        kind if plain && !matches!(kind, Kind::String(_)) => place.with(kind),
        _ => typed(text.to_owned(), &place),
    }
}

/// A value with its place in the text, in bytes.
struct Tree {
    value: Value,
    start: usize,
}

enum Value {
    Scalar {
        text: String,
        range: Range<usize>,
        style: ScalarStyle,
    },
    List(Vec<Tree>),
    Map {
        members: Vec<(Tree, Tree)>,
        flow: bool,
    },
    /// An alias, or something that has no text to change.
    Other,
}

impl Tree {
    fn name(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }
}

/// How long the quoted text at the begin is.
fn quoted(text: &str) -> Option<usize> {
    let mark = text.chars().next().filter(|mark| ['\'', '"'].contains(mark))?;
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' if mark == '"' => {
                characters.next();
            }
            '\'' if mark == '\'' && characters.peek().is_some_and(|(_, next)| *next == '\'') => {
                characters.next();
            }
            _ if character == mark => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The first document of a text.
fn read(text: &str) -> Result<Option<Tree>, ScanError> {
    // The parser counts characters.
    let mut offsets: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    offsets.push(text.len());
    let at = |index: usize| offsets.get(index).copied().unwrap_or(text.len());
    let mut open: Vec<(Tree, Option<Tree>)> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event?;
        let (start, end) = (at(span.start.index()), at(span.end.index()));
        let done = match event {
            Event::Scalar(value, style, _, tag) => {
                // The parser's own end has the blanks behind it.
                let length = match style {
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => quoted(&text[start..]),
                    ScalarStyle::Plain => text[start..].starts_with(&*value).then_some(value.len()),
                    _ => Some(end - start),
                };
                let range = start..start + length.unwrap_or(0);
                let scalar = Value::Scalar { text: value.into_owned(), range, style };
                Tree { value: if length.is_some() && tag.is_none() { scalar } else { Value::Other }, start }
            }
            Event::Alias(_) => Tree { value: Value::Other, start },
            Event::SequenceStart(..) => {
                open.push((Tree { value: Value::List(Vec::new()), start }, None));
                continue;
            }
            Event::MappingStart(..) => {
                let flow = text[start..].starts_with('{');
                open.push((Tree { value: Value::Map { members: Vec::new(), flow }, start }, None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some((tree, _)) => tree,
                None => continue,
            },
            _ => continue,
        };
        match open.last_mut() {
            None => return Ok(Some(done)),
            Some((Tree { value: Value::List(items), .. }, _)) => items.push(done),
            Some((Tree { value: Value::Map { members, .. }, .. }, key)) => match key.take() {
                Some(key) => members.push((key, done)),
                None => *key = Some(done),
            },
            Some(_) => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migrated(text: &str) -> String {
        migrate(text, &|path| path == "files/motd").unwrap().text
    }

    #[test]
    fn only_what_differs_changes() {
        let old = "\
# A server.
params:
  v: '1.10'    # a version
  n: '4'
  word: 'web'
  mode: '0644'
  list: \"['a', 'b']\"
matrix: {py: [3.9, 3.10]}
spec:
  import: {download: {url: x.img}}
  steps:
    # The first.
    - run: |
        cp x y
        echo ${#x} # c #}
    - run: |
        #!/bin/bash
        true
    - copy: {dest: /etc/motd, content: files/motd}
    - copy: {dest: /etc/issue, content: '[1]'}
    - install: \"['{{ word }}', 'vim']\"
  export:
    raw:
      path: a.img
      post_script: |
        touch done
";
        let new = "\
# A server.
format: 2
defaults: {shell: /bin/sh}
params:
  v: 1.1    # a version
  n: 4
  word: 'web'
  mode: '0644'
  list: [\"a\",\"b\"]
matrix: {py: [3.9, 3.1]}
spec:
  import: {download: {url: x.img}}
  steps:
    # The first.
    - run: |
        cp x y
        echo $
    - run: |
        #!/bin/bash
        true
    - copy: {dest: /etc/motd, source: files/motd}
    - copy: {dest: /etc/issue, content: '[1]'}
    - install: ['{{ word }}', 'vim']
  export:
    raw:
      path: a.img
      post_script: |
        #!/bin/sh
        touch done
";
        assert_eq!(migrated(old), new);
        assert!(migrate(new, &|_| false).is_err());
    }

    #[test]
    fn what_takes_in_other_files_says_its_shell_step_by_step() {
        let old =
            "from: base.yml\nspec:\n  steps:\n    - run: a\n      name: x\n    - {firstboot: b}\n    - - run: c\n";
        let new = "format: 2\nfrom: base.yml\nspec:\n  steps:\n    - shell: /bin/sh\n      run: a\n      name: x\n    \
                   - {shell: /bin/sh, firstboot: b}\n    - - shell: /bin/sh\n        run: c\n";
        assert_eq!(migrated(old), new);
    }

    #[test]
    fn parameters_of_these_names_are_no_steps() {
        assert_eq!(
            migrated("params: {run: x}\nspec: {steps: [], import: {a: b}}"),
            "format: 2\nparams: {run: x}\nspec: {steps: [], import: {a: b}}"
        );
        assert_eq!(migrated("{spec: {}}"), "{format: 2, spec: {}}");
        assert_eq!(migrated("format: 1\nspec: {}\n"), "format: 2\nspec: {}\n");
    }
}
