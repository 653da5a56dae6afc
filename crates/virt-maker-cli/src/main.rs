//! The command line: arguments to settings, events to a person or a machine, errors to messages and exit codes.

mod arguments;
mod commands;
mod config;
mod diagnostic;
mod environment;
mod error;
mod error_text;
mod explain;
mod html;
mod lock;
mod report;
mod settings;
mod signals;
mod text;
mod tips;
mod yaml;

use std::process::ExitCode;

use clap::Parser;
use virt_maker::host::close_on_exec;

fn main() -> ExitCode {
    // Before anything else: a descriptor that our caller left open is nothing for a guest or for a tool. The engine's own
    // libraries start programs, too. Where it cannot be done here, each of our own children does it once more.
    let _ = close_on_exec();
    environment::complete_search_path();
    let arguments = match arguments::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(mut error) => {
            tips::add(&mut error);
            // `--help` and `--version` come this way too, and are no errors.
            let code = if error.use_stderr() { error::USAGE } else { 0 };
            return match error.print() {
                Err(broken) if broken.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::from(error::BROKEN_PIPE),
                _ => ExitCode::from(code),
            };
        }
    };
    match commands::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error_text::print(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}
