//! Running host programs from tests: any failure is a panic with the whole output.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs `command` to its end and returns its output; panics unless it succeeds.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = output(command, b"");
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, both(&output));
    output
}

/// Like [`run`], with `input` on its standard input.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    let output = output(command, input);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, both(&output));
    output
}

/// Runs `command` to its end, however that may be.
#[track_caller]
pub(crate) fn output(command: &mut Command, input: &[u8]) -> Output {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // Every input here is smaller than a pipe's buffer; a program that reads none of it is no failure by itself.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("waiting for a child")
}

/// Standard output and standard error as one text.
pub(crate) fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
