//! The floors of `docs/architecture.md` hold: a room of the library uses only rooms below its own, no files import one
//! another in a circle, and no file is longer than a person reads at once.
//!
//! The table on that page is the one that is checked, so a room that moves, comes or goes is a change of the page.

mod house;
mod rules;

use std::fs;
use std::path::{Path, PathBuf};

use house::House;
use rules::{Floors, circles, too_long};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All Rust files of the workspace, by their paths from its root, with their texts.
fn sources() -> Vec<(String, String)> {
    fn below(folder: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, root, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), text));
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    ["crates", "bench", "examples"].iter().for_each(|folder| below(&root.join(folder), &root, &mut found));
    found.sort();
    found
}

/// Each crate of the workspace: its library and its program share their files, and its integration tests are one of their own.
fn houses(sources: &[(String, String)]) -> Vec<House> {
    let folder = |(path, _): &(String, String)| {
        let ends = ["/src/", "/tests/integration/"];
        ends.iter().find_map(|end| Some(path[..path.find(end)? + end.len()].to_owned()))
    };
    let mut folders: Vec<String> = sources.iter().filter_map(folder).collect();
    folders.dedup();
    folders.iter().map(|folder| House::read(folder, sources)).collect()
}

#[test]
fn rooms_use_only_rooms_below_their_own() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let sources = sources();
    let library = House::read("crates/virt-maker/src/", &sources);
    let faults = Floors::read(&page).unwrap().check(&library);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn no_files_import_one_another_in_a_circle() {
    let faults: Vec<String> = houses(&sources()).iter().flat_map(circles).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_person_reads_at_once() {
    let faults = too_long(&sources());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// A page with two floors and one below, and a house of made-up files for it.
fn made_up(files: &[(&str, &str)]) -> (Floors, House) {
    let page = "| floor | rooms |\n|---|---|\n| 2 | `crates/virt-maker/src/top/`: above all |\n\
                | 1 | `crates/virt-maker/src/left/`; `crates/virt-maker/src/right.rs` |\n\
                | 0 | the agent's protocol, `crates/virt-maker/src/ground.rs` |\n";
    let mut sources: Vec<(String, String)> = ["lib.rs", "top/mod.rs", "left/mod.rs", "right.rs", "ground.rs"]
        .map(|name| (name.into(), String::new()))
        .into();
    for (name, text) in files {
        sources.retain(|(known, _)| known != name);
        sources.push(((*name).to_owned(), (*text).to_owned()));
    }
    sources.iter_mut().for_each(|(name, _)| name.insert_str(0, "crates/virt-maker/src/"));
    (Floors::read(page).unwrap(), House::read("crates/virt-maker/src/", &sources))
}

#[test]
fn an_import_from_below_is_a_fault_and_names_its_line() {
    let faults = |files: &[(&str, &str)]| {
        let (floors, house) = made_up(files);
        floors.check(&house)
    };
    let use_of = |path: &str| format!("//! A room.\n\nuse std::fs;\nuse {path};\n");
    assert!(faults(&[("top/mod.rs", &use_of("crate::left::Door"))]).is_empty());
    assert!(faults(&[("top/a.rs", &use_of("super::b::{self, Door}")), ("top/b.rs", "")]).is_empty(), "of its own room");

    let found = faults(&[("ground.rs", &use_of("crate::{left::Door, right}"))]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("crates/virt-maker/src/ground.rs:4: `crate::left::Door` is in the room `left`"),
        "{found:?}"
    );
    assert!(
        found[0].contains("floor 1") && found[0].contains("floor 0") && found[0].contains("what to do"),
        "{found:?}"
    );

    // Of one floor, too; as a path in code, in a type, in a macro; through a file that only hands the name on.
    for (text, line) in [
        ("fn f() {\n    crate::right::open();\n}\n", 2),
        ("struct S {\n    door: Vec<crate::right::Door>,\n}\n", 2),
        ("fn f() {\n    println!(\"{}\", crate::right::NAME);\n}\n", 2),
        ("mod inner {\n    use super::super::right::Door;\n}\n", 2),
        ("use crate::Handed;\n", 1),
    ] {
        let found = faults(&[("left/mod.rs", text), ("lib.rs", "pub use right::Door as Handed;\n")]);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].starts_with(&format!("crates/virt-maker/src/left/mod.rs:{line}: ")), "{found:?}");
        assert!(found[0].contains("`right`"), "{found:?}");
    }
    // What only tests see is no part of the house.
    let tests = "#[cfg(test)]\nmod tests {\n    use crate::top::Door;\n}\n#[cfg(test)]\nmod more;\n";
    assert!(faults(&[("left/mod.rs", tests), ("left/more.rs", &use_of("crate::top::Door"))]).is_empty());
}

#[test]
fn page_and_tree_name_the_same_rooms() {
    let (floors, house) = made_up(&[("attic/mod.rs", "")]);
    let found = floors.check(&house);
    assert!(found.len() == 1 && found[0].contains("the room `attic` is on no floor"), "{found:?}");
    let (floors, house) = made_up(&[]);
    assert_eq!(floors.check(&house), Vec::<String>::new());
    let without = House::read("crates/virt-maker/src/", &[("crates/virt-maker/src/lib.rs".into(), String::new())]);
    let found = floors.check(&without);
    assert!(found.len() == 4 && found[0].contains("which is not there"), "{found:?}");
    for (page, what) in [
        ("nothing", "no table"),
        ("| floor | rooms |\n|---|---|\n| top | `crates/virt-maker/src/a/` |\n", "`top` is no number"),
        ("| floor | rooms |\n|---|---|\n| 1 | `crates/virt-maker/src/a/`, `crates/virt-maker/src/a/` |\n", "twice"),
    ] {
        let told = Floors::read(page).map(drop).unwrap_err();
        assert!(told.contains(what), "{told}");
    }
}

#[test]
fn a_circle_is_a_fault_and_names_what_ties_it() {
    let found = |files: &[(&str, &str)]| circles(&made_up(files).1);
    // A folder's own `mod.rs` declares its files and hands them on, and they use what it has: that is one thing.
    let parent = "mod a;\nmod b;\npub use a::open;\npub struct Door;\n";
    assert!(found(&[("top/mod.rs", parent), ("top/a.rs", "use super::Door;\n"), ("top/b.rs", "")]).is_empty());

    let told = found(&[
        ("top/mod.rs", parent),
        ("top/a.rs", "\nuse super::b::shut;\n"),
        ("top/b.rs", "fn f() {\n    super::open();\n}\n"),
    ]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("top/a.rs:2: `super::b::shut`, of crates/virt-maker/src/top/b.rs"), "{told:?}");
    assert!(told[0].contains("top/b.rs:2: `super::open`, of crates/virt-maker/src/top/a.rs"), "{told:?}");
    assert!(told[0].contains("what to do"), "{told:?}");

    let three = [
        ("left/a.rs", "use super::b;\n"),
        ("left/b.rs", "use crate::left::c::X;\n"),
        ("left/c.rs", "use super::a::Y;\n"),
        ("left/mod.rs", "mod a;\nmod b;\nmod c;\n"),
    ];
    assert_eq!(found(&three).len(), 1);
    assert!(found(&three[..2]).is_empty());
}

#[test]
fn a_long_file_is_a_fault() {
    let of = |lines: usize| vec![("crates/x/tests/long.rs".to_owned(), "\n".repeat(lines))];
    assert!(too_long(&of(600)).is_empty());
    let told = too_long(&of(601));
    assert!(told.len() == 1 && told[0].contains("crates/x/tests/long.rs: 601 lines"), "{told:?}");
}
