//! `bootstrap`: a bootable Debian or Ubuntu, made of packages by `mmdebstrap`.
//!
//! No loop device, no appliance, no right beyond what `mmdebstrap` itself needs: its last hook makes the file system
//! with `mke2fs -d` while the tree still has its owners, and the boot loader is put in place from outside. The tree is
//! never packed and unpacked, so a bootstrap takes little more than `mmdebstrap` alone.
//!
//! The key covers what the template says. The packages that a mirror has are another day others; a base that is in the
//! store stays as it is until somebody forces it, or a lock file names another release of the suite ([`release`]). The mirror that the host uses by default ([`mirror`]) is where packages
//! come from, and leaves no trace in the guest.

pub(super) mod grub;
mod mirror;
pub(super) mod recipe;
pub(super) mod release;
pub(super) mod tree;

use std::fs::File;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use self::recipe::{Distribution, Recipe};
use super::text::parse_size;
use super::{Import, ImportContext, ImportKey, ImportKind, Made};
use crate::diagnostic::Diagnostic;
use crate::disk::ImageFormat;
use crate::error::{Context, ErrorKind, Result};
use crate::template::{Kind, Need, Node, OneOrMany, arguments, closest, from_node};

pub(super) static KIND: ImportKind = ImportKind {
    name: "bootstrap",
    about: "Makes a bootable Debian or Ubuntu from packages, with mmdebstrap.",
    arguments: arguments::<Arguments>,
    example: "bootstrap: {suite: bookworm, packages: [openssh-server]}",
    needs: &[
        Need::new("mmdebstrap", "mmdebstrap"),
        Need::new("mke2fs", "e2fsprogs"),
        Need::new("grub-mkimage", "grub-common"),
    ],
    version: 1,
    parse,
};

const DEFAULT_SIZE: u64 = 4 << 30;
/// No suite is smaller with a kernel.
const SIZE_MIN: u64 = 512 << 20;
/// ext4 with blocks of 4 KiB.
const SIZE_MAX: u64 = 16 << 40;

/// Beginnings of what somebody calls a distribution that is made of RPM packages.
const RPM_BASED: [&str; 8] = ["fedora", "rocky", "alma", "centos", "rhel", "el8", "el9", "opensuse"];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// Name of the suite: `bookworm`, `noble`, ...
    suite: String,
    /// Mirrors or lines of a sources.list; without it, the distribution's own.
    #[schemars(with = "Option<OneOrMany>")]
    #[expect(dead_code, reason = "read from the node: one string, or a list")]
    mirror: Option<serde::de::IgnoredAny>,
    /// Packages to install besides the base system and a kernel.
    #[schemars(with = "Option<Vec<String>>")]
    #[expect(dead_code, reason = "read from the node, so that each has its place")]
    packages: Option<serde::de::IgnoredAny>,
    /// Size of the disk, such as `4G`, which is the default.
    size: Option<String>,
}

struct Bootstrap {
    recipe: Recipe,
}

