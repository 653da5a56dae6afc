//! A crate as a house: its files, and what each takes from another.
//!
//! What counts as taking: `use`, and a path in code, in a type or in a macro that begins with `crate`, `super`, `self` or the
//! crate's own name. A name that a file only hands on (`pub use a::X`) is taken from the file that has it. What only tests see is
//! left out.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, UseTree};

/// The place of a module in its crate.
pub type Place = Vec<String>;

/// One thing that a file takes from another one.
pub struct Import {
    pub line: usize,
    /// As it is written.
    pub path: String,
    /// The module that has it.
    pub from: Place,
}

/// A file.
pub struct File {
    /// From the root of the workspace.
    pub path: String,
    pub imports: Vec<Import>,
}

/// A crate.
pub struct House {
    pub files: BTreeMap<Place, File>,
}

/// A file as it was read: paths are not followed yet.
#[derive(Default)]
struct Parsed {
    /// Names that `use` binds at the top of the file, with the path from the crate's root.
    names: BTreeMap<String, Place>,
    /// Line, the path as it is written, and from the crate's root.
    paths: BTreeSet<(usize, String, Place)>,
    /// Files below it that only tests see.
    tests: Vec<String>,
}

impl House {
    /// The crate whose sources are in `folder`, which ends with `/`.
    pub fn read(folder: &str, sources: &[(String, String)]) -> House {
        let own = folder.trim_end_matches('/').rsplit('/').nth(1).unwrap_or_default().replace('-', "_");
        let mut places: BTreeMap<Place, (&str, Vec<&str>)> = BTreeMap::new();
        for (path, text) in sources {
            let Some(name) = path.strip_prefix(folder).and_then(|name| name.strip_suffix(".rs")) else { continue };
            // Each of these is a crate by itself.
            if name.starts_with("bin/") {
                continue;
            }
            let mut place: Place = name.split('/').map(str::to_owned).collect();
            if place.last().is_some_and(|last| last == "mod") || matches!(name, "lib" | "main") {
                place.pop();
            }
            // A library and a program of one folder share the root.
            places.entry(place).or_insert((path, Vec::new())).1.push(text);
        }
        let known: BTreeSet<Place> = places.keys().cloned().collect();
        let mut parsed: BTreeMap<Place, Parsed> = BTreeMap::new();
        for (place, (path, texts)) in &places {
            let mut reader =
                Reader { known: &known, own: &own, place: place.clone(), parsed: Parsed::default(), top: place };
            for text in texts {
                reader.visit_file(&syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}")));
            }
            let read = reader.parsed;
            parsed.insert(place.clone(), read);
        }
        let tests: BTreeSet<Place> = parsed
            .iter()
            .flat_map(|(place, file)| file.tests.iter().map(|name| [&place[..], std::slice::from_ref(name)].concat()))
            .collect();
        let hidden = |place: &Place| (0..=place.len()).any(|end| tests.contains(&place[..end]));
        let file = |(place, file): (&Place, &Parsed)| {
            let imports = file.paths.iter().filter_map(|(line, written, path)| {
                let from = resolve(path, &parsed, 0);
                // What lies below a module is its own.
                (!from.starts_with(place)).then(|| Import { line: *line, path: written.clone(), from })
            });
            (place.clone(), File { path: places[place].0.to_owned(), imports: imports.collect() })
        };
        House { files: parsed.iter().filter(|(place, _)| !hidden(place)).map(file).collect() }
    }
}

/// The module that has what a path names.
fn resolve(path: &[String], parsed: &BTreeMap<Place, Parsed>, depth: usize) -> Place {
    let end = (0..=path.len()).rev().find(|end| parsed.contains_key(&path[..*end])).unwrap_or(0);
    let handed = path.get(end).and_then(|name| parsed.get(&path[..end])?.names.get(name));
    match handed {
        // A name may come by itself, through a `use` of what bears it already.
        Some(to) if depth < 16 && to[..] != path[..end + 1] => {
            resolve(&[&to[..], &path[end + 1..]].concat(), parsed, depth + 1)
        }
        _ => path[..end].to_vec(),
    }
}

