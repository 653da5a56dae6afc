//! What is on the screen of a machine: in which mode it is, its text where it is in text mode, and a picture of it.
//!
//! A display adapter in text mode shows cells of its memory at 0xB8000, two bytes each: a character of code page 437, and its colours.
//! Which cells those are, its registers say: Linux scrolls by moving the first one. So such a screen is read exactly, and in
//! milliseconds. The registers are those of every VGA (IBM, "PS/2 Hardware Interface Technical Reference", 1992, "Video Subsystem"). All but one in
//! each group are reached by an index that the guest uses too, so its CPUs stand still while they are read, and get the index back.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::engine::qmp::Qmp;
use crate::error::{Context, Error, ErrorKind, Result};

/// Where the text memory begins, and how large it is.
const ADDRESS: u64 = 0xb8000;
const SIZE: usize = 32 << 10;

/// Ports of the CRT controller and of the graphics controller: that of the index; the data is one further.
const CRT: u16 = 0x3d4;
const GRAPHICS: u16 = 0x3ce;
/// Registers of the CRT controller.
const COLUMNS: u8 = 0x01;
const OVERFLOW: u8 = 0x07;
const CELL: u8 = 0x09;
const START_HIGH: u8 = 0x0c;
const START_LOW: u8 = 0x0d;
const HEIGHT: u8 = 0x12;
const OFFSET: u8 = 0x13;
/// A register of the graphics controller, and its bit that says that there is no text.
const MISCELLANEOUS: u8 = 0x06;
const IS_GRAPHIC: u8 = 1;
/// More lines and columns than this no text mode has.
const MOST: usize = 200;

/// Code page 437 from 0x80 on; and what it shows for 0x00 to 0x1f.
const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
const LOWER: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";

/// Where the cells of a screen in text mode are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cells {
    columns: usize,
    lines: usize,
    /// Bytes from the begin of the text memory to the first one, and from line to line.
    start: usize,
    stride: usize,
}

/// The lines of a screen in text mode, without blanks at their ends; nothing where it is in another mode. `folder` is one of ours, for a
/// moment.
pub(super) fn text(qmp: &mut Qmp, folder: &Path) -> Result<Option<String>> {
    let path = folder.join("screen.bin");
    let name = path.to_str().ok_or_else(|| Error::new(ErrorKind::Store, "the store's path is not UTF-8"))?;
    let cells = match still(qmp, |qmp| {
        let cells = cells(qmp)?;
        if cells.is_some() {
            qmp.execute("pmemsave", json!({"val": ADDRESS, "size": SIZE, "filename": name}))?;
        }
        Ok(cells)
    })? {
        Some(cells) => cells,
        None => return Ok(None),
    };
    let bytes = fs::read(&path).context(ErrorKind::Internal, || "cannot read what qemu saved of the screen")?;
    let _ = fs::remove_file(&path);
    Ok(Some(decode(&bytes, cells)))
}

/// Saves what is on the screen as a picture, PNG, in whatever mode it is.
pub(super) fn picture(qmp: &mut Qmp, path: &Path) -> Result<()> {
    let name = path.to_str().ok_or_else(|| Error::new(ErrorKind::Store, "the store's path is not UTF-8"))?;
    qmp.execute("screendump", json!({"filename": name, "format": "png"})).map(drop)
}

/// The width and the height of a picture of ours, from its head (PNG, third edition, 11.2.1).
pub(super) fn size(png: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
    match png.get(12..16)? == b"IHDR" {
        true => Some((number(16)?, number(20)?)),
        false => None,
    }
}

/// Does something while the guest's CPUs stand still.
fn still<T>(qmp: &mut Qmp, work: impl FnOnce(&mut Qmp) -> Result<T>) -> Result<T> {
    let status = |qmp: &mut Qmp| -> Result<String> {
        let answer = qmp.execute("query-status", json!({}))?;
        Ok(answer["status"].as_str().unwrap_or_default().to_owned())
    };
    // One that is off, or whose kernel gave up, stands already, and stays so.
    if status(qmp)? != "running" {
        return work(qmp);
    }
    qmp.execute("stop", json!({}))?;
    let done = work(qmp);
    match qmp.execute("cont", json!({})) {
        // It powered itself off just before.
        Err(error) if status(qmp)? == "paused" => Err(error),
        _ => done,
    }
}

/// What the registers say; nothing where the screen is in no text mode.
fn cells(qmp: &mut Qmp) -> Result<Option<Cells>> {
    let [misc] = registers(qmp, GRAPHICS, [MISCELLANEOUS])?;
    if misc & IS_GRAPHIC != 0 {
        return Ok(None);
    }
    let read = registers(qmp, CRT, [COLUMNS, OVERFLOW, CELL, START_HIGH, START_LOW, HEIGHT, OFFSET])?;
    Ok(geometry(read))
}

