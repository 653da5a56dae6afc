//! One file of settings: TOML to values, each with its place; all mistakes at once.
//!
//! Its values become nodes as those of templates are, so that messages show the line and mark the place.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use virt_maker::diagnostic::{Diagnostic, Position};
use virt_maker::error::{Context, Error, ErrorKind};
use virt_maker::template::{Kind, Node, SourceFile, closest};

use crate::arguments::store::{depth, size, time};
use virt_maker::host::permit::{self, Permission};

use crate::arguments::Engine;
use crate::error::Failure;

/// Settings of both files.
const KEYS: [&str; 7] = ["store", "engine", "jobs", "kernel", "certificates", "allow", "cache"];
/// Those of `[cache]`.
const CACHE_KEYS: [&str; 4] = ["max_size", "min_free", "max_age", "max_depth"];
/// What only the user's own file may have.
const TRUST: &str = "trust";
/// Nobody needs more, and a file that is larger is none of ours.
const SIZE: u64 = 1 << 20;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Located<T> {
    pub value: T,
    pub node: Node,
}

impl<T> Located<T> {
    pub fn position(&self) -> Position {
        self.node.position()
    }
}

/// What a file says; paths are absolute.
#[derive(Debug, Default)]
pub struct File {
    pub store: Option<Located<PathBuf>>,
    pub engine: Option<Located<Engine>>,
    pub jobs: Option<Located<NonZeroUsize>>,
    pub kernel: Option<Located<PathBuf>>,
    pub certificates: Option<Located<PathBuf>>,
    pub allow: Vec<Located<Permission>>,
    pub trust: Vec<Located<PathBuf>>,
    pub max_size: Option<Located<u64>>,
    pub min_free: Option<Located<u64>>,
    pub max_age: Option<Located<Duration>>,
    pub max_depth: Option<Located<usize>>,
}

/// Reads a file; one that is not there says nothing. `own` is the user's own file.
pub fn read(path: &Path, own: bool) -> Result<File, Failure> {
    let failed = || format!("cannot read {}", path.display());
    // A project's file that is a link may lead to anything, whose lines would be shown.
    let read = if own { permit::read_regular(path, SIZE) } else { permit::read_unlinked_name(path, SIZE) };
    let bytes = match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(File::default()),
        read => read.context(ErrorKind::Template, failed)?,
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::new(ErrorKind::Template, format!("{} is not UTF-8 text", path.display())))?;
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let source = SourceFile {
        path: Arc::new(path.to_owned()),
        folder,
        text,
        via: None,
        files: Arc::default(),
        format: Default::default(),
    };
    let mut reader = Reader { source: Arc::new(source), own, file: File::default(), problems: Vec::new() };
    reader.document();
    let Reader { file, mut problems, .. } = reader;
    if problems.is_empty() {
        return Ok(file);
    }
    problems.sort_by_key(|problem| problem.position.as_ref().map(|position| (position.line, position.column)));
    Err(Error::template(problems).into())
}

struct Reader {
    source: Arc<SourceFile>,
    own: bool,
    file: File,
    problems: Vec<Diagnostic>,
}