/// Walks through a file.
struct Reader<'a> {
    known: &'a BTreeSet<Place>,
    /// The crate's own name.
    own: &'a str,
    /// The module of the file.
    top: &'a Place,
    /// The module that is read: the file's, or one within it.
    place: Place,
    parsed: Parsed,
}

impl Reader<'_> {
    /// A path from the crate's root; none where it leads out of the crate.
    fn rooted(&self, path: &[String]) -> Option<Place> {
        let (first, mut rest) = path.split_first()?;
        let mut place = self.place.clone();
        match first.as_str() {
            "crate" => place.clear(),
            "self" => {}
            "super" => {
                place.pop();
                while let Some((_, more)) = rest.split_first().filter(|(next, _)| *next == "super") {
                    place.pop();
                    rest = more;
                }
            }
            first if first == self.own => place.clear(),
            child => {
                place.push(child.to_owned());
                if !self.known.contains(&place) {
                    return None;
                }
            }
        }
        place.extend_from_slice(rest);
        Some(place)
    }

    fn take(&mut self, path: &[Ident]) {
        let words: Vec<String> = path.iter().map(ToString::to_string).collect();
        let Some(place) = self.rooted(&words) else { return };
        let line = path.last().map_or(0, |last| last.span().start().line);
        self.parsed.paths.insert((line, words.join("::"), place));
    }

    fn take_tree(&mut self, tree: &UseTree, before: &mut Vec<Ident>) {
        let mut named = |path: &[Ident], name: &Ident| {
            self.take(path);
            let words: Vec<String> = path.iter().map(ToString::to_string).collect();
            if let Some(place) = self.rooted(&words).filter(|_| self.place == *self.top) {
                self.parsed.names.insert(name.to_string(), place);
            }
        };
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.clone());
                self.take_tree(&path.tree, before);
                before.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.take_tree(tree, before)),
            UseTree::Glob(_) => self.take(before),
            UseTree::Name(name) if name.ident == "self" => {
                if let Some(last) = before.last() {
                    named(before, last);
                }
            }
            UseTree::Name(name) => named(&[&before[..], std::slice::from_ref(&name.ident)].concat(), &name.ident),
            UseTree::Rename(name) if name.ident == "self" => named(before, &name.rename),
            UseTree::Rename(name) => named(&[&before[..], std::slice::from_ref(&name.ident)].concat(), &name.rename),
        }
    }

    /// What macros are given is not parsed: runs of `a::b::c` in it.
    fn take_tokens(&mut self, tokens: TokenStream) {
        let mut run: Vec<Ident> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.take_rooted(&run);
                        run.clear();
                    }
                    run.push(ident);
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !run.is_empty() => colons += 1,
                other => {
                    self.take_rooted(&run);
                    run.clear();
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.take_tokens(group.stream());
                    }
                }
            }
        }
        self.take_rooted(&run);
    }

    /// Where it says itself that it begins in this crate.
    fn take_rooted(&mut self, path: &[Ident]) {
        let rooted = |first: &Ident| first == "crate" || first == "super" || first == "self" || first == self.own;
        if path.len() > 1 && path.first().is_some_and(rooted) {
            self.take(path);
        }
    }
}

/// Whether something is there for tests only.
fn for_tests(attributes: &[Attribute]) -> bool {
    let is_test = |attribute: &Attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<Ident>().is_ok_and(|name| name == "test")
    };
    attributes.iter().any(is_test)
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if for_tests(&module.attrs) {
            if module.content.is_none() {
                self.parsed.tests.push(module.ident.to_string());
            }
            return;
        }
        self.place.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.place.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.take_tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<Ident> = path.segments.iter().map(|segment| segment.ident.clone()).collect();
        self.take_rooted(&words);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.take_tokens(called.tokens.clone());
    }

    /// `pub(super)` takes nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}
