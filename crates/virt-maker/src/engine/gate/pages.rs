//! A web server that a guest alone reaches: at an address of the network in user mode, whose frames end here and go nowhere else.
//!
//! Nothing listens on the host. Frames for the address are taken out of what passes the gate, and answered by a network stack in
//! this process (`smoltcp`), so what a hostile guest sends is read by code that is made for that, and bounded: so many
//! connections, each with its buffers, a request of at most [`HEAD_MAX`] bytes, and a minute for it.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, IpCidr};
use virt_maker_agent::appliance::GATEWAY;

use super::frames::{Frame, Target};
use super::http::{Answer, Files, HEAD_MAX, Shared};

/// Where a guest finds the pages, at port 80.
pub(super) const PAGES: Ipv4Addr = Ipv4Addr::new(GATEWAY.octets()[0], GATEWAY.octets()[1], GATEWAY.octets()[2], 4);
const PORT: u16 = 80;
const PREFIX: u8 = 24;
/// The address of its card: one that is administered locally.
const CARD: [u8; 6] = [0x52, 0x56, PAGES.octets()[0], PAGES.octets()[1], PAGES.octets()[2], PAGES.octets()[3]];
/// How many connections there are at a time, and how much each holds: what has come, and what is to go.
const CONNECTIONS: usize = 16;
const COME: usize = 4 << 10;
const TO_GO: usize = 64 << 10;
/// How long a guest may take for a request; how long it may say nothing at all, and how often it is asked whether it is there.
const REQUEST: Duration = Duration::from_secs(60);
const SILENT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(60);
const ASKED: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(15);
/// How many frames wait. One for which there is no room is lost, as on every network.
const FRAMES: usize = 256;
/// The longest frame of Ethernet without its checksum.
const FRAME: usize = 1514;
/// How many requests are told.
const TOLD: usize = 200;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];

/// Files that a guest may fetch, and who is told what it asked for: data of the guest, one line each.
pub struct Pages {
    files: Files,
    told: Box<dyn Fn(&str) + Send>,
}

impl Pages {
    /// Files by their paths.
    pub fn new(files: Files, told: impl Fn(&str) + Send + 'static) -> Pages {
        Pages { files, told: Box::new(told) }
    }

    /// The way for frames, and the server itself, which ends when no more can come.
    pub(super) fn server(self, seed: u64, interface: Arc<Mutex<Target>>) -> (Frames, impl FnOnce() + Send) {
        let (frames, come) = std::sync::mpsc::sync_channel(FRAMES);
        (Frames(frames), move || Server::new(self, seed, interface).run(&come))
    }
}

/// Takes the frames that are for the pages.
pub(super) struct Frames(SyncSender<Vec<u8>>);

impl Frames {
    /// Takes a frame where it is for the pages.
    pub(super) fn take(&self, frame: &[u8]) -> bool {
        let is_ours = match frame.get(12..14) {
            // Whose card an address is, in IPv4 (RFC 826).
            Some(kind) if kind == ARP => frame.get(38..42) == Some(&PAGES.octets()),
            Some(kind) if kind == IPV4 => frame.get(30..34) == Some(&PAGES.octets()),
            _ => false,
        };
        if is_ours && frame.len() <= FRAME {
            let _ = self.0.try_send(frame.to_vec());
        }
        is_ours
    }
}

struct Server {
    pages: Shared,
    told: Box<dyn Fn(&str) + Send>,
    count: usize,
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: Vec<(SocketHandle, Connection)>,
    begin: Instant,
}

/// What has become of a connection.
#[derive(Default)]
struct Connection {
    since: Option<Instant>,
    come: Vec<u8>,
    answer: Option<Answer>,
    /// How much of the answer has been sent.
    sent: usize,
}

