//! YAML text to nodes, with `saphyr-parser`. Hostile text is bounded: depth, and nodes after aliases are expanded.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::files::Files;
use super::mistakes;
use super::node::{FORMAT, Kind, Node, SourceFile, Via};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::permit::{Door, HostPath, Permissions, Places, room_for};

/// Deepest nesting.
const DEPTH: usize = 100;
/// Most nodes of one file, aliases expanded.
const NODES: usize = 200_000;
/// Largest template, in bytes.
const SIZE: u64 = 16 << 20;

/// Reads the one document of a template file, from which nothing else of the host can be reached but what lies beside it.
pub fn parse(path: &Path) -> Result<Node> {
    parse_allowing(path, Permissions::default())
}

/// The same, where the user allows more.
pub fn parse_allowing(path: &Path, permissions: Permissions) -> Result<Node> {
    let door = Arc::new(Door::new(permissions, &Places { templates: vec![path.into()], ..Places::default() }));
    read_named(path, &Arc::new(Files::new(None, door)))
}

/// Reads a template that the user named.
pub(super) fn parse_named(path: &Path, files: &Arc<Files>) -> Result<Node> {
    read_named(path, files).and_then(take_format)
}

fn read_named(path: &Path, files: &Arc<Files>) -> Result<Node> {
    let text = read_text(path, files.door())?;
    parse_whole(text, path, path, None, files)
}

/// The text of a template that the user named, as it is read for a build: a link out of its folder, a pipe or a device in
/// its place is an error, and so is what is too large or no UTF-8.
pub fn read_text(path: &Path, door: &Door) -> Result<String> {
    let failed = || format!("cannot read the template {}", path.display());
    let absolute = std::path::absolute(path).context(ErrorKind::Template, failed)?;
    let mut bytes = Vec::new();
    if is_own(&absolute) {
        let file = File::open(path).context(ErrorKind::Template, failed)?;
        file.take(SIZE + 1).read_to_end(&mut bytes).context(ErrorKind::Template, failed)?;
        return text_of(bytes, path);
    }
    // No artifact may replace it.
    let judged = door.read(&absolute);
    // What came with a project may be a link to a file of the user's, whose lines would be shown.
    if let Err(refusal) = judged
        && path.symlink_metadata().is_ok_and(|stat| stat.is_symlink())
        && path.is_file()
    {
        let error = Error::new(ErrorKind::Template, refusal.message);
        return Err(refusal.hint.into_iter().fold(error, Error::with_hint));
    }
    // A pipe is not waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(std::io::Error::from);
    let file = File::from(file.context(ErrorKind::Template, failed)?);
    let stat = file.metadata().ok().filter(|stat| stat.is_file() || stat.is_dir());
    let Some(stat) = stat else {
        return Err(Error::new(ErrorKind::Template, format!("{}: it is not a regular file", failed()))
            .with_hint("a template may come through a pipe as `/dev/stdin`"));
    };
    bytes.reserve(room_for(stat.len(), SIZE));
    file.take(SIZE + 1).read_to_end(&mut bytes).context(ErrorKind::Template, failed)?;
    text_of(bytes, path)
}

