//! CDs and floppies with files on them, made without any right: by `xorriso`, and by `mtools`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::subordinate::SYSTEM_PATH;
use crate::host::{self, Cancel, Tool};

/// Files by their names, which are plain ones.
pub type Files = [(String, Vec<u8>)];

const XORRISO: &str = "xorriso";

/// Whether CDs can be made here. The error says what is missing.
pub fn check_cd() -> Result<()> {
    match host::find_program(XORRISO) {
        Some(_) => Ok(()),
        None => Err(Error::new(ErrorKind::Host, format!("a CD with files is made by `{XORRISO}`"))
            .with_hint("it comes with the package `xorriso`")),
    }
}

/// Makes a CD at a path that does not exist yet: ISO 9660 with the names of Unix and of Windows. What `xorriso` says goes to `log`.
pub fn make_cd(files: &Files, target: &Path, label: &str, log: &Path, cancel: &Cancel) -> Result<()> {
    let folder = written(files, target)?;
    Tool::new(XORRISO, "xorriso")
        .env("PATH", SYSTEM_PATH)
        // Without settings of the user.
        .args(["-no_rc", "-as", "mkisofs", "-quiet", "-J", "-r", "-V", label, "-o"])
        .arg(target)
        .arg(&folder)
        .log_to(log)
        .run(cancel)
        .map(drop)
}

/// Makes a floppy of 1440 KiB at a path that does not exist yet. What `mtools` say goes to `log`.
pub fn make_floppy(files: &Files, target: &Path, log: &Path, cancel: &Cancel) -> Result<()> {
    let folder = written(files, target)?;
    let tool =
        |program| Tool::new(program, "mtools").env("PATH", SYSTEM_PATH).env("MTOOLS_SKIP_CHECK", "1").log_to(log);
    tool("mformat").args(["-C", "-f", "1440", "-i"]).arg(target).arg("::").run(cancel)?;
    let mut copy = tool("mcopy").arg("-i").arg(target);
    for (name, _) in files {
        copy = copy.arg(folder.join(name));
    }
    copy.arg("::/").run(cancel).map(drop)
}

/// Writes files into a folder of their own beside `target`.
fn written(files: &Files, target: &Path) -> Result<PathBuf> {
    let folder = target.with_extension("files");
    let failed = || format!("cannot write {}", folder.display());
    fs::create_dir(&folder).context(ErrorKind::Store, failed)?;
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).context(ErrorKind::Store, failed)?;
    }
    Ok(folder)
}
