//! A session: one appliance with the guest mounted, and the stack of overlays under it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use virt_maker_agent::protocol::{OsRelease, Run};

use super::ffi::Library;
use super::inspect::{self, FileSystem, Fstab, Mounted};
use super::job::{SETUP, setup};
use super::launch::{self, Appliance, Started};
use super::output::Output;
use super::shell::quote;
use super::upload::upload;
use super::{LibguestfsOptions, terminal};
use crate::engine::block::BlockGraph;
use crate::engine::user_network::proxies_behind_it;
use crate::engine::{OpenRequest, Session};
use crate::error::{Context, ErrorKind, Result};
use crate::event::Events;
use crate::guest::Guest;

/// An open guest.
pub(super) struct LibguestfsSession {
    // Dropped first: it kills qemu, which ends the threads of what follows.
    pub(super) appliance: Appliance,
    pub(super) output: Output,
    graph: BlockGraph,
    file_systems: Vec<FileSystem>,
    pub(super) os: OsRelease,
    /// What is known of the guest's fstab.
    pub(super) fstab: Fstab,
    pub(super) work_dir: PathBuf,
    pub(super) verbose: bool,
    pub(super) network_env: BTreeMap<String, String>,
    /// Whether commands see the guest's disk.
    pub(super) disk_shown: bool,
    /// Whether there are any to unmount.
    caches: bool,
    pub(super) events: Events,
}

impl LibguestfsSession {
    /// Starts the appliance and mounts the guest.
    pub(super) fn open(library: &Arc<Library>, options: &LibguestfsOptions, request: &OpenRequest<'_>) -> Result<Self> {
        let Started { mut appliance, qmp, output } = launch::start(library, options, request)?;
        let output = Output::start(output, request.output.clone())
            .context(ErrorKind::Host, || "cannot start a thread for output")?;
        let Mounted { file_systems, os, fstab } =
            inspect::mount(&mut appliance, request.to_mend, request.parent.root(), &request.events)?;
        let (archive, text) = setup()?;
        upload(&mut appliance, &request.work_dir.join("setup.tar"), &archive, SETUP)?;
        appliance.handle.appliance_sh(&text).map_err(|error| {
            appliance.error(ErrorKind::Unsupported, "libguestfs's appliance cannot run commands", error)
        })?;
        for (index, cache) in request.caches.iter().enumerate() {
            // Names of caches are plain words.
            let (serial, name) = (launch::cache_serial(index), &cache.name);
            let mount = format!(
                "for disk in /sys/block/sd*; do if grep -aq '{serial}$' $disk/device/vpd_pg80; then \
                 mkdir -p /run/virt-maker/caches/{name} && exec mount /dev/${{disk##*/}} /run/virt-maker/caches/{name}; \
                 fi; done; echo 'the disk of a cache did not appear' >&2; exit 1"
            );
            appliance
                .handle
                .appliance_sh(&mount)
                .map_err(|error| appliance.error(ErrorKind::Internal, "cannot mount a cache", error))?;
        }
        Ok(LibguestfsSession {
            appliance,
            output,
            graph: BlockGraph::adopt(qmp, None),
            file_systems,
            os,
            fstab,
            work_dir: request.work_dir.to_owned(),
            verbose: options.verbose,
            network_env: proxies_behind_it(request.network_env),
            disk_shown: false,
            caches: !request.caches.is_empty(),
            events: request.events.clone(),
        })
    }

    /// Discards what no file system uses; a subvolume's blocks are those of its whole file system.
    pub(super) fn trim_all(&mut self) -> Result<()> {
        let trims: Vec<String> = self
            .file_systems
            .iter()
            // vfat and others may not be able to; the program says so with a message that is meant for nobody here.
            .map(|FileSystem { path, kind, .. }| match kind.as_str() {
                "ext3" | "ext4" | "xfs" | "btrfs" => format!("sync; fstrim {}", quote(path)),
                _ => format!("fstrim {} 2>/dev/null || true", quote(path)),
            })
            .collect();
        self.appliance_sh(&trims.join(" && "), "cannot discard the unused blocks of the guest's file systems")
    }

    fn appliance_sh(&mut self, command: &str, what: &str) -> Result<()> {
        let done = self.appliance.handle.appliance_sh(command);
        done.map(drop).map_err(|error| self.appliance.error(ErrorKind::Internal, what, error))
    }
}

/// Shell text that makes every file system clean and still, and text that undoes it whatever of it was done.
///
/// A subvolume is mounted more than once from one device, but frozen once. The last mounted goes first.
fn still_and_free(file_systems: &[FileSystem]) -> (String, String) {
    let mut still = Vec::new();
    let mut free = Vec::new();
    let mut devices: Vec<&str> = Vec::new();
    for FileSystem { device, path, kind } in file_systems.iter().rev() {
        let path = quote(path);
        let freezes = matches!(kind.as_str(), "ext3" | "ext4" | "btrfs");
        if freezes && devices.contains(&device.as_str()) {
            continue;
        }
        devices.push(device);
        if freezes {
            still.push(format!("fsfreeze --freeze {path}"));
            free.push(format!("fsfreeze --unfreeze {path}"));
        } else {
            still.push(format!("mount -o remount,ro {path}"));
            free.push(format!("mount -o remount,rw {path}"));
        }
    }
    free.reverse();
    (still.join(" && "), free.join(" && "))
}

impl Session for LibguestfsSession {
    fn guest(&mut self) -> &mut dyn Guest {
        self
    }

    fn checkpoint(&mut self, next: &Path) -> Result<()> {
        self.appliance.cancel.check()?;
        let (still, free) = still_and_free(&self.file_systems);
        if let Err(error) = self.appliance_sh(&still, "cannot bring the guest's file systems to a clean state") {
            // As far as it went; the session may be kept for a look inside.
            let _ = self.appliance_sh(&free.replace(" && ", "; "), "cannot thaw");
            return Err(error);
        }
        let pushed = self.graph.push(next);
        let freed = self.appliance_sh(&free, "cannot go on after a checkpoint");
        self.appliance.cancel.check()?;
        pushed.and(freed)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.appliance.cancel.check()?;
        if self.caches {
            self.appliance_sh("umount /run/virt-maker/caches/*", "cannot close the caches")?;
        }
        for call in [super::ffi::Handle::umount_all, super::ffi::Handle::shutdown] {
            let done = call(&mut self.appliance.handle);
            done.map_err(|error| self.appliance.error(ErrorKind::Internal, "cannot close the guest", error))?;
        }
        Ok(())
    }

    fn shell(&mut self, privileged: bool) -> Result<()> {
        let run = Run {
            argv: crate::engine::SHELL.map(str::to_owned).into(),
            network: true,
            privileged,
            terminal: Some(terminal::size()?),
            ..Run::default()
        };
        // The user leaves with whatever status the last command had.
        self.run_command(&run).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_freeze_cleanly_is_remounted_and_devices_freeze_once() {
        let fs = |device: &str, path: &str, kind: &str| FileSystem {
            device: device.into(),
            path: path.into(),
            kind: kind.into(),
        };
        let (still, free) = still_and_free(&[
            fs("/dev/sdb2", "/sysroot", "btrfs"),
            fs("/dev/sdb2", "/sysroot/home", "btrfs"),
            fs("/dev/sdb1", "/sysroot/it's", "vfat"),
        ]);
        assert_eq!(still, r"mount -o remount,ro '/sysroot/it'\''s' && fsfreeze --freeze '/sysroot/home'");
        assert_eq!(free, r"fsfreeze --unfreeze '/sysroot/home' && mount -o remount,rw '/sysroot/it'\''s'");
    }
}
