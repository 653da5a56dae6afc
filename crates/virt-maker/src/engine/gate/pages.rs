//! A web server that a guest alone reaches: at the [`neighbour`](super::neighbour)'s address, port 80.
//!
//! Nothing listens on the host. What a hostile guest sends is bounded: so many connections, each with its buffers, a request of at
//! most [`HEAD_MAX`] bytes, and a minute for it.

use std::time::{Duration, Instant};

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;

use super::http::{Answer, Files, HEAD_MAX, Shared};
use super::wire::{NEIGHBOUR, new_socket};

const PORT: u16 = 80;
/// How many connections there are at a time, and how much each holds: what has come, and what is to go.
const CONNECTIONS: usize = 16;
const COME: usize = 4 << 10;
const TO_GO: usize = 64 << 10;
/// How long a guest may take for a request.
const REQUEST: Duration = Duration::from_secs(60);
/// While somebody is connected, how often it is looked whether that takes too long.
const LOOK: Duration = Duration::from_secs(1);
/// How many requests are told.
const TOLD: usize = 200;

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
}

/// What serves them.
pub(super) struct Server {
    pages: Shared,
    told: Box<dyn Fn(&str) + Send>,
    count: usize,
    connections: Vec<(SocketHandle, Connection)>,
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
    pub(super) fn new(pages: Pages, sockets: &mut SocketSet<'static>) -> Server {
        let connections = (0..CONNECTIONS).map(|_| (sockets.add(new_socket(COME, TO_GO)), Connection::default()));
        let connections = connections.collect();
        let Pages { files, told } = pages;
        Server { pages: Shared::new(files), told, count: 0, connections }
    }

    /// Goes on with each connection; gives when to do so again, whatever comes.
    pub(super) fn go_on(&mut self, sockets: &mut SocketSet<'static>) -> Option<Duration> {
        let mut busy = false;
        for (handle, connection) in &mut self.connections {
            let socket = sockets.get_mut::<tcp::Socket>(*handle);
            // Both sides are done: nobody waits for what may come late, as the socket is wanted again.
            if socket.state() == tcp::State::TimeWait {
                socket.abort();
            }
            if !socket.is_open() {
                *connection = Connection::default();
                // An error would say that it is open, or that there is no such port.
                let _ = socket.listen((NEIGHBOUR, PORT));
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
        busy.then_some(LOOK)
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
