//! The network interface of an appliance, which leads to qemu's network in user mode.
//!
//! Its address is set once, before the save. Whether anything gets through is the host's affair; commands without a
//! network do not even see it, as they are in a namespace of their own.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use virt_maker_agent::appliance;

use crate::failure::{Result, system};

const NAME_LENGTH: usize = libc::IFNAMSIZ;

/// `struct ifreq` of `linux/if.h`, with the members that are used here.
#[repr(C)]
union Value {
    address: libc::sockaddr_in,
    flags: libc::c_short,
    all: [u8; 24],
}

#[repr(C)]
struct Request {
    name: [u8; NAME_LENGTH],
    value: Value,
}

/// Sets up the loopback device and, where the machine has one, the interface.
pub fn set_up() -> Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| system("set up the network", error))?;
    let call = |number: u64, request: *mut libc::c_void| {
        // SAFETY: each request reads one structure of its kind, which the callers below keep until the call is over.
        match unsafe { libc::ioctl(socket.as_raw_fd(), number as libc::Ioctl, request) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let set = |name: &str, number: u64, value: Value| {
        let mut request = Request { name: [0; NAME_LENGTH], value };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        call(number, (&raw mut request).cast())
    };
    let up = || Value { flags: (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short };
    set("lo", libc::SIOCSIFFLAGS, up()).map_err(|error| system("set up the loopback device", error))?;

    let name = appliance::INTERFACE;
    match set(name, libc::SIOCSIFADDR, Value { address: address(appliance::ADDRESS) }) {
        // A kernel without the driver: commands have no network then, and say so themselves.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        other => other,
    }
    .and_then(|()| set(name, libc::SIOCSIFNETMASK, Value { address: address(Ipv4Addr::new(255, 255, 255, 0)) }))
    .and_then(|()| set(name, libc::SIOCSIFFLAGS, up()))
    .and_then(|()| {
        // SAFETY: all fields of this structure may be zero.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        // SAFETY: an address of IPv4 is not larger than the one that the field is declared as.
        let general =
            |from: libc::sockaddr_in| unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(from) };
        route.rt_dst = general(address(Ipv4Addr::UNSPECIFIED));
        route.rt_genmask = general(address(Ipv4Addr::UNSPECIFIED));
        route.rt_gateway = general(address(appliance::GATEWAY));
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        call(libc::SIOCADDRT, (&raw mut route).cast())
    })
    .map_err(|error| system(format_args!("set up {name}"), error))
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
