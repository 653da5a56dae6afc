//! Reading a picture of a screen that is not in text mode, by `tesseract`.
//!
//! The picture is what a guest made of its screen, so the program reads it within walls.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::host::walls::Walls;
use crate::host::{self, Cancel};

const PROGRAM: &str = "tesseract";
const PACKAGE: &str = "tesseract-ocr";

/// A word of a picture, with its place in pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    text: String,
    /// Block, paragraph and line: equal in words of one line.
    line: [u32; 3],
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

/// Whether pictures can be read here.
pub(super) fn is_there() -> bool {
    host::find_program(PROGRAM).is_some()
}

/// The words of a picture, in their order, line by line.
pub(super) fn words(picture: &Path, cancel: &Cancel) -> Result<Vec<Word>> {
    if !is_there() {
        let message =
            format!("the screen is in graphics mode, and `{PROGRAM}`, which reads pictures, is not installed");
        return Err(Error::new(ErrorKind::Host, message).with_hint(format!("install the package `{PACKAGE}`")));
    }
    // 11: words wherever they are, in no order of a page.
    let said = Walls::for_data()
        .read(picture)?
        .env("OMP_THREAD_LIMIT", "1")
        .tool(PROGRAM, PACKAGE)
        .arg(picture)
        .args(["stdout", "--psm", "11", "tsv", "quiet"])
        .run(cancel)?;
    Ok(parse(&String::from_utf8_lossy(&said)))
}

/// After "TSV output" of tesseract's manual: level, page, block, paragraph, line, word, left, top, width, height, confidence, text.
fn parse(said: &str) -> Vec<Word> {
    let word = |line: &str| {
        let parts: Vec<&str> = line.split('\t').collect();
        let number = |at: usize| parts.get(at)?.parse::<u32>().ok();
        let text = parts.get(11).map(|text| text.trim()).filter(|text| !text.is_empty())?;
        let line = [number(2)?, number(3)?, number(4)?];
        let [left, top, width, height] = [number(6)?, number(7)?, number(8)?, number(9)?];
        Some(Word { text: text.to_owned(), line, left, top, width, height })
    };
    said.lines().filter_map(word).collect()
}

/// The text that words make, with a line for each of theirs.
pub(super) fn text(words: &[Word]) -> String {
    let line = |words: &[Word]| words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
    words.chunk_by(|one, other| one.line == other.line).map(line).collect::<Vec<_>>().join("\n")
}

/// The middle of a text that stands in one line.
pub(super) fn place(words: &[Word], text: &str) -> Option<(u32, u32)> {
    let wanted: Vec<&str> = text.split_whitespace().collect();
    if wanted.is_empty() {
        return None;
    }
    let fits = |found: &&[Word]| {
        found.iter().all(|word| word.line == found[0].line)
            && found.iter().zip(&wanted).all(|(word, wanted)| word.text == *wanted)
    };
    let found = words.windows(wanted.len()).find(fits)?;
    let (first, last) = (found.first()?, found.last()?);
    let (left, right) = (first.left, last.left.saturating_add(last.width));
    Some((left.midpoint(right), first.top.saturating_add(first.height / 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_their_lines_and_their_places() {
        let said = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n\
                    1\t1\t0\t0\t0\t0\t0\t0\t640\t480\t-1\t\n\
                    5\t1\t1\t1\t1\t1\t10\t20\t30\t8\t96.1\tInstall\n\
                    5\t1\t1\t1\t1\t2\t50\t20\t30\t8\t96.1\tnow\n\
                    5\t1\t2\t1\t1\t1\t100\t200\t20\t10\t90\tnow\n";
        let words = parse(said);
        assert_eq!(text(&words), "Install now\nnow");
        assert_eq!(place(&words, "Install now"), Some((45, 24)));
        assert_eq!(place(&words, "now now"), None);
        assert_eq!(place(&words, "then"), None);
        assert_eq!(place(&words, " "), None);
    }
}
