//! Whether KVM works, found by trying.
//!
//! That `/dev/kvm` is there and opens says little: there are hosts where a virtual machine can be made and qemu dies
//! on an assertion when it sets up the first virtual CPU. So a machine without any guest is started and has to run.
//! The answer is kept per boot of the host and per qemu.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::qmp::Qmp;
use crate::error::{Result, chain};
use crate::host::{self, CHANNEL_FD, Helper, HelperCommand, durable};

/// The program that runs machines of this host's kind.
pub(super) const QEMU: &str = "qemu-system-x86_64";
/// How long the machine has to run. Firmware that executes at all does so at once.
const TRIAL: Duration = Duration::from_millis(100);

/// What came of trying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kvm {
    /// A virtual CPU ran.
    pub works: bool,
    /// A sentence that says how that is known.
    pub detail: String,
    /// The boot and the qemu that this is true of.
    tried_on: String,
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
    let kvm = match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Err(error) => Kvm { works: false, detail: format!("/dev/kvm cannot be opened: {error}"), tried_on },
        Ok(_) => match run(work_dir) {
            Ok(()) => Kvm { works: true, detail: "a virtual CPU was started and ran".into(), tried_on },
            Err(error) => {
                let detail = format!("/dev/kvm opens, but a virtual CPU does not run: {}", chain(&error));
                Kvm { works: false, detail, tried_on }
            }
        },
    };
    if fs::create_dir_all(cache_dir).is_ok() {
        // Only speed depends on it.
        let _ = durable::write(&place, &serde_json::to_vec(&kvm).expect("serialisable"));
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
    let helper = Helper::spawn(HelperCommand {
        name: "qemu with KVM",
        program: QEMU.into(),
        package: "qemu-system-x86",
        arguments: arguments.iter().map(Into::into).collect(),
        channels: vec![theirs.into()],
        address_space: None,
        mount_namespace_of: None,
        directory: None,
        log: log.clone(),
    })?;
    let tried = Qmp::greet(ours).and_then(|mut qmp| {
        std::thread::sleep(TRIAL);
        qmp.execute("query-status", json!({}))?;
        qmp.execute("quit", json!({}))
    });
    let words = helper.last_words();
    let _ = fs::remove_file(log);
    match tried {
        Ok(_) => helper.wait(),
        Err(error) if words.is_empty() => Err(error),
        Err(error) => Err(crate::error::Error::new(error.kind(), words)),
    }
}
