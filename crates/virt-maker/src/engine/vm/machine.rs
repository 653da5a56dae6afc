//! The machine: qemu's command line. All that shapes it is here, as a saved state fits only the machine that it is of.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use virt_maker_agent::appliance;

use super::console::Console;
use super::{QEMU, VmOptions};
use crate::engine::user_network::NETDEV;
use crate::error::{Context, ErrorKind, Result};
use crate::host::{CHANNEL_FD, EMULATED_CPU, Helper, HelperCommand};

/// Raise it when the machine or what happens in it before the save changes in a way that nothing else shows.
pub const VERSION: u32 = 1;
/// Descriptors of qemu.
const QMP_FD: i32 = CHANNEL_FD;
const AGENT_FD: i32 = CHANNEL_FD + 1;
const CONSOLE_FD: i32 = CHANNEL_FD + 2;
const CARD_FD: i32 = CHANNEL_FD + 3;
const NETWORK_FD: i32 = CHANNEL_FD + 4;
/// Where a restored machine reads the state of its devices.
pub const STATE_FD: i32 = CHANNEL_FD + 5;
/// Name of the bus that disks are plugged into.
pub const DISK_BUS: &str = "scsi.0";
/// What qemu needs besides the machine's memory and [`IMAGE`], in bytes of address space: its own code and libraries,
/// threads with their heaps, translated code. A qemu that wants more than that has lost its way.
const OVERHEAD: u64 = 4 << 30;
/// What it needs for each image of the chain, in bytes of address space: caches of tables, which it reserves whole and
/// fills as it reads. 32 MiB of a cache were measured on a disk of 40 GiB; no disk gets more.
const IMAGE: u64 = 34 << 20;
/// How much memory translated code gets, in MiB, under TCG.
const TRANSLATED_MIB: u32 = 256;

/// The kernel's parameters. What is left out would cost time at the boot or while steps run.
const PARAMETERS: &[&str] = &[
    "console=ttyS0",
    "quiet",
    // A machine that cannot go on ends, and virt-maker sees that.
    "panic=-1",
    "oops=panic",
    // The wall is the machine: what these protect from each other in it is one guest's.
    "mitigations=off",
    // The same for memory that is wiped before it is used: a page of a file is written over at once.
    "init_on_alloc=0",
    "audit=0",
    "selinux=0",
    "apparmor=0",
    // Waiting for a grace period is most of what a remount costs.
    "rcupdate.rcu_expedited=1",
    // Interfaces and disks by their plain names.
    "net.ifnames=0",
    "ipv6.disable=1",
    "random.trust_cpu=off",
    "nowatchdog",
    "no_timer_check",
    "nokaslr",
];

/// Options that shape the machine, also as text for the key of its state.
pub fn shape(options: &VmOptions) -> Vec<String> {
    let accelerator = match options.kvm {
        true => "kvm".to_owned(),
        false => format!("tcg,thread=multi,tb-size={TRANSLATED_MIB}"),
    };
    let machine = "pc,usb=off,vmport=off,smm=off,hpet=off,graphics=off,memory-backend=ram".to_owned();
    let list = [
        "-accel".to_owned(),
        accelerator,
        "-machine".to_owned(),
        machine,
        "-cpu".to_owned(),
        if options.kvm { "host,migratable=on".to_owned() } else { EMULATED_CPU.to_owned() },
        "-smp".to_owned(),
        options.cpus.to_string(),
        "-m".to_owned(),
        format!("{}M", options.memory_mib),
        "-device".to_owned(),
        "virtio-serial-pci,id=serial,max_ports=2".to_owned(),
        "-device".to_owned(),
        format!("virtserialport,bus=serial.0,nr=1,chardev=agent,name={}", appliance::PORT),
        "-device".to_owned(),
        "virtio-scsi-pci,id=scsi,num_queues=1".to_owned(),
        "-netdev".to_owned(),
        format!("socket,id=card,fd={CARD_FD}"),
        "-device".to_owned(),
        "virtio-net-pci,netdev=card,mac=52:54:00:12:34:56,romfile=".to_owned(),
        // The other side of the gate (`engine/gate/`).
        "-netdev".to_owned(),
        format!("socket,id=gate,fd={NETWORK_FD}"),
        "-netdev".to_owned(),
        format!("{NETDEV},id=user"),
        "-netdev".to_owned(),
        "hubport,id=port0,hubid=0,netdev=gate".to_owned(),
        "-netdev".to_owned(),
        "hubport,id=port1,hubid=0,netdev=user".to_owned(),
        "-device".to_owned(),
        "isa-serial,chardev=console".to_owned(),
    ];
    list.into()
}

