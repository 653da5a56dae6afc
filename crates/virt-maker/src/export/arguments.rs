//! What every export takes besides its path, read once.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::compress::Compress;
use super::{Extras, beside};
use crate::diagnostic::Diagnostic;
use crate::host::permit::Output;
use crate::template::{Node, Script, from_node};

/// Arguments of the exports that write a disk image.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// The file to write.
    pub path: PathBuf,
    /// Make missing folders.
    #[serde(default)]
    pub create_dir: bool,
    /// Compress the whole file.
    pub compress: Option<Compress>,
    /// From 1 to 9, for `gzip`, `xz` and `zstd`.
    pub level: Option<u32>,
    /// Drop the blocks that no file system of the guest uses, by trimming them.
    #[serde(default)]
    pub sparsify: bool,
    /// Make the file system of the last partition (ext4, ext3 or ext2) and the disk as small as they can be.
    #[serde(default)]
    pub shrink: bool,
    /// Remove what an image for many machines must not carry: identity, SSH host keys, seeds, logs, histories, caches.
    #[serde(default)]
    pub clean: bool,
    /// Note the artifact's digest in a `SHA256SUMS` beside it.
    #[serde(default)]
    pub checksum: bool,
    /// Write a `.manifest.json` beside it: template, layers, base, packages of the guest with their versions.
    #[serde(default)]
    pub manifest: bool,
    /// A script on the host that runs before the artifact is written; needs `--allow host-exec`.
    pub pre_script: Option<String>,
    /// A script on the host that runs when it is in place; needs `--allow host-exec`.
    pub post_script: Option<String>,
}

/// Arguments that were checked.
#[derive(Debug)]
pub struct Common {
    /// The artifact's path.
    pub target: Output,
    /// Whether a missing folder of the target is made.
    pub create_dir: bool,
    /// How the whole file is compressed.
    pub(super) compress: Option<Compress>,
    /// At which level.
    pub(super) level: Option<u32>,
    /// What is wanted besides the artifact's own bytes.
    pub extras: Extras,
}

impl Common {
    /// Checks arguments.
    pub(super) fn check(node: &Node, arguments: Arguments) -> Result<Common, Vec<Diagnostic>> {
        let at = |name: &str| node.get(name).unwrap_or(node);
        let mut problems = Vec::new();
        let name = arguments.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let target = match at("path").output(&arguments.path) {
            _ if name.is_none() => {
                problems.push(at("path").diagnostic("expected the path of a file"));
                None
            }
            Ok(target) => Some(target),
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        if arguments.checksum && name.is_some_and(|name| name.contains(['\n', '\\', '\u{fffd}'])) {
            problems
                .push(at("path").diagnostic("a name that SHA256SUMS cannot hold: a line break, a `\\`, or no UTF-8"));
        }
        match (arguments.level, arguments.compress) {
            (Some(_), None) => problems.push(at("level").diagnostic("`level` needs `compress`")),
            (Some(_), Some(Compress::Lz4)) => {
                problems.push(at("level").diagnostic("lz4 is written at one level; leave `level` out, or take zstd"));
            }
            (Some(level), _) if !(1..=9).contains(&level) => {
                problems.push(at("level").diagnostic("expected a level from 1 to 9"));
            }
            _ => {}
        }
        for (name, script) in [("pre_script", &arguments.pre_script), ("post_script", &arguments.post_script)] {
            if script.as_ref().is_some_and(|script| script.trim().is_empty()) {
                problems.push(at(name).diagnostic("the script is empty"));
            }
        }
        let Some(target) = target.filter(|_| problems.is_empty()) else { return Err(problems) };
        let Arguments {
            create_dir,
            compress,
            level,
            sparsify,
            shrink,
            clean,
            checksum,
            manifest,
            pre_script,
            post_script,
            ..
        } = arguments;
        // They end where a step's script would.
        let script = |name: &str, text: Option<String>| text.map(|text| Script::new(text, at(name)));
        let (pre_script, post_script) = (script("pre_script", pre_script), script("post_script", post_script));
        let folder = node.source.folder.clone();
        let extras =
            Extras { sparsify, shrink, clean, tree: false, checksum, manifest, pre_script, post_script, folder };
        Ok(Common { target, create_dir, compress, level, extras })
    }

    /// Reads and checks them.
    pub(super) fn read(node: &Node) -> Result<Common, Vec<Diagnostic>> {
        Common::check(node, from_node(node)?)
    }

    /// All files that the export writes: the artifact, and what is written beside it.
    pub fn outputs(&self) -> Vec<Output> {
        let manifest = beside::manifest_path(self.target.path());
        let manifest = manifest.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let beside = [(self.extras.checksum, beside::SUMS), (self.extras.manifest, &*manifest)];
        let beside = beside.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| self.target.beside(name));
        std::iter::once(self.target.clone()).chain(beside).collect()
    }

    /// What shapes the artifact.
    pub fn key(&self) -> Value {
        let Extras { sparsify, shrink, clean, pre_script, post_script, .. } = &self.extras;
        let mut key = json!({
            "compress": self.compress.map(Compress::name),
            "level": self.level,
            "sparsify": sparsify,
            "clean": clean,
            "pre_script": pre_script.as_ref().map(Script::text),
            "post_script": post_script.as_ref().map(Script::text),
        });
        // Only then, so that artifacts of earlier versions are still current.
        if *shrink {
            key["shrink"] = true.into();
        }
        // Earlier versions left what deleted files had held, so their artifacts are made again.
        if *clean {
            key["erase"] = true.into();
        }
        key
    }
}
