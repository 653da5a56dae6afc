//! The README is right: its templates load, and its commands do what it says.
//!
//! A comment before a block says what it is: `<!-- test: file NAME -->`, a file beside the others; `<!-- test: run -->`,
//! commands (`$ ...`) that are run in order in that folder, in a world of their own. The base that `web.yml` downloads
//! is replaced by a small real guest, so that no network is needed; nothing else is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::{TinyOptions, tiny_guest};

const PROGRAM: &str = env!("CARGO_BIN_EXE_virt-maker");

/// The blocks of the document, each with the words of the comment before it; in order.
fn blocks() -> Vec<(String, String)> {
    testkit::blocks(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md"))
}

/// A folder with the README's files, as `web.yml`'s author would have it.
fn write_files(folder: &Path) -> Vec<PathBuf> {
    let base = tiny_guest(&TinyOptions::default());
    let mut files = Vec::new();
    for (words, block) in blocks() {
        let Some(name) = words.strip_prefix("file ") else { continue };
        let path = folder.join(name);
        let text: String = block
            .lines()
            .map(|line| match line.split_once("url: https://") {
                Some((indent, _)) => format!("{indent}url: file://{}\n", base.display()),
                None => format!("{line}\n"),
            })
            .collect();
        fs::write(&path, text).unwrap();
        files.push(path);
    }
    files
}

#[test]
fn its_templates_load() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_files(folder.path());
    assert_eq!(files.len(), 2);
    for file in files {
        if let Err(error) = virt_maker::spec::load(&file, &[]) {
            panic!("{}: {error} {:#?}", file.display(), error.diagnostics());
        }
    }
}

#[test]
fn its_commands_do_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());
    let mut commands = Vec::new();
    for (words, block) in blocks() {
        if words == "run" {
            commands.extend(block.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned));
        }
    }
    let outputs: Vec<_> = commands.iter().map(|command| run(folder.path(), command)).collect();

    let builds: Vec<_> = commands.iter().zip(&outputs).filter(|(command, _)| command.contains(" build ")).collect();
    // "The first build does everything. The second finds all of it. The third runs the last two steps only."
    let layers: Vec<_> = builds.iter().map(|(_, output)| count(output, "layer_started")).collect();
    assert_eq!(layers, [4, 0, 2], "{commands:?}");
    let sessions: Vec<_> = builds.iter().map(|(_, output)| count(output, "session_started")).collect();
    assert_eq!(sessions, [1, 0, 1], "{commands:?}");
    assert!(folder.path().join("web.qcow2").exists());
    let tree = outputs.last().unwrap();
    assert!(tree.contains("web1") && tree.contains("web2"), "one tree with both branches:\n{tree}");
}

/// Runs a line as a user would; builds say their events as JSON. Returns what it printed.
fn run(folder: &Path, command: &str) -> String {
    let words = command.strip_prefix("virt-maker ").expect("a command of ours");
    let mut program = Command::new(PROGRAM);
    program.args(words.split(' ')).current_dir(folder);
    if words.starts_with("build ") {
        program.args(["--progress", "json"]);
    }
    testkit::know_kvm(Path::new(PROGRAM), &folder.join("cache"));
    let output = program
        .env("VIRT_MAKER_STORE", folder.join("store"))
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env("XDG_STATE_HOME", folder.join("state"))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command}: {}\n{printed}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

fn count(events: &str, kind: &str) -> usize {
    let kinds = events.lines().map(|line| serde_json::from_str::<Value>(line).expect("every line is an event"));
    kinds.filter(|event| event["type"] == kind).count()
}
