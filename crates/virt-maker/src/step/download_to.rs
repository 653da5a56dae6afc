//! `download_to`: a file from a URL, into the guest. The host fetches it and checks it, so the guest needs no program
//! for it.

use std::io::{Read, Seek};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::support::owner::{Looks, keep};
use super::support::paths;
use super::{Action, InGuest, Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::Guest;
use crate::host::checksum::{self, Checking, Checksum};
use crate::host::permit::HostPath;
use crate::host::url_path as decode;
use crate::template::{Node, arguments, from_node};

pub(super) static KIND: StepKind = StepKind {
    name: "download_to",
    about: "Fetches a URL on the host and writes what it gave into the guest.",
    arguments: arguments::<Arguments>,
    example: concat!(
        "download_to: {url: 'https://example.org/tool', dest: /usr/local/bin/tool, chmod: 0755, ",
        "checksum: 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'}"
    ),
    needs: &[],
    version: 1,
    network: false,
    parse,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// `http://`, `https://` or `file://`.
    url: String,
    /// `sha256:` and 64 digits, or `sha512:` and 128. Needed, because it is what the key covers: a URL may give something else tomorrow.
    checksum: String,
    /// An absolute path in the guest; folders above it are made.
    dest: String,
    /// Octal digits; 0644 by default.
    chmod: Option<String>,
    /// `user` or `user:group`, by name or number; root by default.
    chown: Option<String>,
}

enum Source {
    Url(String),
    File(HostPath),
}

struct DownloadToStep {
    source: Source,
    checksum: Checksum,
    dest: String,
    looks: Looks,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let expected = || at("url").diagnostic("expected a URL with http or https, or `file:///` and a path");
    let source = match arguments.url.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() => Ok(Source::Url(arguments.url)),
        Some(("file", path)) if path.len() > 1 && path.starts_with('/') => match decode(path) {
            Some(path) => at("url").host_path(path).map(Source::File),
            None => Err(expected()),
        },
        _ => Err(expected()),
    };
    let source = keep(Some(source), &mut problems);
    let checksum = Checksum::parse(&arguments.checksum);
    if checksum.is_none() {
        problems.push(at("checksum").diagnostic(checksum::EXPECTED));
    }
    let dest = keep(Some(paths::guest_path(&arguments.dest, at("dest"))), &mut problems);
    let looks = Looks::read(node, arguments.chmod.as_deref(), arguments.chown.as_deref(), &mut problems);
    match (source, checksum, dest) {
        (Some(source), Some(checksum), Some(dest)) if problems.is_empty() => {
            Ok(Box::new(DownloadToStep { source, checksum, dest, looks }))
        }
        _ => Err(problems),
    }
}

impl Step for DownloadToStep {
    fn summary(&self) -> String {
        let name = match &self.source {
            Source::Url(url) => url.split(['?', '#']).next().unwrap_or_default(),
            Source::File(path) => &path.name(),
        };
        format!("{} <- {}", self.dest, super::first_line(name.rsplit('/').next().unwrap_or_default()))
    }

    fn key_inputs(&self) -> Result<StepKey> {
        // Wherever it comes from, its bytes are those of the checksum.
        let DownloadToStep { source: _, checksum, dest, looks } = self;
        let digest = match checksum {
            Checksum::Sha256(digest) => json!(digest),
            other => json!(other.to_string()),
        };
        StepKey::of(&json!({ "dest": dest, "digest": digest, "looks": looks }))
    }

    fn action(&self) -> Action<'_> {
        Action::InGuest(self)
    }
}

impl InGuest for DownloadToStep {
    fn run(&self, _: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        paths::tell_if_hidden(guest, &self.dest, context)?;
        let attributes = self.looks.of_a_file(guest)?;
        paths::make_parent(guest, &self.dest)?;
        let mut file = match &self.source {
            Source::Url(url) => (context.fetch)(url, &self.checksum)?,
            Source::File(path) => path.open().context(ErrorKind::Template, || format!("cannot read {}", path.display()))?,
        };
        file.rewind().context(ErrorKind::Host, || "cannot read what was fetched")?;
        let mut reader = Checking::new(file, &self.checksum);
        guest.write(&self.dest, &mut reader as &mut dyn Read, attributes)?;
        let Err(found) = reader.finish().1 else { return Ok(()) };
        match &self.source {
            Source::Url(_) => Err(Error::new(ErrorKind::Host, "what was fetched changed on its way into the guest")),
            Source::File(path) => {
                let (path, wanted) = (path.display(), &self.checksum);
                let message = format!("{path}: wrong checksum: expected {wanted}, found {found}");
                Err(Error::new(ErrorKind::Template, message).with_hint("compare with what its publisher says"))
            }
        }
    }
}
