//! What the image exports share: their arguments, and `qemu-img convert` with explicit formats.

use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::compress::{Compress, compress_file};
use super::{Export, ExportContext};
use crate::diagnostic::Diagnostic;
use crate::disk::ImageFormat;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Meter;
use crate::host::Tool;
use crate::template::{Node, from_node};

/// Arguments of `qcow2` and `raw`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// The file to write.
    path: PathBuf,
    /// Make missing folders.
    #[serde(default)]
    create_dir: bool,
    /// `zstd` compresses inside a qcow2; the others, and `zstd` for raw, compress the whole file.
    compress: Option<Compress>,
    /// From 1 to 9, for `gzip`, `xz`, and `zstd` of a whole file.
    level: Option<u32>,
}

struct ImageExport {
    format: ImageFormat,
    target: PathBuf,
    create_dir: bool,
    compress: Option<Compress>,
    level: Option<u32>,
}

/// Reads the arguments of an export of this format.
pub(super) fn parse(node: &Node, format: ImageFormat) -> Result<Box<dyn Export>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let target = node.resolve_output(&arguments.path);
    if arguments.path.as_os_str().is_empty() || target.file_name().is_none() {
        problems.push(at("path").diagnostic("expected the path of a file"));
    }
    let inside = format == ImageFormat::Qcow2 && arguments.compress == Some(Compress::Zstd);
    match (arguments.level, arguments.compress) {
        (Some(_), None) => problems.push(at("level").diagnostic("`level` needs `compress`")),
        (Some(_), Some(_)) if inside => {
            problems
                .push(at("level").diagnostic("qemu-img compresses with zstd at a level of its own; leave `level` out"));
        }
        (Some(_), Some(Compress::Lz4)) => {
            problems.push(at("level").diagnostic("lz4 is written at one level; leave `level` out, or take zstd"));
        }
        (Some(level), _) if !(1..=9).contains(&level) => {
            problems.push(at("level").diagnostic("expected a level from 1 to 9"));
        }
        _ => {}
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let Arguments { create_dir, compress, level, .. } = arguments;
    Ok(Box::new(ImageExport { format, target, create_dir, compress, level }))
}

impl Export for ImageExport {
    fn target(&self) -> PathBuf {
        self.target.clone()
    }

    fn create_dir(&self) -> bool {
        self.create_dir
    }

    fn arguments(&self) -> serde_json::Value {
        json!({ "compress": self.compress.map(Compress::name), "level": self.level })
    }

    fn write(&self, temporary: &Path, context: &ExportContext<'_>) -> Result<()> {
        let inside = self.format == ImageFormat::Qcow2 && self.compress == Some(Compress::Zstd);
        match self.compress {
            Some(compress) if !inside => {
                let plain = Removed(temporary.with_extension("plain"));
                convert(self.format, false, &plain.0, context)?;
                compress_file(compress, self.level, &plain.0, temporary, context)
            }
            _ => convert(self.format, inside, temporary, context),
        }
    }
}

/// A file that is removed when this is dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn convert(format: ImageFormat, zstd: bool, target: &Path, context: &ExportContext<'_>) -> Result<()> {
    let mut tool = Tool::new("qemu-img", "qemu-utils")
        // Out-of-order writes by 16 coroutines: about four times as fast as the default.
        .args(["convert", "-p", "-W", "-m", "16", "-f", context.format.name(), "-O", format.name()]);
    if zstd {
        tool = tool.args(["-c", "-o", "compression_type=zstd"]);
    }
    let mut meter = Meter::permille(context.events, format!("export {}", format.name()));
    // With -p it says `(12.34/100%)`, each piece ended by a carriage return.
    let done = tool.arg("--").arg(context.layer).arg(target).run_pieces(b'\r', context.cancel, &mut |piece| {
        let text = String::from_utf8_lossy(piece);
        let percent = text.trim().strip_prefix('(').and_then(|text| text.split('/').next()?.parse::<f64>().ok());
        if let Some(percent) = percent {
            meter.at((percent * 10.0) as u64);
        }
    });
    done.map_err(|error| match error.kind() {
        // With a hint it is about the host, which lacks the program.
        ErrorKind::Host if error.hint().is_none() => {
            Error::new(ErrorKind::Export, "the artifact could not be made").with_source(error)
        }
        _ => error,
    })
}
