//! What a machine is made of: qemu's command line.
//!
//! What a guest sees of it must not change between two versions of qemu, or a layer would depend on that: the machine's type is
//! one with a version, and every device is named here.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde_json::Value;
use virt_maker_agent::appliance::{self, ADDRESS};

use super::firmware::Firmware;
use super::{Start, guest_agent, tpm};
use crate::engine::user_network::NETDEV;
use crate::error::{Context, ErrorKind, Result};
use crate::host::{CHANNEL_FD, EMULATED_CPU, Helper, HelperCommand};

/// The program.
pub(super) const QEMU: &str = "qemu-system-x86_64";
/// Descriptors of qemu.
const QMP_FD: i32 = CHANNEL_FD;
const EVENTS_FD: i32 = CHANNEL_FD + 1;
const CONSOLE_FD: i32 = CHANNEL_FD + 2;
const CARD_FD: i32 = CHANNEL_FD + 3;
const NETWORK_FD: i32 = CHANNEL_FD + 4;
const AGENT_FD: i32 = CHANNEL_FD + 5;
const TPM_FD: i32 = CHANNEL_FD + 6;
/// What qemu needs besides the machine's memory and its images, in bytes of address space.
const OVERHEAD: u64 = 6 << 30;
/// What it needs for each image of the chain: caches of tables, which it reserves whole and fills as it reads.
const IMAGE: u64 = 34 << 20;
/// How much memory translated code gets, in MiB, where the CPU is emulated.
const TRANSLATED_MIB: u32 = 512;
/// What a machine is made of, as far as a template says so. How much of it a layer depends on is for who keys it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardware {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// CPUs.
    pub cpus: u32,
    /// Whether its network card leads somewhere. Where it does not, it gets an address all the same.
    pub network: bool,
    /// Ports of the host's loopback device that lead to TCP ports of the guest: each with that.
    pub publish: Vec<(u16, u16)>,
    /// A socket at which qemu shows its screen and takes keys, by VNC; none is there yet.
    pub display: Option<PathBuf>,
    /// What boots it.
    pub firmware: Firmware,
    /// Whether it has a TPM 2.0, which is new.
    pub tpm: bool,
}

/// A machine that was started, with our ends of its channels.
pub(super) struct Started {
    pub(super) helper: Helper,
    /// Its TPM, which ends after it.
    pub(super) tpm: Option<Helper>,
    /// Its control connection, before the greeting.
    pub(super) qmp: UnixStream,
    /// A second one, for what it tells by itself.
    pub(super) events: UnixStream,
    /// What the guest writes to its first serial port.
    pub(super) console: UnixStream,
    /// The frames that its network card sends and gets.
    pub(super) card: UnixStream,
    /// The same of qemu's network in user mode.
    pub(super) network: UnixStream,
}

/// Starts qemu with a disk, whose node these options describe. `ports` is where it listens for who wants to talk to the agent,
/// and to qemu-guest-agent.
pub(super) fn start(
    start: &Start<'_>,
    disk: &Value,
    images: usize,
    (port, guest_agent): (UnixListener, Option<UnixListener>),
    directory: &Path,
    log: PathBuf,
) -> Result<Started> {
    let Start { hardware, work_dir, .. } = start;
    let pair = || UnixStream::pair().context(ErrorKind::Host, || "cannot make a socket pair");
    let ((qmp, qmp_theirs), (events, events_theirs), (console, console_theirs)) = (pair()?, pair()?, pair()?);
    let ((card, card_theirs), (network, network_theirs)) = (pair()?, pair()?);
    // In the order of their numbers.
    let mut channels: Vec<OwnedFd> =
        [qmp_theirs, events_theirs, console_theirs, card_theirs, network_theirs].map(OwnedFd::from).into();
    channels.push(port.into());
    let mut more = hardware.firmware.options(work_dir)?;
    let mut tpm = None;
    if hardware.tpm {
        let (helper, end) = tpm::start(work_dir)?;
        more.extend(tpm::options(TPM_FD));
        channels.push(end);
        tpm = Some(helper);
    }
    if let Some(port) = guest_agent {
        let fd = CHANNEL_FD + channels.len() as i32;
        more.extend(["-chardev".to_owned(), format!("socket,id=guest-agent,fd={fd},server=on,wait=off")]);
        channels.push(port.into());
    }
    let helper = Helper::spawn(HelperCommand {
        name: "qemu",
        program: QEMU.into(),
        package: "qemu-system-x86",
        arguments: arguments(start, disk, more, start.media.options(hardware.firmware)?),
        channels,
        address_space: Some((u64::from(hardware.memory_mib) << 20) + OVERHEAD + images as u64 * IMAGE),
        mount_namespace_of: None,
        children_beside_those_of: None,
        directory: Some(directory.to_owned()),
        log,
    })?;
    Ok(Started { helper, tpm, qmp, events, console, card, network })
}

