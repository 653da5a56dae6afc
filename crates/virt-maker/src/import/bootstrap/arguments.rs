//! Reading a bootstrap's arguments: which family a suite is of, and what makes sense for it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::firmware::Firmware;
use super::recipe::{Distribution, Recipe};
use super::rpm::{self, Release};
use super::{Bootstrap, is_mirror, mirror};
use crate::diagnostic::Diagnostic;
use crate::host::units::disk_size;
use crate::host::url_path;
use crate::import::Import;
use crate::template::{Kind, Node, OneOrMany, closest, from_node};

const DEFAULT_SIZE: u64 = 4 << 30;
/// No suite is smaller with a kernel.
const SIZE_MIN: u64 = 512 << 20;
/// ext4 with blocks of 4 KiB.
const SIZE_MAX: u64 = 16 << 40;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// Name of the suite: `bookworm`, `noble`, `fedora43`, `rocky9`, `almalinux9`, `centos10`, ...
    suite: String,
    /// Mirrors: URLs; for Debian and Ubuntu also lines of a sources.list, for the others base URLs of repositories, in which
    /// `$releasever` and `$basearch` may stand. Without it, the distribution's own.
    #[schemars(with = "Option<OneOrMany>")]
    #[expect(dead_code, reason = "read from the node: one string, or a list")]
    mirror: Option<serde::de::IgnoredAny>,
    /// Packages to install besides the base system and a kernel.
    #[schemars(with = "Option<Vec<String>>")]
    #[expect(dead_code, reason = "read from the node, so that each has its place")]
    packages: Option<serde::de::IgnoredAny>,
    /// Size of the disk, such as `4G`, which is the default.
    size: Option<String>,
    /// What the disk boots under: `bios`, which is the default, `uefi` (also with Secure Boot), or `both`. The latter two are for Debian
    /// and Ubuntu.
    firmware: Option<Firmware>,
    /// RPM packages: files with the public keys that packages may be signed with, as `gpg --export` writes them, armored or
    /// not. Without it, the distribution's own keys, from this host.
    #[schemars(with = "Option<OneOrMany>")]
    #[expect(dead_code, reason = "read from the node: one path, or a list")]
    gpg: Option<serde::de::IgnoredAny>,
    /// RPM packages: `false` takes packages of a `mirror` that nobody signed.
    signed: Option<bool>,
}

pub(super) fn parse(node: &Node) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let size = arguments.size.as_deref().map_or(Some(DEFAULT_SIZE), disk_size);
    let size = size.filter(|size| (SIZE_MIN..=SIZE_MAX).contains(size)).ok_or_else(|| {
        let place = node.get("size").unwrap_or(node);
        place.diagnostic("expected a size from 512M to 16T, such as `4G` or `2500M`")
    });
    let made = match Release::of_suite(&arguments.suite) {
        Some(release) => of_rpm(node, &arguments, release).map(Bootstrap::Rpm),
        None => of_debian(node, &arguments).map(Bootstrap::Debian),
    };
    match (made, size) {
        (Ok(Bootstrap::Debian(recipe)), Ok(size)) => Ok(Box::new(Bootstrap::Debian(Recipe { size, ..recipe }))),
        (Ok(Bootstrap::Rpm(recipe)), Ok(size)) => Ok(Box::new(Bootstrap::Rpm(rpm::Recipe { size, ..recipe }))),
        (made, size) => {
            let mut problems = made.err().unwrap_or_default();
            problems.extend(size.err());
            Err(problems)
        }
    }
}

/// All but the size, which is 0 yet.
fn of_debian(node: &Node, arguments: &Arguments) -> Result<Recipe, Vec<Diagnostic>> {
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    let suite = arguments.suite.clone();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
    if !suite.starts_with(|first: char| first.is_ascii_alphanumeric()) || !suite.bytes().all(plain) {
        let mut problem = at("suite").diagnostic(format!("`{}` is not the name of a suite", suite.escape_debug()));
        problem.hint = Release::hint(&suite);
        problems.push(problem);
    }
    let mirrors = texts(
        node.get("mirror"),
        is_mirror,
        |_| "expected the URL of a mirror (http, https, file), or a line of a sources.list that begins with `deb`".into(),
        mirror_refused,
        &mut problems,
    );
    let distribution = Distribution::of_suite(&suite).or_else(|| {
        let ubuntu = mirrors.iter().any(|mirror| mirror.contains("ubuntu"));
        let guess = if ubuntu { Distribution::Ubuntu } else { Distribution::Debian };
        (!mirrors.is_empty()).then_some(guess)
    });
    if distribution.is_none() && problems.is_empty() {
        let mut problem = at("suite").diagnostic(format!("unknown suite `{suite}`"));
        let meant = || closest(&suite, Distribution::suites()).map(|meant| format!("did you mean `{meant}`?"));
        let hint = Release::hint(&suite).or_else(meant);
        problem.hint = Some(hint.unwrap_or_else(|| "a suite that is not known by name needs a `mirror`".to_owned()));
        problems.push(problem);
    }
    for (name, instead) in [("gpg", "[signed-by=FILE]"), ("signed", "[trusted=yes]")] {
        if let Some(node) = node.get(name) {
            let mut problem = node.diagnostic(format!("`{name}` is for distributions made of RPM packages"));
            problem.hint = Some(format!("for Debian and Ubuntu write it into a line of `mirror`: `deb {instead} URL ...`"));
            problems.push(problem);
        }
    }
    // What Debian's policy allows in a name, with an architecture, a version or a release behind it; never an option, and
    // never apt's marks for removal. A name may end in plus signs, like that of a compiler.
    let is_package = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
            && !name.ends_with(['-', '+'])
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.:=~/".contains(&byte))
            || name.ends_with("++") && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'+')
    };
    let packages = texts(node.get("packages"), is_package, no_package, |_, _| None, &mut problems);
    if problems.is_empty() && !mirrors.iter().all(|line| mirror::is_vouched_for(line)) {
        problems.extend(unverified(at("mirror")));
    }
    match distribution {
        Some(distribution) if problems.is_empty() => {
            let firmware = arguments.firmware.unwrap_or_default();
            Ok(Recipe { distribution, suite, mirrors, packages, size: 0, firmware })
        }
        _ => Err(problems),
    }
}

