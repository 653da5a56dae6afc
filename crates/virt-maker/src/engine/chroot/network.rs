//! The network of a session's commands: an interface in the agent's network namespace, a gate, `slirp4netns`.
//!
//! ```text
//! eth0 of the agent's namespace - gate (this process) - slirp4netns - the host's network
//! ```
//! It is begun with the session where a command with a network is known to come, so that its parts start while the guest is
//! mounted; it is ready when the first command needs it, and serves those that follow.
//!
//! Nothing of it outlives this process: the interface goes with its descriptor, the namespace with its processes, and
//! `slirp4netns` dies with its parent. That one makes a child of its own, which waits for us to connect; so that this
//! cannot be left either, it is made in the agent's process namespace.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use virt_maker_agent::interface;

use crate::engine::OpenRequest;
use crate::engine::gate::{End, Gate, Reach};
use crate::engine::user_network::NETWORK;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Events;
use crate::host::{Cancel, Helper, HelperCommand};

/// The program, and the package that brings it.
pub const PROGRAM: (&str, &str) = ("slirp4netns", "slirp4netns");
/// Large frames cost less: there is no wire that limits them.
const MTU: u16 = 65520;
/// Name of the socket, in the work folder.
const SOCKET: &str = "network.sock";
/// How long it may take to listen. It takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(1);

/// The network of a session.
pub struct Network {
    agent: u32,
    work_dir: PathBuf,
    reach: Reach,
    events: Events,
    cancel: Cancel,
    begun: Option<Begun>,
    running: Option<Running>,
}

/// A network whose parts have been started and are not joined yet.
struct Begun {
    helper: Helper,
    interface: JoinHandle<std::io::Result<OwnedFd>>,
}

/// Fields are dropped in this order: the gate first, so that its end is not taken for a fault.
struct Running {
    gate: Gate,
    helper: Helper,
}

impl Network {
    /// A network that is not made yet. `agent` is the process whose network namespace gets it.
    pub fn new(agent: u32, request: &OpenRequest<'_>) -> Network {
        Network {
            agent,
            work_dir: request.work_dir.to_owned(),
            reach: Reach::new(request.network_env, request.host_network, request.events.waits(&request.cancel)),
            events: request.events.clone(),
            cancel: request.cancel.clone(),
            begun: None,
            running: None,
        }
    }

    /// Starts what takes a while, without waiting for it. What is wrong with it is said when a command needs it.
    pub fn begin(&mut self) {
        self.begun = self.start().ok();
    }

    /// Lets a command's traffic through, or none.
    pub fn switch(&mut self, on: bool) -> Result<()> {
        // What was begun is joined before any command runs: at the end of each the agent clears its process namespace, where
        // a child of `slirp4netns` waits until then. One that cannot be joined is made anew when a command needs it.
        match self.begun.take().map(|begun| self.join(begun)) {
            Some(Ok(running)) => self.running = Some(running),
            Some(Err(error)) if on => return Err(error),
            Some(Err(_)) | None => {}
        }
        if on && self.running.is_none() {
            self.running = Some(self.join(self.start()?)?);
        }
        let Some(Running { gate, helper }) = &self.running else { return Ok(()) };
        gate.switch(on);
        if gate.is_broken() && !self.cancel.is_cancelled() {
            let said = helper.last_words();
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            self.events.warn(format!("the network of commands broke down, as `{}` ended{said}", PROGRAM.0));
            self.running = None;
            // The next command gets a new one.
            if on {
                return self.switch(true);
            }
        }
        Ok(())
    }

    fn start(&self) -> Result<Begun> {
        let (program, package) = PROGRAM;
        // From one that has ended.
        let _ = fs::remove_file(self.work_dir.join(SOCKET));
        let helper = Helper::spawn(HelperCommand {
            name: program,
            program: program.into(),
            package,
            arguments: [
                // Frames come from a socket; without this it would want an interface for itself.
                "--target-type=bess",
                &format!("--cidr={NETWORK}"),
                &format!("--mtu={MTU}"),
                // It sees none of the host's files, has no capability, and few system calls.
                "--enable-sandbox",
                "--enable-seccomp",
                SOCKET,
            ]
            .map(Into::into)
            .into(),
            channels: Vec::new(),
            address_space: None,
            mount_namespace_of: None,
            children_beside_those_of: Some(self.agent),
            directory: Some(self.work_dir.clone()),
            log: self.work_dir.join("network.log"),
        })?;
        Ok(Begun { helper, interface: interface_of(self.agent)? })
    }

    fn join(&self, Begun { helper, interface }: Begun) -> Result<Running> {
        let (program, package) = PROGRAM;
        let interface = interface.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
        let interface = interface.map_err(no_interface)?;
        let folder = File::open(&self.work_dir)
            .context(ErrorKind::Host, || format!("cannot open {}", self.work_dir.display()))?;
        let socket = self.connected(&folder).map_err(|error| {
            let said = helper.last_words();
            let what = if said.is_empty() { format!("`{program}` does not answer") } else { said };
            let error = Error::new(ErrorKind::Host, format!("cannot set up the network of commands: {what}"))
                .with_source(error);
            error.with_hint(format!("`{program}` comes with the package `{package}`; `network: off` needs none of it"))
        })?;
        // It has served.
        let _ = fs::remove_file(self.work_dir.join(SOCKET));
        let gate = Gate::new(End::Interface(interface), End::Packets(socket), self.reach.clone(), self.events.clone())?;
        Ok(Running { gate, helper })
    }

    /// Waits until it listens, and connects to it.
    fn connected(&self, folder: &File) -> std::io::Result<OwnedFd> {
        // By the descriptor, as the path of a socket may only have 107 bytes.
        let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
        let address = SocketAddrUnix::new(path)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let begin = Instant::now();
        loop {
            match connect(&socket, &address) {
                Ok(()) => return Ok(socket),
                Err(error) if begin.elapsed() > PATIENCE || self.cancel.is_cancelled() => return Err(error.into()),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

impl Drop for Network {
    /// To take an interface away the kernel waits for all processors, 20 ms. The agent ends with the session, and the kernel
    /// takes away its namespace, and all that is in it, by itself.
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.gate.leave_interface();
        }
    }
}

fn failed() -> &'static str {
    "cannot set up the network interface of commands"
}

/// Makes the interface in the network namespace of `agent`, ready for use.
fn interface_of(agent: u32) -> Result<JoinHandle<std::io::Result<OwnedFd>>> {
    let namespace = File::open(format!("/proc/{agent}/ns/net")).context(ErrorKind::Host, failed)?;
    // A namespace is a thread's; this one ends with what it was made for.
    let thread = std::thread::Builder::new().name("network".into()).spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let tap = interface::tap(MTU)?;
        // IPv6 leads nowhere; a kernel that has none has no such file.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", interface::NAME), "1");
        interface::set_up()?;
        Ok(tap)
    });
    thread.context(ErrorKind::Host, failed)
}

fn no_interface(source: std::io::Error) -> Error {
    let missing = matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::EPERM));
    let error = Error::new(ErrorKind::Host, failed()).with_source(source);
    match missing {
        true => error.with_hint(
            "it takes /dev/net/tun: load the kernel's module `tun`, or pass the device into the container; \
             or use --engine vm, or say `network: off` where a step needs none",
        ),
        false => error,
    }
}
