//! What the image exports share: `qemu-img convert` with explicit formats, then compression of the whole file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::arguments::Common;
use super::compress::{Compress, compress_file};
use super::{Export, ExportContext};
use crate::diagnostic::Diagnostic;
use crate::disk::ImageFormat;
use crate::disk::overlay::{self, Backing};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Meter;
use crate::host::Tool;
use crate::template::Node;

/// A format that qemu-img writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Qcow2,
    Raw,
    /// For VMware: compressed, to be read from its beginning.
    VmdkStream,
    /// For Hyper-V of the first generation and Azure: all of it there, whole MiB.
    VhdFixed,
    Vhdx,
    Vdi,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Target::Qcow2 => "qcow2",
            Target::Raw => "raw",
            Target::VmdkStream => "vmdk",
            Target::VhdFixed => "vpc",
            Target::Vhdx => "vhdx",
            Target::Vdi => "vdi",
        }
    }

    /// What it compresses by itself.
    fn inside(self) -> Option<Compress> {
        (self == Target::Qcow2).then_some(Compress::Zstd)
    }
}

struct ImageExport {
    format: Target,
    common: Common,
}

/// Reads the arguments of an export of this format.
pub(super) fn parse(node: &Node, format: Target) -> Result<Box<dyn Export>, Vec<Diagnostic>> {
    let common = Common::read(node, format.inside())?;
    if format == Target::VmdkStream && common.compress.is_some() {
        let problem = node.get("compress").unwrap_or(node).diagnostic("a vmdk for streams is compressed already");
        return Err(vec![problem]);
    }
    Ok(Box::new(ImageExport { format, common }))
}

impl Export for ImageExport {
    fn common(&self) -> &Common {
        &self.common
    }

    fn write(&self, temporary: &Path, context: &ExportContext<'_>) -> Result<()> {
        match self.common.compress {
            Some(compress) if self.format.inside() != Some(compress) => {
                let plain = Removed(temporary.with_extension("plain"));
                convert(self.format, false, &plain.0, context)?;
                compress_file(compress, self.common.level, &plain.0, temporary, context)
            }
            compress => convert(self.format, compress.is_some(), temporary, context),
        }
    }
}

/// A file that is removed when this is dropped.
pub(super) struct Removed(pub PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes the disk of the context to `target`, which does not exist yet.
pub(super) fn convert(format: Target, zstd: bool, target: &Path, context: &ExportContext<'_>) -> Result<()> {
    const MIB: u64 = 1 << 20;
    let mut tool = Tool::new("qemu-img", "qemu-utils").confined().args(["convert", "-p"]);
    tool = match format {
        // Written from its beginning to its end.
        Target::VmdkStream => tool,
        // Out-of-order writes by 16 coroutines: about four times as fast as the default.
        _ => tool.args(["-W", "-m", "16"]),
    };
    tool = match format {
        Target::VmdkStream => tool.args(["-o", "subformat=streamOptimized"]),
        // Without `force_size` the disk would have a size of the geometry of old disks.
        Target::VhdFixed => tool.args(["-o", "subformat=fixed,force_size=on"]),
        _ if zstd => tool.args(["-c", "-o", "compression_type=zstd"]),
        _ => tool,
    };
    // Azure takes only disks of whole MiB; what is added at the end is empty.
    let padding = Removed(target.with_extension("padding"));
    let rest = context.virtual_size % MIB;
    if format == Target::VhdFixed && rest != 0 {
        overlay::create(&padding.0, context.virtual_size + MIB - rest, Backing { name: "", format: ImageFormat::Raw })?;
        tool = tool.arg("-O").arg(format.name()).arg(source(&[(&padding.0, ImageFormat::Qcow2)], context)?);
    } else {
        tool = tool.arg("-O").arg(format.name()).arg(source(&[], context)?);
    }
    let mut meter = Meter::permille(context.events, format!("export {}", format.name()));
    // With -p it says `(12.34/100%)`, each piece ended by a carriage return.
    let done = tool.arg(target).run_pieces(b'\r', context.cancel, &mut |piece| {
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

/// What qemu reads: images on top, then the overlay of the export if there is one, then the layer, which names what is
/// below it. Every format is said.
fn source(top: &[(&Path, ImageFormat)], context: &ExportContext<'_>) -> Result<String> {
    let overlay = context.overlay.map(|path| (path, ImageFormat::Qcow2));
    let layer = (context.layer)()?;
    let stack = top.iter().copied().chain(overlay).chain([(layer.path(), layer.format())]);
    let mut node = serde_json::Value::Null;
    for (path, format) in stack.collect::<Vec<_>>().into_iter().rev() {
        let Some(name) = path.to_str() else {
            let message = format!("qemu cannot open {}: its name is not UTF-8", path.display());
            return Err(Error::new(ErrorKind::Export, message));
        };
        let mut image = json!({"driver": format.name(), "file": {"driver": "file", "filename": name}});
        if !node.is_null() {
            image["backing"] = node;
        }
        node = image;
    }
    Ok(format!("json:{node}"))
}
