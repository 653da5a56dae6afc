//! Pictures within a page, which is one file: as `data:` URLs (RFC 2397), with a bound for one and for all of them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Bytes of one picture. A screen of text has about 20 KB, one of a desktop about 1 MB.
const ONE: u64 = 4 << 20;
/// Bytes of all pictures of a page, which has a third more for them.
const ALL: u64 = 24 << 20;
/// What a PNG begins with (PNG, third edition, 5.2).
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Room for pictures in one page.
pub struct Pictures {
    room: u64,
}

impl Default for Pictures {
    fn default() -> Pictures {
        Pictures { room: ALL }
    }
}

impl Pictures {
    /// A picture for the page: what it is called, where it lies, and its `source`. One that is no PNG, or for which no room is left, has no
    /// source: the page says then where it lies.
    pub fn take(&mut self, name: &str, path: &Path) -> Value {
        json!({ "name": name, "path": path, "source": self.read(path).map(|bytes| source(&bytes)) })
    }

    /// The same of files that are called what their pictures are.
    pub fn take_all(&mut self, paths: &[PathBuf]) -> Vec<Value> {
        let name = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        paths.iter().map(|path| self.take(&name(path), path)).collect()
    }

    fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let most = ONE.min(self.room);
        File::open(path).ok()?.take(most + 1).read_to_end(&mut bytes).ok()?;
        let length = bytes.len() as u64;
        if length > most || !bytes.starts_with(PNG) {
            return None;
        }
        self.room -= length;
        Some(bytes)
    }
}

fn source(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", base64(bytes))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or_default()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place > group.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_letters() {
        // The vectors of RFC 4648, section 10.
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn a_page_has_room_for_so_many() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, begin: &[u8], length: usize| {
            let mut bytes = begin.to_vec();
            bytes.resize(length, 0);
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let mut pictures = Pictures { room: 100 };
        let (good, other) = (write("a.png", PNG, 60), write("b.png", b"GIF89a", 20));
        assert!(pictures.take("a", &good)["source"].as_str().unwrap().starts_with("data:image/png;base64,iVBOR"));
        let left = pictures.take_all(&[other, good.clone(), folder.path().join("none.png")]);
        assert!(left.iter().all(|picture| picture["source"].is_null()), "{left:?}");
        assert_eq!(left[1], json!({ "name": "a", "path": good, "source": null }));
        // One that fits is taken all the same.
        assert!(pictures.take("c", &write("c.png", PNG, 40))["source"].is_string());
        let large = write("d.png", PNG, ONE as usize + 1);
        assert!(Pictures::default().take("d", &large)["source"].is_null());
    }
}
