//! A proxy of ours for programs of the host that fetch packages: apt, dnf. It is all that they reach ([`enclosed`]).
//!
//! ```text
//! apt, dnf - relay (this process) - a proxy of the user's, or the server itself
//! ```
//! What must hold:
//! - Each request is judged when it comes, also one that a redirect led to: the addresses of its host by the table that
//!   downloads have ([`super::http`]). It is sent to an address that was judged, so that no name means two things.
//! - What goes through a proxy of the user's is that one's affair. Which one it is says [`super::http::proxy`].
//! - It speaks HTTP/1.1 as far as it must: `GET` and `HEAD` with absolute URLs, `CONNECT` for https. Answers go back as
//!   they come, and requests that follow each other to the same server go there over one connection without waiting.
//! - Its threads end with the connections, and these when it is dropped.

mod request;
mod route;

use std::io::{BufRead, BufReader, Read, Result as IoResult, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use self::request::{HEAD_MAX, Request, Target};
use self::route::{Route, Routes, Unreachable};
use super::ImportContext;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::enclosed;

/// The relay. Dropping it ends all connections.
pub(super) struct Relay(Arc<State>);

struct State {
    routes: Routes,
    /// Why the first request was refused that was, and why others could not be sent on.
    refused: Mutex<Option<Error>>,
    lost: Mutex<Option<String>>,
    /// Copies of all sockets, by which they are ended.
    open: Mutex<Vec<TcpStream>>,
    listener: Mutex<Option<TcpListener>>,
    over: AtomicBool,
}

impl Relay {
    /// `near` is a mirror that the host's user named, which may be one of the host's own.
    pub(super) fn new(context: &ImportContext<'_>, near: Option<&str>) -> Relay {
        Relay(Arc::new(State {
            routes: Routes::new(context, near),
            refused: Mutex::default(),
            lost: Mutex::default(),
            open: Mutex::default(),
            listener: Mutex::default(),
            over: AtomicBool::new(false),
        }))
    }

    /// What serves whoever connects to a listener.
    pub(super) fn server(&self) -> impl FnOnce(TcpListener) -> Result<()> + Send + 'static {
        let state = self.0.clone();
        move |listener| {
            let copy = listener.try_clone().context(ErrorKind::Host, || "cannot serve programs that fetch")?;
            *lock(&state.listener) = Some(copy);
            std::thread::spawn(move || {
                while let Ok((client, _)) = listener.accept() {
                    if state.over.load(Ordering::SeqCst) {
                        break;
                    }
                    let state = state.clone();
                    // What breaks off is told by the program, which has the other end.
                    std::thread::spawn(move || drop(state.client(&client)));
                }
            });
            Ok(())
        }
    }

    /// The variables by which a program finds it.
    pub(super) fn variables() -> [(&'static str, String); 3] {
        ["http_proxy", "https_proxy", "ftp_proxy"].map(|name| (name, format!("http://{}", enclosed::SERVER)))
    }

    /// Why the first request was refused, if any was.
    pub(super) fn refusal(&self) -> Option<Error> {
        lock(&self.0.refused).take()
    }

    /// Why the last one could not be sent on, if that was so: programs do not say all of it.
    pub(super) fn lost(&self) -> Option<String> {
        lock(&self.0.lost).take()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
        if let Some(listener) = lock(&self.0.listener).take() {
            // It wakes who accepts.
            let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
        }
        for stream in lock(&self.0.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connection that requests of a client go on to.
struct Onward {
    route: Route,
    stream: TcpStream,
    /// Whether another one takes its place, so that its end is not the client's.
    replaced: Arc<AtomicBool>,
    answers: JoinHandle<()>,
}

impl State {
    /// Has a socket ended with the relay.
    fn keep(&self, stream: &TcpStream) -> IoResult<()> {
        let mut open = lock(&self.open);
        // Those that are closed would only add up.
        open.retain(|stream| stream.peer_addr().is_ok());
        open.push(stream.try_clone()?);
        if self.over.load(Ordering::SeqCst) {
            stream.shutdown(Shutdown::Both)?;
        }
        Ok(())
    }

    /// Serves a connection to its end.
    fn client(&self, client: &TcpStream) -> IoResult<()> {
        self.keep(client)?;
        let done = self.requests(client);
        let _ = client.shutdown(Shutdown::Both);
        done
    }

    fn requests(&self, client: &TcpStream) -> IoResult<()> {
        let mut from = BufReader::new(client.try_clone()?);
        let mut onward: Option<Onward> = None;
        while let Some(head) = head(&mut from)? {
            let Some(request) = Request::parse(&head) else {
                return answer(client, "400 not a request that this proxy knows");
            };
            let route = match self.routes.find(&request.target) {
                Ok(route) => route,
                Err(why) => return self.fails(client, why),
            };
            if let Target::Tunnel { .. } = request.target {
                return self.tunnel(client, from, &request, &route);
            }
            // A program that sends several requests at once sends them to one server: nothing is lost with the old one.
            if onward.as_ref().is_none_or(|onward| onward.route != route) {
                if let Some(old) = onward.take() {
                    old.replaced.store(true, Ordering::SeqCst);
                    let _ = old.stream.shutdown(Shutdown::Both);
                    let _ = old.answers.join();
                }
                onward = match self.onward(client, route, &request.target) {
                    Ok(onward) => Some(onward),
                    Err(why) => return self.fails(client, why),
                };
            }
            if let Some(Onward { route, stream, .. }) = &mut onward {
                stream.write_all(&request.onward(route.authorization()))?;
            }
        }
        Ok(())
    }

    /// Says that a request goes nowhere. First of all it is noted: the program may end as soon as it hears of it.
    fn fails(&self, client: &TcpStream, why: Unreachable) -> IoResult<()> {
        let status = if why.is_refusal() { "403" } else { "502" };
        let said = format!("{status} {}", why.said);
        match why.is_refusal() {
            true => drop(lock(&self.refused).get_or_insert_with(|| why.into_error())),
            false => *lock(&self.lost) = Some(why.said),
        }
        answer(client, &said)
    }

    /// Connects, and passes answers on from now.
    fn onward(&self, client: &TcpStream, route: Route, target: &Target) -> Result<Onward, Unreachable> {
        let stream = route.connect(target)?;
        let start = || -> IoResult<_> {
            self.keep(&stream)?;
            let (mut from, mut to) = (stream.try_clone()?, client.try_clone()?);
            let replaced = Arc::new(AtomicBool::new(false));
            let own = replaced.clone();
            let answers = std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                // Whether the last answer was whole only the client knows: by its length, or by this end.
                if !own.load(Ordering::SeqCst) {
                    let _ = to.shutdown(Shutdown::Both);
                }
            });
            Ok((replaced, answers))
        };
        let (replaced, answers) = start().map_err(|error| Unreachable::new(error.to_string()))?;
        Ok(Onward { route, stream, replaced, answers })
    }

    /// Passes all on, both ways.
    fn tunnel(
        &self,
        client: &TcpStream,
        mut from: BufReader<TcpStream>,
        request: &Request,
        route: &Route,
    ) -> IoResult<()> {
        let mut stream = match route.connect(&request.target) {
            Ok(stream) => stream,
            Err(why) => return self.fails(client, why),
        };
        self.keep(&stream)?;
        match route.is_http_proxy() {
            true => stream.write_all(&request.onward(route.authorization()))?,
            false => (&*client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?,
        }
        let (mut back, mut to) = (stream.try_clone()?, client.try_clone()?);
        let answers = std::thread::spawn(move || {
            let _ = std::io::copy(&mut back, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        let sent = std::io::copy(&mut from, &mut stream);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = answers.join();
        sent.map(drop)
    }
}

/// Says a status, and nothing more after it.
fn answer(mut client: &TcpStream, status: &str) -> IoResult<()> {
    let status: String = status.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    write!(client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// The head of the next request with the empty line at its end; none where there is no other.
fn head(from: &mut impl BufRead) -> IoResult<Option<Vec<u8>>> {
    let mut head = Vec::new();
    loop {
        let begin = head.len();
        let left = (HEAD_MAX - begin) as u64;
        let count = from.by_ref().take(left).read_until(b'\n', &mut head)?;
        match head[begin..] {
            [b'\n'] | [b'\r', b'\n'] if begin > 0 => return Ok(Some(head)),
            // Empty lines before a request mean nothing (RFC 9112 2.2).
            [b'\n'] | [b'\r', b'\n'] => head.clear(),
            _ if count == 0 => return Ok(None),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
