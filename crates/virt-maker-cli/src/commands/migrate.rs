//! `virt-maker migrate`: an older template as one of today's format that means the same.
//!
//! A YAML file is changed only where the formats differ ([`virt_maker::template::migrate`]). One of the 2015 format (`.vbp`)
//! becomes YAML: `KEY=VALUE` lines at the top are parameters, `<[KEY]>` is a reference to one, `@provider arguments` begins a step whose
//! body is the lines up to the next `@`. Comments stay at what they stand above; in scripts and files, a line with `#` is a part of
//! the text. What has no counterpart becomes a `local_run` with a comment that says so.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use virt_maker::error::{Context, Error, ErrorKind};
use virt_maker::event::Events;
use virt_maker::host::Cancel;
use virt_maker::host::temporary::{Durability, replace_with};
use virt_maker::spec;
use virt_maker::template::{self, Instead, LoadOptions};

use super::loading;
use crate::arguments;
use crate::error::Failure;
use crate::yaml;

/// Runs it. What comes out is loaded before it is shown or written: an error where that fails.
pub fn run(arguments: &arguments::Migrate) -> Result<(), Failure> {
    let path = &arguments.file;
    let events = Events::new(crate::report::warnings_only);
    let options = loading::options_with(&arguments.given, &events, &Cancel::default())?;
    let text = template::read_text(path, &options.door(std::slice::from_ref(path)))?;
    let oldest = text.lines().any(|line| line.starts_with('@'));
    if oldest && arguments.write {
        let message = "a template of the 2015 format is printed as YAML, and not changed: leave `--write` out";
        return Err(Failure::Usage(message.into()));
    }
    let yaml = if oldest { convert(&text) } else { text };
    // A file that only comes in by others is no template by itself.
    let node = template::parse_as(yaml.clone(), path)?;
    let whole = oldest || ["spec", "from"].iter().any(|name| node.get(name).is_some());
    let is_file = |name: &str| {
        let beside = path.parent().unwrap_or(Path::new("")).join(name);
        beside.is_file() || Path::new(name).is_file()
    };
    let migrated = template::migrate(&yaml, &is_file)
        .map_err(|problem| Error::new(ErrorKind::Template, format!("{}: {problem}", path.display())))?;
    let name = path.display().to_string().escape_debug().to_string();
    let loaded = match whole {
        true => load(path, &migrated.text, &format!("{} (migrated)", path.display()), &options),
        false => template::parse_as(migrated.text.clone(), path).map(drop),
    };
    // Faults that were there before are no reason to leave it as it is.
    let as_before = loaded.is_err() && whole && !oldest && load(path, &yaml, &name, &options).is_err();
    let writes = arguments.write && (loaded.is_ok() || as_before);
    if writes {
        write(path, &migrated.text)?;
    } else if !arguments.write {
        std::io::stdout().write_all(migrated.text.as_bytes())?;
    }
    for (line, note) in migrated.notes {
        let place = if oldest { String::new() } else { format!("{name}:{line}: ") };
        eprintln!("note: {place}{note}");
    }
    if writes {
        println!("wrote {name}: it has format 2 now");
    }
    if loaded.is_err() {
        let state = match (as_before, arguments.write) {
            (true, _) => "it does not load now, and did not before",
            (false, true) => "it stays as it is, since what it would be does not load",
            (false, false) => "what is printed does not load yet",
        };
        eprintln!("note: {name}: {state}");
    }
    Ok(loaded?)
}

/// Loads a text as the template `path`. Programs that the user did not allow are not started, and need no word where they
/// would start later.
fn load(path: &Path, text: &str, shown: &str, options: &LoadOptions) -> Result<(), Error> {
    let mut options = options.clone();
    options.instead = Some(Instead { template: path.to_owned(), text: text.to_owned(), shown: shown.into() });
    if !options.permissions.host_exec {
        options.permissions.host_exec = true;
        options.exec = None;
    }
    spec::load_all(&[path.to_owned()], &options).map(drop)
}

/// Replaces a template, which keeps its rights.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let failed = || format!("cannot write {}", path.display());
    let real = path.canonicalize().context(ErrorKind::Host, failed)?;
    let mode = fs::metadata(&real).context(ErrorKind::Host, failed)?.permissions();
    replace_with(&real, mode.mode() & 0o777, Durability::Synced, |file| {
        file.set_permissions(mode)?;
        file.write_all(text.as_bytes())
    })
    .context(ErrorKind::Host, failed)
}

