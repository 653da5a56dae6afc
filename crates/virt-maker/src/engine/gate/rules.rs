//! What commands may reach: all that is not the host's own affair ([`address`]), and of that the name server and the
//! proxies that the user wants commands to use.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use virt_maker_agent::appliance::{GATEWAY, NAME_SERVER};

use crate::engine::user_network::Proxy;
use crate::host::address::Routes;
use crate::host::waiting::Waits;
use crate::host::{address, names};

const NAME_SERVICE: u16 = 53;
const ADDRESS_SERVICE: u16 = 67;
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Length of a frame's own header, and of the shortest one of a packet.
const FRAME_HEAD: usize = 14;
const PACKET_HEAD: usize = 20;

/// What a session's commands may reach besides the addresses of others.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Proxies of the user: host and port.
    proxies: Vec<(String, u16)>,
    /// Whether they may reach the host itself, too.
    host: bool,
    /// Whether they may ask for an address, as a system does that boots. The network in user mode itself answers.
    addresses: bool,
    /// TCP ports of the guest that somebody on the host may connect to: their answers get out.
    published: Vec<u16>,
    /// How long a proxy is looked for.
    waits: Waits,
}

impl Reach {
    /// `env` has the variables that name proxies; `host` opens the host itself.
    pub fn new(env: &BTreeMap<String, String>, host: bool, waits: Waits) -> Reach {
        let proxies = env.iter().filter_map(|(name, value)| Proxy::of(name, value)?.service()).collect();
        Reach { proxies, host, addresses: false, published: Vec::new(), waits }
    }

    /// The same for a system that boots, and asks for its address (DHCP).
    pub fn with_addresses(self) -> Reach {
        Reach { addresses: true, ..self }
    }

    /// The same for one whose ports somebody on the host may connect to, by way of the network in user mode.
    pub fn with_published(self, ports: impl IntoIterator<Item = u16>) -> Reach {
        Reach { published: ports.into_iter().collect(), ..self }
    }

    /// The rules of a command that begins: addresses of the host and of a proxy may change.
    pub(super) fn rules(&self) -> Rules {
        let mut proxies = Vec::new();
        for (host, port) in &self.proxies {
            // One that is not found is not reached by commands either.
            for found in names::addresses(host, *port, &self.waits).into_iter().flatten() {
                match found.ip() {
                    address if address.is_loopback() => proxies.push((GATEWAY, *port)),
                    IpAddr::V4(address) => proxies.push((address, *port)),
                    IpAddr::V6(_) => {}
                }
            }
        }
        let (addresses, published) = (self.addresses, self.published.clone());
        Rules { proxies, host: self.host, addresses, published, home: Mutex::new(Home::of_the_kernel()) }
    }
}

/// What commands may reach while the gate is open.
pub(super) struct Rules {
    /// Addresses and ports of TCP.
    proxies: Vec<(Ipv4Addr, u16)>,
    host: bool,
    addresses: bool,
    /// See [`Reach`].
    published: Vec<u16>,
    home: Mutex<Home>,
}

/// Which addresses are the host's own.
struct Home {
    ask: Box<dyn FnMut(Ipv4Addr) -> io::Result<bool> + Send>,
    /// What was said of an address: each packet of a connection has the same one.
    told: HashMap<Ipv4Addr, bool>,
}

/// How many addresses are remembered at most: who asks for more than that looks for something.
const REMEMBERED: usize = 4096;

impl Home {
    /// As the kernel says. It is asked by the first packet: most commands send none.
    fn of_the_kernel() -> Home {
        let mut routes = None;
        Home::new(move |address| match &mut routes {
            Some(routes) => Routes::lead_home(routes, address.into()),
            none => none.insert(Routes::open()?).lead_home(address.into()),
        })
    }

    fn new(ask: impl FnMut(Ipv4Addr) -> io::Result<bool> + Send + 'static) -> Home {
        Home { ask: Box::new(ask), told: HashMap::new() }
    }

