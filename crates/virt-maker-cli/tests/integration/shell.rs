//! What a shell and `man` need: completions that complete, pages that format without a complaint.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::Bench;

fn bench() -> Bench {
    Bench::new(PathBuf::from("/nonexistent"))
}

/// The same with this bench's store, and the program where a shell finds it.
fn offered_with(bench: &Bench, words: &[&str]) -> Vec<String> {
    let script = bench.path("completion.bash");
    fs::write(&script, bench.run(&["completions", "bash"]).exits(0).stdout).unwrap();
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_virt-maker")).parent().unwrap();
    let call = "PATH=\"$2:$PATH\"; source \"$1\"; shift 2; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                function=$(complete -p virt-maker | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
                $function \"$1\" \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut arguments =
        vec!["--norc", "-c", call, "bash", script.to_str().unwrap(), folder.to_str().unwrap(), "virt-maker"];
    arguments.extend(words);
    let mut command = bench.command(&[]);
    let environment: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.unwrap().to_owned())).collect();
    command = Command::new("bash");
    let output = command.args(arguments).envs(environment).current_dir(bench.folder.path()).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
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
    assert!(fish.contains("-l force-from -x -a \"(virt-maker names --steps"), "{fish}");
    assert_eq!(
        zsh.matches(":STEP:_virt_maker_steps' ").count(),
        6,
        "--force-from and --refresh, of build, test and plan"
    );
    bench.run(&["completions", "csh"]).exits(2);
}

/// Where a layer is wanted, its names are offered: tags, keys, templates and their steps.
#[test]
fn names_of_layers_are_completed() {
    let bench = Bench::new(testkit::tiny_guest(&testkit::TinyOptions::default()));
    let step = "{run: 'true', name: the-first}".to_owned();
    let key = bench.build("chroot", &bench.template("web.yml", &[step], ""), &[]).exits(0).sealed().pop().unwrap();
    bench.run(&["tag", "web.yml", "golden"]).exits(0);
    let found = offered_with(&bench, &["log", ""]);
    for name in ["golden", "web.yml", "web.yml:1", "web.yml:the-first", &key[..12]] {
        assert!(found.contains(&name.to_owned()), "{name}: {found:?}");
    }
    assert_eq!(offered_with(&bench, &["shell", "gol"]), ["golden"]);
    assert_eq!(offered_with(&bench, &["run", "gol"]), ["golden"]);
    assert_eq!(
        offered_with(&bench, &["build", "--force-from", "web.yml:the"]),
        ["the-first"],
        "what stands before the colon is there"
    );
    // Steps, and nothing that `--force-from` cannot take; each of these it takes.
    let steps = offered_with(&bench, &["plan", "--force-from", ""]);
    assert_eq!(
        steps,
        [
            "0",
            "1",
            "download",
            "run",
            "the-first",
            "web.yml:0",
            "web.yml:1",
            "web.yml:download",
            "web.yml:run",
            "web.yml:the-first"
        ]
    );
    let again: Vec<&str> = steps.iter().flat_map(|step| ["--force-from", step]).collect();
    bench.run(&[&["plan", "web.yml"], &*again].concat()).exits(0);
    assert!(offered_with(&bench, &["build", ""]).iter().all(|name| name != "golden"));
    assert!(offered_with(&bench, &["log", "--"]).contains(&"--store".to_owned()));
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
