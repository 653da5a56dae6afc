//! What every export takes besides its path, read once.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::beside;
use super::compress::Compress;
use crate::diagnostic::Diagnostic;
use crate::host::permit::Output;
use crate::template::{Node, Script};

/// What every export takes. An option that is new is one field of one of these groups; [`Common::key`] has to say then
/// whether it shapes the artifact.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Every {
    /// Remove what an image for many machines must not carry: identity, SSH host keys, seeds, logs, histories, caches.
    #[serde(default)]
    pub clean: bool,
    /// Write a `.manifest.json` beside it: template, layers, base, packages of the guest with their versions.
    #[serde(default)]
    pub manifest: bool,
    /// A script on the host that runs before the artifact is written; needs `--allow host-exec`.
    pub pre_script: Option<String>,
    /// A script on the host that runs when it is in place; needs `--allow host-exec`.
    pub post_script: Option<String>,
}

/// What exports take that write one file.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct OneFile {
    /// The file to write.
    pub path: PathBuf,
    /// Make missing folders.
    #[serde(default)]
    pub create_dir: bool,
    /// Note the artifact's digest in a `SHA256SUMS` beside it.
    #[serde(default)]
    pub checksum: bool,
}

/// What exports take whose file may be compressed as a whole.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct Compressed {
    /// Compress the whole file.
    pub compress: Option<Compress>,
    /// From 1 to 9, for `gzip`, `xz` and `zstd`.
    pub level: Option<u32>,
}

/// What exports of a disk take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct WholeDisk {
    /// Drop the blocks that no file system of the guest uses, by trimming them.
    #[serde(default)]
    pub sparsify: bool,
    /// Make the file system of the last partition (ext4, ext3 or ext2) and the disk as small as they can be.
    #[serde(default)]
    pub shrink: bool,
}

/// Arguments that were checked; of the groups that an export does not take, what is so without them.
#[derive(Debug)]
pub struct Common {
    /// The artifact's path.
    pub target: Output,
    /// Whether the export is made of the guest's tree and not of its disk.
    pub tree: bool,
    /// The scripts of the host, before and after.
    pub scripts: [Option<Script>; 2],
    /// The folder that these run in.
    pub folder: PathBuf,
    /// See [`Every`].
    pub every: Every,
    /// See [`OneFile`].
    pub file: OneFile,
    /// See [`Compressed`].
    pub compressed: Compressed,
    /// See [`WholeDisk`].
    pub disk: WholeDisk,
}

impl Common {
    /// Checks arguments.
    pub(super) fn check(
        node: &Node,
        file: OneFile,
        compressed: Compressed,
        disk: WholeDisk,
        every: Every,
    ) -> Result<Common, Vec<Diagnostic>> {
        let at = |name: &str| node.get(name).unwrap_or(node);
        let mut problems = Vec::new();
        let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let target = match at("path").output(&file.path) {
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
        if file.checksum && name.is_some_and(|name| name.contains(['\n', '\\', '\u{fffd}'])) {
            problems
                .push(at("path").diagnostic("a name that SHA256SUMS cannot hold: a line break, a `\\`, or no UTF-8"));
        }
        match (compressed.level, compressed.compress) {
            (Some(_), None) => problems.push(at("level").diagnostic("`level` needs `compress`")),
            (Some(_), Some(Compress::Lz4)) => {
                problems.push(at("level").diagnostic("lz4 is written at one level; leave `level` out, or take zstd"));
            }
            (Some(level), _) if !(1..=9).contains(&level) => {
                problems.push(at("level").diagnostic("expected a level from 1 to 9"));
            }
            _ => {}
        }
        let scripts = [("pre_script", &every.pre_script), ("post_script", &every.post_script)];
        for (name, _) in scripts.iter().filter(|(_, script)| script.as_ref().is_some_and(|text| text.trim().is_empty()))
        {
            problems.push(at(name).diagnostic("the script is empty"));
        }
        let Some(target) = target.filter(|_| problems.is_empty()) else { return Err(problems) };
        // They end where a step's script would.
        let scripts = scripts.map(|(name, text)| text.clone().map(|text| Script::new(text, at(name))));
        let folder = node.source.folder.clone();
        Ok(Common { target, tree: false, scripts, folder, every, file, compressed, disk })
    }

    /// Whether the guest has to be opened for it.
    pub fn needs_guest(&self) -> bool {
        self.disk.sparsify || self.every.clean || self.every.manifest || self.tree
    }

    /// All files that the export writes: the artifact, and what is written beside it.
    pub fn outputs(&self) -> Vec<Output> {
        let manifest = beside::manifest_path(self.target.path());
        let manifest = manifest.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let beside = [(self.file.checksum, beside::SUMS), (self.every.manifest, &*manifest)];
        let beside = beside.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| self.target.beside(name));
        std::iter::once(self.target.clone()).chain(beside).collect()
    }

    /// What shapes the artifact.
    pub fn key(&self) -> Value {
        let Common { target: _, tree: _, scripts: [before, after], folder: _, every, file, compressed, disk } = self;
        // Where it lies, and what lies beside it, is no part of the artifact; the scripts are keyed with what runs them.
        let Every { clean, manifest: _, pre_script: _, post_script: _ } = every;
        let OneFile { path: _, create_dir: _, checksum: _ } = file;
        let Compressed { compress, level } = compressed;
        let WholeDisk { sparsify, shrink } = disk;
        let mut key = json!({
            "compress": compress.map(Compress::name),
            "level": level,
            "sparsify": sparsify,
            "clean": clean,
            "pre_script": before,
            "post_script": after,
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