    fn leads(&mut self, address: Ipv4Addr) -> io::Result<bool> {
        if let Some(told) = self.told.get(&address) {
            return Ok(*told);
        }
        let told = (self.ask)(address)?;
        if self.told.len() == REMEMBERED {
            self.told.clear();
        }
        self.told.insert(address, told);
        Ok(told)
    }
}

/// What becomes of a frame.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Pass,
    Drop,
    /// It was for an address that is not to be reached, for this reason.
    Refuse(Ipv4Addr, &'static str),
}

impl Rules {
    /// Whether a frame of a command may reach the network in user mode.
    pub(super) fn judge(&self, frame: &[u8]) -> Verdict {
        match frame.get(12..FRAME_HEAD) {
            // Only the network itself answers these.
            Some(kind) if kind == ARP => Verdict::Pass,
            Some(kind) if kind == IPV4 => self.judge_packet(&frame[FRAME_HEAD..]),
            _ => Verdict::Drop,
        }
    }

    fn home(&self) -> MutexGuard<'_, Home> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for a packet of IPv4 (RFC 791).
    fn judge_packet(&self, packet: &[u8]) -> Verdict {
        let Some(head) = packet.get(..PACKET_HEAD) else { return Verdict::Drop };
        let start = usize::from(head[0] & 0x0f) * 4;
        // The length of the header is taken from the packet, as whoever reads it next does.
        if head[0] >> 4 != 4 || start < PACKET_HEAD {
            return Verdict::Drop;
        }
        let target = Ipv4Addr::new(head[16], head[17], head[18], head[19]);
        if self.addresses && asks_for_address(packet, start, target) {
            return Verdict::Pass;
        }
        // To all, to a group: nobody is there, and nobody minds. The loopback device is reached by the gateway alone.
        if target.is_broadcast() || target.is_multicast() || target.is_loopback() || target.octets()[0] == 0 {
            return Verdict::Drop;
        }
        let why = match target {
            GATEWAY => "the host's loopback",
            _ if is_of_the_network(target) && target != NAME_SERVER => return Verdict::Drop,
            _ => match address::guarded(target.into(), |_| self.home().leads(target)) {
                Some(why) => why,
                None => return Verdict::Pass,
            },
        };
        // Of a packet in pieces only the first one has a port, and they may overlap: none gets through.
        let whole = u16::from_be_bytes([head[6], head[7]]) & 0x3fff == 0;
        let Some(ports) = packet.get(start..start + 4).filter(|_| whole) else { return Verdict::Drop };
        let port = u16::from_be_bytes([ports[2], ports[3]]);
        match head[9] {
            TCP | UDP if target == NAME_SERVER && port == NAME_SERVICE => Verdict::Pass,
            _ if target == NAME_SERVER => Verdict::Drop,
            TCP if self.proxies.contains(&(target, port)) => Verdict::Pass,
            TCP if target == GATEWAY && self.answers(packet, start) => Verdict::Pass,
            TCP | UDP | ICMP if self.host => Verdict::Pass,
            TCP | UDP => Verdict::Refuse(target, why),
            _ => Verdict::Drop,
        }
    }
}

impl Rules {
    /// Whether a packet of TCP to the gateway comes from a published port and begins no connection (RFC 9293): it has an
    /// ACK or no SYN, and the network in user mode takes such a packet for a connection that it knows, or not at all.
    fn answers(&self, packet: &[u8], start: usize) -> bool {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        let Some(head) = packet.get(start..start + 14) else { return false };
        let (from, flags) = (u16::from_be_bytes([head[0], head[1]]), head[13]);
        self.published.contains(&from) && (flags & SYN == 0 || flags & ACK != 0)
    }
}

/// Whether this is a request to a server of addresses (RFC 2131), whole, and for all or for the one that there is.
fn asks_for_address(packet: &[u8], start: usize, target: Ipv4Addr) -> bool {
    let whole = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff == 0;
    let ports = packet.get(start..start + 4);
    let is_request = ports.is_some_and(|ports| u16::from_be_bytes([ports[2], ports[3]]) == ADDRESS_SERVICE);
    whole && packet[9] == UDP && is_request && (target.is_broadcast() || target == GATEWAY)
}