/// A part that begins with `@`.
struct Part<'a> {
    line: usize,
    provider: &'a str,
    arguments: &'a str,
    body: String,
    /// Comments that stand above it, `#` included.
    comments: Vec<String>,
}

/// Parts whose body is no text: a line with `#` in it is a comment.
const WORDS: [&str; 11] = [
    "copy",
    "export",
    "from",
    "hostname",
    "import",
    "install",
    "rootpass",
    "selinux",
    "store",
    "sysprep",
    "virt-builder",
];

/// A step in the making, with the comments above it.
struct Step {
    comments: Vec<String>,
    value: Value,
}

/// The YAML of a template in the old format.
pub fn convert(text: &str) -> String {
    let Split { params, parts, mut comments, last } = split(text);
    let (mut import, mut from) = (None, None);
    let (mut steps, mut exports) = (Vec::new(), Vec::new());
    // Above the import, and above the exports.
    let (mut of_import, mut of_exports) = (Vec::new(), Vec::new());
    for part in &parts {
        let arguments = expression(part.arguments);
        let words: Vec<String> = part.arguments.split_whitespace().map(expression).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let whole = if part.body.trim().is_empty() { arguments.clone() } else { expression(&part.body) };
        match part.provider {
            "virt-builder" | "import" | "from" => of_import.extend_from_slice(&part.comments),
            "export" | "store" => of_exports.extend_from_slice(&part.comments),
            _ => {}
        }
        let mut step = |value: Value| steps.push(Step { comments: part.comments.clone(), value });
        match part.provider {
            "virt-builder" => {
                let image = words.iter().find(|word| !word.starts_with('-') && !word.contains('=')).unwrap_or(&"");
                let size = words.iter().skip_while(|word| **word != "--size").nth(1).copied();
                let size =
                    size.or_else(|| words.iter().find_map(|word| word.trim_start_matches('-').strip_prefix("size=")));
                let size = size
                    .or_else(|| words.get(1).copied().filter(|word| word.starts_with(|c: char| c.is_ascii_digit())));
                if size.is_none() {
                    comments.push(format!("line {}: `@virt-builder` names no size; 6G is a guess", part.line));
                }
                import = Some(json!({"virt-builder": {"image": image, "size": size.unwrap_or("6G")}}));
            }
            "import" => import = Some(json!({"download": {"url": arguments}})),
            "from" => {
                from = Some(arguments.strip_suffix(".vbp").map_or(arguments.clone(), |stem| format!("{stem}.yml")))
            }
            "run" => step(json!({"run": whole})),
            "script" if part.body.trim().is_empty() => {
                let path = part.arguments.trim().replace('\\', "\\\\").replace('\'', "\\'");
                step(json!({"run": format!("{{{{ file_contents('{path}') }}}}")}));
            }
            "script" => step(json!({"run": whole})),
            "file" => step(json!({"copy": {"dest": arguments, "content": expression(&part.body)}})),
            "hostname" => step(json!({"hostname": arguments})),
            "install" => {
                let body = expression(&part.body);
                let names: Vec<&str> = words.iter().copied().chain(body.split_whitespace()).collect();
                step(json!({ "install": names }));
            }
            "copy" => match arguments.split_once(':').or_else(|| arguments.split_once(char::is_whitespace)) {
                Some((source, dest)) => step(json!({"copy": {"source": source.trim(), "dest": dest.trim()}})),
                None => steps.push(unknown(part)),
            },
            "selinux" => step(json!({"selinux": arguments})),
            "rootpass" => step(json!({"rootpass": arguments})),
            "sysprep" => step(json!({"sysprep": null})),
            "export" | "store" => {
                let target = words.first().copied().unwrap_or_default();
                let raw = [".img", ".raw"].iter().any(|end| target.ends_with(end));
                let kind = if raw { "raw" } else { "qcow2" };
                if part.provider == "store" {
                    comments.push(format!(
                        "line {}: `@store` kept an image in a folder of the older tool; here it is exported",
                        part.line
                    ));
                }
                exports.push(json!({ kind: {"path": target} }));
            }
            _ => steps.push(unknown(part)),
        }
    }

    let mut out = String::new();
    comments.iter().for_each(|comment| out.push_str(&format!("# {comment}\n")));
    if import.is_none() {
        of_import.iter().for_each(|comment| out.push_str(&format!("{comment}\n")));
    }
    if import.is_none() && from.is_none() {
        out.push_str("# The older template names no base: say one under `import`.\n");
    }
    if let Some(from) = from {
        out.push_str(&yaml::document(&json!({ "from": from })));
    }
    if !params.is_empty() {
        out.push_str("params:\n");
        for Param { name, value, comments } in &params {
            comments.iter().for_each(|comment| out.push_str(&format!("  {comment}\n")));
            out.push_str(&indented(&yaml::document(&json!({ name: expression(value) })), 2));
        }
    }
    out.push_str("spec:\n");
    if let Some(import) = import {
        of_import.iter().for_each(|comment| out.push_str(&format!("  {comment}\n")));
        out.push_str(&indented(&yaml::document(&json!({ "import": import })), 2));
    }
    if !steps.is_empty() {
        out.push_str("  steps:\n");
    }
    for step in steps {
        step.comments.iter().for_each(|comment| out.push_str(&format!("    {comment}\n")));
        out.push_str(&indented(&yaml::document(&json!([step.value])), 4));
    }
    of_exports.iter().for_each(|comment| out.push_str(&format!("  {comment}\n")));
    match &exports[..] {
        [] => {}
        [only] => out.push_str(&indented(&yaml::document(&json!({ "export": only })), 2)),
        _ => out.push_str(&indented(&yaml::document(&json!({ "export": exports })), 2)),
    }
    if out.ends_with("spec:\n") {
        out.truncate(out.len() - 1);
        out.push_str(" {}\n");
    }
    last.iter().for_each(|comment| out.push_str(&format!("{comment}\n")));
    out
}