/// All but the size, which is 0 yet.
fn of_rpm(node: &Node, arguments: &Arguments, release: Release) -> Result<rpm::Recipe, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let mirrors = texts(
        node.get("mirror"),
        rpm::is_mirror,
        |_| {
            "expected the base URL of a repository (http, https, file) without blanks and commas, in which `$releasever` \
             and `$basearch` may stand"
                .into()
        },
        mirror_refused,
        &mut problems,
    );
    let packages = texts(node.get("packages"), rpm::is_package, no_package, |_, _| None, &mut problems);
    let keys = texts(
        node.get("gpg"),
        |path| !path.is_empty(),
        |_| "expected the path of a file with public keys".into(),
        |_, _| None,
        &mut problems,
    );
    let at = node.get("gpg").unwrap_or(node);
    let place = |path: &String| at.host_path(path).map(|found| found.real().to_owned());
    let keys: Vec<PathBuf> =
        keys.iter().filter_map(|path| place(path).map_err(|problem| problems.push(problem)).ok()).collect();
    if let (Some(Firmware::Uefi | Firmware::Both), Some(node)) = (arguments.firmware, node.get("firmware")) {
        problems.push(Diagnostic {
            hint: Some("take a cloud image of the distribution by `download`: most of them boot under UEFI".into()),
            ..node.diagnostic("disks for UEFI are made of Debian and Ubuntu alone; of RPM packages only `bios`")
        });
    }
    let signed = arguments.signed.unwrap_or(true);
    if let (false, Some(node)) = (signed, node.get("signed")) {
        if mirrors.is_empty() {
            problems.push(node.diagnostic("`signed: false` is for a `mirror`: the distribution's own packages are signed"));
        } else if !keys.is_empty() {
            problems.push(node.diagnostic("`signed: false` asks for no keys, and `gpg` names some: expected one of them"));
        }
    }
    let suite = arguments.suite.clone();
    if problems.is_empty() && !(signed && keys.iter().all(|key| mirror::is_of_host(key))) {
        problems.extend(unverified(node.get("signed").filter(|_| !signed).unwrap_or(at)));
    }
    if problems.is_empty() {
        Ok(rpm::Recipe { release, suite, mirrors, keys, signed, packages, size: 0 })
    } else {
        Err(problems)
    }
}

/// What the door says of packages that are signed with a key of the template's, or with none.
fn unverified(node: &Node) -> Option<Diagnostic> {
    node.door().unverified("the packages of this mirror").err().map(|refusal| node.refused(refusal))
}

/// What the door says of the files of the host that a mirror's text names: a `file:` or `copy:` URL, the keys of a
/// `signed-by`.
pub(in crate::import) fn mirror_refused(node: &Node, mirror: &str) -> Option<Diagnostic> {
    let words = mirror.split(|letter: char| letter.is_whitespace() || "[]=,".contains(letter));
    let paths = words.filter_map(|word| match word.split_once(':') {
        Some(("file" | "copy", rest)) => url_path(rest.strip_prefix("//").unwrap_or(rest)),
        _ => word.starts_with('/').then(|| word.to_owned()),
    });
    paths.filter_map(|path| node.host_path(path).err()).next()
}

fn no_package(name: &str) -> String {
    format!("`{}` is not the name of a package", name.escape_debug())
}

/// The texts of a list, or of one thing in place of a list of one; those that do not fit become problems at their place.
fn texts(
    node: Option<&Node>,
    fits: impl Fn(&str) -> bool,
    wrong: impl Fn(&str) -> String,
    refused: impl Fn(&Node, &str) -> Option<Diagnostic>,
    problems: &mut Vec<Diagnostic>,
) -> Vec<String> {
    let nodes = match node.map(|node| (&node.kind, node)) {
        None | Some((Kind::Null, _)) => Vec::new(),
        Some((Kind::List(items), _)) => items.iter().collect(),
        Some((_, node)) => vec![node],
    };
    let mut texts = Vec::new();
    for node in nodes {
        match from_node::<String>(node) {
            Ok(text) if fits(&text) => {
                problems.extend(refused(node, &text));
                texts.push(text);
            }
            Ok(text) => problems.push(node.diagnostic(wrong(&text))),
            Err(found) => problems.extend(found),
        }
    }
    texts
}
