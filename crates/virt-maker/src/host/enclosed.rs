//! A network namespace with nothing in it but one server of ours, for a program that may reach only what that one reaches.
//!
//! ```text
//! the program - loopback device of its namespace - listener (this process) - the host's network
//! ```
//! A socket belongs to the namespace that it was made in, whoever has it. So the listener is made in there and handed to
//! this process, which stays in the host's network. There is no interface, no name server and no other way out.
//!
//! The program begins as a shell that says one word over [`CHANNEL`] and waits for the answer ([`WAIT`]). The kernel adds
//! which process said it, so nobody has to guess a number. As an ordinary user the namespace belongs to a user namespace,
//! which only a process without threads can join: so a child of ours makes the listener in it.

use std::io::{Error as IoError, ErrorKind as IoKind, IoSlice, IoSliceMut, Result as IoResult, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::JoinHandle;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrV4, SocketFlags, SocketType, bind, listen, recvmsg, sendmsg, socket_with, sockopt,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use virt_maker_agent::interface::set_up_loopback;

use super::user::is_root;
use crate::error::{Context, Error, ErrorKind, Result};

/// The address of the server in the namespace; it has all ports for itself.
pub const SERVER: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 3128);
/// The number under which the program finds the channel.
pub(super) const CHANNEL: i32 = 3;
/// What the shell runs before all else.
pub(super) const WAIT: &str = "printf x >&3\nread -r _ <&3\nexec 3>&-\n";
/// How many that want to connect may wait.
const BACKLOG: i32 = 64;

/// A namespace that is to be.
pub struct Enclosed {
    channel: OwnedFd,
    thread: JoinHandle<Result<()>>,
}

/// One whose program was started.
pub struct Entered(JoinHandle<Result<()>>);

impl Enclosed {
    /// `serve` gets the listener, before the program goes on.
    pub fn new(serve: impl FnOnce(TcpListener) -> Result<()> + Send + 'static) -> Result<Enclosed> {
        let (ours, theirs) = UnixStream::pair().context(ErrorKind::Host, failed)?;
        sockopt::set_socket_passcred(&ours, true).context(ErrorKind::Host, failed)?;
        let thread = std::thread::spawn(move || {
            // The program ended before it said anything; it says why by itself.
            let Some(pid) = sender(&ours).context(ErrorKind::Host, failed)? else { return Ok(()) };
            serve(listener_of(pid).context(ErrorKind::Host, failed)?)?;
            (&ours).write_all(b"\n").context(ErrorKind::Host, failed)
        });
        Ok(Enclosed { channel: theirs.into(), thread })
    }

    /// The end of the channel for the program, and what the rest says once it has ended.
    pub(super) fn split(self) -> (OwnedFd, Entered) {
        (self.channel, Entered(self.thread))
    }
}

impl Entered {
    /// An error if the server could not be set up. The program has ended.
    pub fn finish(self) -> Result<()> {
        self.0.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, failed())))
    }
}

fn failed() -> &'static str {
    "cannot set up the network in which packages are fetched"
}

/// Which process says the first word; none where nobody does.
fn sender(channel: &UnixStream) -> IoResult<Option<Pid>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    let got = recvmsg(channel, &mut [IoSliceMut::new(&mut word)], &mut messages, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Ok(None);
    }
    let sender = messages.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
        _ => None,
    });
    sender.map(Some).ok_or_else(|| IoKind::NotFound.into())
}

/// A listener at [`SERVER`] in the network namespace of a process.
fn listener_of(pid: Pid) -> IoResult<TcpListener> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut spaces = libc::CLONE_NEWNET;
    if !is_root() {
        spaces |= libc::CLONE_NEWUSER;
    }
    // It never executes anything.
    let mut command = Command::new("/proc/self/exe");
    // SAFETY: only system calls are made between fork and the end, on memory that is there already.
    unsafe {
        command.pre_exec(move || {
            if libc::setns(process.as_raw_fd(), spaces) != 0 {
                return Err(IoError::last_os_error());
            }
            hand_over(&theirs)?;
            libc::_exit(0)
        });
    }
    let mut child = command.spawn()?;
    let status = child.wait()?;
    if !status.success() {
        return Err(IoError::other("no listener was made"));
    }
    // The closure has the other end, which would keep a read waiting.
    drop(command);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&ours, &mut [IoSliceMut::new(&mut [0])], &mut messages, RecvFlags::CMSG_CLOEXEC)?;
    let listener = messages.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    listener.map(TcpListener::from).ok_or_else(|| IoKind::NotFound.into())
}

/// Makes the listener, and sends it.
fn hand_over(to: &UnixStream) -> IoResult<()> {
    set_up_loopback()?;
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&listener, &SERVER)?;
    listen(&listener, BACKLOG)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = SendAncillaryBuffer::new(&mut space);
    let descriptors = [listener.as_fd()];
    if !messages.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(IoKind::InvalidInput.into());
    }
    sendmsg(to, &[IoSlice::new(b"x")], &mut messages, SendFlags::NOSIGNAL)?;
    Ok(())
}
