//! The verbs, one file each.

mod appliance;
mod build;
mod cache;
mod cat;
mod check;
mod completions;
mod config;
mod cp;
mod diff;
mod doctor;
mod init;
mod loading;
mod log;
mod looking;
mod ls;
mod man;
mod migrate;
mod mount;
mod names;
mod plan;
mod render;
mod run;
mod runners;
mod schema;
mod shell;
mod tag;
mod tree;
mod tree_page;
mod update;
mod validate;

use std::io::Write;

use crate::arguments::{Arguments, Command};
use crate::error::Failure;

/// Runs what was asked for.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Build(arguments) => build::run(&arguments),
        Command::Test(arguments) => build::test(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Render(arguments) => render::run(&arguments),
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Tree(arguments) => tree::run(&arguments),
        Command::Log(arguments) => log::run(&arguments),
        Command::Ls(arguments) => ls::run(&arguments),
        Command::Cat(arguments) => cat::run(&arguments),
        Command::Cp(arguments) => cp::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Shell(arguments) => shell::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Mount(arguments) => mount::run(&arguments),
        Command::UnmountAfter(arguments) => mount::unmount_after(&arguments),
        Command::Names { steps } => names::run(steps),
        Command::Tag(arguments) => tag::run(&arguments),
        Command::Cache(arguments) => cache::run(&arguments),
        Command::Runners(arguments) => runners::run(&arguments),
        Command::Schema => schema::run(),
        Command::Init(arguments) => init::run(&arguments),
        Command::Migrate(arguments) => migrate::run(&arguments),
        Command::Appliance(arguments) => appliance::run(&arguments.command),
        Command::Update(arguments) => update::run(&arguments),
        Command::Config { command } => config::run(&command),
        Command::Completions { shell } => completions::run(shell),
        Command::Man { folder } => man::run(&folder),
        Command::Doctor(arguments) => doctor::run(&arguments),
    }
}

/// Prints one JSON document. Its `version` is raised when a field goes or changes its meaning.
fn print_json(document: &serde_json::Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document).map_err(std::io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
