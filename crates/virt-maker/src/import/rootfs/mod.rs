//! `rootfs`: a bootable disk of a root file system that somebody else packed: a tar, or a container image as an OCI layout
//! (a folder or a tar) or as `docker save` writes it.
//!
//! ```text
//! layers ─ source ─▶ one list of members ─ tree ─▶ one tar ─ assemble.sh ─▶ tree + kernel ─ mke2fs -d ─▶ partition ─ GRUB
//! ```
//! What must hold: no program of the archive runs on the host, and nothing of it is unpacked before all of it was looked at
//! in here ([`tree`]): names that lead out, members that go through links, and devices never reach a file system. The
//! kernel comes from where the template says, not from the archive, unless that brings one. The tree is made behind
//! [`Walls::for_tree`], where nothing else of the host is.

mod kernel;
mod source;
mod tree;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use self::kernel::{Kernel, KernelArguments};
use self::tree::Tree;
use super::bootstrap::tree::absolute;
use super::bootstrap::firmware::Firmware;
use super::bootstrap::{self, esp, grub};
use super::{Import, ImportContext, ImportKey, ImportKind, Made, mkfs, sources};
use crate::diagnostic::Diagnostic;
use crate::disk::ImageFormat;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::units::disk_size;
use crate::host::walls::{SCRATCH, TREE, Walls};
use crate::key::HostInput;
use crate::template::{Need, Node, arguments, from_node};

pub(super) static KIND: ImportKind = ImportKind {
    name: "rootfs",
    about: "Makes a bootable disk of a root file system: a tar, or a container image (OCI layout, or from `docker save`).",
    arguments: arguments::<Arguments>,
    example: "rootfs: {source: root.tar.gz, kernel: {package: linux-image-cloud-amd64}, size: 4G}",
    needs: &[
        Need::new("mke2fs", "e2fsprogs"),
        Need::new("grub-mkimage", "grub-common"),
        Need::new("tar", "tar"),
        Need::of("mformat", "mtools", "UEFI"),
    ],
    version: 2,
    network: false,
    parse,
};

const ASSEMBLE: &str = include_str!("assemble.sh");
const SIZE_MIN: u64 = 64 << 20;
const SIZE_MAX: u64 = 16 << 40;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// A tar (plain or compressed) of a root file system, an image that `docker save` wrote, or an OCI layout: a tar or a
    /// folder. A container image is that for linux/amd64.
    source: PathBuf,
    /// The kernel; without it, the root file system has to bring one (`/vmlinuz` or `/boot/vmlinuz`, with its initrd).
    kernel: Option<KernelArguments>,
    /// Size of the disk, such as `4G`.
    size: String,
    /// What the disk boots under: `bios`, which is the default, `uefi`, or `both`. UEFI starts Debian's signed loaders: those of the suite
    /// that the kernel's `package` comes from, or else of this host.
    firmware: Option<Firmware>,
}

struct Rootfs {
    source: PathBuf,
    kernel: Option<Kernel>,
    size: u64,
    firmware: Firmware,
}

/// What a tree lacks without which the guest does not come up, and which step brings it. Container images are made to run without
/// either.
fn lacks(tree: &Tree) -> Option<&'static str> {
    let has = |names: &[&str]| names.iter().any(|name| tree.has(name));
    if !has(&["sbin/init", "usr/sbin/init"]) {
        return Some(
            "has no /sbin/init, so it boots only after a step brings one (`install: [systemd-sysv, udev]`; of RPM \
             packages `install: [systemd, systemd-udev]`)",
        );
    }
    let systemd = ["lib/systemd/systemd", "usr/lib/systemd/systemd"];
    let udev = ["lib/systemd/systemd-udevd", "usr/lib/systemd/systemd-udevd", "usr/bin/udevadm", "bin/udevadm"];
    (has(&systemd) && !has(&udev)).then_some(
        "has systemd and no udev: its boot waits for devices that nobody announces (`dev-ttyS0.device`), until a step \
         brings it (`install: [udev]`; of RPM packages `install: [systemd-udev]`)",
    )
}