/// Whether an address is in the network in user mode itself, all of which stands for the host.
fn is_of_the_network(address: Ipv4Addr) -> bool {
    address.octets()[..3] == GATEWAY.octets()[..3]
}

/// What tells the sender of a frame that its packet is prohibited (RFC 1812 5.2.7.1): a frame with ICMP type 3, code 13.
pub(super) fn refusal(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = frame.get(FRAME_HEAD..)?;
    let start = usize::from(packet.first()? & 0x0f) * 4;
    let quoted = packet.get(..start + 8)?;
    let mut answer = Vec::new();
    answer.extend_from_slice(&frame[6..12]);
    answer.extend_from_slice(&frame[..6]);
    answer.extend_from_slice(&IPV4);
    let length = (PACKET_HEAD + 8 + quoted.len()) as u16;
    let mut head = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    head[2..4].copy_from_slice(&length.to_be_bytes());
    head[12..16].copy_from_slice(&GATEWAY.octets());
    head[16..20].copy_from_slice(&packet[12..16]);
    let sum = checksum(&head);
    head[10..12].copy_from_slice(&sum);
    answer.extend_from_slice(&head);
    let mut message = [&[3, 13, 0, 0, 0, 0, 0, 0], quoted].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    answer.extend_from_slice(&message);
    Some(answer)
}