/// The kernel's command line.
pub fn parameters() -> String {
    format!("{} rdinit={} -- {}", PARAMETERS.join(" "), appliance::AGENT, appliance::ARGUMENT)
}

/// How a machine starts.
pub enum Start<'a> {
    /// From a kernel; what happens in its memory gets into the file.
    Boot {
        /// The kernel.
        kernel: &'a Path,
        /// The appliance.
        initramfs: &'a Path,
    },
    /// From a saved state; its memory is a private copy of the file.
    Restore {
        /// The state of its devices.
        state: File,
        /// Where it works: the folder of the images.
        directory: &'a Path,
    },
}

/// A machine that was started, with our ends of its channels.
pub struct Started {
    /// qemu.
    pub helper: Helper,
    /// Its control connection, before the greeting.
    pub qmp: UnixStream,
    /// The stream to the agent.
    pub agent: UnixStream,
    /// What the kernel says.
    pub console: Console,
    /// The frames that its network card sends and gets.
    pub card: UnixStream,
    /// The same of qemu's network in user mode.
    pub network: UnixStream,
}

/// Starts qemu.
pub fn start(options: &VmOptions, memory: &Path, start: Start<'_>, images: usize, log: PathBuf) -> Result<Started> {
    let pair = || UnixStream::pair().context(ErrorKind::Host, || "cannot make a socket pair");
    let ((qmp, qmp_theirs), (agent, agent_theirs), (console, console_theirs)) = (pair()?, pair()?, pair()?);
    let ((card, card_theirs), (network, network_theirs)) = (pair()?, pair()?);
    // In the order of their numbers.
    let mut channels: Vec<OwnedFd> =
        [qmp_theirs, agent_theirs, console_theirs, card_theirs, network_theirs].map(OwnedFd::from).into();
    let mut arguments: Vec<OsString> = Vec::new();
    arguments.extend(
        [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-name",
            "virt-maker",
            "-chardev",
            &format!("socket,id=qmp,fd={QMP_FD}"),
            "-mon",
            "chardev=qmp,mode=control",
            "-chardev",
            &format!("socket,id=agent,fd={AGENT_FD}"),
            "-chardev",
            &format!("socket,id=console,fd={CONSOLE_FD}"),
        ]
        .map(OsString::from),
    );
    let share = match start {
        Start::Boot { .. } => "on",
        Start::Restore { .. } => "off",
    };
    let mut backend =
        OsString::from(format!("memory-backend-file,id=ram,size={}M,share={share},mem-path=", options.memory_mib));
    backend.push(doubled_commas(memory));
    arguments.extend(["-object".into(), backend]);
    arguments.extend(shape(options).into_iter().map(OsString::from));
    let mut place = None;
    match start {
        Start::Boot { kernel, initramfs } => {
            arguments.extend(["-kernel".into(), kernel.into(), "-initrd".into(), initramfs.into()]);
            arguments.extend(["-append".into(), parameters().into()]);
        }
        Start::Restore { state, directory } => {
            place = Some(directory.to_owned());
            arguments.extend(["-incoming".into(), "defer".into()]);
            channels.push(state.into());
        }
    }
    let helper = Helper::spawn(HelperCommand {
        name: "qemu",
        program: QEMU.into(),
        package: "qemu-system-x86",
        arguments,
        channels,
        address_space: Some((u64::from(options.memory_mib) << 20) + OVERHEAD + images as u64 * IMAGE),
        mount_namespace_of: None,
        children_beside_those_of: None,
        directory: place,
        log,
    })?;
    Ok(Started { helper, qmp, agent, console: Console::listen(console)?, card, network })
}

/// In qemu's lists of options a comma ends a value; two of them are one in it.
fn doubled_commas(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        bytes.push(*byte);
        if *byte == b',' {
            bytes.push(b',');
        }
    }
    OsString::from_vec(bytes)
}
