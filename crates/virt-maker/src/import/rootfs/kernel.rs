//! The kernel of a root file system that was packed without one, as a tar: `boot/vmlinuz-VERSION`,
//! `boot/initrd.img-VERSION`, `modules/VERSION`.
//!
//! A package is installed by `mmdebstrap` into a small tree of its own, which makes the initrd too: all of that is trusted
//! as a bootstrap is, and nothing of the root file system takes part in it.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::subordinate::as_root_alone;
use crate::import::bootstrap::arguments::mirror_refused;
use crate::import::bootstrap::tree::{Scratch, debootstrap};
use crate::import::bootstrap::recipe::{Distribution, Recipe};
use crate::import::{ImportContext, sources};
use crate::key::HostInput;
use crate::template::Node;

/// Packs what a kernel's package and its initrd are, from the tree at $1.
const PACK: &str = "set -eu; root=$1; mkdir \"$GUEST_OUT\"; mkdir \"$GUEST_OUT/boot\"; \
    cp \"$root\"/boot/vmlinuz-* \"$root\"/boot/initrd.img-* \"$GUEST_OUT/boot/\"; \
    cp -a \"$root\"/usr/lib/modules \"$GUEST_OUT/modules\"; \
    tar --create --owner=0 --group=0 --directory \"$GUEST_OUT\" --file \"$GUEST_TAR\" .";

/// Where a kernel comes from: `package`, or `image` and `initrd`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KernelArguments {
    /// A package of Debian, such as `linux-image-cloud-amd64`.
    package: Option<String>,
    /// The suite that the package comes from; `bookworm` by default.
    suite: Option<String>,
    /// A mirror of it; Debian's own by default.
    mirror: Option<String>,
    /// A kernel that is a file of the host.
    image: Option<PathBuf>,
    /// Its initrd.
    initrd: Option<PathBuf>,
    /// A folder of the host with its modules, such as `/lib/modules/6.1.0-18-amd64`.
    modules: Option<PathBuf>,
}

/// Where a kernel comes from, checked.
pub(super) enum Kernel {
    Package { package: String, suite: String, mirrors: Vec<String> },
    Files { image: PathBuf, initrd: PathBuf, modules: Option<PathBuf> },
}

