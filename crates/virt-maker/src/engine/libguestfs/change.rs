//! Changes of a file of the guest for which libguestfs has no call: its content alone, and why one is not permitted.
//!
//! Paths that the appliance's shell gets have a folder that was resolved within the guest, so that no link leads out of it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::fmt::Write as _;

use super::ffi::CallError;
use super::label::quoted;
use super::session::LibguestfsSession;
use super::shell::quote;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::Marks;

/// Where the appliance keeps times and attributes that are to be set, and the line that ends a list of them.
const MARKS: &str = "/tmp/virt-maker-marks";
const END: &str = "virt-maker-end-of-attributes";

/// The attribute that holds a program's capabilities.
const CAPABILITIES: &CStr = c"security.capability";

/// Gives `$new`'s content to `$old`, whose special bits and capabilities a write takes away. Room for it is made first.
///
/// Without KVM a program takes 50 ms to start there: none is for what may be left out.
const REPLACE: &str = r#"
set -e
facts=$(stat -c '%s %a' "$new" "$old")
set -- $facts
size=$1 before=$3 mode=$4
# It says nothing of a file without them. A line's end in the name is written in another way.
said=$(getfattr --absolute-names -h -e hex -n security.capability "$old" 2>/dev/null) || :
rights=
case $said in *'
security.capability='*) rights=${said##*security.capability=} ;; esac
if [ "$size" -gt "$before" ]; then
    said=$(fallocate -n -l "$size" "$old" 2>&1) || case $said in *'No space'*) echo "$said" >&2; exit 1 ;; esac
fi
dd "if=$new" "of=$old" bs=1M conv=notrunc status=none
[ "$size" -ge "$before" ] || truncate -s "$size" "$old"
case $mode in ????) chmod "$mode" "$old" ;; esac
[ -z "$rights" ] || setfattr -h -n security.capability -v "$rights" "$old"
"#;

impl LibguestfsSession {
    /// A path of the guest as the appliance's shell has it.
    pub(super) fn in_appliance(&mut self, path: &str) -> Result<String> {
        let (folder, name) = self.split(path)?;
        let real = self.call(&format!("cannot find {folder}"), |g| g.realpath(folder))?;
        Ok(format!("/sysroot{}/{name}", real.trim_end_matches('/')))
    }

    /// Gives a regular file, which has this mode, a content that goes with one call, and leaves all else of it.
    pub(super) fn write_over(&mut self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let handle = &mut self.appliance.handle;
        let written = handle.attribute(path, CAPABILITIES).and_then(|rights| {
            handle.write(path, content)?;
            // A write takes both away.
            if mode & 0o7000 != 0 {
                handle.chmod(mode as i32, path)?;
            }
            Ok(rights)
        });
        let denied = |session: &mut Self, error| session.denied(path, &format!("cannot write {path}"), error);
        let Some(rights) = written.map_err(|error| denied(self, error))? else { return Ok(()) };
        // `lsetxattr` takes no value with a zero byte in it.
        let place = quote(&self.in_appliance(path)?);
        let digits = base16ct::lower::encode_string(&rights);
        let set = format!("exec setfattr -h -n security.capability -v 0x{digits} {place}");
        self.appliance.handle.appliance_sh(&set).map(drop).map_err(|error| denied(self, error))
    }

    /// Gives a regular file the content of another one, and leaves all else of it.
    pub(super) fn replace_content(&mut self, new: &str, old: &str) -> Result<()> {
        let (from, to) = (self.in_appliance(new)?, self.in_appliance(old)?);
        let command = format!("new={} old={}\n{REPLACE}", quote(&from), quote(&to));
        let done = self.appliance.handle.appliance_sh(&command);
        done.map(drop).map_err(|mut error| {
            if error.message.contains("No space left") {
                error.errno = libc::ENOSPC;
            }
            self.denied(old, &format!("cannot write {old}"), error)
        })
    }

    /// Sets times and extended attributes.
    pub(super) fn write_marks(&mut self, marks: &[Marks]) -> Result<()> {
        self.appliance.cancel.check()?;
        let what = "cannot set times and attributes of the guest's files";
        let mut folders: HashMap<String, String> = HashMap::new();
        let mut times: BTreeMap<(i64, u32), Vec<String>> = BTreeMap::new();
        let mut attributes = String::new();
        for one in marks {
            let (folder, name) = self.split(&one.path)?;
            let folder = match folders.get(folder) {
                Some(known) => known.clone(),
                None => {
                    let real = self.call(what, |g| g.realpath(folder))?;
                    let real = format!("/sysroot{}", real.trim_end_matches('/'));
                    folders.insert(folder.to_owned(), real.clone());
                    real
                }
            };
            let place = format!("{folder}/{name}");
            if !one.attributes.is_empty() {
                let _ = writeln!(attributes, "# file: {}", quoted(place.as_bytes()));
                for (name, value) in &one.attributes {
                    let digits = base16ct::lower::encode_string(value);
                    let _ = writeln!(attributes, "{name}=0x{digits}");
                }
                attributes.push('\n');
            }
            if let Some(time) = one.modified {
                times.entry(time).or_default().push(place);
            }
        }
        let mut text = format!("cat >{MARKS}.x <<'{END}'\n{attributes}{END}\n");
        let _ =
            writeln!(text, "setfattr -h --restore={MARKS}.x 2>&1 | grep -v ': Operation not supported$' | head -n 3");
        for ((seconds, nanoseconds), places) in times {
            // So many words fit into an argument list.
            for places in places.chunks(200) {
                let words: Vec<String> = places.iter().map(|place| quote(place)).collect();
                let _ = writeln!(text, "touch -h -c -m -d @{seconds}.{nanoseconds:09} -- {}", words.join(" "));
            }
        }
        let command = format!("sh {MARKS} 2>&1; rm -f {MARKS} {MARKS}.x");
        self.work_off(&text, MARKS, &command, ErrorKind::Step, what)
    }

    /// The error of a change that failed. What is immutable, may only grow, or has no owners refuses with the words of a missing
    /// right.
    pub(super) fn denied(&mut self, path: &str, what: &str, error: CallError) -> Error {
        let not_permitted = error.errno == libc::EPERM || error.message.contains("Operation not permitted");
        let place = if not_permitted { self.in_appliance(path).ok() } else { None };
        if let Some(place) = place {
            let folder = place.rsplit_once('/').map_or("/sysroot", |(folder, _)| folder);
            let look = format!(
                "for one in {} {}; do lsattr -d \"$one\" 2>/dev/null | cut -d' ' -f1; echo; done; stat -f -c %T {}",
                quote(&place),
                quote(folder),
                quote(folder),
            );
            let said = self.appliance.handle.appliance_sh(&look).unwrap_or_default();
            let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
            for (line, subject) in lines.iter().zip(["it", "its folder"]) {
                let locked = [('i', "immutable"), ('a', "append-only")];
                if let Some((sign, how)) =
                    locked.into_iter().find(|(sign, _)| line.contains('-') && line.contains(*sign))
                {
                    let why = format!("{subject} is {how}; `chattr -{sign}` in a `run` step before would allow it");
                    return Error::new(ErrorKind::Guest, format!("{what}: {why}"));
                }
            }
            if matches!(lines.last(), Some(&("msdos" | "exfat"))) {
                let why =
                    "it lies on a FAT file system, which has no owners: all there belongs to root; leave the owner out";
                return Error::new(ErrorKind::Guest, format!("{what}: {why}"));
            }
        }
        self.appliance.error(ErrorKind::Step, what, error)
    }
}
