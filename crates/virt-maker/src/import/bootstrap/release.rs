//! What a suite resolves to: the digest of its signed release file, or of what names all files of a repository of RPM
//! packages; both change whenever the suite does.
//!
//! A source is written `bootstrap:URL`, with the URL of the file on the mirror that the template means, so a lock file
//! says the same on every host; what is fetched comes from where the packages would come from.

use std::path::Path;

use super::firmware::Firmware;
use super::recipe::{DEBIAN_MIRROR, Distribution, Recipe};
use super::{mirror, rpm};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::{digest, url_path};
use crate::import::{ImportContext, fetch, http};
use crate::key::Digest;

/// What such sources begin with.
pub(in crate::import) const SCHEME: &str = "bootstrap:";
const FILE: &str = "InRelease";

/// The source of a recipe: that of its first line, which is that of the suite itself.
pub(super) fn source(recipe: &Recipe) -> Option<String> {
    let line = recipe.sources().into_iter().next()?;
    // `deb [signed-by=... arch=...] URL SUITE COMPONENT...`, or `deb URL FOLDER/` for packages without a suite.
    let rest = line.strip_prefix("deb ")?.trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    let (mirror, suite) = (words.next()?.trim_end_matches('/'), words.next()?);
    Some(match suite.strip_suffix('/') {
        Some(folder) => format!("{SCHEME}{mirror}/{folder}/{FILE}"),
        None => format!("{SCHEME}{mirror}/dists/{suite}/{FILE}"),
    })
}

/// The source of a recipe for RPM packages: the metadata of its first repository.
pub(super) fn source_of_rpm(recipe: &rpm::Recipe) -> Option<String> {
    Some(format!("{SCHEME}{}", recipe.metadata()?))
}

/// The digest of what a source has now.
pub(in crate::import) fn look(source: &str, context: &ImportContext<'_>) -> Result<Digest> {
    let url = source.strip_prefix(SCHEME).unwrap_or(source);
    let url = near(url, context)?.unwrap_or_else(|| url.to_owned());
    if let Some(path) = url.strip_prefix("file:") {
        let path = url_path(&format!("/{}", path.trim_start_matches('/'))).unwrap_or_default();
        let digest = digest::of_file(Path::new(&path));
        return digest.context(ErrorKind::Base, || format!("cannot read {path}, which stands for the release of a suite"));
    }
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(Error::new(ErrorKind::Base, format!("cannot look at {}: expected http, https or file", http::shown(&url))));
    }
    // What an earlier process left of another release must not be continued.
    fetch::forget(&url, context);
    let fetched = fetch::fetch(&url, context)
        .map_err(|error| match error.hint() {
            Some(_) => error,
            None => error.with_hint("does the mirror have the suite, with its release file or its `repodata`?"),
        })?;
    let digest = digest::of_file(fetched.path());
    fetched.discard();
    digest.context(ErrorKind::Base, || format!("cannot read {}", http::shown(&url)))
}

/// Debian's own archive is asked by way of the host's mirror, as for packages.
fn near(url: &str, context: &ImportContext<'_>) -> Result<Option<String>> {
    let suite = url.strip_prefix(DEBIAN_MIRROR).and_then(|rest| rest.strip_prefix("/dists/")?.strip_suffix(FILE));
    let Some(suite) = suite.map(|suite| suite.trim_end_matches('/')) else { return Ok(None) };
    let (suite, mirrors, packages) = (suite.to_owned(), Vec::new(), Vec::new());
    let recipe = Recipe { distribution: Distribution::Debian, suite, mirrors, packages, size: 0, firmware: Firmware::Bios };
    let mirror = mirror::of_host(&recipe, context)?;
    Ok(mirror.map(|mirror| format!("{mirror}/dists/{}/{FILE}", recipe.suite)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_says_where_the_suite_is() {
        let source = |suite: &str, mirrors: &[&str]| {
            let distribution = Distribution::of_suite(suite).unwrap_or(Distribution::Debian);
            let mirrors = mirrors.iter().map(|mirror| (*mirror).to_owned()).collect();
            let (suite, firmware) = (suite.into(), Firmware::Bios);
            source(&Recipe { distribution, suite, mirrors, packages: Vec::new(), size: 0, firmware })
        };
        let is = |found: Option<String>, url: &str| assert_eq!(found.unwrap(), format!("bootstrap:{url}"));
        is(source("bookworm", &[]), "http://deb.debian.org/debian/dists/bookworm/InRelease");
        is(source("noble", &[]), "http://archive.ubuntu.com/ubuntu/dists/noble/InRelease");
        is(source("own", &["https://m.example/debian/"]), "https://m.example/debian/dists/own/InRelease");
        is(source("own", &["file:///srv/debian"]), "file:///srv/debian/dists/own/InRelease");
        let line = "deb [arch=amd64 signed-by=/k.gpg] http://m.example/x trixie main";
        is(source("trixie", &[line]), "http://m.example/x/dists/trixie/InRelease");
        is(source("trixie", &["deb [trusted=yes] file:/srv/packages ./"]), "file:/srv/packages/./InRelease");
        assert_eq!(source("trixie", &["deb http://m.example/x"]), None);
    }
}
