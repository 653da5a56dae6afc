//! `repo`: a source of packages with its signing key, for apt (a `.sources` file and a key of its own, which signs for
//! nothing else) or for dnf, yum and zypper (a `.repo` file).

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::support::host_file::{self, Content};
use super::support::packages::PackageManager;
use super::support::{paths, words};
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::{Attributes, Guest};
use crate::template::{Node, OneOrMany, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "repo",
    about: "Adds a source of packages and its signing key.",
    arguments: arguments::<Arguments>,
    example: "repo: {name: example, url: 'https://packages.example.org/debian', suite: bookworm, unsigned: true}",
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// Name of the file that is written, and of the key beside it.
    name: String,
    /// Where the packages are: `http`, `https` or `file`. For dnf and yum it may have `$releasever` and `$basearch`.
    url: String,
    /// The suite or suites; makes it a source for apt.
    #[schemars(with = "Option<OneOrMany>")]
    #[expect(dead_code, reason = "read from the node: one text, or a list")]
    suite: Option<serde::de::IgnoredAny>,
    /// Components, for apt. `main` by default; none where the suite ends in `/`.
    #[schemars(with = "Option<OneOrMany>")]
    #[expect(dead_code, reason = "read from the node: one text, or a list")]
    components: Option<serde::de::IgnoredAny>,
    /// The key that signs it: a file of the host (armoured or binary), or the armoured text itself.
    key: Option<String>,
    /// Take packages that nobody signed. One of this and `key` is needed.
    #[serde(default)]
    unsigned: bool,
}

struct RepoStep {
    name: String,
    url: String,
    suites: Vec<String>,
    components: Vec<String>,
    key: Option<Content>,
}

/// Keyrings are not larger.
const KEY_MAX: usize = 1 << 20;

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let name = arguments.name;
    if name.is_empty() || name.len() > 64 || name.starts_with(['-', '.']) || !name.bytes().all(plain) {
        problems.push(at("name").diagnostic("expected a name of letters, digits, `-`, `_` and `.`"));
    }
    let scheme = ["http://", "https://", "file:/"].iter().any(|scheme| arguments.url.starts_with(scheme));
    if !scheme || arguments.url.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        problems.push(at("url").diagnostic("expected a URL with http, https or file"));
    }
    let word = |text: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./~+".contains(&byte);
        let good = !text.is_empty() && text.bytes().all(allowed);
        if good { Ok(()) } else { Err(format!("`{}` is not the name of a suite or component", text.escape_debug())) }
    };
    let mut list = |name: &str| match node.get(name).map(|node| words::texts(node, word)) {
        Some(Ok(list)) => list,
        Some(Err(found)) => {
            problems.extend(found);
            Vec::new()
        }
        None => Vec::new(),
    };
    let (suites, mut components) = (list("suite"), list("components"));
    let flat = suites.iter().any(|suite| suite.ends_with('/'));
    if !components.is_empty() && (suites.is_empty() || flat) {
        let message = if flat { "a suite that ends in `/` has no components" } else { "`components` needs `suite`" };
        problems.push(at("components").diagnostic(message));
    }
    if components.is_empty() && !suites.is_empty() && !flat {
        components.push("main".to_owned());
    }
    let key = match (arguments.key, arguments.unsigned) {
        (Some(text), false) if text.trim_start().starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----") => {
            Some(Content::Text(text))
        }
        (Some(path), false) => match Content::file(&path, at("key")) {
            Ok(content) => Some(content),
            Err(problem) => {
                problems.push(problem);
                None
            }
        },
        (None, true) => None,
        _ => {
            problems.push(node.diagnostic("expected one of `key` (who signs the packages) and `unsigned: true`"));
            None
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Box::new(RepoStep { name, url: arguments.url, suites, components, key }))
}