impl Kernel {
    pub(super) fn checked(arguments: KernelArguments, node: &Node) -> Result<Kernel, Vec<Diagnostic>> {
        let at = |name: &str| node.get(name).unwrap_or(node);
        let word = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_alphanumeric())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-+._".contains(&byte))
        };
        let KernelArguments { package, suite, mirror, image, initrd, modules } = arguments;
        match (package, image, initrd) {
            (Some(package), None, None) if modules.is_none() => {
                let suite = suite.unwrap_or_else(|| "bookworm".into());
                let mut problems = Vec::new();
                for (name, text) in [("package", &package), ("suite", &suite)] {
                    if !word(text) {
                        problems.push(at(name).diagnostic(format!("`{}` is no {name}", text.escape_debug())));
                    }
                }
                let fits = |mirror: &String| {
                    ["http://", "https://", "file:/"].iter().any(|scheme| mirror.starts_with(scheme))
                        && !mirror.contains(|c: char| c.is_control() || c.is_whitespace())
                };
                if mirror.as_ref().is_some_and(|mirror| !fits(mirror)) {
                    problems.push(at("mirror").diagnostic("expected the URL of a mirror"));
                }
                problems.extend(mirror.iter().filter_map(|mirror| mirror_refused(at("mirror"), mirror)));
                let mirrors = mirror.into_iter().collect();
                if problems.is_empty() { Ok(Kernel::Package { package, suite, mirrors }) } else { Err(problems) }
            }
            (None, Some(image), Some(initrd)) if suite.is_none() && mirror.is_none() => {
                let place = |name: &str, path: PathBuf| {
                    let found = at(name).host_path(path).map_err(|problem| vec![problem])?;
                    Ok::<_, Vec<Diagnostic>>(found.real().to_owned())
                };
                Ok(Kernel::Files {
                    image: place("image", image)?,
                    initrd: place("initrd", initrd)?,
                    modules: modules.map(|modules| place("modules", modules)).transpose()?,
                })
            }
            _ => Err(vec![node.diagnostic(
                "expected either `package` (with `suite` and `mirror`), or `image` and `initrd` (with `modules`)",
            )]),
        }
    }

    /// What enters the key; digests of files are added to `inputs`.
    pub(super) fn key(&self, inputs: &mut Vec<HostInput>, context: &ImportContext<'_>) -> Result<Value> {
        match self {
            Kernel::Package { package, suite, mirrors } => {
                Ok(json!({ "package": package, "suite": suite, "mirror": mirrors }))
            }
            Kernel::Files { image, initrd, modules } => {
                let mut add = |name: String, path: &Path| -> Result<()> {
                    let digest = sources::of_file(path, context);
                    let digest = digest.context(ErrorKind::Base, || format!("cannot read {}", path.display()))?;
                    inputs.push(HostInput { name, kind: "file".into(), digest, mode: 0 });
                    Ok(())
                };
                add("image".into(), image)?;
                add("initrd".into(), initrd)?;
                if let Some(modules) = modules {
                    let mut files = Vec::new();
                    walk(modules, "", &mut files).context(ErrorKind::Base, || {
                        format!("cannot read {}", modules.display())
                    })?;
                    for (name, path) in files {
                        add(format!("modules/{name}"), &path)?;
                    }
                }
                Ok(json!({ "files": true }))
            }
        }
    }

    /// Makes the tar.
    pub(super) fn bundle(&self, scratch: &Path, log: &Path, context: &ImportContext<'_>) -> Result<PathBuf> {
        let target = scratch.join("kernel.tar");
        match self {
            Kernel::Package { package, suite, mirrors } => {
                let below = Scratch::beside(&scratch.join("kernel"))?;
                let recipe = Recipe {
                    distribution: Distribution::of_suite(suite).unwrap_or(Distribution::Debian),
                    suite: suite.clone(),
                    mirrors: mirrors.clone(),
                    packages: Vec::new(),
                    size: 0,
                };
                let include = [package.as_str(), "initramfs-tools", "zstd"];
                let out = below.path().join("out");
                let env = [("GUEST_OUT", out.as_os_str()), ("GUEST_TAR", target.as_os_str())];
                debootstrap(&recipe, &include, PACK, &env, &below, log, context)?;
            }
            Kernel::Files { image, initrd, modules } => {
                // The name of a kernel's modules is its version.
                let version = modules.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
                let version = version.unwrap_or("host".into());
                let pack = "mkdir \"$OUT\" \"$OUT/boot\"; cp \"$IMAGE\" \"$OUT/boot/vmlinuz-$VERSION\"; \
                    cp \"$INITRD\" \"$OUT/boot/initrd.img-$VERSION\"; \
                    if [ -n \"$MODULES\" ]; then mkdir \"$OUT/modules\"; cp -rL \"$MODULES\" \"$OUT/modules/$VERSION\" || \
                    cp -r \"$MODULES\" \"$OUT/modules/$VERSION\"; fi; \
                    tar --create --owner=0 --group=0 --directory \"$OUT\" --file \"$TAR\" .";
                let tool = as_root_alone()
                    .args(["sh", "-eu", "-c", pack])
                    .env("OUT", scratch.join("kernel"))
                    .env("TAR", &target)
                    .env("IMAGE", image)
                    .env("INITRD", initrd)
                    .env("MODULES", modules.clone().unwrap_or_default())
                    .env("VERSION", version.into_owned());
                tool.log_to(log).run(context.cancel).map_err(|error| {
                    Error::new(ErrorKind::Base, "the kernel's files cannot be read").with_source(error)
                })?;
            }
        }
        Ok(target)
    }
}

/// Regular files below a folder, in the order of their names.
fn walk(folder: &Path, name: &str, files: &mut Vec<(String, PathBuf)>) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{name}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), &format!("{name}/"), files)?;
        } else if kind.is_file() {
            files.push((name, entry.path()));
        }
    }
    Ok(())
}
