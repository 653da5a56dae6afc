//! What all verbs have in common that look into layers.

use virt_maker::engine::{EngineSettings, Opener};
use virt_maker::event::Events;
use virt_maker::host::Cancel;
use virt_maker::inspect::{Inside, Look};
use virt_maker::store::Store;

use super::loading;
use crate::arguments::layers::Opening;
use crate::error::Failure;
use crate::{environment, report, settings, signals};

/// The store, and with what its layers are opened.
pub fn prepare(opening: &Opening) -> Result<(Store, Opener), Failure> {
    let cancel = Cancel::default();
    signals::listen(&cancel)?;
    let store = settings::open_store(opening.store.store.clone())?.waiting(report::waits(&cancel));
    let engines = EngineSettings {
        agent: environment::agent(),
        engine_cache: environment::cache_dir()?,
        engine: opening.engine.into(),
        kernel: settings::kernel(opening.kernel.kernel.clone())?,
        network_env: environment::proxies(),
        host_network: loading::host_network(&[])?,
    };
    Ok((store, Opener::new(engines, &Events::new(report::warnings_only), &cancel)))
}

/// Opens the layer that a name means.
pub fn open(layer: &str, opening: &Opening) -> Result<Inside, Failure> {
    let (store, opener) = prepare(opening)?;
    Ok(inside(&store, layer, &opener)?.0)
}

/// Opens the layer that a name means, or the guest of a failed step that was kept; whether it is such a one.
pub fn inside(store: &Store, name: &str, opener: &Opener) -> Result<(Inside, bool), Failure> {
    let look = Look::find(store, name)?;
    let kept = matches!(look, Look::Kept(..));
    Ok((Inside::open(store, look, opener)?, kept))
}

/// Permissions as `ls -l` shows them, with the letter of the kind.
pub fn permissions(kind: virt_maker::guest::FileKind, mode: u32) -> String {
    use virt_maker::guest::FileKind;
    let kind = match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Other => '?',
    };
    let mut text = String::from(kind);
    // For each of user, group, others: the bits, and the special bit with the letter that stands for it.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// Text of many lines from outside, made harmless line by line.
pub fn harmless_lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let body = line.strip_suffix('\n').unwrap_or(line);
        // Tabs do no harm, and columns need them.
        let parts: Vec<_> = body.split('\t').map(crate::text::harmless).collect();
        shown.push_str(&parts.join("\t"));
        if body.len() < line.len() {
            shown.push('\n');
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use virt_maker::guest::FileKind;

    #[test]
    fn permissions_read_as_those_of_ls() {
        let shown = [0o755, 0o4755, 0o1777, 0o640, 0o2610].map(|mode| super::permissions(FileKind::File, mode));
        assert_eq!(shown, ["-rwxr-xr-x", "-rwsr-xr-x", "-rwxrwxrwt", "-rw-r-----", "-rw---s---"]);
    }

    #[test]
    fn lines_and_tabs_stay_and_nothing_else_does() {
        assert_eq!(super::harmless_lines("a\tb\n\x1b[2Jc\r\nd"), "a\tb\n\\u{1b}[2Jc \nd");
    }
}