fn geometry([columns, overflow, cell, high, low, height, offset]: [u8; 7]) -> Option<Cells> {
    let rows = usize::from(height) | usize::from(overflow & 0x02) << 7 | usize::from(overflow & 0x40) << 3;
    let cells = Cells {
        columns: usize::from(columns) + 1,
        lines: (rows + 1) / (usize::from(cell & 0x1f) + 1),
        start: (usize::from(high) << 8 | usize::from(low)) * 2,
        stride: usize::from(offset) * 4,
    };
    (cells.columns <= MOST && (1..=MOST).contains(&cells.lines) && cells.stride > 0).then_some(cells)
}

/// Some registers that are reached by an index.
fn registers<const N: usize>(qmp: &mut Qmp, port: u16, indices: [u8; N]) -> Result<[u8; N]> {
    let before = input(qmp, port)?;
    let mut found = [0; N];
    for (index, found) in indices.into_iter().zip(&mut found) {
        output(qmp, port, index)?;
        *found = input(qmp, port + 1)?;
    }
    output(qmp, port, before)?;
    Ok(found)
}

/// A byte from a port: `portb[0x03d5] = 0x4f`.
fn input(qmp: &mut Qmp, port: u16) -> Result<u8> {
    let said = monitor(qmp, format!("i /b 0x{port:x}"))?;
    let value = said.rsplit_once("= 0x").and_then(|(_, value)| u8::from_str_radix(value.trim(), 16).ok());
    value.ok_or_else(|| Error::new(ErrorKind::Internal, "qemu does not say what is in a register"))
}

fn output(qmp: &mut Qmp, port: u16, value: u8) -> Result<()> {
    monitor(qmp, format!("o /b 0x{port:x} 0x{value:x}")).map(drop)
}

fn monitor(qmp: &mut Qmp, line: String) -> Result<String> {
    match qmp.execute("human-monitor-command", json!({"command-line": line}))? {
        Value::String(said) => Ok(said),
        _ => Ok(String::new()),
    }
}

fn decode(bytes: &[u8], cells: Cells) -> String {
    let (lower, upper): (Vec<char>, Vec<char>) = (LOWER.chars().collect(), UPPER.chars().collect());
    let character = |byte: u8| match byte {
        0x00..0x20 => lower[usize::from(byte)],
        0x20..0x7f => char::from(byte),
        0x7f => '⌂',
        0x80.. => upper[usize::from(byte - 0x80)],
    };
    let Cells { columns, lines, start, stride } = cells;
    let cell = |line: usize, column: usize| {
        let at = (start + line * stride + column * 2) % SIZE;
        character(bytes.get(at).copied().unwrap_or_default())
    };
    let line = |line: usize| (0..columns).map(|column| cell(line, column)).collect::<String>().trim_end().to_owned();
    let lines: Vec<String> = (0..lines).map(line).collect();
    let end = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    lines[..end].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the registers hold in the mode that a PC begins in: 80 by 25, cells of 16 rows.
    const BEGIN: [u8; 7] = [0x4f, 0x1f, 0x4f, 0, 0, 0x8f, 0x28];

    #[test]
    fn cells_are_read_as_code_page_437() {
        assert_eq!((LOWER.chars().count(), UPPER.chars().count()), (0x20, 0x80));
        let cells = geometry(BEGIN).unwrap();
        assert_eq!(cells, Cells { columns: 80, lines: 25, start: 0, stride: 160 });
        let mut bytes = [0x20, 0x07].repeat(SIZE / 2);
        for (at, byte) in [(0, b'G'), (1, 0xcd), (2, 0xba), (160, b'>')] {
            bytes[at * 2] = byte;
        }
        assert_eq!(decode(&bytes, cells), "G═║\n\n>");
        assert_eq!(decode(&[], cells), "");
    }

    #[test]
    fn a_screen_that_was_scrolled_begins_further_down_and_goes_on_at_the_begin_of_the_memory() {
        let mut registers = BEGIN;
        // 204 lines of 80 cells fit into the memory: the last of them first.
        let last = 203 * 80_u16;
        [registers[3], registers[4]] = last.to_be_bytes();
        let mut bytes = [0x20, 0x07].repeat(SIZE / 2);
        bytes[usize::from(last) * 2] = b'a';
        bytes[(usize::from(last) * 2 + 160) % SIZE] = b'b';
        assert_eq!(decode(&bytes, geometry(registers).unwrap()), "a\nb");
        assert_eq!(geometry([0xff; 7]), None);
    }

    #[test]
    fn a_picture_says_its_size() {
        let head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\xd0\0\0\x01\x90\x08";
        assert_eq!(size(head), Some((720, 400)));
        assert_eq!(size(b"P6\n720 400"), None);
    }
}