/// `more` is what belongs to the firmware and to the TPM: the type of the machine among it.
fn arguments(start: &Start<'_>, disk: &Value, more: Vec<String>, media: Vec<String>) -> Vec<OsString> {
    let Start { hardware, kvm, ends_at_reset, .. } = *start;
    let mut list = more;
    let mut say = |option: &str, value: &str| list.extend([option.to_owned(), value.to_owned()]);
    for flag in ["-nodefaults", "-no-user-config"] {
        say(flag, "");
    }
    match &hardware.display {
        // A comma would begin an option.
        Some(socket) => say("-display", &format!("vnc=unix:{}", socket.to_string_lossy().replace(',', ",,"))),
        None => say("-display", "none"),
    }
    say("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    say("-name", "virt-maker");
    // A reset is not a power-off. A machine that is off, or whose kernel gave up, stays to be looked at.
    let reset = if ends_at_reset { "shutdown" } else { "reset" };
    say("-action", &format!("reboot={reset},shutdown=pause,panic=pause,watchdog=reset"));
    for (id, fd) in [("qmp", QMP_FD), ("events", EVENTS_FD)] {
        say("-chardev", &format!("socket,id={id},fd={fd}"));
        say("-mon", &format!("chardev={id},mode=control"));
    }
    say("-chardev", &format!("socket,id=console,fd={CONSOLE_FD}"));
    say("-chardev", &format!("socket,id=agent,fd={AGENT_FD},server=on,wait=off"));
    match kvm {
        true => say("-accel", "kvm"),
        false => say("-accel", &format!("tcg,thread=multi,tb-size={TRANSLATED_MIB}")),
    }
    say("-cpu", if kvm { "host,migratable=on" } else { EMULATED_CPU });
    say("-smp", &hardware.cpus.to_string());
    say("-m", &format!("{}M", hardware.memory_mib));
    say("-rtc", "base=utc");
    // No other device is asked for a system to boot.
    say("-boot", "strict=on");
    // Without a display adapter, boot loaders that were set up for one do not come up.
    for device in ["VGA", "qemu-xhci", "usb-tablet", "virtio-rng-pci", "vmgenid,guid=auto", "pvpanic"] {
        say("-device", device);
    }
    let ports = if start.ways.guest_agent { 3 } else { 2 };
    say("-device", &format!("virtio-serial-pci,id=serial,max_ports={ports}"));
    say("-device", &format!("virtserialport,bus=serial.0,nr=1,chardev=agent,id=port,name={}", appliance::PORT));
    if start.ways.guest_agent {
        // Without an `id`: qemu is not to tell who opens and closes it.
        let port = guest_agent::PORT;
        say("-device", &format!("virtserialport,bus=serial.0,nr=2,chardev=guest-agent,name={port}"));
    }
    say("-device", "isa-serial,chardev=console");
    say("-device", "virtio-scsi-pci,id=scsi");
    say("-blockdev", &disk.to_string());
    let top = crate::engine::block::TOP;
    say(
        "-device",
        // A host's disk that is full is an error for the guest, not a machine that stands still.
        &format!(
            "scsi-hd,bus=scsi.0,drive={top},id=disk,serial=virt-maker,bootindex=1,write-cache=on,werror=report,rerror=report"
        ),
    );
    for pair in media.chunks(2) {
        say(&pair[0], &pair[1]);
    }
    say("-netdev", &format!("socket,id=card,fd={CARD_FD}"));
    say("-device", "virtio-net-pci,netdev=card,mac=52:54:00:12:34:56,romfile=");
    // The other side of the gate (`engine/gate/`).
    say("-netdev", &format!("socket,id=gate,fd={NETWORK_FD}"));
    let restrict = if hardware.network { "" } else { ",restrict=on" };
    let forward = |(from, to): &(u16, u16)| format!(",hostfwd=tcp:127.0.0.1:{from}-{ADDRESS}:{to}");
    let forwards: String = hardware.publish.iter().map(forward).collect();
    say("-netdev", &format!("{NETDEV},id=user{restrict}{forwards}"));
    say("-netdev", "hubport,id=port0,hubid=0,netdev=gate");
    say("-netdev", "hubport,id=port1,hubid=0,netdev=user");
    list.into_iter().filter(|word| !word.is_empty()).map(OsString::from).collect()
}
