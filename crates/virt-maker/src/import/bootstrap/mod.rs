//! `bootstrap`: a bootable distribution, made of packages: Debian and Ubuntu by `mmdebstrap`; Fedora, Rocky Linux, AlmaLinux
//! and CentOS Stream by `dnf --installroot`.
//!
//! ```text
//! arguments ─┬─ recipe, mirror ─▶ tree: mmdebstrap, common.sh + debian.sh ─┬─▶ partition table and GRUB
//!            └─ rpm ────────────▶ dnf:  dnf, common.sh + rpm.sh ───────────┘
//! ```
//! No loop device, no appliance, no right beyond what these programs need: the last act where the tree is makes the file system
//! with `mke2fs -d` while the tree still has its owners, and the boot loader is put in place from outside. The tree is
//! never packed and unpacked, so a bootstrap takes little more than the program alone.
//!
//! The key covers what the template says, and the keys that it names. The packages that a mirror has are another day others;
//! a base that is in the store stays as it is until somebody forces it, or a lock file names another release of the suite
//! ([`release`]). The mirror that the host uses by default ([`mirror`]) is where packages of Debian come from, and leaves no
//! trace in the guest.

pub(super) mod arguments;
mod archive;
mod complaints;
mod dnf;
pub(super) mod esp;
pub(super) mod firmware;
pub(super) mod grub;
mod mirror;
pub(super) mod recipe;
pub(super) mod release;
mod rpm;
pub(super) mod tree;

use std::fs::File;
use std::path::Path;

use serde_json::json;

use self::firmware::Firmware;
use self::recipe::Recipe;
use super::{Import, ImportContext, ImportKey, ImportKind, Made, http, sources};
use crate::disk::ImageFormat;
use crate::disk::table::copy_data;
use crate::error::{Context, ErrorKind, Result};
use crate::key::HostInput;
use crate::template::Need;

pub(super) static KIND: ImportKind = ImportKind {
    name: "bootstrap",
    about: "Makes a bootable Debian or Ubuntu from packages, with mmdebstrap, or a Fedora, Rocky Linux, AlmaLinux or CentOS Stream, with dnf.",
    arguments: crate::template::arguments::<arguments::Arguments>,
    example: "bootstrap: {suite: bookworm, packages: [openssh-server]}",
    needs: &[
        Need::of("mmdebstrap", "mmdebstrap", "Debian and Ubuntu"),
        Need::of("dnf", "dnf", RPM_BASED),
        Need::of("rpm", "rpm", RPM_BASED),
        Need::of("gpg", "gpg", RPM_BASED),
        Need::new("mke2fs", "e2fsprogs"),
        Need::new("grub-mkimage", "grub-common"),
        Need::of("mformat", "mtools", "UEFI"),
    ],
    version: 1,
    network: false,
    parse: arguments::parse,
};

/// What some programs are needed for.
const RPM_BASED: &str = "RPM packages";

/// An error where a mirror, a URL or a line of a sources.list, leads to an address that templates may not reach.
pub(super) fn judge_mirror(mirror: &str, context: &ImportContext<'_>) -> Result<()> {
    mirror.split_whitespace().try_for_each(|word| http::judge(word, context))
}

/// A bootstrap, by the family of its suite.
enum Bootstrap {
    Debian(Recipe),
    Rpm(rpm::Recipe),
}

/// One line, since it becomes one of a `sources.list`.
fn is_mirror(mirror: &str) -> bool {
    let url = ["http://", "https://", "file:/"].iter().any(|scheme| mirror.starts_with(scheme));
    !mirror.contains(char::is_control) && (mirror.starts_with("deb ") || url && !mirror.contains(char::is_whitespace))
}

impl Bootstrap {
    /// An error where a mirror that the template names is one of the host's own addresses.
    fn judge(&self, context: &ImportContext<'_>) -> Result<()> {
        let mirrors = match self {
            Bootstrap::Debian(recipe) => &recipe.mirrors,
            Bootstrap::Rpm(recipe) => &recipe.mirrors,
        };
        mirrors.iter().try_for_each(|mirror| judge_mirror(mirror, context))
    }

    /// What the disk has besides its root file system.
    fn finish(&self, target: &Path, scratch: &tree::Scratch, context: &ImportContext<'_>) -> Result<Made> {
        context.events.stage("the partition table and the boot loader");
        grub::partition(target, self.size(), self.firmware(), context.cancel)?;
        grub::install(target, self.firmware(), scratch.path(), context.cancel)?;
        // Raw: nothing is converted, holes stay holes, and reads below the overlays need no second table of clusters.
        Ok(ImageFormat::Raw.into())
    }

