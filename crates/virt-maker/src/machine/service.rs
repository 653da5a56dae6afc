//! The agent as a service of a guest: put on its disk before the boot, and taken out after it, without a trace.
//!
//! systemd gets a unit, which is started early and survives whatever else goes wrong; another init, a line at the end of its
//! `inittab`, which is run when all before it has been.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use virt_maker_agent::booted::{self, AGENT};

use super::guest_agent;
use super::over_ssh::{self, KeyFolder};
use super::seeded::{self, NO_CLOUD_INIT, Seeded};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::guest::selinux;
use crate::guest::{Attributes, FileKind, Guest, Labelled, Marks};
use crate::host::Cancel;
use crate::host::escape::escape;
use crate::hygiene::Leftovers;

/// A folder that a guest has for the time of a boot.
const FOLDER: &str = "/etc/.virt-maker";
const UNITS: &str = "/etc/systemd/system";
const UNIT: &str = "/etc/systemd/system/virt-maker-agent.service";
const WANTS: &str = "/etc/systemd/system/sysinit.target.wants";
const WANTED: &str = "/etc/systemd/system/sysinit.target.wants/virt-maker-agent.service";
const INITTAB: &str = "/etc/inittab";
/// Keys that root is let in with, by its home folder.
const KEYS: &str = "/.ssh/authorized_keys";
/// A file that gets a line is not larger, nor are tables of users and of a kernel's modules.
const TEXT_MAX: u64 = 16 << 20;

/// Who may start our agent in a guest, as far as its disk says.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    /// Its init, for which it has been given a service.
    pub init: bool,
    /// Its qemu-guest-agent.
    pub guest_agent: bool,
    /// Its SSH server, which lets in the key in this folder of the host. It is the only one then.
    pub ssh: Option<PathBuf>,
    /// Whether its kernels can open the ports that the first two are reached by.
    pub ports: bool,
}

/// A file that got a line of ours at its end.
struct Lined {
    path: String,
    /// When it had changed before; nothing where there was none.
    before: Option<(i64, u32)>,
}

