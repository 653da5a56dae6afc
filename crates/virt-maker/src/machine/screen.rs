//! What is on the screen of a machine, where that is text.
//!
//! A PC in text mode has 25 lines of 80 cells at 0xB8000, two bytes each: a character of code page 437, and its colours.
//! So such a screen is read exactly, and in a few milliseconds.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::engine::qmp::Qmp;
use crate::error::{Context, Error, ErrorKind, Result};

const ADDRESS: u64 = 0xb8000;
const COLUMNS: usize = 80;
const LINES: usize = 25;

/// Code page 437 from 0x80 on; and what it shows for 0x00 to 0x1f.
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
const LOWER: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";

/// The lines of a screen in text mode, without blanks at their ends; what is in that memory otherwise, where it is in another
/// mode. `folder` is one of ours, for a moment.
pub(super) fn text(qmp: &mut Qmp, folder: &Path) -> Result<String> {
    let path = folder.join("screen.bin");
    let name = path.to_str().ok_or_else(|| Error::new(ErrorKind::Store, "the store's path is not UTF-8"))?;
    let size = COLUMNS * LINES * 2;
    qmp.execute("pmemsave", json!({"val": ADDRESS, "size": size, "filename": name}))?;
    let bytes = fs::read(&path).context(ErrorKind::Internal, || "cannot read what qemu saved of the screen")?;
    let _ = fs::remove_file(&path);
    Ok(decode(&bytes))
}

/// Saves what is on the screen as a picture, PNG, in whatever mode it is.
pub(super) fn picture(qmp: &mut Qmp, path: &Path) -> Result<()> {
    let name = path.to_str().ok_or_else(|| Error::new(ErrorKind::Store, "the store's path is not UTF-8"))?;
    qmp.execute("screendump", json!({"filename": name, "format": "png"})).map(drop)
}

fn decode(bytes: &[u8]) -> String {
    let (lower, upper): (Vec<char>, Vec<char>) = (LOWER.chars().collect(), UPPER.chars().collect());
    let character = |byte: u8| match byte {
        0x00..0x20 => lower[usize::from(byte)],
        0x20..0x7f => char::from(byte),
        0x7f => '⌂',
        0x80.. => upper[usize::from(byte - 0x80)],
    };
    let cells: Vec<u8> = bytes.chunks_exact(2).map(|cell| cell[0]).collect();
    let lines = cells.chunks(COLUMNS).map(|line| line.iter().map(|byte| character(*byte)).collect::<String>());
    let lines: Vec<String> = lines.map(|line| line.trim_end().to_owned()).collect();
    let end = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    lines[..end].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_as_code_page_437() {
        assert_eq!((LOWER.chars().count(), UPPER.chars().count()), (0x20, 0x80));
        let mut bytes = [0x20, 0x07].repeat(COLUMNS * LINES);
        for (at, byte) in [(0, b'G'), (1, 0xcd), (2, 0xba), (COLUMNS * 2, b'>')] {
            bytes[at * 2] = byte;
        }
        assert_eq!(decode(&bytes), "G═║\n\n>");
        assert_eq!(decode(&[]), "");
    }
}
