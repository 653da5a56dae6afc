//! Calls to a TCP port of the guest: what one says comes out of a pipe, and what the guest answers goes into another.
//!
//! A guest that does not answer yet is called again, for as long as who calls waits for it. What it says is held back where nobody takes it:
//! at most [`COME`] bytes of it wait.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use virt_maker_agent::appliance::ADDRESS;

use super::wire::{NEIGHBOUR, new_socket};

/// How much a call holds, in bytes: what has come, and what is to go. As much again waits before that.
const COME: usize = 64 << 10;
const TO_GO: usize = 64 << 10;
/// How long a guest may take to answer a call, which nobody answers whose network is not up; and after how long it is called again.
const ANSWER: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);
/// After how long who takes what came is asked again whether there is room.
const ROOM: Duration = Duration::from_millis(5);
/// The first of the ports that the calls come from.
const FIRST_PORT: u16 = 49_152;

/// A call. Dropping it ends it.
pub struct Call {
    line: Arc<Line>,
    wake: Arc<dyn Fn() + Send + Sync>,
    stop: UnixStream,
    listener: Option<JoinHandle<()>>,
}

/// What both ends of a call know.
pub(super) struct Line {
    port: u16,
    /// What was said, and is not sent yet.
    said: Mutex<Vec<u8>>,
    /// Where answers go.
    to: Mutex<Option<File>>,
    answered: AtomicBool,
    /// Nobody calls any more.
    over: AtomicBool,
}

impl Call {
    /// A call to a port of the guest, with its other end, which is `wake`d when something is said. Both pipes are open, and do not wait.
    pub(super) fn new(
        port: u16,
        mut from: File,
        to: File,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> std::io::Result<(Call, Arc<Line>)> {
        let (stop, stopped) = UnixStream::pair()?;
        let line = Arc::new(Line {
            port,
            said: Mutex::default(),
            to: Mutex::new(Some(to)),
            answered: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let (theirs, told) = (Arc::clone(&line), Arc::clone(&wake));
        let listener = std::thread::Builder::new().name("call".into()).spawn(move || {
            let mut buffer = vec![0; TO_GO];
            while !theirs.over.load(Ordering::SeqCst) {
                let has_room = lock(&theirs.said).len() < TO_GO;
                let ends = [PollFd::new(&stopped, PollFlags::IN), PollFd::new(&from, PollFlags::IN)];
                let wait = if has_room { None } else { Some(duration(ROOM)) };
                let mut ends: Vec<_> = ends.into_iter().take(if has_room { 2 } else { 1 }).collect();
                match poll(&mut ends, wait.as_ref()) {
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(_) => return,
                    Ok(_) if !ends[0].revents().is_empty() => return,
                    Ok(_) if !has_room => continue,
                    Ok(_) => {}
                }
                match from.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => lock(&theirs.said).extend_from_slice(&buffer[..count]),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
                    Err(_) => return,
                }
                told();
            }
        })?;
        let call = Call { line: Arc::clone(&line), wake, stop, listener: Some(listener) };
        Ok((call, line))
    }

    /// Whether the guest has answered it.
    pub fn is_answered(&self) -> bool {
        self.line.answered.load(Ordering::SeqCst)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.line.over.store(true, Ordering::SeqCst);
        let _ = self.stop.shutdown(std::net::Shutdown::Both);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        (self.wake)();
    }
}

fn lock<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn duration(what: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec { tv_sec: what.as_secs().cast_signed(), tv_nsec: what.subsec_nanos().into() }
}

/// The other end of a call.
pub(super) struct Conversation {
    line: Arc<Line>,
    handle: SocketHandle,
    /// How often the guest was called.
    calls: u16,
    /// When it was called last.
    at: Option<Instant>,
}

impl Conversation {
    pub(super) fn new(line: Arc<Line>, sockets: &mut SocketSet<'static>) -> Conversation {
        Conversation { line, handle: sockets.add(new_socket(COME, TO_GO)), calls: 0, at: None }
    }

    /// Goes on with it. Whether it goes on after that, and when to do this again, whatever comes.
    pub(super) fn go_on(
        &mut self,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
    ) -> (bool, Option<Duration>) {
        let socket = sockets.get_mut::<tcp::Socket>(self.handle);
        if self.line.over.load(Ordering::SeqCst) {
            // What it says by that is sent by whoever looks after the sockets, before this one is no more.
            if socket.is_open() && socket.state() != tcp::State::SynSent {
                socket.abort();
                return (true, Some(Duration::ZERO));
            }
            sockets.remove(self.handle);
            return (false, None);
        }
        if !self.line.answered.load(Ordering::SeqCst) {
            if socket.may_send() {
                self.line.answered.store(true, Ordering::SeqCst);
            } else {
                return (true, Some(self.call(interface, sockets)));
            }
        }
        let socket = sockets.get_mut::<tcp::Socket>(self.handle);
        let mut said = lock(&self.line.said);
        if socket.can_send()
            && let Ok(count) = socket.send_slice(&said)
        {
            said.drain(..count);
        }
        drop(said);
        let mut to = lock(&self.line.to);
        let mut again = None;
        while let (Some(pipe), true) = (to.as_mut(), socket.can_recv()) {
            let took = socket.recv(|bytes| match pipe.write(bytes) {
                Ok(count) => (count, Ok(())),
                Err(error) => (0, Err(error)),
            });
            match took {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => {
                    again = Some(ROOM);
                    break;
                }
                // Nobody takes it any more.
                Ok(Err(_)) | Err(_) => drop(to.take()),
            }
        }
        if !socket.may_recv() && !socket.can_recv() {
            // Who takes the answers sees that there are no more.
            drop(to.take());
            socket.close();
        }
        (true, again)
    }

    /// Calls the guest when it is time; gives when to look again.
    fn call(&mut self, interface: &mut Interface, sockets: &mut SocketSet<'static>) -> Duration {
        let socket = sockets.get_mut::<tcp::Socket>(self.handle);
        let since = self.at.map_or(ANSWER, |at| at.elapsed());
        if socket.is_open() && since >= ANSWER {
            socket.abort();
        }
        if !socket.is_open() && since >= AGAIN {
            let port = FIRST_PORT + self.calls % (u16::MAX - FIRST_PORT);
            // An error would say that it is open, or that there is no such port.
            let _ = socket.connect(interface.context(), (ADDRESS, self.line.port), (NEIGHBOUR, port));
            (self.calls, self.at) = (self.calls.wrapping_add(1), Some(Instant::now()));
        }
        AGAIN
    }
}
