//! The network interface that leads to a network in user mode: of an appliance, or of the agent's namespace on the host.
//!
//! Its address is set once. Whether anything gets through is the host's affair; commands without a network do not even
//! see it, as they are in a namespace of their own.

use std::fs::File;
use std::io::{Error, Result};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::appliance::{ADDRESS, GATEWAY};

pub use crate::appliance::INTERFACE as NAME;

const NAME_LENGTH: usize = libc::IFNAMSIZ;

/// `struct ifreq` of `linux/if.h`, with the members that are used here.
#[repr(C)]
union Value {
    address: libc::sockaddr_in,
    flags: libc::c_short,
    number: libc::c_int,
    all: [u8; 24],
}

#[repr(C)]
struct Request {
    name: [u8; NAME_LENGTH],
    value: Value,
}

/// Makes an interface of the caller's network namespace whose frames are read from the descriptor and written to it,
/// one at a time. The interface goes when the descriptor is closed. `NotFound` means that there is no `/dev/net/tun`.
pub fn tap(mtu: u16) -> Result<OwnedFd> {
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    set(&device, NAME, libc::TUNSETIFF, Value { flags })?;
    set(&control()?, NAME, libc::SIOCSIFMTU, Value { number: mtu.into() })?;
    Ok(device.into())
}

/// Leaves the interface to its network namespace, with which it ends, when the descriptor is closed.
pub fn leave(tap: &OwnedFd) -> Result<()> {
    // SAFETY: the request takes a number and touches no memory.
    match unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST as libc::Ioctl, 1 as libc::c_long) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Sets up the loopback device of the caller's network namespace.
pub fn set_up_loopback() -> Result<()> {
    set(&control()?, "lo", libc::SIOCSIFFLAGS, up())
}

/// Sets up the interface. `false` where there is none, as in an appliance whose kernel lacks the driver.
pub fn set_up() -> Result<bool> {
    let socket = control()?;
    let set = |number, value| set(&socket, NAME, number, value);
    match set(libc::SIOCSIFADDR, Value { address: address(ADDRESS) }) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        other => other?,
    }
    set(libc::SIOCSIFNETMASK, Value { address: address(Ipv4Addr::new(255, 255, 255, 0)) })?;
    set(libc::SIOCSIFFLAGS, up())?;
    // SAFETY: all fields of this structure may be zero.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    // SAFETY: an address of IPv4 is not larger than the one that the field is declared as.
    let general = |from: libc::sockaddr_in| unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(from) };
    route.rt_dst = general(address(Ipv4Addr::UNSPECIFIED));
    route.rt_genmask = general(address(Ipv4Addr::UNSPECIFIED));
    route.rt_gateway = general(address(GATEWAY));
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    call(&socket, libc::SIOCADDRT, (&raw mut route).cast())?;
    Ok(true)
}

fn control() -> Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn up() -> Value {
    Value { flags: (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short }
}

fn set(on: &impl AsRawFd, name: &str, number: u64, value: Value) -> Result<()> {
    let mut request = Request { name: [0; NAME_LENGTH], value };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    call(on, number, (&raw mut request).cast())
}

fn call(on: &impl AsRawFd, number: u64, request: *mut libc::c_void) -> Result<()> {
    // SAFETY: each request reads or writes one structure of its kind, which the callers above keep until it is over.
    match unsafe { libc::ioctl(on.as_raw_fd(), number as libc::Ioctl, request) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

fn address(address: Ipv4Addr) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_kernels_size() {
        assert_eq!(size_of::<Request>(), 40);
    }
}
