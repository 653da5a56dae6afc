//! `virt-maker man`: manual pages, one for the program and one for each of its commands, made of the arguments themselves.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;
use virt_maker::error::{Context, ErrorKind};

use crate::arguments::Arguments;
use crate::error::Failure;
use crate::text::count;

pub fn run(folder: &Path) -> Result<(), Failure> {
    let failed = || format!("cannot write manual pages into {}", folder.display());
    std::fs::create_dir_all(folder).context(ErrorKind::Host, failed)?;
    clap_mangen::generate_to(Arguments::command(), folder).context(ErrorKind::Host, failed)?;
    let pages = std::fs::read_dir(folder).context(ErrorKind::Host, failed)?;
    let names = pages.filter_map(|page| page.ok()?.file_name().into_string().ok());
    let pages = names.filter(|name| name.starts_with("virt-maker") && name.ends_with(".1")).count();
    writeln!(std::io::stdout(), "wrote {} into {}", count(pages, "page"), folder.display())?;
    Ok(())
}