impl Step for RepoStep {
    fn summary(&self) -> String {
        format!("{} {}", self.name, self.url)
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let RepoStep { name, url, suites, components, key } = self;
        let (text, inputs) = match key {
            None => (None, Vec::new()),
            Some(Content::Text(text)) => (Some(text), Vec::new()),
            Some(Content::Host(path)) => (None, vec![host_file::input(path, "key", 0o644)?]),
        };
        let arguments =
            json!({ "name": name, "url": url, "suites": suites, "components": components, "key": text });
        Ok(StepKey { arguments, inputs })
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for RepoStep {
    fn run(&self, key: &StepKey, guest: &mut dyn Guest, _: &StepContext<'_>) -> Result<()> {
        let signer = match &self.key {
            None => None,
            Some(Content::Text(text)) => Some(text.clone().into_bytes()),
            Some(Content::Host(path)) => Some(host_file::read(path, &key.inputs[0])?),
        };
        if signer.as_ref().is_some_and(|bytes| bytes.is_empty() || bytes.len() > KEY_MAX) {
            return Err(Error::new(ErrorKind::Template, "the key of the source is empty or too large to be one"));
        }
        let manager = PackageManager::of(guest)?;
        let apt = manager == PackageManager::Apt;
        let wrong = |message: &str, hint: &str| Err(Error::new(ErrorKind::Template, message).with_hint(hint));
        let folder = match manager {
            PackageManager::Apt if self.suites.is_empty() => {
                return wrong("this guest has apt, whose sources have a suite", "add `suite`");
            }
            PackageManager::Apt => "/etc/apt/sources.list.d",
            _ if !self.suites.is_empty() => {
                return wrong("this guest has no apt, and other sources have no suite", "leave `suite` out");
            }
            PackageManager::Dnf | PackageManager::Yum => "/etc/yum.repos.d",
            PackageManager::Zypper => "/etc/zypp/repos.d",
            PackageManager::Apk | PackageManager::Pacman => {
                return wrong("`repo` knows sources of apt, dnf, yum and zypper", "write the guest's file with `file`");
            }
        };
        let place = signer.as_ref().map(|bytes| self.key_path(apt, bytes));
        if let (Some(place), Some(bytes)) = (&place, &signer) {
            put(guest, place, bytes)?;
        }
        let (text, ending) =
            if apt { (self.sources(place.as_deref()), "sources") } else { (self.ini(place.as_deref()), "repo") };
        put(guest, &format!("{folder}/{}.{ending}", self.name), text.as_bytes())
    }
}

impl RepoStep {
    /// apt tells the two forms of a key by the ending.
    fn key_path(&self, apt: bool, bytes: &[u8]) -> String {
        let ending = if bytes.starts_with(b"-----BEGIN") { "asc" } else { "gpg" };
        match apt {
            true => format!("/etc/apt/keyrings/{}.{ending}", self.name),
            false => format!("/etc/pki/rpm-gpg/RPM-GPG-KEY-{}", self.name),
        }
    }

    fn sources(&self, key: Option<&str>) -> String {
        let trust = key.map_or("Trusted: yes".to_owned(), |key| format!("Signed-By: {key}"));
        let components = match self.components.is_empty() {
            true => String::new(),
            false => format!("Components: {}\n", self.components.join(" ")),
        };
        format!("Types: deb\nURIs: {}\nSuites: {}\n{components}{trust}\n", self.url, self.suites.join(" "))
    }

    fn ini(&self, key: Option<&str>) -> String {
        let trust = key.map_or("gpgcheck=0".to_owned(), |key| format!("gpgcheck=1\ngpgkey=file://{key}"));
        format!("[{0}]\nname={0}\nbaseurl={1}\nenabled=1\n{trust}\n", self.name, self.url)
    }
}

fn put(guest: &mut dyn Guest, path: &str, bytes: &[u8]) -> Result<()> {
    paths::make_parent(guest, path)?;
    let attributes = Attributes { mode: Some(0o644), uid: Some(0), gid: Some(0) };
    guest.write(path, &mut &*bytes, attributes)
}
