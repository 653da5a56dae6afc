//! The kernel of a root file system that was packed without one, as a tar: `boot/vmlinuz-VERSION`,
//! `boot/initrd.img-VERSION`, `modules/VERSION`; and, for a disk that boots under UEFI, signed loaders where their packages have them.
//!
//! A package is installed by `mmdebstrap` into a small tree of its own, which makes the initrd too: behind the walls that a
//! bootstrap has, and nothing of the root file system takes part in it.
//!
//! Files of the host are those of one list ([`Part`]): what is in the key is what is packed, and what is packed has the
//! digest that is in the key. A link among the modules is no part of it (`build` and `source` lead to headers elsewhere).

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::diagnostic::Diagnostic;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::digest::Digesting;
use crate::import::bootstrap::arguments::mirror_refused;
use crate::import::bootstrap::firmware::Firmware;
use crate::import::bootstrap::judge_mirror;
use crate::import::bootstrap::tree::{Scratch, debootstrap};
use crate::import::bootstrap::recipe::{Distribution, Recipe};
use crate::import::{ImportContext, sources};
use crate::key::{Digest, HostInput};
use crate::template::Node;

/// Packs what a kernel's package and its initrd are, from the tree at $1.
const PACK: &str = "set -eu; root=$1; out=$HOME/out; mkdir \"$out\" \"$out/boot\"; \
    cp \"$root\"/boot/vmlinuz-* \"$root\"/boot/initrd.img-* \"$out/boot/\"; \
    cp -a \"$root\"/usr/lib/modules \"$out/modules\"; \
    for loader in usr/lib/shim usr/lib/grub/x86_64-efi-signed; do \
    if [ -d \"$root/$loader\" ]; then mkdir -p \"$out/$loader\"; cp -a \"$root/$loader/.\" \"$out/$loader/\"; fi; done; \
    tar --create --owner=0 --group=0 --directory \"$out\" . >\"$GUEST_TAR\"";

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
            Kernel::Files { .. } => {
                for part in self.parts()? {
                    let digest = sources::of_file(&part.path, context);
                    let digest = digest.context(ErrorKind::Base, || format!("cannot read {}", part.path.display()))?;
                    inputs.push(HostInput { name: part.name, kind: "file".into(), digest, mode: 0 });
                }
                Ok(json!({ "files": true }))
            }
        }
    }

    /// Makes the tar. `inputs` are those of the base's key.
    pub(super) fn bundle(
        &self,
        inputs: &[HostInput],
        firmware: Firmware,
        scratch: &Path,
        log: &Path,
        context: &ImportContext<'_>,
    ) -> Result<PathBuf> {
        let target = scratch.join("kernel.tar");
        let failed = || format!("cannot write {}", target.display());
        let tar = File::create_new(&target).context(ErrorKind::Store, failed)?;
        match self {
            Kernel::Package { package, suite, mirrors } => {
                mirrors.iter().try_for_each(|mirror| judge_mirror(mirror, context))?;
                let below = Scratch::beside(&scratch.join("kernel"))?;
                let recipe = Recipe {
                    distribution: Distribution::of_suite(suite).unwrap_or(Distribution::Debian),
                    suite: suite.clone(),
                    mirrors: mirrors.clone(),
                    packages: Vec::new(),
                    size: 0,
                    firmware: Firmware::Bios,
                };
                let mut include = vec![package.as_str(), "initramfs-tools", "zstd"];
                if firmware.has_uefi() {
                    include.extend(["shim-signed", "grub-efi-amd64-signed"]);
                }
                debootstrap(&recipe, &include, PACK, &[], Some(("GUEST_TAR", &target)), &below, log, context)?;
            }
            Kernel::Files { .. } => {
                let mut archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, tar));
                let mut rest: Vec<&HostInput> = inputs.iter().filter(|input| input.name != "source").collect();
                for part in self.parts()? {
                    context.cancel.check()?;
                    let place = rest.iter().position(|input| input.name == part.name);
                    let digest = place.map(|place| rest.swap_remove(place).digest);
                    if digest != Some(part.pack(&mut archive).context(ErrorKind::Base, failed)?) {
                        return Err(changed(&part.path));
                    }
                }
                if let Some(gone) = rest.first() {
                    return Err(changed(Path::new(&gone.name)));
                }
                archive.into_inner().and_then(|file| Ok(file.into_inner()?)).context(ErrorKind::Store, failed)?;
            }
        }
        Ok(target)
    }

    /// The files of the host that it is made of; none for a package.
    fn parts(&self) -> Result<Vec<Part>> {
        let Kernel::Files { image, initrd, modules } = self else { return Ok(Vec::new()) };
        // The name of a kernel's modules is its version.
        let version = modules.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
        let version = version.unwrap_or("host".into());
        let part = |name: &str, path: &Path, place: String| Part { name: name.into(), path: path.into(), place: place.into() };
        let mut parts = vec![
            part("image", image, format!("boot/vmlinuz-{version}")),
            part("initrd", initrd, format!("boot/initrd.img-{version}")),
        ];
        if let Some(modules) = modules {
            let failed = || format!("cannot read {}", modules.display());
            let mut files = Vec::new();
            walk(modules, Path::new(""), &mut files).context(ErrorKind::Base, failed)?;
            for file in files {
                parts.push(Part {
                    name: format!("modules/{}", file.to_string_lossy()),
                    path: modules.join(&file),
                    place: Path::new("modules").join(&*version).join(&file),
                });
            }
        }
        Ok(parts)
    }
}

/// A file of the host that a kernel is made of.
struct Part {
    /// What it is called in the key.
    name: String,
    path: PathBuf,
    /// Its name in the tar.
    place: PathBuf,
}

impl Part {
    /// Packs it, and says what the bytes were that were packed.
    fn pack(&self, archive: &mut tar::Builder<impl Write>) -> io::Result<Digest> {
        let file = File::open(&self.path)?;
        let size = file.metadata()?.len();
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        let mut reading = Digesting::new(file.take(size));
        archive.append_data(&mut header, &self.place, &mut reading)?;
        reading.finish()
    }
}

fn changed(path: &Path) -> Error {
    let message = format!("{} changed while it was read", path.display());
    Error::new(ErrorKind::Base, message).with_hint("build again to take what is there now")
}

/// Paths of the regular files below a folder, in the order of their names.
fn walk(folder: &Path, below: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries = std::fs::read_dir(folder.join(below))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(folder, &path, files)?;
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(())
}