fn parse(node: &Node) -> Result<Box<dyn Import>, Vec<Diagnostic>> {
    let arguments: Arguments = from_node(node)?;
    let at = |name: &str| node.get(name).unwrap_or(node);
    let mut problems = Vec::new();
    if arguments.source.as_os_str().is_empty() {
        problems.push(at("source").diagnostic("expected the path of a file or a folder"));
    }
    let firmware = arguments.firmware.unwrap_or_default();
    let least = if firmware.has_uefi() { SIZE_MIN + (128 << 20) } else { SIZE_MIN };
    let size = disk_size(&arguments.size).filter(|size| (least..=SIZE_MAX).contains(size));
    if size.is_none() {
        let text = format!("expected a size from {}M to 16T, such as `4G` or `2500M`", least >> 20);
        problems.push(at("size").diagnostic(text));
    }
    let kernel = arguments.kernel.and_then(|kernel| match Kernel::checked(kernel, at("kernel")) {
        Ok(kernel) => Some(kernel),
        Err(found) => {
            problems.extend(found);
            None
        }
    });
    let source = at("source").host_path(arguments.source).map_err(|problem| problems.push(problem)).ok();
    match (size, source) {
        (Some(size), Some(source)) if problems.is_empty() => {
            Ok(Box::new(Rootfs { source: source.real().to_owned(), kernel, size, firmware }))
        }
        _ => Err(problems),
    }
}

