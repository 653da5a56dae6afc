//! Every error that the reading of templates can give has a wrong template with its text.
//!
//! The sources of what reads templates are parsed: each text of two words or more in a function that makes errors is
//! something that a person may see. It has to stand in `errors/expected.txt`, at least as often as it stands in the
//! sources, or in `errors/elsewhere.txt` with the reason and perhaps the test that has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use regex_lite::Regex;
use syn::visit::{self, Visit};

/// Rooms that do nothing but read templates: all their functions count.
const ROOMS: [&str; 2] = ["template", "spec"];
/// Rooms whose functions count where they make messages about a template.
const RUNNERS: [&str; 3] = ["step", "import", "export"];
/// Files of the command line that read what stands beside templates: all their functions count.
const BESIDE: [&str; 2] = ["lock.rs", "commands/loading.rs"];
/// What a function has in it that makes a message about a template.
const MARKS: [&str; 2] = ["Diagnostic", "diagnostic"];
/// Files of [`ROOMS`] that describe and make no errors.
const DESCRIPTIONS: [&str; 3] = ["spec/catalogue.rs", "spec/schema.rs", "template/schema.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../virt-maker/src")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// Collects the texts of functions that make errors.
struct Texts<'a> {
    /// Whether functions count only with one of [`MARKS`] in them.
    marked: bool,
    file: &'a str,
    /// Texts with the functions that they stand in.
    found: &'a mut BTreeMap<String, Vec<String>>,
}

impl<'ast> Visit<'ast> for Texts<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.ident != "tests" {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.function(&function.sig, &function.block);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.function(&function.sig, &function.block);
    }

    // The forms of options are constants with functions in them; a constant that is a text is none.
    fn visit_item_const(&mut self, constant: &'ast syn::ItemConst) {
        if matches!(*constant.expr, syn::Expr::Struct(_)) {
            self.code(&constant.ident, constant.expr.to_token_stream());
        }
    }
}

impl Texts<'_> {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let mut stream = signature.to_token_stream();
        stream.extend(block.to_token_stream());
        self.code(&signature.ident, stream);
    }

    fn code(&mut self, name: &syn::Ident, stream: TokenStream) {
        let mut words = BTreeSet::new();
        let mut texts = Vec::new();
        tokens(stream, &mut words, &mut texts);
        if self.marked && MARKS.iter().all(|mark| !words.contains(*mark)) {
            return;
        }
        for text in texts.into_iter().filter(|text| sentence(text)) {
            self.found.entry(text).or_default().push(format!("{}: {name}", self.file));
        }
    }
}

/// Names and texts of some tokens; not those of `expect("...")`, which nobody sees, nor of attributes.
fn tokens(stream: TokenStream, words: &mut BTreeSet<String>, texts: &mut Vec<String>) {
    let mut last = String::new();
    for token in stream {
        let text = token.to_string();
        match token {
            TokenTree::Group(group) if last != "expect" && last != "#" => tokens(group.stream(), words, texts),
            TokenTree::Ident(_) => drop(words.insert(text.clone())),
            TokenTree::Literal(_) => {
                texts.extend(syn::parse_str::<syn::LitStr>(&text).ok().map(|literal| literal.value()));
            }
            _ => {}
        }
        last = text;
    }
}

/// Whether a text is for people: two words of letters, besides what is put into it.
fn sentence(text: &str) -> bool {
    let plain = placeholders(text).join(" ");
    plain.split_whitespace().filter(|word| word.chars().filter(|c| c.is_ascii_lowercase()).count() > 1).count() > 1
}

/// The parts of a format between its placeholders.
fn placeholders(text: &str) -> Vec<String> {
    let doubled = text.replace("{{", "\u{1}").replace("}}", "\u{2}");
    let place = Regex::new(r"\{[^{}]*\}").unwrap();
    let parts = place.split(&doubled);
    parts.map(|part| part.replace('\u{1}', "{").replace('\u{2}', "}")).collect()
}

fn pattern(text: &str) -> Regex {
    let parts: Vec<_> = placeholders(text).iter().map(|part| regex_lite::escape(part)).collect();
    Regex::new(&parts.join("[^\n]*?")).unwrap()
}

#[test]
fn every_error_has_a_case() {
    let mut found = BTreeMap::new();
    for (room, marked) in ROOMS.iter().map(|room| (room, false)).chain(RUNNERS.iter().map(|room| (room, true))) {
        let mut files = Vec::new();
        sources(&root().join(room), &mut files);
        for path in files {
            let file = path.strip_prefix(root()).unwrap().display().to_string();
            if DESCRIPTIONS.contains(&file.as_str()) {
                continue;
            }
            let parsed = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
            Texts { marked, file: &file, found: &mut found }.visit_file(&parsed);
        }
    }
    for file in BESIDE {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
        let parsed = syn::parse_file(&fs::read_to_string(path).unwrap()).unwrap();
        Texts { marked: false, file, found: &mut found }.visit_file(&parsed);
    }
    assert!(found.len() > 150, "the sources are read: {}", found.len());

    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let expected = fs::read_to_string(tests.join("errors/expected.txt")).unwrap();
    let mut elsewhere = BTreeSet::new();
    for line in fs::read_to_string(tests.join("errors/elsewhere.txt")).unwrap().lines() {
        let Some((text, reason)) = line.split_once(" => ") else { continue };
        elsewhere.insert(text.to_owned());
        if let Some((_, file)) = reason.split_once("test: ") {
            let test = fs::read_to_string(tests.join(file)).unwrap();
            assert!(pattern(text).is_match(&test), "{file} has no {text:?}");
        }
    }
    let mut missing = String::new();
    for (text, places) in &found {
        // As a format, or as it stands there.
        let cases = pattern(text).find_iter(&expected).count().max(expected.matches(text.as_str()).count());
        let enough = cases >= places.len();
        match elsewhere.remove(text) {
            true => assert!(!enough, "errors/elsewhere.txt has {text:?}, and there are cases for it"),
            false if enough => {}
            false => {
                missing.push_str(&format!("{cases} of {}: {text:?}\n", places.len()));
                places.iter().for_each(|place| missing.push_str(&format!("    {place}\n")));
            }
        }
    }
    assert!(missing.is_empty(), "texts that no case has:\n{missing}");
    assert!(elsewhere.is_empty(), "errors/elsewhere.txt has what the sources do not have: {elsewhere:?}");
}
