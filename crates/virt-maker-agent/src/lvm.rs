//! Logical volumes of the guest, in an appliance: the host's `lvm` makes them devices of the appliance's kernel.
//!
//! # What must hold
//! - Only in an appliance, never with a host's kernel: what `lvm` reads was written by a guest.
//! - Nothing of it is started or loaded for a guest without LVM, so that other sessions do not pay for it.
//! - All of the guest's volume groups or none: what cannot be made active as a whole is for another engine.
//! - Nothing is written for it: metadata stays as it is, no backups, no hints, no list of devices.
//! - Volumes are let go of after their file systems, so that no mount hangs on a mapping when the disk goes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use virt_maker_agent::appliance;
use virt_maker_agent::protocol::FailureKind;

use crate::failure::{Result, failure, system};
use crate::init;

/// How long `lvm` may take.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(1);
/// How much of what `lvm` says is quoted, in bytes.
const QUOTED: u64 = 400;
/// The node by which `lvm` speaks to the device mapper.
const CONTROL: &str = "/dev/mapper/control";

/// Settings of lvm.conf(5). There is no udev, no daemon and no place to keep anything in an appliance.
const SETTINGS: &str = "activation/udev_sync=0 activation/udev_rules=0 activation/verify_udev_operations=0 \
    activation/monitoring=0 global/event_activation=0 global/use_lvmpolld=0 \
    devices/obtain_device_list_from_udev=0 devices/external_device_info_source=none devices/hints=none \
    devices/use_devicesfile=0 devices/md_component_detection=0 devices/multipath_component_detection=0 \
    backup/backup=0 backup/archive=0";

/// A logical volume that is a device now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logical {
    /// Path of the device.
    pub node: String,
    /// How the device mapper calls it: `GROUP-VOLUME`, each with its `-` doubled.
    mapper: String,
    /// The device mapper's identity of it.
    uuid: String,
}

impl Logical {
    /// How messages call it.
    pub fn name(&self) -> String {
        match split(&self.mapper) {
            Some((group, volume)) => format!("logical volume {group}/{volume}"),
            None => format!("logical volume {}", self.mapper),
        }
    }

    /// How the device mapper calls it.
    pub fn mapper(&self) -> &str {
        &self.mapper
    }

    /// The device mapper's identity of it.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Whether a path in an fstab means it.
    pub fn is_called(&self, path: &str) -> bool {
        let Some(name) = path.strip_prefix("/dev/") else { return false };
        if let Some(mapper) = name.strip_prefix("mapper/").or_else(|| name.strip_prefix("disk/by-id/dm-name-")) {
            return mapper == self.mapper;
        }
        if let Some(uuid) = name.strip_prefix("disk/by-id/dm-uuid-") {
            return uuid == self.uuid;
        }
        split(&self.mapper).is_some_and(|(group, volume)| name == format!("{group}/{volume}"))
    }
}

/// Volume groups that are active until this is dropped.
#[derive(Debug)]
pub struct Groups {
    /// Devices that the groups lie on.
    members: Vec<String>,
}

impl Groups {
    /// Lets go of all volumes, with errors seen.
    pub fn end(mut self) -> Result<()> {
        let members = std::mem::take(&mut self.members);
        lvm(&members, "-an")
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if !self.members.is_empty() {
            // On the way out of a failure nothing more can be done; the mappings end with the machine in any case.
            let _ = lvm(&self.members, "-an");
        }
    }
}

/// Makes the logical volumes on these devices devices themselves.
pub fn activate(members: Vec<String>) -> Result<(Groups, Vec<Logical>)> {
    if !Path::new(appliance::LVM).exists() {
        let what = "the appliance has no `lvm`: the host lacks it (package lvm2), or its kernel has no device mapper";
        return Err(failure(FailureKind::Unsupported, what));
    }
    init::load_modules(appliance::LVM_MODULE_LIST)?;
    if !Path::new(CONTROL).exists() {
        return Err(failure(FailureKind::Unsupported, "the appliance's kernel has no device mapper"));
    }
    // From here on, so that what was activated before a failure is let go of.
    let groups = Groups { members };
    lvm(&groups.members, "-ay")?;
    let volumes = volumes().map_err(|error| system("list the logical volumes", error))?;
    if volumes.is_empty() {
        return Err(failure(FailureKind::Unsupported, "no logical volume became active"));
    }
    Ok((groups, volumes))
}