impl Reader {
    fn document(&mut self) {
        let source = self.source.clone();
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            let problem = self.node(at, Kind::Null).diagnostic(format!("this is not TOML: {}", error.message()));
            self.problems.push(problem);
        }
        if !errors.is_empty() {
            return;
        }
        for (key, value) in table.get_ref() {
            let (key, value) = (self.key(key), self.value(value));
            self.setting(&key, value);
        }
    }

    fn setting(&mut self, key: &Node, value: Node) {
        match key.text().unwrap_or_default() {
            "store" => self.file.store = self.path(value),
            "kernel" => self.file.kernel = self.path(value),
            "certificates" => self.file.certificates = self.path(value),
            "engine" => self.file.engine = self.engine(value),
            "jobs" => {
                let jobs = match value.kind {
                    Kind::Integer { value, .. } => usize::try_from(value).ok().and_then(NonZeroUsize::new),
                    _ => None,
                };
                self.file.jobs = self.located(jobs, value, "a number, at least 1");
            }
            "allow" => {
                for item in self.list(&value) {
                    let read = item.text().ok_or_else(String::new).and_then(Permission::parse);
                    let read = match read.ok() {
                        Some(Permission::Read(folder)) => Some(Permission::Read(self.source.folder.join(folder))),
                        Some(Permission::Write(folder)) => Some(Permission::Write(self.source.folder.join(folder))),
                        other => other,
                    };
                    let all: Vec<String> = permit::KINDS.iter().map(|kind| format!("`{}`", kind.form())).collect();
                    let read = self.located(read, item, &format!("one of {}", all.join(", ")));
                    self.file.allow.extend(read);
                }
            }
            TRUST if self.own => {
                for item in self.list(&value) {
                    let read = self.path(item);
                    self.file.trust.extend(read);
                }
            }
            TRUST => {
                let mut problem = key.diagnostic("a project cannot say that it is trusted");
                problem.hint =
                    Some("`trust` belongs into the user's own settings; `virt-maker config show` says where".into());
                self.problems.push(problem);
            }
            "cache" if matches!(value.kind, Kind::Map(_)) => {
                for (key, value) in value.members().to_vec() {
                    match key.text().unwrap_or_default() {
                        "max_size" => self.file.max_size = self.size(value),
                        "min_free" => self.file.min_free = self.size(value),
                        "max_age" => {
                            let age = value.text().and_then(|text| time(text).ok()).filter(|age| !age.is_zero());
                            self.file.max_age = self.located(age, value, "a time such as `12h`, `30d` or `8w`");
                        }
                        "max_depth" => {
                            let depth = value.text().and_then(|text| depth(text).ok());
                            self.file.max_depth = self.located(depth, value, "a number of images, 3 to 256");
                        }
                        _ => self.unknown(&key, &CACHE_KEYS, "setting in `[cache]` called"),
                    }
                }
            }
            "cache" => drop(self.located(None::<()>, value, "a table: `[cache]`, and lines below it")),
            _ if self.own => self.unknown(key, &[&KEYS[..], &[TRUST]].concat(), "setting called"),
            _ => self.unknown(key, &KEYS, "setting called"),
        }
    }

    fn unknown(&mut self, key: &Node, known: &[&str], what: &str) {
        let name = key.text().unwrap_or_default();
        let mut problem = key.diagnostic(format!("there is no {what} `{}`", name.escape_debug()));
        problem.hint = Some(match closest(name, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("known are: {}", known.join(", ")),
        });
        self.problems.push(problem);
    }

    fn located<T>(&mut self, value: Option<T>, node: Node, expected: &str) -> Option<Located<T>> {
        if value.is_none() {
            let found = match node.text() {
                Some(text) => format!("`{}`", text.escape_debug()),
                None => node.describe().to_owned(),
            };
            self.problems.push(node.diagnostic(format!("expected {expected}, found {found}")));
        }
        value.map(|value| Located { value, node })
    }

    fn list(&mut self, node: &Node) -> Vec<Node> {
        match &node.kind {
            Kind::List(items) => items.clone(),
            _ => {
                self.located(None::<()>, node.clone(), "a list");
                Vec::new()
            }
        }
    }

    fn path(&mut self, node: Node) -> Option<Located<PathBuf>> {
        let text = match &node.kind {
            Kind::String(text) if !text.is_empty() => text.clone(),
            _ => return self.located(None, node, "a path"),
        };
        if text == "~" || text.starts_with("~/") {
            self.problems.push(node.diagnostic("`~` does not stand for the home folder here; write the path out"));
            return None;
        }
        Some(Located { value: self.source.folder.join(text), node })
    }

    fn engine(&mut self, node: Node) -> Option<Located<Engine>> {
        let text = node.text().unwrap_or_default();
        let found = Engine::from_str(text, false).ok();
        if found.is_none() {
            let names: Vec<_> = Engine::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect();
            let names: Vec<&str> = names.iter().map(clap::builder::PossibleValue::get_name).collect();
            let mut problem = node.diagnostic(format!("there is no engine `{}`", text.escape_debug()));
            problem.hint = Some(match closest(text, names.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known are: {}", names.join(", ")),
            });
            self.problems.push(problem);
        }
        found.map(|value| Located { value, node })
    }

    fn size(&mut self, node: Node) -> Option<Located<u64>> {
        let size = node.text().and_then(|text| size(text).ok()).filter(|size| *size > 0);
        self.located(size, node, "a size such as `500M`, `20G` or `1T`")
    }

    /// A node at an offset of the text.
    fn node(&self, at: usize, kind: Kind) -> Node {
        let before = self.source.text.get(..at).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        Node {
            kind,
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            source: self.source.clone(),
            literal: None,
            origin: None,
            written: None,
        }
    }

    fn key(&self, key: &Spanned<std::borrow::Cow<'_, str>>) -> Node {
        self.node(key.span().start, Kind::String(key.get_ref().to_string()))
    }

    fn value(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let kind = match value.get_ref() {
            DeValue::String(text) => Kind::String(text.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(value) => Kind::Integer { value, text: value.to_string() },
                Err(_) => Kind::String(number.as_str().to_owned()),
            },
            DeValue::Float(number) => {
                Kind::Float { value: number.as_str().parse().unwrap_or(f64::NAN), text: number.as_str().to_owned() }
            }
            DeValue::Boolean(value) => Kind::Bool(*value),
            DeValue::Datetime(time) => Kind::String(time.to_string()),
            DeValue::Array(items) => Kind::List(items.iter().map(|item| self.value(item)).collect()),
            DeValue::Table(table) => {
                Kind::Map(table.iter().map(|(key, value)| (self.key(key), self.value(value))).collect())
            }
        };
        self.node(value.span().start, kind)
    }
}
