//! The bytes of a disk, read in process through all images of its chain: for a look at a few of them. Whoever wants much of a disk
//! gives it to qemu.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::qcow2::map::{Map, Piece, fill};
use super::{Image, ImageFormat, qcow2};
use crate::host::own;

/// Clusters that were unpacked last are kept up to this number: a table and what it leads to.
const KEPT: usize = 4;

/// An open disk. Nothing that is in it is believed; what is wrong with it is an error of [`io`].
pub struct Content {
    /// From the top down.
    images: Vec<Opened>,
    size: u64,
    position: u64,
    /// By the number of the image and the entry in its table.
    unpacked: Vec<((usize, u64), Vec<u8>)>,
}

enum Opened {
    Raw(File, u64),
    Qcow2(Map),
}

impl Content {
    /// Opens all of the chain.
    pub fn open(image: &Image) -> io::Result<Content> {
        let broken = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
        let (mut path, mut format) = (image.path().to_owned(), image.format());
        let mut images = Vec::new();
        while images.len() < image.images() {
            let file = own::reader(&path)?;
            match format {
                ImageFormat::Raw => {
                    let length = file.metadata()?.len();
                    images.push(Opened::Raw(file, length));
                    break;
                }
                ImageFormat::Qcow2 => {
                    let below = qcow2::below(&file).map_err(broken)?;
                    images.push(Opened::Qcow2(Map::open(file).map_err(broken)?));
                    let Some((name, of)) = below else { break };
                    path.set_file_name(name);
                    format = if of.as_deref() == Some(ImageFormat::Raw.name()) { ImageFormat::Raw } else { format };
                }
            }
        }
        let size = images.first().map_or(0, Opened::size);
        Ok(Content { images, size, position: 0, unpacked: Vec::new() })
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads from one place as much as lies together, at most what `bytes` has room for; how much that was.
    fn read_some(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut count = bytes.len().min(usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(0);
        }
        for (number, opened) in self.images.iter().enumerate() {
            // A smaller disk below a larger one is zero behind its end.
            let end = opened.size();
            if at >= end {
                break;
            }
            count = count.min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let map = match opened {
                Opened::Raw(file, _) => {
                    fill(file, at, &mut bytes[..count])?;
                    return Ok(count);
                }
                Opened::Qcow2(map) => map,
            };
            let (piece, rest) = map.piece(at)?;
            count = count.min(usize::try_from(rest).unwrap_or(usize::MAX));
            match piece {
                Piece::Below => continue,
                Piece::Zero => break,
                Piece::Data(place) => map.read(place, &mut bytes[..count])?,
                Piece::Compressed(word) => {
                    let kept = self.unpacked.iter().position(|(of, _)| *of == (number, word));
                    let place = match kept {
                        Some(place) => place,
                        None => {
                            let cluster = map.unpacked(word)?;
                            if self.unpacked.len() == KEPT {
                                self.unpacked.remove(0);
                            }
                            self.unpacked.push(((number, word), cluster));
                            self.unpacked.len() - 1
                        }
                    };
                    let cluster = &self.unpacked[place].1;
                    let from = cluster.len() - rest as usize;
                    bytes[..count].copy_from_slice(&cluster[from..from + count]);
                }
            }
            return Ok(count);
        }
        bytes[..count].fill(0);
        Ok(count)
    }
}

impl Opened {
    fn size(&self) -> u64 {
        match self {
            Opened::Raw(_, length) => *length,
            Opened::Qcow2(map) => map.size(),
        }
    }
}

impl Read for Content {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.read_some(self.position, bytes)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Content {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.position = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn qemu_img(folder: &Path, arguments: &str) {
        let done = Command::new("qemu-img").args(arguments.split_whitespace()).current_dir(folder).status().unwrap();
        assert!(done.success(), "qemu-img {arguments}");
    }

    /// What qemu wrote is what is read: holes, zeros, what is compressed in two ways, subclusters, and a chain of all that.
    #[test]
    fn a_chain_reads_as_qemu_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = &folder.path().canonicalize().unwrap();
        let mut disk = vec![0; 4 << 20];
        for (at, byte) in disk.iter_mut().enumerate().skip(70_000).take(900_000) {
            *byte = (at / 700) as u8;
        }
        std::fs::write(folder.join("a.raw"), &disk).unwrap();
        for (name, options) in [
            ("zlib", "-c"),
            ("zstd", "-c -o compression_type=zstd"),
            ("plain", "-o cluster_size=4k"),
            ("old", "-c -o compat=0.10"),
            ("extended", "-o extended_l2=on,cluster_size=128k"),
        ] {
            qemu_img(folder, &format!("convert -f raw -O qcow2 {options} a.raw {name}.qcow2"));
            qemu_img(folder, &format!("create -q -f qcow2 -o extended_l2=on -F qcow2 -b {name}.qcow2 middle.qcow2"));
            qemu_img(folder, "create -q -f qcow2 -o cluster_size=4k -F qcow2 -b middle.qcow2 top.qcow2 6M");
            let writes = ["write -P 7 80k 3k", "write -z 100k 8k", "write -P 9 5M 64k"];
            let (below, above) = writes.split_at(1);
            for (image, commands) in [("middle.qcow2", below), ("top.qcow2", above)] {
                let mut io = Command::new("qemu-io");
                io.args(["-f", "qcow2"]).arg(folder.join(image));
                for command in commands {
                    io.args(["-c", command]);
                }
                assert!(io.output().unwrap().status.success());
            }
            qemu_img(folder, "convert -f qcow2 -O raw top.qcow2 expected.raw");
            let image = Image::alone(&folder.join(format!("{name}.qcow2")), ImageFormat::Qcow2).unwrap();
            let mut found = Vec::new();
            Content::open(&image).unwrap().read_to_end(&mut found).unwrap();
            assert!(found == disk, "{name}");
            let image = Image::chained(&folder.join("top.qcow2"), ImageFormat::Qcow2, |_, _| Ok(())).unwrap();
            let mut found = Vec::new();
            Content::open(&image).unwrap().read_to_end(&mut found).unwrap();
            assert!(found == std::fs::read(folder.join("expected.raw")).unwrap(), "{name}, a chain");
        }
    }

    /// Any byte of the tables may be anything.
    #[test]
    fn a_broken_image_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("b.qcow2");
        qemu_img(folder.path(), "create -q -f qcow2 -o cluster_size=512 b.qcow2 1M");
        let io = Command::new("qemu-io").args(["-f", "qcow2", "-c", "write -P 3 0 9k"]).arg(&path).output().unwrap();
        assert!(io.status.success());
        let sound = std::fs::read(&path).unwrap();
        let mut random = 1u32;
        for _ in 0..4000 {
            let mut broken = sound.clone();
            for _ in 0..3 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = random as usize / 7 % broken.len();
                broken[at] = (random >> 24) as u8;
            }
            std::fs::write(&path, &broken).unwrap();
            let Ok(image) = Image::chained(&path, ImageFormat::Qcow2, |_, _| Ok(())) else { continue };
            let Ok(mut content) = Content::open(&image) else { continue };
            let mut bytes = [0; 16 << 10];
            let _ = content.read_exact(&mut bytes);
            let _ = content.seek(SeekFrom::Start(u64::MAX - 3)).and_then(|_| content.read_exact(&mut bytes));
        }
    }
}
