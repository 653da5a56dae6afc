//! Compressed images: which compression it is, by the first bytes and never by the name, and a reader for it.

use std::io::{self, BufRead, Read};

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
    Lz4,
}

/// How many bytes [`Compression::of`] wants to see.
pub(crate) const SIGNATURE: usize = 6;
/// Most memory that unpacking xz may take, in bytes; its largest preset needs a quarter of it.
const XZ_MEMORY: u64 = 256 << 20;

impl Compression {
    /// The compression of a file that begins with `head`.
    pub(crate) fn of(head: &[u8]) -> Compression {
        match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            // A file may begin with a skippable frame: pzstd writes such.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Lz4,
            _ => Compression::None,
        }
    }

    /// A reader of the content. Files of several members or streams are read to the end; a truncated file is an error.
    pub(crate) fn reader<'a, R: BufRead + 'a>(self, file: R) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
            Compression::Xz => Box::new(Xz::new(file)?),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
            Compression::Lz4 => Box::new(Lz4::new(file)),
        })
    }
}

/// Reads stream after stream. Streams of several blocks, which xz writes by default since 5.6, are unpacked by all
/// cores; the decoder that does so knows only one stream.
struct Xz<R: BufRead> {
    stream: Option<liblzma::bufread::XzDecoder<R>>,
}

impl<R: BufRead> Xz<R> {
    fn new(file: R) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32;
        let decoder = liblzma::stream::MtStreamBuilder::new()
            .threads(threads)
            .memlimit_threading(XZ_MEMORY)
            .memlimit_stop(XZ_MEMORY)
            .decoder()?;
        Ok(Xz { stream: Some(liblzma::bufread::XzDecoder::new_stream(file, decoder)) })
    }
}

impl<R: BufRead> Read for Xz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(stream) = &mut self.stream {
            let count = stream.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let mut file = self.stream.take().expect("there is one").into_inner();
            // Between streams there may be padding.
            loop {
                let ahead = file.fill_buf()?;
                let padding = ahead.iter().take_while(|byte| **byte == 0).count();
                if ahead.is_empty() {
                    return Ok(0);
                }
                let all = padding == ahead.len();
                file.consume(padding);
                if !all {
                    break;
                }
            }
            *self = Xz::new(file)?;
        }
        Ok(0)
    }
}

/// Reads frame after frame. The decoder takes the end of the file for the end of a frame, wherever it comes; here it
/// is the end only between two frames.
struct Lz4<R: Read> {
    decoder: lz4_flex::frame::FrameDecoder<Ended<R>>,
    between_frames: bool,
}

impl<R: Read> Lz4<R> {
    fn new(file: R) -> Self {
        let file = Ended { file, ended: false };
        Lz4 { decoder: lz4_flex::frame::FrameDecoder::new(file), between_frames: false }
    }
}

impl<R: Read> Read for Lz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let count = self.decoder.read(buffer)?;
            match (count, self.decoder.get_ref().ended) {
                (0, true) if self.between_frames => return Ok(0),
                (0, true) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends within a frame")),
                (0, false) => self.between_frames = true,
                (count, _) => {
                    self.between_frames = false;
                    return Ok(count);
                }
            }
        }
    }
}

/// Remembers that its end was reached.
struct Ended<R> {
    file: R,
    ended: bool,
}

impl<R: Read> Read for Ended<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.ended |= count == 0 && !buffer.is_empty();
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    const TOOLS: [(Compression, &[&str]); 6] = [
        (Compression::Gzip, &["gzip", "-c"]),
        (Compression::Bzip2, &["bzip2", "-c"]),
        (Compression::Xz, &["xz", "-c"]),
        (Compression::Xz, &["xz", "-c", "-T2", "--block-size=100KiB"]),
        (Compression::Zstd, &["zstd", "-c"]),
        (Compression::Lz4, &["lz4", "-c"]),
    ];

    fn pack(tool: &[&str], bytes: &[u8]) -> Vec<u8> {
        let mut command = Command::new(tool[0]);
        command.args(&tool[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success(), "{tool:?}");
        output.stdout
    }

    fn unpack(compression: Compression, packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        compression.reader(packed)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Partly random, so that there are several blocks of each kind; ends with zeroes.
    fn sample() -> Vec<u8> {
        let mut state = 1u32;
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(600_000)
        .collect();
        bytes.resize(10 << 20, 0);
        bytes
    }

    #[test]
    fn what_the_real_tools_write_is_read() {
        let bytes = sample();
        for (compression, tool) in TOOLS {
            let packed = pack(tool, &bytes);
            assert_eq!(Compression::of(&packed[..SIGNATURE]), compression, "{tool:?}");
            assert!(unpack(compression, &packed).unwrap() == bytes, "{tool:?}");
        }
        for tool in [&["lz4", "-c", "--no-frame-crc"][..], &["lz4", "-c", "-BD", "-B4"]] {
            assert!(unpack(Compression::Lz4, &pack(tool, &bytes)).unwrap() == bytes, "{tool:?}");
        }
        assert_eq!(Compression::of(b"QFI\xfb\0\0"), Compression::None);
        assert_eq!(Compression::of(b""), Compression::None);
    }

    #[test]
    fn all_members_of_a_file_are_read() {
        for (compression, tool) in TOOLS {
            let packed =
                [pack(tool, b"first "), pack(tool, b"second "), pack(tool, b""), pack(tool, b"third")].concat();
            assert_eq!(unpack(compression, &packed).unwrap(), b"first second third", "{tool:?}");
        }
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let bytes = sample();
        let no_checksum: &[&str] = &["lz4", "-c", "--no-frame-crc"];
        for (compression, tool) in TOOLS.into_iter().chain([(Compression::Lz4, no_checksum)]) {
            let packed = pack(tool, &bytes);
            let cuts = [10, 100, packed.len() / 3, packed.len() - 9, packed.len() - 4, packed.len() - 1];
            for cut in cuts {
                assert!(unpack(compression, &packed[..cut]).is_err(), "{tool:?} cut at {cut} of {}", packed.len());
            }
        }
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        for (compression, tool) in TOOLS {
            let mut packed = pack(tool, &sample());
            let middle = packed.len() / 2;
            packed[middle] ^= 0x10;
            assert!(unpack(compression, &packed).is_err(), "{tool:?}");
        }
    }
}