fn parse(node: &Node) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();

    let suite = arguments.suite;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
    if !suite.starts_with(|first: char| first.is_ascii_alphanumeric()) || !suite.bytes().all(plain) {
        problems.push(at("suite").diagnostic(format!("`{}` is not the name of a suite", suite.escape_debug())));
    }
    let mut mirrors = Vec::new();
    for node in node.get("mirror").map(items).unwrap_or_default() {
        match text(node) {
            Ok(mirror) if is_mirror(&mirror) => mirrors.push(mirror),
            Ok(_) => problems.push(node.diagnostic(
                "expected the URL of a mirror (http, https, file), or a line of a sources.list that begins with `deb`",
            )),
            Err(found) => problems.extend(found),
        }
    }
    let distribution = Distribution::of_suite(&suite).or_else(|| {
        let ubuntu = mirrors.iter().any(|mirror| mirror.contains("ubuntu"));
        let guess = if ubuntu { Distribution::Ubuntu } else { Distribution::Debian };
        (!mirrors.is_empty()).then_some(guess)
    });
    if distribution.is_none() && problems.is_empty() {
        let mut problem = at("suite").diagnostic(format!("unknown suite `{suite}`"));
        let of_rpm = RPM_BASED.iter().any(|name| suite.to_lowercase().starts_with(name));
        problem.hint = Some(match closest(&suite, Distribution::suites()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if of_rpm => {
                "`bootstrap` makes Debian and Ubuntu; take its cloud image by `download`, with `checksums`".to_owned()
            }
            None => "a suite that is not known by name needs a `mirror`".to_owned(),
        });
        problems.push(problem);
    }
    let mut packages = Vec::new();
    for node in node.get("packages").map(items).unwrap_or_default() {
        match text(node) {
            // What Debian's policy allows in a name, with an architecture, a version or a release behind it; never an
            // option, and never apt's marks for removal.
            Ok(name)
                if name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
                    && !name.ends_with(['-', '+'])
                    && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.:=~/".contains(&byte)) =>
            {
                packages.push(name);
            }
            // A name may end in plus signs, like that of a compiler.
            Ok(name) if name.ends_with("++") && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'+') => {
                packages.push(name);
            }
            Ok(name) => {
                problems.push(node.diagnostic(format!("`{}` is not the name of a package", name.escape_debug())));
            }
            Err(found) => problems.extend(found),
        }
    }
    let size = match arguments.size.as_deref().map(parse_size) {
        None => DEFAULT_SIZE,
        Some(Some(size)) if (SIZE_MIN..=SIZE_MAX).contains(&size) => size,
        Some(_) => {
            problems.push(at("size").diagnostic("expected a size from 512M to 16T, such as `4G` or `2500M`"));
            DEFAULT_SIZE
        }
    };
    match distribution {
        Some(distribution) if problems.is_empty() => {
            Ok(Box::new(Bootstrap { recipe: Recipe { distribution, suite, mirrors, packages, size } }))
        }
        _ => Err(problems),
    }
}

/// A list, or one thing in place of a list of one.
fn items(node: &Node) -> Vec<&Node> {
    match &node.kind {
        Kind::List(items) => items.iter().collect(),
        Kind::Null => Vec::new(),
        _ => vec![node],
    }
}

fn text(node: &Node) -> Result<String, Vec<Diagnostic>> {
    from_node(node)
}

/// One line, since it becomes one of a `sources.list`.
fn is_mirror(mirror: &str) -> bool {
    let url = ["http://", "https://", "file:/"].iter().any(|scheme| mirror.starts_with(scheme));
    !mirror.contains(char::is_control) && (mirror.starts_with("deb ") || url && !mirror.contains(char::is_whitespace))
}

impl Import for Bootstrap {
    fn summary(&self) -> String {
        let mut summary = self.recipe.suite.clone();
        for package in &self.recipe.packages {
            summary.push(' ');
            summary.push_str(package);
        }
        summary
    }

    fn release(&self) -> Option<String> {
        release::source(&self.recipe)
    }

    fn key_inputs(&self, _: &ImportContext<'_>) -> Result<ImportKey> {
        let Recipe { distribution: _, suite, mirrors, packages, size } = &self.recipe;
        let arguments = json!({ "suite": suite, "mirror": mirrors, "packages": packages, "size": size });
        Ok(ImportKey { arguments, inputs: Vec::new(), fetched: None })
    }

    fn make(&self, _: &ImportKey, target: &Path, log: &Path, context: &ImportContext<'_>) -> Result<Made> {
        let size = self.recipe.size;
        grub::check_host()?;
        let scratch = tree::Scratch::beside(target)?;
        let disk =
            File::create_new(target).context(ErrorKind::Store, || format!("cannot write {}", target.display()))?;
        disk.set_len(size)
            .context(ErrorKind::Store, || format!("cannot make {} {size} bytes large", target.display()))?;
        drop(disk);
        tree::make(&self.recipe, target, &scratch, log, context)?;
        grub::partition(target, size, context.cancel)?;
        grub::install(target, scratch.path(), context.cancel)?;
        // Raw: nothing is converted, holes stay holes, and reads below the overlays need no second table of clusters.
        Ok(ImageFormat::Raw.into())
    }
}
