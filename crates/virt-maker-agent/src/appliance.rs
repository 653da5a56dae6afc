//! What host and agent agree on about the inside of an appliance.

use std::net::Ipv4Addr;

/// The network interface.
pub const INTERFACE: &str = "eth0";
/// Its address, with 24 bits of network.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 15);
/// Where all that is not in its network goes.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 2);
/// The name server.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 3);

/// The agent's place in the appliance.
pub const AGENT: &str = "/init";
/// The argument that tells the agent that it is the appliance's first process.
pub const ARGUMENT: &str = "--appliance";
/// Folder of the kernel modules.
pub const MODULES: &str = "/modules";
/// Names of files in [`MODULES`], one a line, in the order in which they are loaded.
pub const MODULE_LIST: &str = "/modules/list";
/// As [`MODULE_LIST`], for what is loaded only when a guest has LVM. Not there where the appliance has no [`LVM`].
pub const LVM_MODULE_LIST: &str = "/modules/lvm";
/// Path of `lvm`, if the host has it.
pub const LVM: &str = "/usr/sbin/lvm";
/// Name of the virtio port that leads to the host.
pub const PORT: &str = "virt-maker.agent";
/// Path of bubblewrap.
pub const BUBBLEWRAP: &str = "/usr/bin/bwrap";