/// Whether a path is a file that whoever started us has open for us: `/dev/stdin`, or what `<(...)` is for a shell.
fn is_own(path: &Path) -> bool {
    let numbered = |folder: &str| {
        let number = path.strip_prefix(folder).ok().and_then(Path::to_str);
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    path == Path::new("/dev/stdin") || numbered("/dev/fd") || numbered("/proc/self/fd")
}

/// Reads a text as the template `path`, which is called `shown` in messages.
pub(super) fn parse_instead(text: String, path: &Path, shown: &Path, files: &Arc<Files>) -> Result<Node> {
    parse_whole(text, path, shown, None, files).and_then(take_format)
}

/// Reads the one document of a text as if it stood in the file `path`, from which nothing else can be reached.
pub fn parse_as(text: String, path: &Path) -> Result<Node> {
    parse_whole(text, path, path, None, &Arc::default())
}

/// Reads a file that came in by `via`, and is called `shown` in messages.
pub(super) fn parse_file(path: &HostPath, shown: &Path, via: Via, files: &Arc<Files>) -> Result<Node> {
    let failed = || format!("cannot read the template {}", path.display());
    let mut bytes = Vec::new();
    let file = path.open().context(ErrorKind::Template, failed)?;
    file.take(SIZE + 1).read_to_end(&mut bytes).context(ErrorKind::Template, failed)?;
    let text = text_of(bytes, path.named())?;
    parse_whole(text, path.named(), shown, Some(via), files).and_then(take_format)
}

/// The text in the bytes of a template.
fn text_of(bytes: Vec<u8>, path: &Path) -> Result<String> {
    if bytes.len() as u64 > SIZE {
        let message = format!("the template {} is too large: at most {SIZE} bytes are read", path.display());
        return Err(Error::new(ErrorKind::Template, message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::new(ErrorKind::Template, format!("{}:{line}: the template is not UTF-8 text", path.display()))
    })
}

fn parse_whole(text: String, path: &Path, shown: &Path, via: Option<Via>, files: &Arc<Files>) -> Result<Node> {
    let failed = || format!("cannot read the template {}", path.display());
    let absolute = std::path::absolute(path).context(ErrorKind::Template, failed)?;
    let folder = absolute.parent().unwrap_or(&absolute).to_owned();
    let source = Arc::new(SourceFile {
        path: Arc::new(shown.to_owned()),
        folder,
        text,
        via,
        files: files.clone(),
        format: Default::default(),
    });
    parse_text(&source).map_err(|diagnostic| Error::template(vec![diagnostic]))
}

/// Takes `format` out of a file: it is about this file, and not about what the file is put together with.
fn take_format(mut file: Node) -> Result<Node> {
    let Kind::Map(members) = &mut file.kind else { return Ok(file) };
    let Some(index) = members.iter().position(|(key, _)| key.text() == Some("format")) else { return Ok(file) };
    let (_, value) = members.remove(index);
    let format = match value.kind {
        Kind::Integer { value, .. } => u8::try_from(value).ok().filter(|format| (1..=FORMAT).contains(format)),
        _ => None,
    };
    let Some(format) = format else {
        let mut problem = value.diagnostic("this version knows the formats 1 and 2 of templates");
        problem.hint = Some("1 is that of the older tool, and holds where a file says nothing".into());
        return Err(Error::template(vec![problem]));
    };
    let _ = file.source.format.set(format);
    Ok(file)
}

/// The key by which a mapping takes in the members of others (YAML's merge keys).
const MERGE: &str = "<<";

/// What a merge key brings: the members of a mapping, or of each of a list, of which the first that has a name counts.
fn merge_key(key: &Node, value: Node) -> Result<Vec<(Node, Node)>, Diagnostic> {
    let wrong = |node: &Node| {
        let mut problem = node.diagnostic(format!("expected a mapping to merge in, found {}", node.describe()));
        problem.hint =
            Some(format!("`{MERGE}` takes in a mapping, such as an alias: `{MERGE}: *name`; quoted, it is a name"));
        problem
    };
    match value.kind {
        Kind::Map(members) => Ok(members),
        Kind::List(items) => {
            let mut all = Vec::new();
            for item in items {
                match item.kind {
                    Kind::Map(members) => all.extend(members),
                    _ => return Err(wrong(&item)),
                }
            }
            Ok(all)
        }
        _ => Err(wrong(key)),
    }
}

/// The members of a mapping with those that came in by merge keys; its own win, then the first.
fn with_merged(mut members: Vec<(Node, Node)>, merged: Vec<(Node, Node)>) -> Vec<(Node, Node)> {
    for (key, value) in merged {
        if members.iter().all(|(own, _)| own.text() != key.text()) {
            members.push((key, value));
        }
    }
    members
}

pub(super) fn parse_text(source: &Arc<SourceFile>) -> Result<Node, Diagnostic> {
    let mut reader = Reader { parser: Parser::new_from_str(&source.text), source, anchors: HashMap::new(), nodes: 0 };
    reader.document()
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    source: &'a Arc<SourceFile>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Node, Diagnostic> {
        let mut found = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(_) if found.is_some() => {
                    return Err(self
                        .at(span, Kind::Null)
                        .diagnostic("a template is one document, and here is another"));
                }
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    found = Some(self.node(event, span, 0)?);
                }
                _ => {}
            }
        }
        match found {
            Some(node) if !matches!(node.kind, Kind::Null) => Ok(node),
            _ => {
                let node = Node::new(Kind::Null, 1, 1, self.source.clone());
                Err(node.diagnostic("the file is empty; expected a mapping"))
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Diagnostic> {
        match self.parser.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(self.scan_error(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Diagnostic> {
        self.nodes += 1;
        let place = self.at(span, Kind::Null);
        if depth > DEPTH {
            return Err(place.diagnostic(format!("the template is nested deeper than {DEPTH} levels")));
        }
        if self.nodes > NODES {
            return Err(place.diagnostic(format!("the template has more than {NODES} nodes")));
        }
        let before = self.nodes;
        let (kind, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = tag.is_some_and(|tag| tag.suffix == "str" || tag.handle == "!");
                let plain = style == ScalarStyle::Plain && !tagged;
                (if plain { Node::plain_scalar(&text) } else { Kind::String(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break (Kind::List(items), anchor),
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(anchor, _) => {
                let mut members: Vec<(Node, Node)> = Vec::new();
                let mut merged: Vec<(Node, Node)> = Vec::new();
                loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, _) => break (Kind::Map(with_merged(members, merged)), anchor),
                        (Event::Scalar(text, ScalarStyle::Plain, _, _), span) if text == MERGE => {
                            let key = self.at(span, Kind::String(text.into_owned()));
                            let (event, span) = self.next()?;
                            let value = self.node(event, span, depth + 1)?;
                            merged.extend(merge_key(&key, value)?);
                            continue;
                        }
                        (event, span) => self.node(event, span, depth + 1)?,
                    };
                    let Some(name) = key.text() else {
                        let mut problem = key.diagnostic(format!("expected a name as key, found {}", key.describe()));
                        problem.hint = mistakes::bare_expression(&key);
                        return Err(problem);
                    };
                    if let Some((first, _)) = members.iter().find(|(other, _)| other.text() == Some(name)) {
                        let message = format!("`{name}` stands here twice, first in line {}", first.line);
                        return Err(key.diagnostic(message));
                    }
                    let (event, span) = self.next()?;
                    let value = self.node(event, span, depth + 1)?;
                    members.push((key, value));
                }
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err(place.diagnostic("an alias of something that is not complete"));
                };
                self.nodes += size;
                return if self.nodes > NODES {
                    Err(place.diagnostic(format!("the template has more than {NODES} nodes with its aliases")))
                } else {
                    Ok(node.clone())
                };
            }
            _ => return Err(place.diagnostic("expected a value")),
        };
        let node = Node { kind, ..place };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before + 1));
        }
        Ok(node)
    }

    fn at(&self, span: Span, kind: Kind) -> Node {
        Node::new(kind, span.start.line().max(1), span.start.col() + 1, self.source.clone())
    }

    fn scan_error(&self, error: &ScanError) -> Diagnostic {
        let marker = error.marker();
        let place = Node::new(Kind::Null, marker.line().max(1), marker.col() + 1, self.source.clone());
        let mut problem = place.diagnostic(format!("this is not YAML: {}", error.info()));
        problem.hint = mistakes::not_yaml(error.info()).map(str::to_owned);
        problem
    }
}