/// The checksum of RFC 1071 over an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn packet(protocol: u8, target: [u8; 4], port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0, 169, 254, 2, 15];
        packet.extend(target);
        packet.extend([0x80, 0]);
        packet.extend(port.to_be_bytes());
        packet.extend([0; 16]);
        packet
    }

    fn frame(kind: [u8; 2], content: &[u8]) -> Vec<u8> {
        [&[0; 12], &kind[..], content].concat()
    }

    fn rules(host: bool) -> Rules {
        let own = Ipv4Addr::new(10, 1, 2, 3);
        let home = Mutex::new(Home::new(move |address| Ok(address == own)));
        let published = Vec::new();
        Rules { proxies: vec![(GATEWAY, 3128), (own, 3142)], host, addresses: false, published, home }
    }

    /// Protocol, address, port; whether it is refused (or else dropped) where it is not allowed; whether the permission
    /// opens it.
    const CLOSED: [(u8, [u8; 4], u16, bool, bool); 22] = [
        (TCP, [169, 254, 2, 2], 22, true, true),
        (UDP, [169, 254, 2, 2], 3128, true, true),
        (ICMP, [169, 254, 2, 2], 0, false, true),
        (TCP, [169, 254, 2, 3], 22, false, false),
        (UDP, [169, 254, 2, 3], 69, false, false),
        (TCP, [169, 254, 2, 77], 22, false, false),
        (UDP, [169, 254, 2, 255], 67, false, false),
        // A cloud's metadata, and others in this network.
        (TCP, [169, 254, 169, 254], 80, true, true),
        (UDP, [169, 254, 169, 253], 53, true, true),
        (TCP, [169, 254, 0, 1], 80, true, true),
        (TCP, [100, 100, 100, 200], 80, true, true),
        (TCP, [168, 63, 129, 16], 80, true, true),
        // The host's own address.
        (TCP, [10, 1, 2, 3], 5432, true, true),
        (UDP, [10, 1, 2, 3], 3142, true, true),
        (ICMP, [10, 1, 2, 3], 0, false, true),
        (TCP, [127, 0, 0, 1], 22, false, false),
        (TCP, [127, 9, 9, 9], 22, false, false),
        (TCP, [0, 0, 0, 0], 22, false, false),
        (UDP, [255, 255, 255, 255], 67, false, false),
        (UDP, [224, 0, 0, 251], 5353, false, false),
        // No port, so no proxy.
        (47, [169, 254, 2, 2], 3128, false, false),
        (47, [169, 254, 169, 254], 80, false, false),
    ];

    #[test]
    fn an_address_is_asked_for_once_and_many_of_them_take_no_memory() {
        let (asked, count) = std::sync::mpsc::channel();
        let mut home = Home::new(move |address| {
            asked.send(address).unwrap();
            Ok(address.octets()[3] == 7)
        });
        let address = |number: u32| Ipv4Addr::from(0x0a00_0000 + number);
        assert!(home.leads(address(7)).unwrap() && home.leads(address(7)).unwrap());
        assert!(!home.leads(address(8)).unwrap());
        assert_eq!(count.try_iter().count(), 2);
        assert!((0..3 * REMEMBERED as u32).all(|number| home.leads(address(number)).unwrap() == (number % 256 == 7)));
        assert!(home.told.len() <= REMEMBERED);
    }

    #[test]
    fn where_the_hosts_addresses_cannot_be_read_nothing_but_the_name_server_and_a_proxy_is_reached() {
        let home = Home::new(|_| Err(io::Error::from_raw_os_error(libc::EMFILE)));
        let unread = Rules { home: Mutex::new(home), ..rules(false) };
        let judge = |protocol, target, port| unread.judge(&frame(IPV4, &packet(protocol, target, port)));
        for (protocol, target) in [(TCP, [192, 0, 2, 7]), (UDP, [10, 1, 2, 4]), (TCP, [10, 1, 2, 3])] {
            let verdict = judge(protocol, target, 80);
            assert!(matches!(verdict, Verdict::Refuse(address, _) if address.octets() == target), "{target:?}");
        }
        assert_eq!(judge(ICMP, [192, 0, 2, 7], 0), Verdict::Drop);
        for (protocol, target, port) in [(UDP, [169, 254, 2, 3], 53), (TCP, [169, 254, 2, 2], 3128)] {
            assert_eq!(judge(protocol, target, port), Verdict::Pass, "{target:?}");
        }
    }

    #[test]
    fn a_published_port_answers_and_begins_nothing() {
        let server = Rules { published: vec![0x8000], ..rules(false) };
        let judge = |rules: &Rules, target, flags: u8| {
            let mut packet = packet(TCP, target, 45678);
            packet[PACKET_HEAD + 13] = flags;
            rules.judge(&frame(IPV4, &packet))
        };
        let (syn, ack, reset) = (0x02, 0x10, 0x04);
        let gateway = GATEWAY.octets();
        for flags in [ack, syn | ack, reset, 0x18] {
            assert_eq!(judge(&server, gateway, flags), Verdict::Pass, "{flags}");
            assert!(matches!(judge(&rules(false), gateway, flags), Verdict::Refuse(..)), "{flags}");
            assert!(matches!(judge(&server, [10, 1, 2, 3], flags), Verdict::Refuse(..)), "{flags}");
        }
        assert!(matches!(judge(&server, gateway, syn), Verdict::Refuse(..)));
        let other = Rules { published: vec![80], ..rules(false) };
        assert!(matches!(judge(&other, gateway, ack), Verdict::Refuse(..)));
        // Too short for flags.
        assert!(matches!(server.judge(&frame(IPV4, &packet(TCP, gateway, 1)[..30])), Verdict::Refuse(..)));
    }

    #[test]
    fn a_system_that_boots_asks_for_its_address_and_gets_no_further() {
        let booting = Rules { addresses: true, ..rules(false) };
        let judge = |protocol, target, port| booting.judge(&frame(IPV4, &packet(protocol, target, port)));
        assert_eq!(judge(UDP, [255, 255, 255, 255], 67), Verdict::Pass);
        assert_eq!(judge(UDP, GATEWAY.octets(), 67), Verdict::Pass);
        for (protocol, target, port) in [
            (UDP, [255, 255, 255, 255], 68),
            (UDP, GATEWAY.octets(), 69),
            (TCP, GATEWAY.octets(), 67),
            (UDP, NAME_SERVER.octets(), 67),
            (UDP, [10, 1, 2, 3], 67),
        ] {
            assert_ne!(judge(protocol, target, port), Verdict::Pass, "{protocol} {target:?} {port}");
        }
        // Of a packet in pieces only the first one has a port.
        let mut pieces = packet(UDP, GATEWAY.octets(), 67);
        pieces[6] = 0x20;
        assert_eq!(booting.judge(&frame(IPV4, &pieces)), Verdict::Drop);
    }

    #[test]
    fn nothing_reaches_the_host_itself_but_the_name_server_and_a_proxy() {
        let judge = |host, protocol, target, port| rules(host).judge(&frame(IPV4, &packet(protocol, target, port)));
        for (protocol, target, port) in [
            (TCP, [192, 0, 2, 7], 80),
            (UDP, [192, 0, 2, 7], 123),
            (ICMP, [192, 0, 2, 7], 0),
            // Private networks, where mirrors live.
            (TCP, [10, 1, 2, 4], 80),
            (TCP, [192, 168, 1, 5], 80),
            (UDP, [169, 254, 2, 3], 53),
            (TCP, [169, 254, 2, 3], 53),
            (TCP, [169, 254, 2, 2], 3128),
            (TCP, [10, 1, 2, 3], 3142),
        ] {
            assert_eq!(judge(false, protocol, target, port), Verdict::Pass, "{protocol} {target:?} {port}");
        }
        for (protocol, target, port, said, opens) in CLOSED {
            let verdict = judge(false, protocol, target, port);
            match said {
                true => assert!(matches!(verdict, Verdict::Refuse(address, _) if address.octets() == target)),
                false => assert_eq!(verdict, Verdict::Drop, "{protocol} {target:?} {port}"),
            }
            let allowed = judge(true, protocol, target, port) == Verdict::Pass;
            assert_eq!(allowed, opens, "{protocol} {target:?} {port}");
        }
    }

    #[test]
    fn what_is_malformed_or_in_pieces_does_not_get_through() {
        let good = packet(UDP, [169, 254, 2, 3], 53);
        let changed = |at: usize, byte: u8| {
            let mut packet = good.clone();
            packet[at] = byte;
            packet
        };
        let judge = |frame: &[u8]| rules(true).judge(frame);
        assert_eq!(judge(&frame(IPV4, &good)), Verdict::Pass);
        for packet in [
            changed(0, 0x65),
            changed(0, 0x44),
            // A header so long that what is taken for the port is not one.
            changed(0, 0x4f),
            changed(6, 0x20),
            changed(7, 1),
            good[..20].to_vec(),
            good[..19].to_vec(),
            Vec::new(),
        ] {
            assert_eq!(judge(&frame(IPV4, &packet)), Verdict::Drop, "{packet:x?}");
        }
        assert_eq!(judge(&frame([0x86, 0xdd], &good)), Verdict::Drop);
        assert_eq!(judge(&[0; 13]), Verdict::Drop);
        assert_eq!(judge(&frame(ARP, &[0; 28])), Verdict::Pass);
    }

    #[test]
    fn a_refusal_has_right_checksums() {
        let answer = refusal(&frame(IPV4, &packet(TCP, [169, 254, 169, 254], 80))).unwrap();
        assert_eq!(checksum(&answer[14..34]), [0, 0]);
        assert_eq!(checksum(&answer[34..]), [0, 0]);
        assert_eq!(refusal(&frame(IPV4, &packet(TCP, [169, 254, 169, 254], 80)[..24])), None);
    }

    #[test]
    fn proxies_are_found_where_commands_reach_them() {
        let env = [("http_proxy", "http://me:p@127.0.0.1:3128/"), ("https_proxy", "http://10.1.2.3:3142")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let mut proxies = Reach::new(&env, false, Waits::default()).rules().proxies;
        proxies.sort();
        assert_eq!(proxies, [(Ipv4Addr::new(10, 1, 2, 3), 3142), (GATEWAY, 3128)]);
    }
}
