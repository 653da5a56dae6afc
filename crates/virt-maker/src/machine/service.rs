//! The agent as a service of a guest: put on its disk before the boot, and taken out after it, without a trace.
//!
//! systemd gets a unit, which is started early and survives whatever else goes wrong; another init, a line at the end of its
//! `inittab`, which is run when all before it has been.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use virt_maker_agent::booted;

use super::guest_agent;
use super::seeded::{self, NO_CLOUD_INIT, Seeded};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::selinux;
use crate::guest::{Attributes, FileKind, Guest, Labelled, Marks};
use crate::hygiene::Leftovers;

/// A folder that a guest has for the time of a boot.
const FOLDER: &str = "/etc/.virt-maker";
pub(super) const AGENT: &str = "/etc/.virt-maker/agent";
const UNITS: &str = "/etc/systemd/system";
const UNIT: &str = "/etc/systemd/system/virt-maker-agent.service";
const WANTS: &str = "/etc/systemd/system/sysinit.target.wants";
const WANTED: &str = "/etc/systemd/system/sysinit.target.wants/virt-maker-agent.service";
const INITTAB: &str = "/etc/inittab";
/// An inittab is not larger.
const TEXT_MAX: u64 = 1 << 20;

/// Who may start our agent in a guest, as far as its disk says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ways {
    /// Its init, for which it has been given a service.
    pub init: bool,
    /// Its qemu-guest-agent.
    pub guest_agent: bool,
}

/// What the guest has been given, and what it was like before, so that all of it can be taken out again.
pub struct Service {
    /// Paths that were made; a folder comes before what is in it.
    made: Vec<String>,
    /// When folders had changed, before something was made in them.
    folders: BTreeMap<String, (i64, u32)>,
    /// Whether the inittab got a line.
    inittab: Option<(i64, u32)>,
    ways: Ways,
    before: Leftovers,
}

impl Service {
    /// Puts no agent into a guest that is to boot by itself alone; with a seed, what cloud-init has to know of it.
    pub fn none(guest: &mut dyn Guest, seed: Option<Seeded>) -> Result<Service> {
        let before = match seed {
            None => Leftovers::of(guest)?,
            Some(seed) => {
                seed.check(guest)?;
                Leftovers::of(guest)?.of_a_seed(seed.has_network, seed.has_host_keys)
            }
        };
        let mut service =
            Service { made: Vec::new(), folders: BTreeMap::new(), inittab: None, ways: Ways::default(), before };
        if seed.is_some() {
            service.folder(guest, seeded::FOLDER, 0o755)?;
            service.file(guest, seeded::SETTINGS, &mut seeded::TEXT.as_bytes(), 0o644)?;
            service.label(guest)?;
        }
        Ok(service)
    }

    /// Puts the agent of the host into a guest that is not booted, so that its init starts it, or somebody else who is in there.
    ///
    /// An error of kind `Step` says that nobody would.
    pub fn put(guest: &mut dyn Guest, agent: &Path, seed: Option<Seeded>) -> Result<Service> {
        let mut service = Service::none(guest, seed)?;
        service.folder(guest, FOLDER, 0o700)?;
        let mut file = File::open(agent).context(ErrorKind::Host, || format!("cannot read {}", agent.display()))?;
        service.file(guest, AGENT, &mut file, 0o700)?;
        service.ways = Ways { init: true, guest_agent: has_guest_agent(guest)? };
        if has_systemd(guest)? {
            service.folder(guest, UNITS, 0o755)?;
            service.file(guest, UNIT, &mut unit().as_bytes(), 0o644)?;
            service.folder(guest, WANTS, 0o755)?;
            service.note_folder(guest, WANTED)?;
            guest.symlink(UNIT, WANTED)?;
            service.made.push(WANTED.into());
        } else if let Some(kind) = guest.stat(INITTAB)?.map(|stat| stat.kind) {
            if kind != FileKind::File {
                return Err(cannot("its /etc/inittab is no file"));
            }
            service.line(guest)?;
        } else if service.ways.guest_agent {
            service.ways.init = false;
        } else {
            return Err(cannot("it has neither systemd nor an /etc/inittab, so its init is none that we know")
                .with_hint("a guest with qemu-guest-agent (/usr/sbin/qemu-ga) that its init starts can be booted, whatever that is"));
        }
        if seed.is_none() && guest.stat("/etc/cloud")?.is_some() && guest.stat(NO_CLOUD_INIT)?.is_none() {
            service.file(guest, NO_CLOUD_INIT, &mut "".as_bytes(), 0o644)?;
        }
        service.label(guest)?;
        Ok(service)
    }

    /// Who may start it.
    pub fn ways(&self) -> Ways {
        self.ways
    }

