//! Whether KVM works, found by trying.
//!
//! That `/dev/kvm` is there and opens says little: there are hosts where a virtual machine can be made and qemu dies
//! on an assertion when it sets up the first virtual CPU. So a machine without any guest is started and has to run.
//! The answer is kept per boot of the host and per qemu.
//!
//! A virtual CPU that runs says less than a kernel that runs: there are hosts (virtual machines themselves) where firmware
//! comes up and a kernel stops for ever. Who boots one finds out, within [`PATIENCE`], and has it [noted](note_hang) beside.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::qmp::Qmp;
use crate::error::{Result, chain};
use crate::host::waiting::Waits;
use crate::host::{self, CHANNEL_FD, Cancel, Guard, Helper, HelperCommand, temporary};

/// The program that runs machines of this host's kind.
pub(super) const QEMU: &str = "qemu-system-x86_64";
/// How long the machine has to run. Firmware that executes at all does so at once.
const TRIAL: Duration = Duration::from_millis(100);
/// How long qemu may take to answer before it counts as hung.
const ANSWER: Duration = Duration::from_secs(20);
/// How long a kernel may take to come up. With KVM it takes a second or two, and emulated ten times as long.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What came of trying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kvm {
    /// A virtual CPU ran.
    pub works: bool,
    /// A sentence that says how that is known.
    pub detail: String,
    /// The boot and the qemu that this is true of.
    tried_on: String,
    /// Kernels that did not come up all the same, and what was seen.
    #[serde(default)]
    hung: BTreeMap<String, String>,
}

impl Kvm {
    /// What is known with regard to one kernel; see [`note_hang`]. Where another kernel hung, that came up without KVM, it is
    /// the host: this one is not tried.
    pub fn with(mut self, kernel: &str) -> Kvm {
        if let Some(seen) = self.hung.get(kernel).or_else(|| self.hung.values().next()) {
            self.works = false;
            self.detail = seen.clone();
        }
        self
    }
}

/// How a kernel is known: by its file, as that is now.
pub fn kernel_id(image: &Path) -> String {
    let stat = fs::metadata(image).map(|file| (file.size(), file.mtime())).unwrap_or_default();
    format!("{} {}.{}", image.display(), stat.0, stat.1)
}

/// Notes that this kernel does not come up with KVM on this boot of the host, and does without.
pub fn note_hang(cache_dir: &Path, kernel: &str, seen: &str) {
    let place = cache_dir.join("kvm.json");
    let known = fs::read(&place).ok().and_then(|text| serde_json::from_slice::<Kvm>(&text).ok());
    let tried_on = signature();
    let mut kvm = match known.filter(|known| known.tried_on == tried_on) {
        Some(known) => known,
        None => {
            Kvm { works: true, detail: "a virtual CPU was started and ran".into(), tried_on, hung: BTreeMap::new() }
        }
    };
    kvm.hung.insert(kernel.to_owned(), seen.to_owned());
    // Only speed depends on it.
    let _ = temporary::replace_durably(&place, &serde_json::to_vec(&kvm).expect("serialisable"));
}

/// Has programs of the host use no KVM where what is kept in `cache_dir` says that it does not work here. Tries nothing.
pub fn heed(cache_dir: &Path) {
    let known = fs::read(cache_dir.join("kvm.json")).ok().and_then(|text| serde_json::from_slice::<Kvm>(&text).ok());
    if known.is_some_and(|known| known.tried_on == signature() && (!known.works || !known.hung.is_empty())) {
        host::no_kvm();
    }
}

/// Says whether KVM works, from what is kept in `cache_dir` if that is of this boot and this qemu. `work_dir` is a
/// folder for a log; nothing stays there.
pub fn probe(cache_dir: &Path, work_dir: &Path) -> Kvm {
    let tried_on = signature();
    let place = cache_dir.join("kvm.json");
    if let Some(known) = fs::read(&place).ok().and_then(|text| serde_json::from_slice::<Kvm>(&text).ok())
        && known.tried_on == tried_on
    {
        return known;
    }
    let (works, detail) = match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let hint =
                "whoever is in its group may, which is `kvm` on most systems: `adduser USER kvm`, and log in again";
            (false, format!("/dev/kvm cannot be opened: {error}; {hint}"))
        }
        Err(error) => (false, format!("/dev/kvm cannot be opened: {error}")),
        Ok(_) => match run(work_dir) {
            Ok(()) => (true, "a virtual CPU was started and ran".into()),
            Err(error) => (false, format!("/dev/kvm opens, but a virtual CPU does not run: {}", chain(&error))),
        },
    };
    let kvm = Kvm { works, detail, tried_on, hung: BTreeMap::new() };
    if fs::create_dir_all(cache_dir).is_ok() {
        // Only speed depends on it.
        let _ = temporary::replace_durably(&place, &serde_json::to_vec(&kvm).expect("serialisable"));
    }
    kvm
}

fn signature() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let qemu = host::find_program(QEMU).and_then(|path| fs::metadata(path).ok());
    let qemu = qemu.map(|qemu| format!("{}.{}", qemu.size(), qemu.mtime())).unwrap_or_default();
    let user = rustix::process::geteuid().as_raw();
    format!("{} {qemu} {user}", boot.trim())
}

fn run(work_dir: &Path) -> Result<()> {
    let (ours, theirs) = UnixStream::pair().map_err(|error| {
        crate::error::Error::new(crate::error::ErrorKind::Host, "cannot make a socket pair").with_source(error)
    })?;
    let log = work_dir.join("kvm.log");
    let arguments = [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        "pc,accel=kvm",
        "-cpu",
        "max",
        "-m",
        "32",
        "-chardev",
        &format!("socket,id=qmp,fd={CHANNEL_FD}"),
        "-mon",
        "chardev=qmp,mode=control",
    ];
    let mut helper = Helper::spawn(HelperCommand {
        name: "qemu with KVM",
        program: QEMU.into(),
        package: "qemu-system-x86",
        arguments: arguments.iter().map(Into::into).collect(),
        channels: vec![theirs.into()],
        address_space: None,
        mount_namespace_of: None,
        children_beside_those_of: None,
        directory: None,
        log: log.clone(),
    })?;
    let guard = Guard::kill_on_cancel(helper.pid(), &Cancel::default())?;
    let deadline = guard.deadline(Some(ANSWER));
    let tried = Qmp::greet(ours, Waits::default()).and_then(|mut qmp| {
        std::thread::sleep(TRIAL);
        qmp.execute("query-status", json!({}))?;
        qmp.execute("quit", json!({}))
    });
    // It was asked to end, and may hang all the same.
    let ended = tried.map(|_| helper.wait_for_end());
    let late = deadline.end();
    let words = helper.last_words();
    let _ = fs::remove_file(log);
    match ended {
        _ if late => {
            let message = format!("qemu did not answer within {} s", ANSWER.as_secs());
            Err(crate::error::Error::new(crate::error::ErrorKind::Host, message))
        }
        Ok(ended) => ended,
        Err(error) if words.is_empty() => Err(error),
        Err(error) => Err(crate::error::Error::new(error.kind(), words)),
    }
}
