//! What the image exports share: their arguments, `qemu-img convert`, and compression of the whole file.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use super::{Export, ExportContext};
use crate::diagnostic::Diagnostic;
use crate::disk::ImageFormat;
use crate::error::{Context, ErrorKind, Result};
use crate::event::Event;
use crate::host::Tool;
use crate::template::{Node, from_node};

/// Arguments of `qcow2` and `raw`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    path: PathBuf,
    #[serde(default)]
    create_dir: bool,
    compress: Option<Compress>,
    level: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Compress {
    Gzip,
    Lz4,
    Xz,
    Zstd,
}

impl Compress {
    fn name(self) -> &'static str {
        match self {
            Compress::Gzip => "gzip",
            Compress::Lz4 => "lz4",
            Compress::Xz => "xz",
            Compress::Zstd => "zstd",
        }
    }
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
    let target = node.resolve(&arguments.path);
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
    // With -p it says `(12.34/100%)`, each piece ended by a carriage return.
    tool.arg("--").arg(context.layer).arg(target).run_pieces(b'\r', context.cancel, &mut |piece| {
        let text = String::from_utf8_lossy(piece);
        let percent = text.trim().strip_prefix('(').and_then(|text| text.split('/').next()?.parse::<f64>().ok());
        if let Some(percent) = percent {
            let done = (percent * 10.0) as u64;
            let what = format!("export {}", format.name());
            context.events.send(Event::Progress { what, done, total: Some(1000), unit: "permille" });
        }
    })
}

fn compress_file(
    compress: Compress,
    level: Option<u32>,
    from: &Path,
    to: &Path,
    context: &ExportContext<'_>,
) -> Result<()> {
    let failed = || format!("cannot compress the artifact with {}", compress.name());
    let input = File::open(from).context(ErrorKind::Export, failed)?;
    let total = input.metadata().context(ErrorKind::Export, failed)?.len();
    let mut input = Counted { inner: BufReader::with_capacity(1 << 20, input), done: 0, total, context };
    let output = BufWriter::with_capacity(1 << 20, File::create_new(to).context(ErrorKind::Export, failed)?);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32;
    let work = || -> io::Result<()> {
        let mut output = match compress {
            Compress::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(output, flate2::Compression::new(level.unwrap_or(6)));
                io::copy(&mut input, &mut encoder)?;
                encoder.finish()?
            }
            Compress::Xz => {
                let stream = liblzma::stream::MtStreamBuilder::new()
                    .preset(level.unwrap_or(6))
                    .check(liblzma::stream::Check::Crc64)
                    .threads(threads)
                    .encoder()?;
                let mut encoder = liblzma::write::XzEncoder::new_stream(output, stream);
                io::copy(&mut input, &mut encoder)?;
                encoder.finish()?
            }
            Compress::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(output);
                io::copy(&mut input, &mut encoder)?;
                encoder.finish().map_err(io::Error::other)?
            }
            Compress::Zstd => {
                let mut encoder = zstd::Encoder::new(output, level.map_or(3, |level| level as i32))?;
                encoder.multithread(threads)?;
                encoder.include_checksum(true)?;
                io::copy(&mut input, &mut encoder)?;
                encoder.finish()?
            }
        };
        output.flush()
    };
    let done = work();
    context.cancel.check()?;
    done.context(ErrorKind::Export, failed)
}

/// A reader that says how far it is and ends when the build is cancelled.
struct Counted<'a, R> {
    inner: R,
    done: u64,
    total: u64,
    context: &'a ExportContext<'a>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.context.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let count = self.inner.read(buffer)?;
        let before = self.done >> 24;
        self.done += count as u64;
        if self.done >> 24 != before || count == 0 {
            let (done, total) = (self.done, Some(self.total));
            self.context.events.send(Event::Progress { what: "compress".into(), done, total, unit: "bytes" });
        }
        Ok(count)
    }
}
