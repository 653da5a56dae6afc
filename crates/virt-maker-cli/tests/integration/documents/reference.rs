//! `docs/runners/`: the reference of all runners is made of their types, and each example in it is a template that works.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use virt_maker::spec::Runner;

use super::{document, rows};

use crate::common::Bench;

/// Pages, and what is said at their heads.
const PAGES: [(&str, &str, &str); 3] = [
    ("import", "imports", "Where a base comes from: the one runner under `import`."),
    (
        "step",
        "steps",
        "What is done to a guest: the items of `steps`. Those of the library are made of others (`virt-maker runners steps NAME --source`).",
    ),
    ("export", "exports", "What is made of the result: the runners under `export`."),
];

/// The example of a runner as a whole template.
fn template(runner: &Runner) -> String {
    let example = runner.example.as_deref().expect("every runner has an example");
    let indented = |prefix: &str| example.lines().map(|line| format!("{prefix}{line}\n")).collect::<String>();
    let disk = "  import:\n    disk: {path: images/debian-12.qcow2}\n";
    match runner.role {
        "import" => format!("spec:\n  import:\n{}", indented("    ")),
        "step" => {
            let mut lines = example.lines();
            let first = lines.next().unwrap_or_default();
            let rest: String = lines.map(|line| format!("      {line}\n")).collect();
            format!("spec:\n{disk}  steps:\n    - {first}\n{rest}")
        }
        _ => format!("spec:\n{disk}  export:\n{}", indented("    ")),
    }
}

fn page(role: &str, title: &str, head: &str) -> String {
    let all = virt_maker::spec::runners(&Default::default());
    let all: Vec<_> = all.iter().filter(|runner| runner.role == role).collect();
    let mut text = format!(
        "# {}{}\n\n<!-- made by a test: UPDATE_EXPECTED=1 cargo test -p virt-maker-cli --test integration documents -->\n\n{head}\n\n",
        title[..1].to_uppercase(),
        &title[1..]
    );
    let names: Vec<_> = all.iter().map(|runner| format!("[{0}](#{0})", runner.name)).collect();
    let _ = writeln!(text, "{}", names.join(", "));
    for runner in all {
        let _ = write!(text, "\n## {}\n\n{}", runner.name, runner.about);
        if runner.origin == "library" {
            text.push_str(" A step of the library, made of others.");
        }
        if runner.network == Some(true) {
            text.push_str(" It has the network.");
        }
        let purpose = |purpose: Option<&str>| purpose.map_or(String::new(), |purpose| format!(" (for {purpose})"));
        let needs = runner.needs.iter().map(|need| format!("`{}`{}", need.program, purpose(need.purpose)));
        let needs: Vec<_> = needs.collect();
        if !needs.is_empty() {
            let _ = write!(text, " On the host it needs {}.", needs.join(", "));
        }
        text.push('\n');
        text.push_str(&rows(&runner.arguments, true));
        let _ = write!(text, "```yaml\n{}```\n", template(runner));
    }
    text
}

#[test]
fn the_reference_of_runners_is_that_of_the_types() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (role, name, head) in PAGES {
        let path = root.join(format!("docs/runners/{name}.md"));
        testkit::expect_file("what the types say", &path, &page(role, name, head));
    }
}

/// Runners whose example is not built here, and why.
const NOT_BUILT: &[(&str, &str)] = &[
    ("bootstrap", "needs the network; its own tests build and boot it"),
    ("download", "names a host that is not there; its own tests have a server"),
    ("virt-builder", "names an index on the network; its own tests have one"),
    ("rootfs", "needs a kernel from the network; its own tests build and boot one"),
    ("ansible", "needs a guest with Python; tested with one"),
    ("boot", "needs a guest that boots; tested with one"),
    ("expect", "needs a guest that boots; tested with one"),
    ("reboot", "needs a guest that boots; tested with one"),
    ("click", "needs a machine that runs; tested with one"),
    ("keys", "needs a machine that runs; tested with one"),
    ("screenshot", "needs a machine that runs; tested with one"),
    ("type", "needs a machine that runs; tested with one"),
    ("wait_for", "needs a machine that runs; tested with one"),
    ("isoboot", "names a host that is not there; its own tests have CDs"),
    ("grub_append", "needs a guest with GRUB; tested with its files"),
    ("ssh_keygen", "needs a guest with ssh-keygen; tested with one"),
    ("user", "needs a guest with sudo; tested with one"),
    ("install", "needs the network; tested on a Debian"),
    ("update", "needs the network; tested on a Debian"),
    ("repo", "names a source that is not there; tested with one"),
    ("download_to", "names a host that is not there; tested with files"),
    ("docker_engine", "needs the network"),
    ("qemu_guest_agent", "needs the network"),
    ("unattended_upgrades", "needs the network"),
    ("cloud_init", "needs a guest with cloud-init"),
    ("selinux", "needs a guest with SELinux; tested with one"),
    ("locale", "needs a guest with the package locales; tested with one"),
    ("inject_virtio_win", "needs a Windows guest"),
    ("inject_qemu_ga", "needs a Windows guest"),
];

