//! A host on the guest's own network that is this process: frames for its address end here, and go nowhere else.
//!
//! Nothing listens on the host, and nobody else there can call the guest. Frames for the address are taken out of what passes the gate, and
//! answered by a network stack in this process (`smoltcp`), so what a hostile guest sends is read by code that is made for that, and bounded.
//! It serves files ([`pages`](super::pages)), and calls the guest ([`calls`](super::calls)).

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::wire::{EthernetAddress, IpCidr};

use super::calls::{Conversation, Line};
use super::frames::Target;
use super::pages::{Pages, Server};
use super::wire::{CARD, NEIGHBOUR, PREFIX, Wire, is_for_neighbour};

/// How many frames wait. One for which there is no room is lost, as on every network.
const FRAMES: usize = 256;

/// What it is told.
pub(super) enum Message {
    Frame(Vec<u8>),
    /// There is a new call, or something to be said in one.
    Said,
    End,
}

/// Who tells it.
#[derive(Clone)]
pub(super) struct Neighbour {
    way: SyncSender<Message>,
    /// Calls that it has not begun.
    calls: Arc<Mutex<Vec<Arc<Line>>>>,
}

impl Neighbour {
    /// The way to it, and what it does, which ends when that is told.
    pub(super) fn new(
        pages: Option<Pages>,
        seed: u64,
        interface: Arc<Mutex<Target>>,
    ) -> (Neighbour, impl FnOnce() + Send) {
        let (way, told) = std::sync::mpsc::sync_channel(FRAMES);
        let calls: Arc<Mutex<Vec<_>>> = Arc::default();
        let theirs = Arc::clone(&calls);
        (Neighbour { way, calls }, move || Stack::new(pages, seed, interface).run(&told, &theirs))
    }

    /// Takes a frame where it is for this address.
    pub(super) fn take(&self, frame: &[u8]) -> bool {
        let is_ours = is_for_neighbour(frame);
        if is_ours {
            let _ = self.way.try_send(Message::Frame(frame.to_vec()));
        }
        is_ours
    }

    /// Has it look at its calls: where there is no room for that, it is about to.
    pub(super) fn wake(&self) {
        let _ = self.way.try_send(Message::Said);
    }

    /// Has it call the guest. Nobody waits for that: it may be busy for as long as the guest takes no frame.
    pub(super) fn call(&self, line: Arc<Line>) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        self.wake();
    }

    /// Ends it, when its way to the guest is shut.
    pub(super) fn end(&self) {
        // Where it has ended by itself, nobody is told.
        let _ = self.way.send(Message::End);
    }
}

struct Stack {
    server: Option<Server>,
    conversations: Vec<Conversation>,
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    begin: Instant,
}

impl Stack {
    fn new(pages: Option<Pages>, seed: u64, target: Arc<Mutex<Target>>) -> Stack {
        let mut wire = Wire::new(target);
        let mut config = Config::new(EthernetAddress(CARD).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        // There is room for one.
        interface.update_ip_addrs(|list| {
            let _ = list.push(IpCidr::new(NEIGHBOUR.into(), PREFIX));
        });
        let mut sockets = SocketSet::new(Vec::new());
        let server = pages.map(|pages| Server::new(pages, &mut sockets));
        Stack { server, conversations: Vec::new(), wire, interface, sockets, begin: Instant::now() }
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(i64::try_from(self.begin.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    fn run(mut self, told: &Receiver<Message>, calls: &Mutex<Vec<Arc<Line>>>) {
        loop {
            for line in calls.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                self.conversations.push(Conversation::new(line, &mut self.sockets));
            }
            let now = self.now();
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            let again = self.go_on();
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            let delay = self.interface.poll_delay(now, &self.sockets).map(Duration::from);
            let most = [again, delay].into_iter().flatten().min().unwrap_or(Duration::from_secs(3600));
            let first = match told.recv_timeout(most) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for message in std::iter::once(first).chain(told.try_iter().take(FRAMES)) {
                match message {
                    Message::Frame(frame) => self.wire.comes(frame),
                    Message::Said => {}
                    Message::End => return,
                }
            }
        }
    }

    /// Goes on with all that is under way; gives when to do so again, whatever comes.
    fn go_on(&mut self) -> Option<Duration> {
        let Stack { server, conversations, interface, sockets, .. } = self;
        let mut again = server.as_mut().and_then(|server| server.go_on(sockets));
        conversations.retain_mut(|conversation| {
            let (goes_on, next) = conversation.go_on(interface, sockets);
            again = [again, next].into_iter().flatten().min();
            goes_on
        });
        again
    }
}
