//! A new step is one file and one line: the one that `docs/architecture.md` shows is put into a copy of the tree, and
//! runs in a real guest on engine `chroot`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the copy's own test does. `AGENT` and `BASE` are replaced.
const TEST: &str = r#"
use std::path::PathBuf;

use virt_maker::build::{OnFailure, Settings, build};
use virt_maker::engine::select::EngineChoice;
use virt_maker::event::Events;

#[test]
fn the_toy_runs() {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("toy.yml");
    let text = "
spec:
  import: {download: {url: 'file://BASE'}}
  steps:
    - touch: /etc/toy
    - run: test -f /etc/toy
";
    std::fs::write(&template, text).unwrap();
    let spec = virt_maker::spec::load(&template, &[]).unwrap();
    let settings = Settings {
        store: folder.path().join("store"),
        owner: virt_maker::store::Owner::new(folder.path().join("state/secret"), None),
        agent: PathBuf::from("AGENT"),
        engine_cache: folder.path().join("engines"),
        kernel: None,
        engine: EngineChoice::Chroot,
        force: false,
        again: Vec::new(),
        force_export: false,
        jobs: None,
        max_depth: virt_maker::store::Depth::DEFAULT,
        fail_fast: false,
        on_failure: OnFailure::Discard,
        network_env: Default::default(),
        certificates: Default::default(),
        host_network: false,
        secret_env: Default::default(),
        cancel: Default::default(),
    };
    let summary = build(&[spec], &settings, &Events::none()).unwrap();
    assert_eq!((summary.built, summary.cached), (3, 0));
}
"#;

#[test]
fn a_step_is_one_file_and_one_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned();
    let copy = target.join("tmp/toy-step");
    let _ = fs::remove_dir_all(&copy);
    for name in ["Cargo.toml", "Cargo.lock", "crates", "bench"] {
        copy_tree(&root.join(name), &copy.join(name));
    }

    // The file ...
    let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let (_, rest) = page.split_once("```rust\n").unwrap();
    let (source, _) = rest.split_once("```").unwrap();
    let steps = copy.join("crates/virt-maker/src/step");
    fs::write(steps.join("touch.rs"), source).unwrap();
    // ... and the line.
    let table = fs::read_to_string(steps.join("mod.rs")).unwrap();
    assert_eq!(table.matches("    install,\n").count(), 1, "the table of steps has one kind a line");
    fs::write(steps.join("mod.rs"), table.replace("    install,\n", "    install,\n    touch,\n")).unwrap();

    let agent = target.join("debug/virt-maker-agent");
    assert!(agent.exists(), "{} is not built (make debug)", agent.display());
    let base = testkit::tiny_guest(&testkit::TinyOptions::default());
    let test = TEST.replace("AGENT", path_text(&agent)).replace("BASE", path_text(&base));
    fs::write(copy.join("crates/virt-maker/tests/toy.rs"), test).unwrap();

    // In the same target folder: crates from the registry are not built again, and nothing that others use is replaced.
    let output = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--locked", "-p", "virt-maker", "--test", "toy"])
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    fs::remove_dir_all(&copy).unwrap();
}

fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn copy_tree(from: &Path, to: &PathBuf) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy_tree(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}