fn unknown(part: &Part<'_>) -> Step {
    let text = format!("@{} {}\n{}", part.provider, part.arguments, part.body);
    let words = format!("echo {} >&2; exit 1", quote(&format!("not migrated: {}", text.trim())));
    let comment = format!(
        "# line {}: `@{}` has no counterpart; write what it did in its place",
        part.line,
        part.provider.escape_debug()
    );
    Step {
        comments: part.comments.iter().cloned().chain([comment]).collect(),
        value: json!({"local_run": expression(&words)}),
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".into() } else { format!("{}{line}\n", " ".repeat(by)) }).collect()
}

/// A parameter, with the comments above it.
struct Param {
    name: String,
    value: String,
    comments: Vec<String>,
}

/// What stands in an old template.
struct Split<'a> {
    params: Vec<Param>,
    parts: Vec<Part<'a>>,
    /// What is neither, in words.
    comments: Vec<String>,
    /// Comments below all of it.
    last: Vec<String>,
}

fn split(text: &str) -> Split<'_> {
    let (mut params, mut parts, mut comments) = (Vec::<Param>::new(), Vec::<Part<'_>>::new(), Vec::new());
    // Comments that belong to what comes next.
    let mut above: Vec<String> = Vec::new();
    let plain = |line: &str| line.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    for (index, line) in text.lines().enumerate() {
        if let Some(rest) = line.strip_prefix('@') {
            if let Some(part) = parts.last_mut() {
                above.extend(part.trailing());
            }
            let (provider, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            parts.push(Part {
                line: index + 1,
                provider: provider.trim(),
                arguments: arguments.trim(),
                body: String::new(),
                comments: std::mem::take(&mut above),
            });
        } else if let Some(part) = parts.last_mut() {
            if WORDS.contains(&part.provider) {
                match line.trim() {
                    comment if comment.starts_with('#') => {
                        above.push(plain(comment));
                        continue;
                    }
                    "" => {}
                    _ => part.comments.append(&mut above),
                }
            }
            part.body.push_str(line);
            part.body.push('\n');
        } else if line.trim().is_empty() {
            // Between parameters.
        } else if line.trim_start().starts_with('#') {
            above.push(plain(line));
        } else if let Some((name, value)) = line.split_once('=') {
            let comments = std::mem::take(&mut above);
            params.push(Param { name: identifier(name), value: value.trim().to_owned(), comments });
        } else {
            let shown = line.escape_debug();
            comments
                .push(format!("line {}: neither `KEY=VALUE` nor the begin of a part, left out: {shown}", index + 1));
        }
    }
    if let Some(part) = parts.last_mut() {
        above.extend(part.trailing());
    }
    // Blank lines before the next part belong to nobody.
    for part in &mut parts {
        let kept = part.body.trim_end().len();
        part.body.truncate(kept);
        if !part.body.is_empty() {
            part.body.push('\n');
        }
    }
    Split { params, parts, comments, last: above }
}

impl Part<'_> {
    /// Takes the body of a part that has its text beside its name, where nothing but comments is in it: those of what comes
    /// next.
    fn trailing(&mut self) -> Vec<String> {
        let lines = || self.body.lines().map(str::trim).filter(|line| !line.is_empty());
        let beside = self.provider != "file" && !self.arguments.is_empty();
        if !beside || !lines().all(|line| line.starts_with('#')) {
            return Vec::new();
        }
        let comments = lines().map(str::to_owned).collect();
        self.body.clear();
        comments
    }
}