/// `lvm vgchange` for all groups on `members`, which are the only devices that it looks at.
fn lvm(members: &[String], change: &str) -> Result<()> {
    let accepted: String = members.iter().map(|path| format!("\"a|^{path}$|\",")).collect();
    let config = format!("{SETTINGS} devices/global_filter=[{accepted}\"r|.*|\"]");
    let failed = |error| system("start lvm", error);
    let mut said =
        File::from(rustix::fs::memfd_create("lvm", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?);
    let errors = said.try_clone().map_err(failed)?;
    let environment =
        [("LVM_SYSTEM_DIR", ""), ("DM_DISABLE_UDEV", "1"), ("LVM_SUPPRESS_FD_WARNINGS", "1"), ("LC_ALL", "C")];
    // What the guest wrote may make it eat all memory: then it is what goes, not the agent.
    init::protect(false)?;
    let started = Command::new(appliance::LVM)
        .args(["vgchange", change, "--config", &config])
        .env_clear()
        .envs(environment.map(|(name, value)| (OsString::from(name), OsString::from(value))))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn();
    init::protect(true)?;
    let mut child = started.map_err(failed)?;
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if begin.elapsed() > PATIENCE => {
                let _ = child.kill();
                break child.wait().map_err(failed)?;
            }
            None => std::thread::sleep(PAUSE),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut words = Vec::new();
    let _ = said.seek(SeekFrom::Start(0)).and_then(|_| said.take(QUOTED).read_to_end(&mut words));
    let words = String::from_utf8_lossy(&words).split_whitespace().collect::<Vec<_>>().join(" ");
    Err(failure(FailureKind::Unsupported, format!("`lvm vgchange {change}` failed ({status}): {words}")))
}

/// The mappings that are logical volumes. Those that `lvm` makes below others have a suffix at their identity.
fn volumes() -> std::io::Result<Vec<Logical>> {
    /// `LVM-`, then the identities of the group and of the volume, 32 signs each.
    const LENGTH: usize = 4 + 64;
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block")?.flatten() {
        let name = entry.file_name();
        let text = |file: &str| fs::read_to_string(entry.path().join("dm").join(file)).unwrap_or_default();
        let (mapper, uuid) = (text("name").trim().to_string(), text("uuid").trim().to_string());
        if uuid.starts_with("LVM-") && uuid.len() == LENGTH {
            found.push(Logical { node: format!("/dev/{}", name.to_string_lossy()), mapper, uuid });
        }
    }
    found.sort_by(|one, other| one.mapper.cmp(&other.mapper));
    Ok(found)
}

/// Group and volume of a name of the device mapper: parted by the first `-` that is not doubled.
fn split(mapper: &str) -> Option<(String, String)> {
    let bytes = mapper.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'-', Some(b'-')) => at += 2,
            (b'-', _) => {
                let plain = |part: &str| part.replace("--", "-");
                return Some((plain(&mapper[..at]), plain(&mapper[at + 1..])));
            }
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_answer_to_the_names_that_fstab_gives_them() {
        let uuid = format!("LVM-{}", "x".repeat(64));
        let volume = Logical { node: "/dev/dm-0".into(), mapper: "my--vg-the--root".into(), uuid: uuid.clone() };
        assert_eq!(volume.name(), "logical volume my-vg/the-root");
        for path in [
            "/dev/my-vg/the-root",
            "/dev/mapper/my--vg-the--root",
            "/dev/disk/by-id/dm-name-my--vg-the--root",
            &format!("/dev/disk/by-id/dm-uuid-{uuid}"),
        ] {
            assert!(volume.is_called(path), "{path}");
        }
        for path in ["/dev/my/vg-the-root", "/dev/mapper/my-vg-the-root", "my-vg/the-root", "/dev/dm-0", "/dev/", ""] {
            assert!(!volume.is_called(path), "{path}");
        }
        assert_eq!(split("a-b-c"), Some(("a".into(), "b-c".into())));
        assert_eq!(split("one--name"), None);
        assert_eq!(split("-"), Some((String::new(), String::new())));
    }
}