/// Fails where this host has no signed loaders to take.
fn check_loaders() -> Result<()> {
    for (path, package) in [
        ("/usr/lib/shim/shimx64.efi.signed", "shim-signed"),
        ("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "grub-efi-amd64-signed"),
    ] {
        if !Path::new(path).is_file() {
            let message = format!("a disk for UEFI needs signed loaders of this host, and there is no {path}");
            return Err(Error::new(ErrorKind::Host, message).with_hint(format!(
                "it comes with the package `{package}`; with `kernel: {{package: ...}}` they come from where the kernel does"
            )));
        }
    }
    Ok(())
}

impl Import for Rootfs {
    fn summary(&self) -> String {
        self.source.display().to_string()
    }

    fn key_inputs(&self, context: &ImportContext<'_>) -> Result<ImportKey> {
        // A layout names all its parts by their digests, so its index stands for them.
        let file = if self.source.is_dir() { self.source.join(source::INDEX) } else { self.source.clone() };
        if self.source.is_dir() && !file.exists() {
            let (folder, index) = (self.source.display(), source::INDEX);
            let message = format!("the folder {folder} is no OCI layout: it has no `{index}`");
            let hint = format!(
                "of a folder with the files of a guest, give a tar: tar -C {folder} --numeric-owner --xattrs -cf root.tar . \
                 (an image of podman or docker is saved by: podman save --format oci-dir -o FOLDER IMAGE)"
            );
            return Err(Error::new(ErrorKind::Base, message).with_hint(hint));
        }
        let digest = sources::of_file(&file, context);
        context.cancel.check()?;
        let digest = digest.context(ErrorKind::Base, || format!("cannot read {}", file.display()))?;
        let mut inputs = vec![HostInput { name: "source".into(), kind: "file".into(), digest, mode: 0 }];
        // The source is its digest.
        let Rootfs { source: _, kernel, size, firmware } = self;
        let kernel = kernel.as_ref().map(|kernel| kernel.key(&mut inputs, context)).transpose()?;
        let mut arguments = json!({ "size": size, "kernel": kernel });
        firmware.enter(&mut arguments);
        Ok(ImportKey { arguments, inputs, fetched: None })
    }

    fn make(&self, key: &ImportKey, target: &Path, log: &Path, context: &ImportContext<'_>) -> Result<Made> {
        grub::check_host(self.firmware)?;
        if self.firmware.has_uefi() && !matches!(self.kernel, Some(Kernel::Package { .. })) {
            check_loaders()?;
        }
        let scratch = bootstrap::tree::Scratch::beside(target)?;
        let failed = || format!("cannot take {} apart", self.source.display());
        let layers = source::open(&self.source, scratch.path(), context)
            .map_err(|error| Error::new(error.kind(), failed()).with_source(error))?;
        let mut tree = Tree::default();
        for (index, layer) in layers.files.iter().enumerate() {
            tree.add_layer(index, layer, layers.whiteouts, context.cancel).context(ErrorKind::Base, failed)?;
        }
        if tree.is_empty() {
            return Err(Error::new(ErrorKind::Base, format!("{} holds no file", self.source.display())));
        }
        if let Some(lacks) = lacks(&tree) {
            context.events.warn(format!("{} {lacks}", self.source.display()));
        }
        if self.kernel.is_none() && !["vmlinuz", "boot/vmlinuz"].iter().any(|name| tree.has(name)) {
            let message = format!("{} has no kernel: no /vmlinuz and no /boot/vmlinuz", self.source.display());
            return Err(Error::new(ErrorKind::Base, message).with_hint("say which one with `kernel`"));
        }
        let merged = scratch.path().join("merged.tar");
        let file = File::create_new(&merged).context(ErrorKind::Store, failed)?;
        let written = tree.write(&layers.files, BufWriter::with_capacity(1 << 20, file), context.cancel);
        written.context(ErrorKind::Base, failed)?;
        // What was read is what the key is of.
        if self.key_inputs(context)?.inputs != key.inputs {
            let message = format!("{} changed while it was read", self.source.display());
            return Err(Error::new(ErrorKind::Base, message).with_hint("build again to take what is there now"));
        }
        let kernel = self.kernel.as_ref().map(|kernel| kernel.bundle(&key.inputs, self.firmware, scratch.path(), log, context)).transpose()?;

        let failed = || format!("cannot write {}", target.display());
        let disk = File::create_new(target).context(ErrorKind::Store, failed)?;
        disk.set_len(self.size).context(ErrorKind::Store, failed)?;
        drop(disk);
        let made = self.assemble(target, &scratch, &merged, kernel.as_deref(), log, context);
        if made.is_err() {
            let _ = fs::remove_file(target);
        }
        made.map(|()| ImageFormat::Raw.into())
    }
}

impl Rootfs {
    fn assemble(
        &self,
        target: &Path,
        scratch: &bootstrap::tree::Scratch,
        merged: &Path,
        kernel: Option<&Path>,
        log: &Path,
        context: &ImportContext<'_>,
    ) -> Result<()> {
        let failed = || "cannot make a disk of the root file system";
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context(ErrorKind::Host, failed)?;
        let place = |name: &str| Path::new("/").join(name);
        let mut walls = Walls::for_tree()
            .write_at(&scratch.tree(), Path::new(TREE))
            .write_at(&scratch.tmp(), Path::new(SCRATCH))
            .read_at(&absolute(merged)?, &place("merged.tar"))
            .write(target)?;
        if let Some(kernel) = kernel {
            walls = walls.read_at(&absolute(kernel)?, &place("kernel.tar"));
        }
        let script = format!("{}{ASSEMBLE}", esp::LOADERS);
        let made = walls
            .tool("sh", "dash")
            .args(["-eu", "-c", &script, "assemble"])
            .env("GUEST_TAR", "/merged.tar")
            .env("GUEST_KERNEL", kernel.map(|_| "/kernel.tar").unwrap_or_default())
            .env("GUEST_TREE", TREE)
            .env("GUEST_IMAGE", absolute(target)?)
            .env("GUEST_UUID", uuid.trim())
            .env("GUEST_ESP_ID", esp::id(uuid.trim()))
            .env("GUEST_FIRMWARE", self.firmware.name())
            .env("GUEST_FEATURES", mkfs::EXT4)
            .env("GUEST_OFFSET", self.firmware.root_start().to_string())
            .env("GUEST_KIB", ((self.size - self.firmware.overhead()) / 1024).to_string())
            .log_to(log)
            .run(context.cancel);
        made.map_err(|error| {
            let text = error.to_string();
            let full = text.contains("Could not allocate") || text.contains("while populating file system");
            let error = Error::new(if full { ErrorKind::Base } else { error.kind() }, failed()).with_source(error);
            if full { error.with_hint("it does not fit on the disk: give `size` a larger value") } else { error }
        })?;
        if self.firmware.has_uefi() {
            esp::make(target, (&scratch.tmp(), "esp"), uuid.trim(), scratch.path(), log, context.cancel)?;
        }
        grub::partition(target, self.size, self.firmware, context.cancel)?;
        grub::install(target, self.firmware, scratch.path(), context.cancel)
    }
}