/// A name that expressions can use.
fn identifier(name: &str) -> String {
    let name: String = name.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// `<[KEY]>` as an expression; what would be one and was none is quoted.
fn expression(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['<', '{']) {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let reference = tail.strip_prefix("<[").and_then(|inner| inner.split_once("]>"));
        if let Some((name, after)) = reference
            && !name.is_empty()
            && !name.contains(['\n', '[', '<'])
        {
            out.push_str(&format!("{{{{ {} }}}}", identifier(name)));
            rest = after;
        } else if let Some(mark) = ["{{", "{%", "{#"].iter().find(|mark| tail.starts_with(**mark)) {
            out.push_str(&format!("{{{{ '{mark}' }}}}"));
            rest = &tail[2..];
        } else {
            out.push_str(&tail[..1]);
            rest = &tail[1..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_has_its_counterpart() {
        let old = "\
# a comment
NAME=web
# where it goes
DISK=<[NAME]>.qcow2
# the base
@virt-builder centos-7 --size 8G
@run
echo <[NAME]>
echo ${#x}

@script setup.sh
@file /etc/issue
hello {{ not }}
# of the file
@hostname <[NAME]>
# an editor
@install vim curl
# and more
git
# data
@run echo now
# files
@copy data:/srv
@selinux permissive
@rootpass password:x
@sysprep
@reboot now
# out
@export <[DISK]>
# the end
";
        let expected = "\
params:
  # a comment
  NAME: web
  # where it goes
  DISK: \"{{ NAME }}.qcow2\"
spec:
  # the base
  import:
    virt-builder:
      image: centos-7
      size: \"8G\"
  steps:
    - run: |
        echo {{ NAME }}
        echo ${{ '{#' }}x}
    - run: \"{{ file_contents('setup.sh') }}\"
    - copy:
        dest: /etc/issue
        content: |
          hello {{ '{{' }} not }}
          # of the file
    - hostname: \"{{ NAME }}\"
    # an editor
    # and more
    - install:
        - vim
        - curl
        - git
    # data
    - run: echo now
    # files
    - copy:
        source: data
        dest: /srv
    - selinux: permissive
    - rootpass: \"password:x\"
    - sysprep: null
    # line 27: `@reboot` has no counterpart; write what it did in its place
    - local_run: \"echo 'not migrated: @reboot now' >&2; exit 1\"
  # out
  export:
    qcow2:
      path: \"{{ DISK }}\"
# the end
";
        assert_eq!(convert(old), expected);
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(convert(""), "# The older template names no base: say one under `import`.\nspec: {}\n");
        let odd = convert("some words\n@run\nls\n");
        assert!(odd.starts_with("# line 1: neither `KEY=VALUE`"), "{odd}");
        let built = convert("@from base.vbp\n@virt-builder debian-12\n@store web\n@export a.img\n");
        for words in ["from: base.yml", "6G is a guess", "`@store` kept", "qcow2:", "raw:"] {
            assert!(built.contains(words), "no `{words}` in\n{built}");
        }
    }
}
