//! Scripts of a template that run on the host, where its user allows that.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::random;
use super::{Cancel, Tool};
use crate::error::{Context, ErrorKind, Result};

/// Gets what a script says.
pub type Output = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// A script to run.
pub struct Script<'a> {
    /// Its text.
    pub text: &'a str,
    /// What runs it, with its arguments; nothing where the text has a `#!` line.
    pub shell: &'a [String],
    /// The folder that it runs in.
    pub folder: &'a Path,
    /// Variables that it gets besides those of every program.
    pub env: &'a [(&'a str, &'a OsStr)],
    /// A private folder, where its text lies while it runs.
    pub scratch: &'a Path,
}

impl Script<'_> {
    /// Runs it; all that it writes goes to `output`, line by line. Anything but success is an error.
    pub fn run(&self, cancel: &Cancel, output: Output) -> Result<()> {
        let id = random::id()?;
        let path = Removed(self.scratch.join(format!("script-{id}")));
        // Closed before it runs: a file that is open for writing cannot be executed.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&path.0)
            .and_then(|mut file| file.write_all(self.text.as_bytes()))
            .context(ErrorKind::Host, || format!("cannot write {}", path.0.display()))?;
        let errors = output.clone();
        let tool = match self.shell {
            [] => Tool::new(&path.0, "that its first line names"),
            [shell, arguments @ ..] => Tool::new(shell, if shell == "/bin/sh" { "dash" } else { "that `shell` names" })
                .args(arguments)
                .arg(&path.0),
        };
        let mut tool = tool.folder(self.folder);
        for (name, value) in self.env {
            tool = tool.env(name, *value);
        }
        let tool = tool.each_error_line(move |line| errors(format!("{line}\n").as_bytes()));
        tool.run_pieces(b'\n', cancel, &mut |piece| output(piece))
    }
}

/// A file that is removed when this is dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