    fn firmware(&self) -> Firmware {
        match self {
            Bootstrap::Debian(recipe) => recipe.firmware,
            // GRUB of these distributions has its lines and its menu in other places, and their packages could not be tried.
            Bootstrap::Rpm(_) => Firmware::Bios,
        }
    }

    fn suite(&self) -> &str {
        match self {
            Bootstrap::Debian(recipe) => &recipe.suite,
            Bootstrap::Rpm(recipe) => &recipe.suite,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Bootstrap::Debian(recipe) => recipe.size,
            Bootstrap::Rpm(recipe) => recipe.size,
        }
    }
}

impl Import for Bootstrap {
    fn summary(&self) -> String {
        let (suite, packages) = match self {
            Bootstrap::Debian(recipe) => (&recipe.suite, &recipe.packages),
            Bootstrap::Rpm(recipe) => (&recipe.suite, &recipe.packages),
        };
        let mut summary = suite.clone();
        for package in packages {
            summary.push(' ');
            summary.push_str(package);
        }
        summary
    }

    fn release(&self) -> Option<String> {
        match self {
            Bootstrap::Debian(recipe) => release::source(recipe),
            Bootstrap::Rpm(recipe) => release::source_of_rpm(recipe),
        }
    }

    fn key_inputs(&self, context: &ImportContext<'_>) -> Result<ImportKey> {
        let mut inputs = Vec::new();
        let arguments = match self {
            Bootstrap::Debian(Recipe { distribution: _, suite, mirrors, packages, size, firmware }) => {
                let mut arguments = json!({ "suite": suite, "mirror": mirrors, "packages": packages, "size": size });
                firmware.enter(&mut arguments);
                arguments
            }
            Bootstrap::Rpm(rpm::Recipe { release: _, suite, mirrors, keys, signed, packages, size }) => {
                for (index, path) in keys.iter().enumerate() {
                    let digest = sources::of_file(path, context);
                    let digest =
                        digest.context(ErrorKind::Template, || format!("cannot read the keys in {}", path.display()))?;
                    inputs.push(HostInput { name: rpm::input(index), kind: "file".into(), digest, mode: 0 });
                }
                json!({ "suite": suite, "mirror": mirrors, "packages": packages, "size": size, "signed": signed })
            }
        };
        Ok(ImportKey { arguments, inputs, fetched: None })
    }

    fn make(&self, key: &ImportKey, target: &Path, log: &Path, context: &ImportContext<'_>) -> Result<Made> {
        let size = self.size();
        self.judge(context)?;
        grub::check_host(self.firmware())?;
        let scratch = tree::Scratch::beside(target)?;
        let disk =
            File::create_new(target).context(ErrorKind::Store, || format!("cannot write {}", target.display()))?;
        disk.set_len(size)
            .context(ErrorKind::Store, || format!("cannot make {} {size} bytes large", target.display()))?;
        drop(disk);
        match self {
            Bootstrap::Debian(recipe) => tree::make(recipe, target, &scratch, log, context)?,
            Bootstrap::Rpm(recipe) => dnf::make(recipe, &key.inputs, target, &scratch, log, context)?,
        }
        self.finish(target, &scratch, context)
    }

    fn make_from(
        &self,
        sibling: &File,
        target: &Path,
        log: &Path,
        context: &ImportContext<'_>,
    ) -> Result<Option<Made>> {
        // What stands behind it would be options for the file system.
        if target.as_os_str().as_encoded_bytes().contains(&b'?') {
            return Ok(None);
        }
        let firmware = self.firmware();
        // Less than that, and what is copied would reach behind what resize2fs keeps of the file.
        let before = sibling.metadata().context(ErrorKind::Store, || "cannot read the base of another size")?.len();
        if self.size().saturating_sub(before) < firmware.root_start() {
            return Ok(None);
        }
        grub::check_host(firmware)?;
        let scratch = tree::Scratch::beside(target)?;
        context.events.stage(format!("{}: from its base of another size", self.suite()));
        let copied = sibling.metadata().and_then(|stat| {
            let disk = File::create_new(target)?;
            // resize2fs would cut a file that is longer than its file system, wherever in it that begins.
            disk.set_len(self.size() - firmware.overhead())?;
            // Its file systems alone: what else is on a disk depends on its size.
            if firmware.has_uefi() {
                esp::copy(sibling, &disk)?;
            }
            let (start, length) = (firmware.root_start(), stat.len() - firmware.overhead());
            copy_data(sibling, start, length, &disk, start).map(|()| disk)
        });
        let failed = || format!("cannot write {}", target.display());
        let disk = copied.context(ErrorKind::Store, failed)?;
        tree::grow(target, self.size(), firmware, log, context)?;
        disk.set_len(self.size()).context(ErrorKind::Store, failed)?;
        self.finish(target, &scratch, context).map(Some)
    }
}
