//! What the image exports share: `qemu-img convert` with explicit formats, then compression of the whole file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::arguments::{Common, Compressed, Every, OneFile, WholeDisk};
use super::compress::compress_file;
use super::{Export, ExportContext, identity};
use crate::diagnostic::Diagnostic;
use crate::disk::ImageFormat;
use crate::disk::overlay::{self, Backing};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Meter;
use crate::host::Tool;
use crate::template::{Node, Parts};

/// A format that qemu-img writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Qcow2(Qcow),
    Raw,
    /// For VMware: compressed, to be read from its beginning.
    VmdkStream,
    /// For Hyper-V of the first generation and Azure: all of it there, whole MiB.
    VhdFixed,
    Vhdx,
    Vdi,
}

/// What a qcow2 is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Qcow {
    /// How its data are compressed, as qemu calls it.
    pub inside: Option<&'static str>,
    /// In the form of 0.10, which has no room for newer features.
    pub old: bool,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Target::Qcow2(_) => "qcow2",
            Target::Raw => "raw",
            Target::VmdkStream => "vmdk",
            Target::VhdFixed => "vpc",
            Target::Vhdx => "vhdx",
            Target::Vdi => "vdi",
        }
    }
}

/// An export of a disk image.
pub(super) struct ImageExport {
    pub format: Target,
    pub common: Common,
}

/// What most of them take.
pub(super) type Arguments = (OneFile, Compressed, WholeDisk, Every);

/// Reads the arguments of an export of this format.
pub(super) fn parse(node: &Node, format: Target) -> Result<Box<dyn Export>, Vec<Diagnostic>> {
    let (file, compressed, disk, every) = Arguments::read(node)?;
    let common = Common::check(node, file, compressed, disk, every)?;
    if format == Target::VmdkStream && common.compressed.compress.is_some() {
        let problem = node.get("compress").unwrap_or(node).diagnostic("a vmdk for streams is compressed already");
        return Err(vec![problem]);
    }
    Ok(Box::new(ImageExport { format, common }))
}

impl Export for ImageExport {
    fn common(&self) -> &Common {
        &self.common
    }

    fn arguments(&self) -> serde_json::Value {
        let mut key = self.common.key();
        if let Target::Qcow2(Qcow { inside, old }) = self.format {
            if let Some(inside) = inside {
                key["compress"] = inside.into();
            }
            // Only then, so that artifacts of earlier versions are still current.
            if old {
                key["compat"] = "0.10".into();
            }
        }
        key
    }

    fn write(&self, temporary: &Path, context: &ExportContext<'_>) -> Result<()> {
        let failed = || "cannot write the artifact";
        let plain = self.common.compressed.compress.map(|_| Removed(temporary.with_extension("plain")));
        let image = plain.as_ref().map_or(temporary, |plain| &plain.0);
        convert(self.format, image, context)?;
        let name = self.common.target.path().file_name().unwrap_or_default().to_string_lossy();
        match self.format {
            Target::VmdkStream => identity::vmdk(image, &name, context.key).context(ErrorKind::Export, failed)?,
            Target::VhdFixed => identity::vhd(image, context.key).context(ErrorKind::Export, failed)?,
            _ => {}
        }
        let Compressed { compress, level } = self.common.compressed;
        match compress {
            Some(compress) => compress_file(compress, level, image, temporary, context),
            None => Ok(()),
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
pub(super) fn convert(format: Target, target: &Path, context: &ExportContext<'_>) -> Result<()> {
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
        Target::Qcow2(Qcow { inside, old }) => {
            let tool = if inside.is_some() { tool.arg("-c") } else { tool };
            match (old, inside) {
                // Its only way to compress.
                (true, _) => tool.args(["-o", "compat=0.10"]),
                (false, Some(inside)) => tool.args(["-o", &format!("compression_type={inside}")]),
                (false, None) => tool,
            }
        }
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
