//! The documents against the tree: what they link to or name is there, and the worked example of a key is right.

use std::path::{Path, PathBuf};

use virt_maker::key::{Digest, KeyMaterial};

/// Folders whose files the documents name with their whole path.
const FOLDERS: &[&str] = &["crates/", "docs/", "scripts/", "examples/", "bench/", ".ci/", ".config/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All documents, with their paths from the root.
fn documents() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !["target", ".git", ".cache"].contains(&name.as_str()) {
                walk(&path, found);
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    let documents: Vec<_> =
        found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect();
    assert!(documents.len() >= 7, "only {} documents were found", documents.len());
    documents
}

/// The document without its code blocks, and the blocks with the word after their fence.
fn split(text: &str) -> (String, Vec<(String, String)>) {
    let (mut prose, mut blocks, mut open) = (String::new(), Vec::new(), None::<(String, String)>);
    for line in text.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(word)) => open = Some((word.trim().to_owned(), String::new())),
            (None, None) => prose += &format!("{line}\n"),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, block)), None) => *block += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "a code block is not closed");
    (prose, blocks)
}

/// The part of a heading's link after `#`, as forges make it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

fn headings(text: &str) -> Vec<String> {
    let (prose, _) = split(text);
    prose.lines().filter_map(|line| line.strip_prefix('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let (mut checked, mut broken) = (0, Vec::new());
    for (path, text) in documents() {
        for link in split(&text).0.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.starts_with("http") {
                continue;
            }
            checked += 1;
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let there = target.exists()
                && (fragment.is_empty()
                    || headings(&std::fs::read_to_string(&target).unwrap()).contains(&fragment.to_owned()));
            if !there {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
    assert!(checked >= 10, "only {checked} links were found");
}

#[test]
fn every_path_that_is_named_exists() {
    let (mut checked, mut missing) = (0, Vec::new());
    for (path, text) in documents() {
        for word in split(&text).0.split('`').skip(1).step_by(2) {
            // `step/NAME.rs` is a pattern, and so is what has a star.
            let placeholder = word.contains(['*', '<', ' ', '{']) || word.contains("NAME");
            if placeholder || !FOLDERS.iter().any(|folder| word.starts_with(folder)) {
                continue;
            }
            checked += 1;
            if !root().join(word).exists() {
                missing.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "named, but not there:\n{}", missing.join("\n"));
    assert!(checked >= 30, "only {checked} paths were found");
}

#[test]
fn the_example_of_a_key_is_what_the_code_does() {
    let text = std::fs::read_to_string(root().join("docs/cache-keys.md")).unwrap();
    let (_, blocks) = split(&text);
    let [(json, material), (_, items), (_, key)] = blocks.as_slice() else {
        panic!("{} code blocks, expected the material, the items and the key", blocks.len());
    };
    assert_eq!(json, "json");
    let material: KeyMaterial = serde_json::from_str(material).unwrap();
    assert_eq!(material.key().to_string(), key.trim(), "the code's key of the material");

    let digits: String = items.lines().flat_map(|line| line.split('#').next().unwrap().split_whitespace()).collect();
    let bytes: Vec<u8> =
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect();
    assert_eq!(Digest::of(&bytes).to_string(), key.trim(), "SHA-256 of the items");
}
