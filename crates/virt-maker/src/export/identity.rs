//! What formats write into an image that is no content: names, identities, times. `qemu-img` draws them or takes them from
//! the moment; here they follow from the layer and the artifact's name, so the same layer gives the same bytes.
//!
//! Formats: VMware Virtual Disk Format 1.1 (sparse extents), Virtual Hard Disk Image Format Specification (footer).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::key::{Digest, LayerKey};

const SECTOR: u64 = 512;
/// More than any descriptor has, in sectors.
const DESCRIPTOR_MAX: u64 = 128;

/// Gives a vmdk its descriptor: `name` is the file that it is, as its users have it.
pub(super) fn vmdk(disk: &Path, name: &str, layer: LayerKey) -> io::Result<()> {
    let wrong = |what: &str| io::Error::other(format!("the vmdk {what}"));
    let file = File::options().read(true).write(true).open(disk)?;
    let mut head = [0; 44];
    file.read_exact_at(&mut head, 0)?;
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let (start, sectors) = (number(28), number(36));
    if !head.starts_with(b"KDMV") || start == 0 || !(1..=DESCRIPTOR_MAX).contains(&sectors) {
        return Err(wrong("has no descriptor where its header says"));
    }
    let mut bytes = vec![0; (sectors * SECTOR) as usize];
    file.read_exact_at(&mut bytes, start * SECTOR)?;
    let text = String::from_utf8_lossy(&bytes);
    let new = descriptor(text.trim_end_matches('\0'), name, content_id(layer));
    if new.len() >= bytes.len() {
        return Err(wrong("has no room for its name"));
    }
    bytes.fill(0);
    bytes[..new.len()].copy_from_slice(new.as_bytes());
    file.write_all_at(&bytes, start * SECTOR)
}

/// The number by which a snapshot knows its parent; all ones and the one below mean something else.
fn content_id(layer: LayerKey) -> u32 {
    let digest = Digest::of(format!("vmdk {}", layer.0).as_bytes());
    let [first, second, third, fourth, ..] = *digest.as_bytes();
    u32::from_be_bytes([first, second, third, fourth]) & 0x7fff_ffff
}

fn descriptor(text: &str, name: &str, id: u32) -> String {
    // A descriptor has no way to write these.
    let name = name.replace(['"', '\n', '\r'], "_");
    let mut new = String::new();
    for line in text.lines() {
        match (line.split_once('"'), line.rsplit_once('"')) {
            _ if line.starts_with("CID=") => new.push_str(&format!("CID={id:08x}")),
            (Some((before, _)), Some((_, after))) if line.starts_with("RW ") => {
                new.push_str(&format!("{before}\"{name}\"{after}"));
            }
            _ => new.push_str(line),
        }
        new.push('\n');
    }
    new
}

/// Gives a vhd the time 0 (of the year 2000) and an identity of its layer's.
pub(super) fn vhd(disk: &Path, layer: LayerKey) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(disk)?;
    let place = file.metadata()?.len().checked_sub(SECTOR).ok_or_else(|| io::Error::other("the vhd has no footer"))?;
    let mut footer = [0; SECTOR as usize];
    file.read_exact_at(&mut footer, place)?;
    if !footer.starts_with(b"conectix") {
        return Err(io::Error::other("the vhd has no footer at its end"));
    }
    footer[24..28].fill(0);
    let digest = Digest::of(format!("vhd {}", layer.0).as_bytes());
    footer[68..84].copy_from_slice(&digest.as_bytes()[..16]);
    // One that nobody drew from a clock or a name: version 8.
    footer[74] = footer[74] & 0x0f | 0x80;
    footer[76] = footer[76] & 0x3f | 0x80;
    footer[64..68].fill(0);
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    file.write_all_at(&footer, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_has_the_name_and_the_number_that_it_is_given() {
        let text = "# Disk DescriptorFile\nCID=79aa0ddb\nparentCID=ffffffff\n\nRW 8 SPARSE \"tmp \"x\".4711\"\nddb.a = \"4\"\n";
        let new = descriptor(text, "we\"b.vmdk", 0x2a);
        let wanted =
            "# Disk DescriptorFile\nCID=0000002a\nparentCID=ffffffff\n\nRW 8 SPARSE \"we_b.vmdk\"\nddb.a = \"4\"\n";
        assert_eq!(new, wanted);
    }
}
