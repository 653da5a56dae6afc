//! `download_to`: a file from a URL, into the guest. The host fetches it and checks it, so the guest needs no program
//! for it.

use std::io::{Read, Seek};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::support::host_file::Hashed;
use super::support::owner::{Looks, keep};
use super::support::paths;
use super::{Step, StepContext, StepKey, StepKind};
use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::{Attributes, Guest};
use crate::key::Digest;
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
    /// `sha256:` and 64 digits. Needed, because it is what the key covers: a URL may give something else tomorrow.
    checksum: String,
    /// An absolute path in the guest; folders above it are made.
    dest: String,
    /// Octal digits; 0644 by default.
    chmod: Option<String>,
    /// `user` or `user:group`, by name or number; root by default.
    chown: Option<String>,
}

struct DownloadToStep {
    url: String,
    digest: Digest,
    dest: String,
    looks: Looks,
}

fn parse(node: &Node) -> Result<Box<dyn Step>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let rest = ["http://", "https://", "file:///"].iter().find_map(|scheme| arguments.url.strip_prefix(scheme));
    if rest.is_none_or(str::is_empty) {
        problems.push(at("url").diagnostic("expected a URL with http or https, or `file:///` and a path"));
    }
    let digest = arguments.checksum.strip_prefix("sha256:").and_then(Digest::parse);
    if digest.is_none() {
        problems.push(at("checksum").diagnostic("expected `sha256:` and 64 hexadecimal digits"));
    }
    let dest = keep(Some(paths::guest_path(&arguments.dest, at("dest"))), &mut problems);
    let looks = Looks::read(node, arguments.chmod.as_deref(), arguments.chown.as_deref(), &mut problems);
    match (digest, dest) {
        (Some(digest), Some(dest)) if problems.is_empty() => {
            Ok(Box::new(DownloadToStep { url: arguments.url, digest, dest, looks }))
        }
        _ => Err(problems),
    }
}

impl Step for DownloadToStep {
    fn summary(&self) -> String {
        let name = self.url.split(['?', '#']).next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        format!("{} <- {}", self.dest, super::first_line(name))
    }

    fn key_inputs(&self) -> Result<StepKey> {
        let arguments = json!({ "dest": self.dest, "digest": self.digest, "looks": self.looks.key() });
        Ok(StepKey { arguments, inputs: Vec::new() })
    }

    fn run(&self, _: &StepKey, guest: &mut dyn Guest, context: &StepContext<'_>) -> Result<()> {
        let given = self.looks.attributes(guest)?;
        let attributes = Attributes {
            mode: given.mode.or(Some(0o644)),
            uid: given.uid.or(Some(0)),
            gid: given.gid.or(Some(0)),
        };
        paths::make_parent(guest, &self.dest)?;
        let mut file = (context.fetch)(&self.url, self.digest)?;
        file.rewind().context(ErrorKind::Host, || "cannot read what was fetched")?;
        let mut reader = Hashed::new(file);
        guest.write(&self.dest, &mut reader as &mut dyn Read, attributes)?;
        if reader.digest() == self.digest {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Host, "what was fetched changed on its way into the guest"))
    }
}
