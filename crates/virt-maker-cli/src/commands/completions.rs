//! `virt-maker completions`: what a shell needs to complete arguments, made of the arguments themselves.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::{Shell as Form, generate};

use crate::arguments::{Arguments, Shell};
use crate::error::Failure;

/// Runs it.
pub fn run(shell: Shell) -> Result<(), Failure> {
    let form = match shell {
        Shell::Bash => Form::Bash,
        Shell::Zsh => Form::Zsh,
        Shell::Fish => Form::Fish,
    };
    let mut text = Vec::new();
    // For bash, clap_complete 4.6 names the branches of a program with a hyphen in two ways, and completes nothing after
    // its first word. So it gets a name without one, and the one place that names the program is put right.
    let name = if matches!(shell, Shell::Bash) { "virt_maker" } else { "virt-maker" };
    generate(form, &mut Arguments::command(), name, &mut text);
    let text = String::from_utf8_lossy(&text).replace("-o default virt_maker\n", "-o default virt-maker\n");
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
