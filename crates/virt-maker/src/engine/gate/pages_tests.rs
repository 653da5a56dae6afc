//! Pages, asked by a guest that is another network stack at the other end of a gate, and by one that sends anything.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, IpCidr};
use virt_maker_agent::appliance::ADDRESS;

use super::wire::NEIGHBOUR;
use super::{End, Gate, Neighbourhood, Pages, Reach};
use crate::event::Events;

/// The card of a guest, and the whole gate behind it.
pub(super) struct Guest {
    stream: UnixStream,
    come: VecDeque<Vec<u8>>,
    told: Arc<Mutex<Vec<String>>>,
    network: UnixStream,
    pub(super) gate: Gate,
}

impl Guest {
    pub(super) fn new(files: &[(&str, Vec<u8>)]) -> Guest {
        let ((stream, ours), (network, theirs)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&told);
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let pages = Pages::new(files, move |said| heard.lock().unwrap().push(said.to_owned()));
        let neighbourhood = Neighbourhood { pages: Some(pages), calls: true };
        let ends = (End::Stream(ours), End::Stream(theirs));
        let gate = Gate::with_neighbour(ends.0, ends.1, Reach::default(), Events::none(), neighbourhood).unwrap();
        gate.switch(true);
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Guest { stream, come: VecDeque::new(), told, network, gate }
    }

    pub(super) fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
        self.stream.write_all(frame).unwrap();
    }

    /// Reads what is there.
    pub(super) fn fill(&mut self) {
        let mut head = [0; 4];
        while self.come.len() < 64 && self.stream.read_exact(&mut head).is_ok() {
            let mut frame = vec![0; u32::from_be_bytes(head) as usize];
            self.stream.set_read_timeout(None).unwrap();
            self.stream.read_exact(&mut frame).unwrap();
            self.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            self.come.push_back(frame);
        }
    }

    /// Its network stack.
    pub(super) fn interface(&mut self, seed: u64, now: smoltcp::time::Instant) -> Interface {
        let mut config = Config::new(EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, self, now);
        interface.update_ip_addrs(|list| list.push(IpCidr::new(ADDRESS.into(), 24)).unwrap());
        interface
    }

    /// Says this in a connection, and gives what is answered until the other side closes.
    fn ask(&mut self, port: u16, text: &[u8]) -> Vec<u8> {
        let begin = Instant::now();
        let now = || smoltcp::time::Instant::from_millis(begin.elapsed().as_millis() as i64);
        let mut interface = self.interface(u64::from(port), now());
        let buffer = || tcp::SocketBuffer::new(vec![0; 16 << 10]);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
        sockets.get_mut::<tcp::Socket>(handle).connect(interface.context(), (NEIGHBOUR, 80), port).unwrap();
        let (mut said, mut heard) = (0, Vec::new());
        loop {
            assert!(begin.elapsed() < Duration::from_secs(60), "{} bytes came", heard.len());
            interface.poll(now(), self, &mut sockets);
            let socket = sockets.get_mut::<tcp::Socket>(handle);
            if socket.can_send() && said < text.len() {
                said += socket.send_slice(&text[said..]).unwrap();
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), heard.extend_from_slice(bytes))).unwrap();
            }
            if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
                socket.close();
            }
            if !socket.is_open() || socket.state() == tcp::State::LastAck {
                interface.poll(now(), self, &mut sockets);
                return heard;
            }
            self.fill();
        }
    }
}

pub(super) struct Come(Vec<u8>);

pub(super) struct Go<'a>(&'a mut UnixStream);

impl Device for Guest {
    type RxToken<'a> = Come;
    type TxToken<'a> = Go<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Come, Go<'_>)> {
        Some((Come(self.come.pop_front()?), Go(&mut self.stream)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Go<'_>> {
        Some(Go(&mut self.stream))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
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
        let mut frame = vec![0; len];
        let done = f(&mut frame);
        self.0.write_all(&(len as u32).to_be_bytes()).unwrap();
        self.0.write_all(&frame).unwrap();
        done
    }
}

#[test]
fn a_guest_fetches_its_files_one_after_the_other_and_nothing_gets_behind_the_gate() {
    let large: Vec<u8> = (0..600_000_u32).map(|number| (number / 7) as u8).collect();
    let mut guest = Guest::new(&[("large", large.clone()), ("a/b.cfg", b"text".to_vec())]);
    let heard = guest.ask(40_000, b"GET /large HTTP/1.1\r\n\r\n");
    assert!(heard.starts_with(b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n") && heard.ends_with(&large));
    let heard = guest.ask(40_001, b"HEAD /a/b.cfg HTTP/1.1\r\n\r\n");
    assert!(heard.ends_with(b"close\r\n\r\n") && heard.starts_with(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n"));
    // More than there are sockets, at once after each other.
    for port in 0..40 {
        let heard = guest.ask(41_000 + port, b"GET /a/b.cfg HTTP/1.0\r\n\r\n");
        assert!(heard.ends_with(b"\r\n\r\ntext"), "{port}: {}", String::from_utf8_lossy(&heard));
    }
    assert!(guest.ask(42_000, b"GET /etc/passwd HTTP/1.1\r\n\r\n").starts_with(b"HTTP/1.1 404 "));
    assert!(guest.ask(42_001, &[b'x'; 9000]).starts_with(b"HTTP/1.1 431 "));
    let told = guest.told.lock().unwrap();
    assert_eq!(told[0], "the guest got large (600000 bytes)");
    assert!(told.iter().any(|said| said.contains("`GET /etc/passwd HTTP/1.1`: 404 Not Found")), "{told:?}");
    drop(told);
    guest.network.set_nonblocking(true).unwrap();
    assert!(guest.network.read(&mut [0; 9]).is_err(), "a frame for the pages got through");
}

#[test]
fn a_guest_that_sends_anything_is_served_all_the_same() {
    let mut guest = Guest::new(&[("a", b"text".to_vec())]);
    guest.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    // Frames for the pages, with anything in them: ARP, packets of all kinds, and requests for connections that nobody goes on with.
    for number in 0..20_000_u32 {
        let mut frame = vec![0_u8; 14 + (random() % 120) as usize];
        frame.iter_mut().for_each(|byte| *byte = random() as u8);
        frame.resize(frame.len().max(54), 0);
        if number % 3 == 0 {
            frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame[38..42].copy_from_slice(&NEIGHBOUR.octets());
        } else {
            let length = (frame.len() - 14) as u16;
            frame[12..18].copy_from_slice(&[8, 0, 0x45, 0, (length >> 8) as u8, length as u8]);
            frame[20..26].copy_from_slice(&[0, 0, 64, 6, 0, 0]);
            frame[26..34].copy_from_slice(&[ADDRESS.octets(), NEIGHBOUR.octets()].concat());
            // With its checksum right, it gets further.
            let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            frame[24..26].copy_from_slice(&(!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes());
            frame[36..38].copy_from_slice(&80_u16.to_be_bytes());
        }
        guest.send(&frame);
        if number % 50 == 0 {
            guest.fill();
            guest.come.clear();
        }
    }
    guest.come.clear();
    assert!(guest.ask(40_000, b"GET /a HTTP/1.1\r\n\r\n").ends_with(b"text"));
}