/// What the guest has been given, and what it was like before, so that all of it can be taken out again.
pub struct Service {
    /// Paths that were made; a folder comes before what is in it.
    made: Vec<String>,
    /// Those of them that are folders.
    made_folders: BTreeSet<String>,
    /// When folders had changed, before something was made in them.
    folders: BTreeMap<String, (i64, u32)>,
    lined: Vec<Lined>,
    /// When cloud-init was kept from looking for a source, where it was us who did that.
    no_cloud_init: Option<(i64, u32)>,
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
        let mut service = Service {
            made: Vec::new(),
            made_folders: BTreeSet::new(),
            folders: BTreeMap::new(),
            lined: Vec::new(),
            no_cloud_init: None,
            ways: Ways::default(),
            before,
        };
        if seed.is_some() {
            service.folder(guest, seeded::FOLDER, 0o755)?;
            service.file(guest, seeded::SETTINGS, &mut seeded::TEXT.as_bytes(), 0o644)?;
            service.label(guest)?;
        }
        Ok(service)
    }

    /// Puts the agent of the host into a guest that is not booted, so that its init starts it, or somebody else who is in there.
    /// `keys` gives a private folder, where a key is needed for that.
    ///
    /// An error of kind `Step` says that nobody would.
    pub fn put(
        guest: &mut dyn Guest,
        agent: &Path,
        seed: Option<Seeded>,
        keys: KeyFolder<'_>,
        cancel: &Cancel,
    ) -> Result<Service> {
        let mut service = Service::none(guest, seed)?;
        service.folder(guest, FOLDER, 0o700)?;
        let mut file = File::open(agent).context(ErrorKind::Host, || format!("cannot read {}", agent.display()))?;
        service.file(guest, AGENT, &mut file, 0o700)?;
        service.ways = service.choose(guest, keys, cancel)?;
        if seed.is_none() && guest.stat("/etc/cloud")?.is_some() && guest.stat(NO_CLOUD_INIT)?.is_none() {
            service.file(guest, NO_CLOUD_INIT, &mut "".as_bytes(), 0o644)?;
            service.no_cloud_init = Some(modified(guest, NO_CLOUD_INIT)?);
        }
        service.label(guest)?;
        Ok(service)
    }

    /// Chooses who starts it, and gives them what they need for that.
    fn choose(&mut self, guest: &mut dyn Guest, keys: KeyFolder<'_>, cancel: &Cancel) -> Result<Ways> {
        let ports = has_ports(guest)?;
        let mut ways = Ways { ports, guest_agent: ports && has_any(guest, &guest_agent::PROGRAMS)?, ..Ways::default() };
        if ports && has_systemd(guest)? {
            self.folder(guest, UNITS, 0o755)?;
            self.file(guest, UNIT, &mut unit().as_bytes(), 0o644)?;
            self.folder(guest, WANTS, 0o755)?;
            self.note_folder(guest, WANTED)?;
            guest.symlink(UNIT, WANTED)?;
            self.made.push(WANTED.into());
            ways.init = true;
        } else if let (true, Some(kind)) = (ports, guest.stat(INITTAB)?.map(|stat| stat.kind)) {
            if kind != FileKind::File {
                return Err(cannot("its /etc/inittab is no file"));
            }
            // busybox's init takes a terminal in the place of a name, and has no levels.
            let init = guest.stat("/sbin/init")?.and_then(|stat| stat.target).unwrap_or_default();
            let start = if init.ends_with("busybox") { "::once:" } else { "vmk:2345:once:" };
            self.line(guest, INITTAB, &format!("{start}{AGENT} {}", booted::ARGUMENT))?;
            ways.init = true;
        } else if !ways.guest_agent {
            if !has_any(guest, &over_ssh::SERVERS)? {
                return Err(nobody_starts_it(ports));
            }
            let folder = keys()?;
            let key = over_ssh::make_key(&folder, cancel)?;
            let home = home_of_root(guest)?;
            self.folder(guest, &format!("{home}/.ssh"), 0o700)?;
            self.line(guest, &format!("{home}{KEYS}"), &key)?;
            ways.ssh = Some(folder);
        }
        Ok(ways)
    }

    /// Who may start it.
    pub fn ways(&self) -> &Ways {
        &self.ways
    }

    /// Looks at what the boot has made, before anybody else does something in the guest.
    pub fn note_boot(&mut self, guest: &mut dyn Guest) -> Result<()> {
        self.before.note_boot(guest)
    }

    /// Takes it out again, and with it what a boot leaves that is for one machine alone: what was not there before.
    pub fn take_out(self, guest: &mut dyn Guest) -> Result<()> {
        // Folders go when all that was in them has, unless somebody put something there.
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        for path in self.made.iter().rev() {
            match guest.stat(path)?.map(|stat| stat.kind) {
                Some(FileKind::Directory) if path != FOLDER => folders.push(path),
                // Somebody put something else in its place.
                Some(kind) if kind != FileKind::Directory && self.made_folders.contains(path) => {}
                _ => files.push(path),
            }
        }
        for path in files {
            // Where a step wants the same for the image, it has been written again.
            let is_theirs = path == NO_CLOUD_INIT
                && guest.stat(path)?.is_some()
                && self.no_cloud_init != Some(modified(guest, path)?);
            if !is_theirs {
                guest.remove(path)?;
            }
        }
        self.before.clean(guest)?;
        // After what makes room: the guest may have filled its disk.
        for lined in &self.lined {
            lined.take_out(guest)?;
        }
        for path in folders {
            if guest.read_dir(path)?.is_empty() {
                guest.remove(path)?;
            }
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
            self.made_folders.insert(path.into());
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

    /// Gives a file a line at its end; one that is not there is made, for root alone.
    fn line(&mut self, guest: &mut dyn Guest, path: &str, line: &str) -> Result<()> {
        let Some(stat) = guest.stat(path)? else {
            self.note_folder(guest, path)?;
            let attributes = Attributes { mode: Some(0o600), uid: Some(0), gid: Some(0) };
            guest.write(path, &mut format!("{line}\n").as_bytes(), attributes)?;
            self.lined.push(Lined { path: path.into(), before: None });
            return Ok(());
        };
        if stat.kind != FileKind::File {
            return Err(cannot(&format!("its {path} is no file")));
        }
        let before = modified(guest, path)?;
        let mut text = text_of(guest, path)?;
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        text.extend_from_slice(format!("{line}\n").as_bytes());
        guest.rewrite(path, &mut &*text)?;
        self.lined.push(Lined { path: path.into(), before: Some(before) });
        Ok(())
    }

    /// What init may start where the guest has an SELinux policy.
    fn label(&self, guest: &mut dyn Guest) -> Result<()> {
        if selinux::policy(guest)?.is_none() {
            return Ok(());
        }
        let mut labels = Vec::new();
        for path in
            self.made.iter().chain(self.lined.iter().filter(|lined| lined.before.is_none()).map(|lined| &lined.path))
        {
            let kind = match guest.stat(path)?.map(|stat| stat.kind) {
                Some(FileKind::Directory) => b'd',
                Some(FileKind::Symlink) => b'l',
                _ => b'f',
            };
            let of = match path {
                path if path.starts_with(UNITS) => "systemd_unit_file_t",
                path if path.contains("/.ssh") => "ssh_home_t",
                _ => "bin_t",
            };
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

/// The content of a file that is a text of a reasonable size.
fn text_of(guest: &mut dyn Guest, path: &str) -> Result<Vec<u8>> {
    if guest.stat(path)?.is_some_and(|stat| stat.size > TEXT_MAX) {
        let most = TEXT_MAX >> 20;
        return Err(Error::new(
            ErrorKind::Step,
            format!("the guest's {path} is larger than {most} MiB, which nobody can have meant"),
        ));
    }
    guest.read(path, TEXT_MAX)
}

fn has_any(guest: &mut dyn Guest, paths: &[&str]) -> Result<bool> {
    for path in paths {
        if guest.stat(path)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether its kernels can open ports of virtio-serial. One that tells nobody of its modules is taken at its word when it boots.
fn has_ports(guest: &mut dyn Guest) -> Result<bool> {
    const MODULES: &str = "/lib/modules";
    if guest.stat(MODULES)?.is_none_or(|stat| stat.kind != FileKind::Directory) {
        return Ok(true);
    }
    let mut known = false;
    for kernel in guest.read_dir(MODULES)? {
        for table in ["modules.builtin", "modules.dep"] {
            let path = format!("{MODULES}/{kernel}/{table}");
            if guest.stat(&path)?.is_some_and(|stat| stat.kind == FileKind::File) {
                known = true;
                let text = text_of(guest, &path)?;
                if text.windows(CONSOLE.len()).any(|part| part == CONSOLE) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(!known)
}

/// The driver of ports of virtio-serial, as tables of modules have it.
const CONSOLE: &[u8] = b"/virtio_console.ko";

/// Without a slash at its end.
fn home_of_root(guest: &mut dyn Guest) -> Result<String> {
    const USERS: &str = "/etc/passwd";
    if guest.stat(USERS)?.is_none_or(|stat| stat.kind != FileKind::File) {
        return Err(cannot("it has no /etc/passwd, so its SSH server lets nobody in"));
    }
    let text = text_of(guest, USERS)?;
    let text = String::from_utf8_lossy(&text);
    let root = text.lines().find(|line| line.starts_with("root:"));
    let root = root.ok_or_else(|| cannot("its /etc/passwd has no root, whom its SSH server could let in"))?;
    let home = root.split(':').nth(5).unwrap_or_default();
    let is_path = home.starts_with('/') && home.split('/').all(|part| part != ".." && part != ".");
    if !is_path || (home != "/" && guest.stat(home)?.is_none()) {
        let home = escape(home);
        return Err(cannot(&format!("its SSH server looks for keys in root's home folder, `{home}`, which is none")));
    }
    Ok(home.trim_end_matches('/').to_owned())
}

fn nobody_starts_it(ports: bool) -> Error {
    let why = match ports {
        true => {
            "it has neither systemd nor an /etc/inittab, so its init is none that we know, and neither qemu-guest-agent nor an SSH \
             server"
        }
        false => "its kernels lack `virtio_console`, and it has no SSH server",
    };
    let others = if ports { "qemu-guest-agent (/usr/sbin/qemu-ga) or " } else { "" };
    cannot(why)
        .with_hint(format!("a guest can be booted whose init starts {others}an SSH server (/usr/sbin/sshd, dropbear)"))
}

fn cannot(why: &str) -> Error {
    Error::new(ErrorKind::Step, format!("the guest cannot be booted with our agent in it: {why}"))
}

impl Lined {
    /// Takes the line out again.
    fn take_out(&self, guest: &mut dyn Guest) -> Result<()> {
        let Lined { path, before } = self;
        if guest.stat(path)?.is_none_or(|stat| stat.kind != FileKind::File) {
            // Somebody took it away.
            return Ok(());
        }
        let text = text_of(guest, path)?;
        let kept: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_ours(line)).collect();
        let kept = kept.concat();
        match before {
            None if kept.is_empty() => guest.remove(path),
            None => guest.rewrite(path, &mut &*kept),
            Some(modified) => {
                guest.rewrite(path, &mut &*kept)?;
                guest.set_marks(&[marks(path, *modified)])
            }
        }
    }
}
