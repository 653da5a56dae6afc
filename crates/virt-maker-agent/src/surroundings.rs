//! What the guest's tree gets while a command runs, and loses without a trace when it has ended.
//!
//! - `/proc`, `/sys`, `/dev`, `/run`: bubblewrap mounts on them. Where one is missing it is made, and removed again;
//!   where one is no folder (a symlink, say) the guest is refused, as a mount would follow the link.
//! - `/usr/sbin/policy-rc.d`: tells package scripts of Debian that no service is to be started.
//! - A file of dracut's settings, where the guest has dracut: see [`DRACUT`].
//! - `/etc/resolv.conf`, if the command has the network.

use rustix::fs::{AtFlags, FileType, Mode, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use virt_maker_agent::machine::DRACUT;
use virt_maker_agent::protocol::Run;

use crate::failure::{Result, cannot, refused};
use crate::mounts::Guest;
use crate::standin::{Fate, StandIn, Temporary};

const MOUNT_POINTS: &[&str] = &["proc", "sys", "dev", "run"];

/// Exit status 101 is "action forbidden by policy".
const POLICY: &[u8] = b"#!/bin/sh\nexit 101\n";

/// What is in place, to be restored. Dropping it restores, too, without telling of errors.
#[derive(Debug)]
pub struct Surroundings<'a> {
    guest: &'a Guest,
    stand_ins: Vec<StandIn>,
    made: Vec<&'static str>,
    /// The root folder before anything was made in it.
    before: Stat,
}

impl<'a> Surroundings<'a> {
    /// Puts all in place; on failure, nothing.
    pub fn prepare(guest: &'a Guest, run: &Run) -> Result<Surroundings<'a>> {
        let root = guest.root();
        let before = rustix::fs::fstat(root).map_err(|error| cannot("look at the guest's root", error))?;
        let mut this = Surroundings { guest, stand_ins: Vec::new(), made: Vec::new(), before };
        for name in MOUNT_POINTS {
            match rustix::fs::statat(root, *name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
                Ok(_) => return Err(refused(format!("/{name} of the guest is no folder, so no command can be run"))),
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(root, *name, Mode::from_raw_mode(0o755))
                        .map_err(|error| cannot(format_args!("make the mount point /{name}"), error))?;
                    this.made.push(name);
                }
                Err(error) => return Err(cannot(format_args!("look at /{name}"), error)),
            }
        }
        let ours = |path, content, mode| Temporary { path, content, mode, foreign: false };
        this.stand_ins.extend(StandIn::place(root, ours("/usr/sbin/policy-rc.d", POLICY, 0o755))?);
        this.stand_ins
            .extend(StandIn::place(root, ours("/etc/dracut.conf.d/zz-virt-maker.conf", DRACUT.as_bytes(), 0o644))?);
        if let (true, Some(text)) = (run.network, &run.resolv_conf) {
            let names = Temporary { path: "/etc/resolv.conf", content: text.as_bytes(), mode: 0o644, foreign: true };
            this.stand_ins.extend(StandIn::place(root, names)?);
        }
        Ok(this)
    }

    /// Restores all, even if something of it fails. Gives what the person should know: changes that are not kept.
    pub fn restore(mut self) -> Result<Vec<String>> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let mut result = Ok(());
        for stand_in in self.stand_ins.drain(..).rev() {
            let path = stand_in.path.clone();
            match stand_in.restore(self.guest.root()) {
                Ok(Fate::Untouched | Fate::Linked) => {}
                Ok(Fate::Dropped) => notes.push(format!(
                    "the change that the command made to {path} is not kept: a temporary file is there while commands \
                     run; write it with a `copy` step instead"
                )),
                Err(problem) => result = Err(problem),
            }
        }
        result.and_then(|()| self.remove_mount_points()).map(|()| notes)
    }

    fn remove_mount_points(&mut self) -> Result<()> {
        if self.made.is_empty() {
            return Ok(());
        }
        let root = self.guest.root();
        for name in self.made.drain(..) {
            match rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(cannot(format_args!("remove the mount point /{name}"), error)),
            }
        }
        let stamp = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
        let times = Timestamps {
            last_access: stamp(self.before.st_atime, self.before.st_atime_nsec),
            last_modification: stamp(self.before.st_mtime, self.before.st_mtime_nsec),
        };
        rustix::fs::utimensat(root, ".", &times, AtFlags::empty())
            .map_err(|error| cannot("set the time of the guest's root", error))
    }
}

impl Drop for Surroundings<'_> {
    fn drop(&mut self) {
        let _ = self.put_back();
    }
}
