//! Where a text is left: for tests of secrets.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};

/// Files below a folder that contain a text. Links are not followed.
pub fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("the folder can be read"));
        if kind.is_dir() {
            found.extend(files_with(&path, text));
        } else if kind.is_file() && count_in(&path, text) > 0 {
            found.push(path);
        }
    }
    found
}

/// How often a text is in a file. Holes of sparse files have none and are not read.
pub fn count_in(path: &Path, text: &str) -> usize {
    let finder = memchr::memmem::Finder::new(text);
    parts(path).iter().map(|part| finder.find_iter(part).count()).sum()
}

/// The parts of a file that are no holes.
fn parts(path: &Path) -> Vec<Vec<u8>> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut parts, mut at) = (Vec::new(), 0);
    while let Ok(start) = seek(file.as_fd(), SeekFrom::Data(at)) {
        at = seek(file.as_fd(), SeekFrom::Hole(start)).expect("data ends");
        let mut part = vec![0; usize::try_from(at - start).expect("it fits into memory")];
        file.read_exact_at(&mut part, start).expect("the file can be read");
        parts.push(part);
    }
    parts
}
