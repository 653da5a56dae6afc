//! The agent's own folders, and what is kept in them from one command to the next.
//!
//! They are in the agent's mount namespace, on a small file system of its own, so that nothing outside of it sees them and they end
//! with it.

use std::cell::{Cell, OnceCell, RefCell};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use crate::devices::Devices;
use crate::facade::Facade;
use crate::failure::{Result, system};
use crate::limits::Limits;
use crate::mounts::Guest;

/// The agent's own folders, in its mount namespace.
#[derive(Debug)]
pub struct Folders {
    /// Whether this is the first process of an appliance, so that the whole machine is the agent's.
    pub appliance: bool,
    /// The folder that all of them are in, on a small file system of its own.
    pub own: PathBuf,
    /// Where a guest's root is mounted.
    pub root: PathBuf,
    /// What commands see of the machine.
    pub facade: Facade,
    /// Whether the agent can put that in place by itself.
    pub holds: Cell<bool>,
    /// The `/dev` that the next command has, if it is still as it was made.
    pub devices: RefCell<Option<Devices>>,
    /// What bounds commands, from the first one on.
    pub limits: OnceCell<Limits>,
}

impl Folders {
    /// Makes them below `folder`, which is made where it is missing.
    pub fn make(folder: &Path, appliance: bool) -> Result<Folders> {
        std::fs::create_dir_all(folder)
            .map_err(|error| system(format_args!("make the folder {}", folder.display()), error))?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", folder, "tmpfs", flags, Some(c"mode=0700,size=4m"))
            .map_err(|error| system(format_args!("mount a tmpfs on {}", folder.display()), error))?;
        let opened = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| system(format_args!("open {}", folder.display()), error))?;
        private_folder(&opened, "root")?;
        let facade = Facade::prepare(folder)?;
        Ok(Folders {
            appliance,
            own: folder.to_path_buf(),
            root: folder.join("root"),
            facade,
            holds: Cell::new(true),
            devices: RefCell::new(None),
            limits: OnceCell::new(),
        })
    }

    /// Devices that no command has changed anything of.
    pub fn fresh_devices(&self) -> Result<Devices> {
        match self.devices.take() {
            Some(devices) if devices.untouched() => Ok(devices),
            touched => {
                // They lie at the same place.
                drop(touched);
                Devices::prepare(&self.own)
            }
        }
    }

    /// The same for a command in this guest, whose disk is among them.
    pub fn devices_of(&self, guest: &Guest) -> Result<Devices> {
        let disk = guest.shown(self.facade.folder())?;
        disk.refresh();
        let mut devices = self.fresh_devices()?;
        devices.show(disk)?;
        Ok(devices)
    }

    /// What bounds commands.
    pub fn limits(&self) -> &Limits {
        self.limits.get_or_init(|| if self.appliance { Limits::of_appliance() } else { Limits::of_host() })
    }
}

/// Makes a folder of the agent's private tmpfs.
fn private_folder(parent: impl AsFd, name: &str) -> Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
        .map_err(|error| system(format_args!("make the agent's folder {name}"), error))
}
