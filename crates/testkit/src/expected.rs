//! What is expected of a text stands in a file of the tree; whoever changed what makes it has it written anew and reads the
//! difference.
#![expect(clippy::disallowed_methods, reason = "whoever runs a test asks for new texts by a variable")]

use std::fs;
use std::path::Path;

/// Lines around the first difference that a failure shows.
const AROUND: usize = 6;

/// Panics unless `found` is what stands in `file`, with the place where they part; with `UPDATE_EXPECTED` in the environment it
/// writes the file. `what` says what was found.
#[track_caller]
pub fn expect_file(what: &str, file: &Path, found: &str) {
    let expected = fs::read_to_string(file).unwrap_or_default();
    if expected == found {
        return;
    }
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(file, found).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        return;
    }
    let same = expected.lines().zip(found.lines()).take_while(|(one, other)| one == other).count();
    let part = |text: &str| {
        let lines = text.lines().enumerate().skip(same.saturating_sub(AROUND)).take(2 * AROUND);
        lines.map(|(number, line)| format!("{:5} {line}\n", number + 1)).collect::<String>()
    };
    panic!(
        "{what}: {} says otherwise from line {} on (`UPDATE_EXPECTED=1` with this test writes it anew)\nexpected:\n{}found:\n{}",
        file.display(),
        same + 1,
        part(&expected),
        part(found)
    );
}
