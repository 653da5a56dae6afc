//! The library of steps that come with the program: definitions in YAML, written as any user could write them.
//!
//! To add one, write `library/NAME.yml` with one or more `define`s and add its name to the table below.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::define::{Definition, Definitions};
use super::node::{FORMAT, SourceFile};
use super::parse::parse_text;

/// The table: file names and their texts.
macro_rules! library {
    ($($name:literal),* $(,)?) => {
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("library/", $name)))),*];
    };
}

library! {
    "access.yml",
    "motd.yml",
    "services.yml",
    "system.yml",
}

/// Where its files are said to lie.
const FOLDER: &str = "(library)";

/// Whether a text is the library's, so that no user can mend it.
pub(super) fn is_library(file: &SourceFile) -> bool {
    file.path.starts_with(FOLDER)
}

/// All definitions of the library.
pub(super) fn definitions() -> &'static Definitions {
    static ALL: OnceLock<Definitions> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Definitions::default();
        for (name, text) in FILES {
            let source = SourceFile {
                path: Arc::new(Path::new(FOLDER).join(name)),
                folder: PathBuf::from("/"),
                text: (*text).to_owned(),
                via: None,
                files: Arc::default(),
                format: FORMAT.into(),
            };
            // A test reads every file; one that is wrong is left out of a program that was built anyway.
            if let Ok(node) = parse_text(&Arc::new(source))
                && let Some(defined) = node.get("define")
            {
                let _ = all.add(defined);
            }
        }
        all
    })
}

/// The definition of a name, if the library has it.
pub fn library_step(name: &str) -> Option<&'static Definition> {
    definitions().get(name)
}

/// All of them, by name.
pub fn library_steps() -> impl Iterator<Item = &'static Definition> {
    definitions().iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_library_is_good() {
        let mut names = Vec::new();
        for (name, text) in FILES {
            let source = SourceFile {
                path: Arc::new(PathBuf::from(name)),
                folder: PathBuf::from("/"),
                text: (*text).to_owned(),
                via: None,
                files: Arc::default(),
                format: FORMAT.into(),
            };
            let node = parse_text(&Arc::new(source)).unwrap_or_else(|problem| panic!("{problem:?}"));
            let mut one = Definitions::default();
            let problems = one.add(node.get("define").unwrap_or_else(|| panic!("{name} defines nothing")));
            assert!(problems.is_empty(), "{problems:?}");
            for definition in one.iter() {
                assert!(!definition.description.is_empty(), "`{}` has no description", definition.name);
                assert!(definition.example.is_some(), "`{}` has no example", definition.name);
                names.push(definition.name.clone());
            }
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "each name once");
    }
}
