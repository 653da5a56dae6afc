//! Documents whose blocks are run by a test.

use std::path::Path;

/// The blocks of a Markdown document that a comment `<!-- test: WORDS -->` stands before: those words, and the block's text;
/// in order.
pub fn blocks(document: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(document).expect("the document can be read");
    let found = text.split("<!-- test: ").skip(1).map(|part| {
        let (words, rest) = part.split_once(" -->\n```").expect("a block follows the comment");
        let (_, rest) = rest.split_once('\n').expect("a block has lines");
        let (block, _) = rest.split_once("\n```").expect("the block ends");
        (words.to_owned(), format!("{block}\n"))
    });
    found.collect()
}
