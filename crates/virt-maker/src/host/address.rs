//! Which addresses are the host's own affair: the one table behind what steps and downloads may reach.
//!
//! The host answers at its loopback and at the addresses of its interfaces, and programs there trust who comes from the
//! host. Link-local addresses are where a cloud hands out the host's credentials, and some clouds have one or two
//! addresses more for that. All else belongs to others, private networks too: mirrors live there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where clouds hand out what they tell a host alone, besides link-local addresses.
const METADATA: [IpAddr; 5] = [
    // Alibaba, Azure, Oracle.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // Amazon, Google.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254)),
];

/// Why an address is only for who may reach the host: words to follow "which is". `own` is what [`own`] gives.
pub fn guarded(address: IpAddr, own: &[IpAddr]) -> Option<&'static str> {
    let address = plain(address);
    let (loopback, link_local) = match address {
        IpAddr::V4(address) => (address.is_loopback() || address.octets()[0] == 0, address.is_link_local()),
        IpAddr::V6(address) => (address.is_loopback() || address.is_unspecified(), address.is_unicast_link_local()),
    };
    if loopback {
        Some("the host's loopback")
    } else if link_local {
        Some("link-local, where clouds keep a host's credentials")
    } else if METADATA.contains(&address) {
        Some("where a cloud keeps a host's credentials")
    } else if own.contains(&address) {
        Some("an address of the host itself")
    } else {
        None
    }
}

/// An address of IPv4 that is written as one of IPv6 (RFC 4291 2.5.5, RFC 6052 2.1), as what it stands for.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(long) = address else { return address };
    let [.., high, low] = long.segments();
    match long.segments()[..6] {
        // `::` and `::1` are no addresses of IPv4.
        [0, 0, 0, 0, 0, 0] if high == 0 => address,
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => {
            IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
        }
        _ => address,
    }
}

/// The addresses that the host's interfaces have now. An error where the kernel does not say, such as for want of descriptors:
/// whoever keeps others from them has to keep them from all then.
pub fn own() -> io::Result<Vec<IpAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the call fills in `list`, or fails and leaves it.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: entries are valid until the list is freed below, and each points to the next one or nowhere.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: an entry's address is none, or valid as long as the entry.
        let Some(general) = (unsafe { entry.ifa_addr.as_ref() }) else { continue };
        match i32::from(general.sa_family) {
            libc::AF_INET => {
                // SAFETY: an address of this family has this structure.
                let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
                found.push(IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr))));
            }
            libc::AF_INET6 => {
                // SAFETY: an address of this family has this structure.
                let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
                found.push(IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr)));
            }
            _ => {}
        }
    }
    // SAFETY: the list is from `getifaddrs`, is freed once, and nothing of it is used any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_others_are_free() {
        let own = ["192.168.1.5", "fd12::5"].map(|text| text.parse().unwrap());
        let guarded = |text: &str| guarded(text.parse().unwrap(), &own);
        for text in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "::1", "::", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
        {
            assert_eq!(guarded(text), Some("the host's loopback"), "{text}");
        }
        for text in ["169.254.169.254", "169.254.0.1", "fe80::1", "febf::1", "::ffff:169.254.169.254"] {
            assert!(guarded(text).is_some_and(|why| why.starts_with("link-local")), "{text}");
        }
        for text in ["fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"] {
            assert!(guarded(text).is_some_and(|why| why.starts_with("where a cloud")), "{text}");
        }
        for text in ["192.168.1.5", "::ffff:192.168.1.5", "fd12::5", "64:ff9b::c0a8:105"] {
            assert_eq!(guarded(text), Some("an address of the host itself"), "{text}");
        }
        for text in ["192.168.1.6", "10.0.0.1", "172.16.0.1", "1.1.1.1", "169.253.255.255", "2001:db8::1", "fd12::6"] {
            assert_eq!(guarded(text), None, "{text}");
        }
    }

    #[test]
    fn the_loopback_device_has_an_address() {
        assert!(own().unwrap().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
