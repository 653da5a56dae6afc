//! Which addresses are the host's own affair: the one table behind what steps and downloads may reach.
//!
//! The host answers at its loopback and at the addresses that are its own, and programs there trust who comes from the
//! host. Link-local addresses are where a cloud hands out the host's credentials, and some clouds have one or two
//! addresses more for that. All else belongs to others, private networks too: mirrors live there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

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

/// Why an address is only for who may reach the host: words to follow "which is". `home` says what is the host's own, as [`is_home`] does.
pub fn guarded(address: IpAddr, home: impl FnOnce(IpAddr) -> io::Result<bool>) -> Option<&'static str> {
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
    } else {
        match home(address) {
            Ok(true) => Some("an address of the host itself"),
            Ok(false) => None,
            Err(_) => Some("perhaps the host's own: its routes cannot be read"),
        }
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

/// Whether packets to an address come to the host itself, as its kernel says: a route of type `local` is there for each
/// address of an interface, and may be there for whole networks that no interface has an address of.
pub struct Routes {
    socket: OwnedFd,
    /// Number of the last question.
    asked: u32,
}

impl Routes {
    /// # Errors
    ///
    /// The kernel has no socket to ask with, such as for want of descriptors. Whoever keeps others from the host's own
    /// addresses has to keep them from all then.
    pub fn open() -> io::Result<Routes> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        // `NETLINK_ROUTE` is protocol 0, which is none here.
        Ok(Routes {
            socket: socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?,
            asked: 0,
        })
    }

    /// Whether the host answers at an address. One that leads nowhere is not the host's.
    pub fn lead_home(&mut self, address: IpAddr) -> io::Result<bool> {
        use rustix::net::{RecvFlags, SendFlags, recv, send};
        self.asked = self.asked.wrapping_add(1);
        send(&self.socket, &question(address, self.asked), SendFlags::empty())?;
        // The kernel has answered when the question is sent: nothing is waited for.
        let mut answer = [0; 1024];
        let (length, _) = recv(&self.socket, &mut answer, RecvFlags::DONTWAIT)?;
        judge(&answer[..length], self.asked)
    }
}

/// The same, for who asks seldom.
pub fn is_home(address: IpAddr) -> io::Result<bool> {
    Routes::open()?.lead_home(address)
}

/// The length of a message's header, and of a route's (rtnetlink(7)).
const HEAD: usize = size_of::<libc::nlmsghdr>();
const ROUTE_HEAD: usize = 12;

/// Which route leads to an address: a message of type `RTM_GETROUTE` with one attribute (rtnetlink(7)).
fn question(address: IpAddr, number: u32) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let attribute = 4 + bytes.len();
    let mut message = Vec::with_capacity(HEAD + ROUTE_HEAD + attribute);
    message.extend(((HEAD + ROUTE_HEAD + attribute) as u32).to_ne_bytes());
    message.extend(libc::RTM_GETROUTE.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend(number.to_ne_bytes());
    // That of the port, which the kernel fills in.
    message.extend([0; 4]);
    message.extend([family as u8, (bytes.len() * 8) as u8]);
    message.extend([0; ROUTE_HEAD - 2]);
    message.extend((attribute as u16).to_ne_bytes());
    message.extend(libc::RTA_DST.to_ne_bytes());
    message.extend(bytes);
    message
}

/// What the kernel answers to the question of this number: a route, whose type counts, or the number of an error.
fn judge(answer: &[u8], asked: u32) -> io::Result<bool> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "an answer of the kernel about routes that is too short");
    let kind = answer.get(4..6).ok_or_else(short)?;
    if answer.get(8..12).ok_or_else(short)? != asked.to_ne_bytes() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer of the kernel about another route"));
    }
    if u16::from_ne_bytes([kind[0], kind[1]]) == libc::RTM_NEWROUTE {
        return Ok(*answer.get(HEAD + 7).ok_or_else(short)? == libc::RTN_LOCAL);
    }
    let number = answer.get(HEAD..HEAD + 4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)?;
    match -i32::from_ne_bytes(number) {
        // No route. What else a kernel says (a question that it does not understand, too) is no answer, and frees no address.
        libc::ENETUNREACH | libc::EHOSTUNREACH => Ok(false),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_others_are_free() {
        let own = ["192.168.1.5", "fd12::5"].map(|text| text.parse().unwrap());
        let guarded = |text: &str| guarded(text.parse().unwrap(), |address| Ok(own.contains(&address)));
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
    fn what_cannot_be_asked_for_is_kept_from_all() {
        let asked = |text: &str| guarded(text.parse().unwrap(), |_| Err(io::Error::from_raw_os_error(libc::EMFILE)));
        assert_eq!(asked("192.0.2.7"), Some("perhaps the host's own: its routes cannot be read"));
        assert_eq!(asked("127.0.0.1"), Some("the host's loopback"));
    }

    #[test]
    fn an_address_of_the_loopback_device_leads_home_and_one_for_documentation_does_not() {
        let mut routes = Routes::open().unwrap();
        let mut home = |text: &str| routes.lead_home(text.parse().unwrap()).unwrap();
        assert!(home("127.0.0.1") && home("127.200.3.4"));
        assert!(!home("192.0.2.7"));
        assert!(home("127.0.0.1"));
    }

    #[test]
    fn answers_of_the_kernel_are_read_whole() {
        let route = |kind: u8| {
            let mut answer = vec![0; HEAD + ROUTE_HEAD];
            answer[4..6].copy_from_slice(&libc::RTM_NEWROUTE.to_ne_bytes());
            answer[8..12].copy_from_slice(&3_u32.to_ne_bytes());
            answer[HEAD + 7] = kind;
            answer
        };
        let error = |number: i32| {
            [&[0, 0, 0, 0, 2, 0, 0, 0][..], &3_u32.to_ne_bytes(), &[0; 4], &(-number).to_ne_bytes()].concat()
        };
        let judge = |answer: &[u8]| judge(answer, 3);
        assert!(judge(&route(libc::RTN_LOCAL)).unwrap());
        assert!(!judge(&route(libc::RTN_UNICAST)).unwrap());
        assert!(!judge(&error(libc::ENETUNREACH)).unwrap());
        // Not even where it would mean a route that leads nowhere: a question that is not understood has it, too.
        judge(&error(libc::EINVAL)).unwrap_err();
        assert!(super::judge(&route(libc::RTN_UNICAST), 4).is_err(), "an answer to another question");
        assert_eq!(judge(&error(libc::EPERM)).unwrap_err().raw_os_error(), Some(libc::EPERM));
        for short in [&[][..], &[0; 5], &route(libc::RTN_LOCAL)[..HEAD + 7], &error(libc::EPERM)[..HEAD + 3]] {
            judge(short).unwrap_err();
        }
    }
}
