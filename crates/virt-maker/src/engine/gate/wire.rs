//! The card of the guest's [`neighbour`](super::neighbour), and its sockets.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use virt_maker_agent::appliance::GATEWAY;

use super::frames::{Frame, Target};

/// The neighbour's address.
pub(super) const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(GATEWAY.octets()[0], GATEWAY.octets()[1], GATEWAY.octets()[2], 4);
pub(super) const PREFIX: u8 = 24;
/// The address of its card: one that is administered locally.
pub(super) const CARD: [u8; 6] =
    [0x52, 0x56, NEIGHBOUR.octets()[0], NEIGHBOUR.octets()[1], NEIGHBOUR.octets()[2], NEIGHBOUR.octets()[3]];
/// How long a guest may say nothing at all in a connection, and how often it is asked whether it is there.
const SILENT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(60);
const ASKED: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(15);
/// The longest frame of Ethernet without its checksum.
const FRAME: usize = 1514;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];

/// Whether a frame of the guest is for the neighbour.
pub(super) fn is_for_neighbour(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        // Whose card an address is, in IPv4 (RFC 826).
        Some(kind) if kind == ARP => frame.get(38..42) == Some(&NEIGHBOUR.octets()),
        Some(kind) if kind == IPV4 => frame.get(30..34) == Some(&NEIGHBOUR.octets()),
        _ => false,
    }
}

/// A socket that is not connected, with room for what has come and what is to go, in bytes.
pub(super) fn new_socket(come: usize, to_go: usize) -> tcp::Socket<'static> {
    let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
    let mut socket = tcp::Socket::new(buffer(come), buffer(to_go));
    socket.set_timeout(Some(SILENT));
    socket.set_keep_alive(Some(ASKED));
    socket.set_ack_delay(None);
    socket
}

/// The way to the guest's card.
pub(super) struct Wire {
    come: VecDeque<Vec<u8>>,
    target: Arc<Mutex<Target>>,
}

pub(super) struct Come(Vec<u8>);

pub(super) struct Go<'a>(&'a Mutex<Target>);

impl Wire {
    pub(super) fn new(target: Arc<Mutex<Target>>) -> Wire {
        Wire { come: VecDeque::new(), target }
    }

    /// Takes a frame. One that is too long for Ethernet is lost.
    pub(super) fn comes(&mut self, frame: Vec<u8>) {
        if frame.len() <= FRAME {
            self.come.push_back(frame);
        }
    }
}

impl Device for Wire {
    type RxToken<'a> = Come;
    type TxToken<'a> = Go<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Come, Go<'_>)> {
        Some((Come(self.come.pop_front()?), Go(&self.target)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Go<'_>> {
        Some(Go(&self.target))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

impl RxToken for Come {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Go<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let done = f(&mut bytes);
        // Where it can be sent no more, the gate ends soon, and this with it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(&Frame::of(&bytes));
        done
    }
}