    /// Takes it out again, and with it what a boot leaves that is for one machine alone: what was not there before.
    pub fn take_out(self, guest: &mut dyn Guest) -> Result<()> {
        // What is in a folder goes before it; a folder in which somebody put something stays.
        for path in self.made.iter().rev() {
            let is_folder = guest.stat(path)?.is_some_and(|stat| stat.kind == FileKind::Directory);
            if path == FOLDER || !is_folder || guest.read_dir(path)?.is_empty() {
                guest.remove(path)?;
            }
        }
        self.before.clean(guest)?;
        // After what makes room: the guest may have filled its disk.
        if let Some(modified) = self.inittab {
            let text = guest.read(INITTAB, TEXT_MAX)?;
            let kept: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_ours(line)).collect();
            guest.rewrite(INITTAB, &mut &*kept.concat())?;
            guest.set_marks(&[marks(INITTAB, modified)])?;
        }
        let mut times = Vec::new();
        for (path, modified) in &self.folders {
            if guest.stat(path)?.is_some() {
                times.push(marks(path, *modified));
            }
        }
        guest.set_marks(&times)
    }

    fn folder(&mut self, guest: &mut dyn Guest, path: &str, mode: u32) -> Result<()> {
        if guest.stat(path)?.is_none() {
            self.note_folder(guest, path)?;
            guest.mkdir(path, Attributes { mode: Some(mode), uid: Some(0), gid: Some(0) }, false)?;
            self.made.push(path.into());
        }
        Ok(())
    }

    fn file(&mut self, guest: &mut dyn Guest, path: &str, content: &mut dyn std::io::Read, mode: u32) -> Result<()> {
        self.note_folder(guest, path)?;
        guest.write(path, content, Attributes { mode: Some(mode), uid: Some(0), gid: Some(0) })?;
        self.made.push(path.into());
        Ok(())
    }

    /// Notes when the folder that a path is in was changed, unless it is one of ours.
    fn note_folder(&mut self, guest: &mut dyn Guest, path: &str) -> Result<()> {
        let folder = match path.rsplit_once('/') {
            Some(("", _)) | None => "/",
            Some((folder, _)) => folder,
        };
        if !self.folders.contains_key(folder) && !self.made.iter().any(|made| made == folder) {
            let modified = modified(guest, folder)?;
            self.folders.insert(folder.into(), modified);
        }
        Ok(())
    }

    fn line(&mut self, guest: &mut dyn Guest) -> Result<()> {
        let modified = modified(guest, INITTAB)?;
        let mut text = guest.read(INITTAB, TEXT_MAX)?;
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        // busybox's init takes a terminal in the place of a name, and has no levels.
        let init = guest.stat("/sbin/init")?.and_then(|stat| stat.target).unwrap_or_default();
        let start = if init.ends_with("busybox") { "::once:" } else { "vmk:2345:once:" };
        text.extend_from_slice(format!("{start}{AGENT} {}\n", booted::ARGUMENT).as_bytes());
        guest.rewrite(INITTAB, &mut &*text)?;
        self.inittab = Some(modified);
        Ok(())
    }

    /// What init may start where the guest has an SELinux policy.
    fn label(&self, guest: &mut dyn Guest) -> Result<()> {
        if selinux::policy(guest)?.is_none() {
            return Ok(());
        }
        let mut labels = Vec::new();
        for path in &self.made {
            let kind = match guest.stat(path)?.map(|stat| stat.kind) {
                Some(FileKind::Directory) => b'd',
                Some(FileKind::Symlink) => b'l',
                _ => b'f',
            };
            let of = if path.starts_with(UNITS) { "systemd_unit_file_t" } else { "bin_t" };
            let label = format!("system_u:object_r:{of}:s0").into_bytes();
            labels.push(Labelled { kind, path: path.as_bytes().to_vec(), label });
        }
        guest.set_labels(&labels)
    }
}

fn unit() -> String {
    format!(
        "[Unit]\n\
         Description=virt-maker's agent, for the time of this boot\n\
         DefaultDependencies=no\n\
         After=systemd-remount-fs.service\n\
         IgnoreOnIsolate=yes\n\
         [Service]\n\
         ExecStart={AGENT} {}\n\
         KillMode=process\n\
         OOMScoreAdjust=-900\n\
         LimitNOFILE=1048576\n\
         StandardOutput=null\n\
         StandardError=null\n",
        booted::ARGUMENT
    )
}

fn is_ours(line: &[u8]) -> bool {
    line.windows(AGENT.len()).any(|part| part == AGENT.as_bytes())
}

fn marks(path: &str, modified: (i64, u32)) -> Marks {
    Marks { path: path.into(), modified: Some(modified), ..Marks::default() }
}

fn modified(guest: &mut dyn Guest, path: &str) -> Result<(i64, u32)> {
    let found = guest.walk(path, Some(0))?;
    found.first().map(|entry| entry.modified).ok_or_else(|| cannot(&format!("{path} cannot be looked at")))
}

/// Whether systemd is what boots the guest.
fn has_systemd(guest: &mut dyn Guest) -> Result<bool> {
    let init = guest.stat("/sbin/init")?.and_then(|stat| stat.target).unwrap_or_default();
    if init.ends_with("systemd") {
        return Ok(true);
    }
    // A link to a link, or the program itself.
    Ok(!init.ends_with("busybox")
        && guest.stat(INITTAB)?.is_none()
        && (guest.stat("/lib/systemd/systemd")?.is_some() || guest.stat("/usr/lib/systemd/systemd")?.is_some()))
}

fn has_guest_agent(guest: &mut dyn Guest) -> Result<bool> {
    for path in guest_agent::PROGRAMS {
        if guest.stat(path)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn cannot(why: &str) -> Error {
    Error::new(ErrorKind::Step, format!("the guest cannot be booted with our agent in it: {why}"))
}