impl Server {
    fn new(pages: Pages, seed: u64, target: Arc<Mutex<Target>>) -> Server {
        let mut wire = Wire { come: VecDeque::new(), target };
        let mut config = Config::new(EthernetAddress(CARD).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        // There is room for one.
        interface.update_ip_addrs(|list| {
            let _ = list.push(IpCidr::new(PAGES.into(), PREFIX));
        });
        let mut sockets = SocketSet::new(Vec::new());
        let connections = (0..CONNECTIONS).map(|_| {
            let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
            let mut socket = tcp::Socket::new(buffer(COME), buffer(TO_GO));
            socket.set_timeout(Some(SILENT));
            socket.set_keep_alive(Some(ASKED));
            socket.set_ack_delay(None);
            (sockets.add(socket), Connection::default())
        });
        let connections = connections.collect();
        let Pages { files, told } = pages;
        let pages = Shared::new(files);
        Server { pages, told, count: 0, wire, interface, sockets, connections, begin: Instant::now() }
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(i64::try_from(self.begin.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    fn run(mut self, frames: &Receiver<Vec<u8>>) {
        loop {
            let now = self.now();
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            let busy = self.serve();
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            let delay = self.interface.poll_delay(now, &self.sockets).map(Duration::from);
            let most = if busy { Duration::from_secs(1) } else { Duration::from_secs(3600) };
            match frames.recv_timeout(delay.map_or(most, |delay| delay.min(most))) {
                Ok(frame) => self.wire.come.extend(std::iter::once(frame).chain(frames.try_iter().take(FRAMES))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Goes on with each connection. Whether there is any.
    fn serve(&mut self) -> bool {
        let mut busy = false;
        for (handle, connection) in &mut self.connections {
            let socket = self.sockets.get_mut::<tcp::Socket>(*handle);
            // Both sides are done: nobody waits for what may come late, as the socket is wanted again.
            if socket.state() == tcp::State::TimeWait {
                socket.abort();
            }
            if !socket.is_open() {
                *connection = Connection::default();
                // An error would say that it is open, or that there is no such port.
                let _ = socket.listen((PAGES, PORT));
                continue;
            }
            if !socket.is_active() {
                continue;
            }
            busy = true;
            let answered = connection.answer.is_some();
            connection.go_on(socket, &self.pages);
            if let Some(answer) = connection.answer.as_ref().filter(|_| !answered && self.count < TOLD) {
                self.count += 1;
                (self.told)(&answer.said);
            }
        }
        busy
    }
}

impl Connection {
    fn go_on(&mut self, socket: &mut tcp::Socket<'_>, pages: &Shared) {
        let since = *self.since.get_or_insert_with(Instant::now);
        // What comes behind a request is not read.
        while socket.can_recv() {
            let come = &mut self.come;
            let took = socket.recv(|bytes| {
                let room = (HEAD_MAX + 1).saturating_sub(come.len()).min(bytes.len());
                come.extend_from_slice(&bytes[..room]);
                (bytes.len(), ())
            });
            if took.is_err() {
                break;
            }
        }
        if self.answer.is_none() {
            self.answer = pages.answer(&self.come);
        }
        let Some(answer) = &self.answer else {
            if since.elapsed() > REQUEST {
                socket.abort();
            } else if !socket.may_recv() && socket.state() == tcp::State::CloseWait {
                socket.close();
            }
            return;
        };
        let total = answer.head.len() + answer.body.len();
        while socket.can_send() && self.sent < total {
            let rest = match self.sent.checked_sub(answer.head.len()) {
                None => &answer.head[self.sent..],
                Some(sent) => &answer.body[sent..],
            };
            match socket.send_slice(rest) {
                Ok(sent) => self.sent += sent,
                Err(_) => return,
            }
        }
        if self.sent == total {
            socket.close();
        }
    }
}

/// The way to the guest's card.
struct Wire {
    come: VecDeque<Vec<u8>>,
    target: Arc<Mutex<Target>>,
}

struct Come(Vec<u8>);

struct Go<'a>(&'a Mutex<Target>);

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
