//! The tour of `docs/templates.md` is built as it stands there, on a real Debian.

use std::fs;
use std::path::PathBuf;

use super::{document, snippets};
use crate::common::Bench;

/// What cannot be built here, and why.
const NOT_HERE: [(&str, &str); 2] =
    [("secret.yml", "its registry does not exist"), ("rocky.yml", "the distribution's own repositories, a gigabyte")];

/// Every template with a name, all in one build. Their bases, from the network or of packages, are the same Debian.
#[test]
fn what_the_tour_shows_is_built() {
    let bench = Bench::new(PathBuf::from("/nonexistent"));
    fs::create_dir(bench.path("images")).unwrap();
    testkit::copy_image(&testkit::debian_guest(), &bench.path("images/debian-12.qcow2"));
    let mut templates = Vec::new();
    for (_, text) in snippets(&document("docs/templates.md")) {
        let Some(name) = text.lines().next().and_then(|line| line.strip_prefix("# ")).filter(|n| n.ends_with(".yml"))
        else {
            continue;
        };
        let made = "bootstrap: {suite: bookworm, size: '{{ size }}'}";
        fs::write(bench.path(name), text.replace(made, "download: {url: images/debian-12.qcow2}")).unwrap();
        let is_template = text.contains("\nspec:") && NOT_HERE.iter().all(|(other, _)| *other != name);
        templates.extend(is_template.then(|| name.to_owned()));
    }
    assert!(templates.len() >= 6, "{templates:?}");
    let mut arguments: Vec<&str> = templates.iter().map(String::as_str).collect();
    // web1 is what two of them export.
    arguments.retain(|name| *name != "params.yml");
    bench.run(&[&["build", "--engine", "chroot"], &*arguments].concat()).exits(0);
    bench.run(&["build", "--engine", "chroot", "params.yml", "-p", "name=web2"]).exits(0);
    for image in ["web1", "web2", "base", "team", "shop", "web-4G", "web-8G", "db-8G"] {
        assert!(bench.path(&format!("{image}.qcow2")).exists(), "{image}");
    }
    // What the library shows beside them.
    let text = "spec:\n  import: {download: {url: images/debian-12.qcow2}}\n  steps:\n    - include: hardening.yml\n      with: {banner: Keep out.}\n";
    fs::write(bench.path("included.yml"), text).unwrap();
    bench.run(&["build", "--engine", "chroot", "included.yml"]).exits(0);
}
