//! SELinux labels of many files, as they are sent: entries of binary data, one after another, each whole in its frame.
//!
//! ```text
//! kind: u8   path: u32 and bytes   label: u32 and bytes
//! ```
//! Numbers are little endian. Names are bytes: not every guest writes UTF-8.

use crate::walk::PATH_MAX;

/// The extended attribute that holds a label, with a NUL at its end.
pub const ATTRIBUTE: &str = "security.selinux";
/// Longest label that is taken, in bytes: a page, which is the kernel's own limit.
pub const LABEL_MAX: usize = 4 << 10;

/// A file and its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// What it is, by the letter that `find` has for it: `f`, `d`, `l`, `c`, `b`, `p` or `s`.
    pub kind: u8,
    /// Absolute path in the guest, as bytes.
    pub path: Vec<u8>,
    /// The label without its NUL; empty where there is none.
    pub label: Vec<u8>,
}

impl Labelled {
    /// Appends it to a frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind);
        for bytes in [&self.path, &self.label] {
            out.extend((bytes.len() as u32).to_le_bytes());
            out.extend(bytes);
        }
    }

    /// Takes the next one off a frame; `None` where it is broken.
    pub fn decode(frame: &mut &[u8]) -> Option<Labelled> {
        let (kind, rest) = frame.split_first()?;
        *frame = rest;
        let path = bytes(frame, PATH_MAX)?;
        let label = bytes(frame, LABEL_MAX)?;
        let parts = || path.split(|byte| *byte == b'/');
        let leads_out = parts().any(|part| matches!(part, b"." | b".."));
        if !b"fdlcbps".contains(kind) || !path.starts_with(b"/") || path.contains(&0) || leads_out {
            return None;
        }
        Some(Labelled { kind: *kind, path, label })
    }
}

fn bytes(frame: &mut &[u8], longest: usize) -> Option<Vec<u8>> {
    let (length, rest) = frame.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (bytes, rest) = rest.split_at_checked(length).filter(|_| length <= longest)?;
    *frame = rest;
    Some(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let entry = |path: &[u8], label: &[u8]| Labelled { kind: b'l', path: path.into(), label: label.into() };
        let entries = [entry(b"/", b""), entry(b"/caf\xe9\n", b"system_u:object_r:etc_t:s0")];
        let mut frame = Vec::new();
        entries.iter().for_each(|entry| entry.encode(&mut frame));
        let mut rest = &frame[..];
        assert_eq!([Labelled::decode(&mut rest).unwrap(), Labelled::decode(&mut rest).unwrap()], entries);
        assert!(rest.is_empty());
        for length in 0..10 {
            assert_eq!(Labelled::decode(&mut &frame[..length.min(8)]), None, "{length}");
        }
        let wrong = [
            Labelled { kind: b'x', ..entry(b"/a", b"") },
            entry(b"a", b""),
            entry(b"/a/../b", b""),
            entry(b"/a", &[b'x'; LABEL_MAX + 1]),
        ];
        for entry in wrong {
            let mut frame = Vec::new();
            entry.encode(&mut frame);
            assert_eq!(Labelled::decode(&mut &frame[..]), None, "{entry:?}");
        }
    }
}
