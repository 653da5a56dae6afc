//! What a shell and `man` need: completions that complete, pages that format without a complaint.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::Bench;

fn bench() -> Bench {
    Bench::new(PathBuf::from("/nonexistent"))
}

/// What a real bash offers after these words.
fn offered(bench: &Bench, words: &[&str]) -> Vec<String> {
    let script = bench.path("completion.bash");
    fs::write(&script, bench.run(&["completions", "bash"]).exits(0).stdout).unwrap();
    // As bash itself calls it: the words, the number of the last one, and the command, that word and the one before it.
    let call = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                function=$(complete -p virt-maker | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
                $function \"$1\" \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["--norc", "-c", call, "bash", script.to_str().unwrap(), "virt-maker"])
        .args(words)
        .current_dir(bench.folder.path())
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes() {
    let bench = bench();
    assert_eq!(offered(&bench, &["rend"]), ["render"]);
    assert!(offered(&bench, &["build", "--eng"]).contains(&"--engine".to_owned()));
    let engines = offered(&bench, &["build", "--engine", ""]);
    assert!(engines.contains(&"libguestfs".to_owned()) && engines.contains(&"auto".to_owned()), "{engines:?}");
    assert_eq!(offered(&bench, &["config", "sh"]), ["show"]);
    // For anything else, bash itself offers files.
    assert!(bench.run(&["completions", "bash"]).exits(0).stdout.contains(" -o default virt-maker\n"));
}

#[test]
fn other_shells_get_theirs() {
    let bench = bench();
    let zsh = bench.run(&["completions", "zsh"]).exits(0).stdout;
    assert!(zsh.starts_with("#compdef virt-maker") && zsh.contains("--on-failure"), "{zsh}");
    let fish = bench.run(&["completions", "fish"]).exits(0).stdout;
    assert!(fish.contains("complete -c virt-maker") && fish.contains("on-failure"), "{fish}");
    bench.run(&["completions", "csh"]).exits(2);
}

#[test]
fn there_is_a_page_for_every_command() {
    let bench = bench();
    let said = bench.run(&["man", "pages"]).exits(0).stdout;
    let mut pages: Vec<_> = fs::read_dir(bench.path("pages")).unwrap().map(|page| page.unwrap().path()).collect();
    pages.sort();
    assert!(said.starts_with(&format!("wrote {} pages", pages.len())), "{said}");
    let help = bench.run(&["--help"]).exits(0).stdout;
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    // What is indented further goes on from the line before.
    let commands = commands.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    let commands: Vec<&str> =
        commands.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next()).collect();
    assert!(commands.len() > 12, "{help}");
    for command in commands {
        let name = format!("virt-maker-{command}.1");
        assert!(pages.iter().any(|page| page.ends_with(&name)), "{name} in {pages:?}");
    }
    for page in &pages {
        let output = Command::new("groff").args(["-man", "-ww", "-Tutf8", "-P-cbou"]).arg(page).output().unwrap();
        let (text, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && complaints.is_empty(), "{}: {complaints}", page.display());
        assert!(text.contains("NAME") && text.contains("SYNOPSIS"), "{}:\n{text}", page.display());
    }
}

/// `make install` puts them where shells and `man` look.
#[test]
fn they_are_installed() {
    let bench = bench();
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/install-extras");
    let share = bench.path("usr/share");
    let install = || Command::new(&script).arg(env!("CARGO_BIN_EXE_virt-maker")).arg(&share).output().unwrap();
    for _ in 0..2 {
        let output = install();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for name in [
        "man/man1/virt-maker.1",
        "man/man1/virt-maker-build.1",
        "bash-completion/completions/virt-maker",
        "zsh/site-functions/_virt-maker",
        "fish/vendor_completions.d/virt-maker.fish",
    ] {
        assert!(share.join(name).metadata().is_ok_and(|metadata| metadata.len() > 300), "{name}");
    }
}
