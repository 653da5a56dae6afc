//! SELinux labels of the guest's files, by `getfattr` and `setfattr` in the appliance.
//!
//! The appliance's kernel has no SELinux, so labels are attributes there and nothing else. Both programs know one text
//! form, in which whatever is odd in a name is `\` and three octal digits.

use std::collections::HashMap;
use std::fmt::Write as _;

use virt_maker_agent::label::ATTRIBUTE;

use super::session::LibguestfsSession;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::Labelled;

/// Where the guest is mounted in the appliance; with the dot, a search enters it.
const ROOT: &str = "/sysroot/.";
/// Where the appliance keeps labels that are to be set.
const LABELS: &str = "/tmp/virt-maker-labels";

impl LibguestfsSession {
    /// The labels of all files. What cannot have one is listed too, and is no error when it gets one.
    pub(super) fn list_labels(&mut self) -> Result<Vec<Labelled>> {
        let what = "cannot read the labels of the guest's files";
        let broken = || Error::new(ErrorKind::Internal, what);
        let find = format!("find {ROOT} -printf '%y\\0%p\\0'");
        let found = self.listing(&find, what)?;
        let dump = format!("getfattr -R -P -h --absolute-names -m '^security\\.selinux$' -e hex -d {ROOT} 2>/dev/null");
        let dump = self.listing(&dump, what)?;
        let mut labels = HashMap::new();
        let mut name = None;
        for line in dump.split(|byte| *byte == b'\n') {
            if let Some(path) = line.strip_prefix(b"# file: ") {
                name = Some(unquoted(path).ok_or_else(broken)?);
            } else if let (Some(path), Some(value)) = (&name, line.strip_prefix(b"security.selinux=0x")) {
                labels.insert(path.clone(), label(value).ok_or_else(broken)?);
            }
        }
        let fields: Vec<&[u8]> = found.split(|byte| *byte == 0).collect();
        let entries = fields.chunks_exact(2).map(|pair| {
            let kind = *pair[0].first()?;
            let below = pair[1].strip_prefix(ROOT.as_bytes())?;
            let path = if below.is_empty() { b"/".to_vec() } else { below.to_vec() };
            Some(Labelled { kind, path, label: labels.remove(pair[1]).unwrap_or_default() })
        });
        entries.collect::<Option<Vec<_>>>().ok_or_else(broken)
    }

    /// Sets labels in their order.
    pub(super) fn write_labels(&mut self, labels: &[Labelled]) -> Result<()> {
        self.appliance.cancel.check()?;
        let what = "cannot label the guest's files";
        let mut text = String::new();
        for entry in labels {
            let digits = base16ct::lower::encode_string(&entry.label);
            // The kernel keeps the byte that ends a text.
            let _ = write!(text, "# file: /sysroot{}\n{ATTRIBUTE}=0x{digits}00\n\n", quoted(&entry.path));
        }
        // File systems that can hold no labels are none of our business; what else it says is.
        let command = format!(
            "setfattr -h --restore={LABELS} 2>&1 | grep -v ': Operation not supported$' | head -n 3; rm -f {LABELS}"
        );
        self.work_off(&text, LABELS, &command, ErrorKind::Internal, what)
    }

    /// Uploads a text to a place in the appliance, and has its shell run a command that works it off and is silent. What it says
    /// all the same is an error of this kind.
    pub(super) fn work_off(
        &mut self,
        text: &str,
        place: &str,
        command: &str,
        kind: ErrorKind,
        what: &str,
    ) -> Result<()> {
        let path = self.work_dir.join("upload");
        std::fs::write(&path, text).context(ErrorKind::Host, || format!("cannot write {}", path.display()))?;
        let uploaded = self.appliance.handle.debug_upload(&path.to_string_lossy(), place, 0o600);
        let said = uploaded.and_then(|()| self.appliance.handle.appliance_sh(command));
        let _ = std::fs::remove_file(&path);
        let said = said.map_err(|error| self.appliance.error(kind, what, error))?;
        if said.trim().is_empty() {
            return Ok(());
        }
        Err(Error::new(kind, format!("{what}: {}", said.trim().escape_debug())))
    }
}

/// The value of an attribute in hexadecimal, up to its NUL.
fn label(digits: &[u8]) -> Option<Vec<u8>> {
    Some(base16ct::mixed::decode_vec(digits).ok()?.split(|byte| *byte == 0).next()?.to_vec())
}

pub(super) fn quoted(path: &[u8]) -> String {
    let mut text = String::new();
    for byte in path {
        match byte {
            b'\\' | ..=b' ' | 0x7f.. => {
                let _ = write!(text, "\\{byte:03o}");
            }
            byte => text.push(*byte as char),
        }
    }
    text
}

fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'\\' {
            let (digits, after) = rest.split_at_checked(3)?;
            path.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?);
            rest = after;
        } else {
            path.push(*byte);
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_the_programs_do_it() {
        let name = b"/a b\\c\nd\xff";
        assert_eq!(quoted(name), r"/a\040b\134c\012d\377");
        assert_eq!(unquoted(quoted(name).as_bytes()).unwrap(), name);
        assert_eq!(unquoted(br"\12"), None);
        assert_eq!(label(b"613a623a6300").unwrap(), b"a:b:c");
    }
}
