//! `virt-maker init`: a first template, with comments.

use std::fs;
use std::io::Write;
use std::path::Path;

use virt_maker::error::{Context, ErrorKind};

use crate::arguments;
use crate::error::Failure;

/// What is written; a test loads it.
pub const FIRST: &str = include_str!("first.yml");
const NAME: &str = "template.yml";

/// Runs it. A file that is there stays as it is.
pub fn run(arguments: &arguments::Init) -> Result<(), Failure> {
    let folder = arguments.folder.as_deref().unwrap_or(Path::new("."));
    // Who names the template gets no folder of that name.
    if folder.extension().is_some_and(|ending| ending == "yml" || ending == "yaml") && !folder.is_dir() {
        let message = format!(
            "`init` takes a folder, and writes the template {NAME} into it; {} is the name of a file\n  \
             hint: `virt-maker init`, or `virt-maker init FOLDER`; the file may be renamed then",
            folder.display()
        );
        return Err(Failure::Usage(message));
    }
    let path = folder.join(NAME);
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(folder).context(ErrorKind::Host, || format!("cannot make {}", folder.display()))?;
    let mut file = match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Failure::Usage(format!("{} is there already", path.display())));
        }
        opened => opened.context(ErrorKind::Host, failed)?,
    };
    file.write_all(FIRST.as_bytes()).context(ErrorKind::Host, failed)?;
    println!("wrote {}; build it with: virt-maker build {}", path.display(), path.display());
    Ok(())
}