/// Those that want a guest with systemd, accounts and a package database.
const ON_DEBIAN: &[&str] = &[
    "firstboot",
    "move",
    "swap_file",
    "remove",
    "service",
    "timezone",
    "locale",
    "keyboard",
    "ca_cert",
    "rootpass",
    "edit",
];

/// The files that examples name, around an image that they can work on.
fn files(bench: &Bench, guest: &Path) {
    for folder in ["images", "ansible", "site"] {
        fs::create_dir_all(bench.path(folder)).unwrap();
    }
    let image = bench.path("images/debian-12.qcow2");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(guest).arg(&image);
    testkit::run(&mut convert);
    fs::write(bench.path("ansible/site.yml"), "- hosts: all\n  tasks: []\n").unwrap();
    fs::write(bench.path("site/index.html"), "hello\n").unwrap();
    let mut tar = Command::new("tar");
    testkit::run(tar.arg("-czf").arg(bench.path("site.tar.gz")).arg("-C").arg(bench.folder.path()).arg("site"));
    fs::copy(bench.path("site.tar.gz"), bench.path("root.tar.gz")).unwrap();
    fs::write(
        bench.path("base.yml"),
        "params: {size: 4G}\nspec:\n  import:\n    disk: {path: images/debian-12.qcow2}\n",
    )
    .unwrap();
}

/// The examples of a page, as they stand there.
fn examples(role: &str) -> Vec<(String, String)> {
    let (_, name, _) = PAGES.iter().find(|(known, _, _)| *known == role).unwrap();
    let text = document(&format!("docs/runners/{name}.md"));
    let sections = text.split("\n## ").skip(1);
    sections
        .map(|section| {
            let (name, rest) = section.split_once('\n').unwrap();
            let (_, rest) = rest.split_once("```yaml\n").unwrap();
            (name.to_owned(), rest.split_once("```").unwrap().0.to_owned())
        })
        .collect()
}

fn built(debian: bool) {
    let guest = match debian {
        true => testkit::debian_guest(),
        false => testkit::tiny_guest(&testkit::TinyOptions { partitioned: true, ..Default::default() }),
    };
    let bench = Bench::new(guest.clone());
    files(&bench, &guest);
    let (mut count, mut failed) = (0, Vec::new());
    for (role, _, _) in PAGES {
        for (name, text) in examples(role) {
            if ON_DEBIAN.contains(&&*name) != debian {
                continue;
            }
            let path = bench.path("example.yml");
            fs::write(&path, &text).unwrap();
            let verb = if NOT_BUILT.iter().any(|(not, _)| *not == name) { "validate" } else { "build" };
            let mut arguments = vec![verb, path.to_str().unwrap(), "--allow", "host-exec"];
            if verb == "build" {
                arguments.extend(["--engine", "chroot"]);
                count += 1;
            }
            let ran = bench.run(&arguments);
            if ran.status != Some(0) {
                let end: Vec<_> = ran.stderr.lines().filter(|line| !line.contains('%')).collect();
                failed.push(format!("{role} {name}: {verb}\n{text}{}", end.join("\n")));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(count > 5, "{count} examples were built");
}

#[test]
fn every_example_of_a_runner_works() {
    built(false);
}

#[test]
fn examples_that_want_a_real_guest_work() {
    built(true);
}
