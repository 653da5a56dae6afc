//! The network of a session's commands: an interface in the agent's network namespace, a gate, `slirp4netns`.
//!
//! ```text
//! eth0 of the agent's namespace - gate (this process) - slirp4netns - the host's network
//! ```
//! The interface is begun with the session where a command with a network is known to come, so that it comes up while the guest
//! is mounted. The rest is made when a command sends the first frame: most never do. Then it serves those that follow.
//!
//! Nothing of it outlives this process: the interface goes with its descriptor, the namespace with its processes, and
//! `slirp4netns` dies with its parent. That one makes a child of its own, which waits for us to connect; so that this
//! cannot be left either, it is made in the agent's process namespace. The agent clears that when a command ends, so a
//! helper that was not connected by then is gone, and the next command gets another one.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use virt_maker_agent::interface;

use crate::engine::OpenRequest;
use crate::engine::gate::{End, Gate, Reach};
use crate::engine::user_network::NETWORK;
use crate::error::{Context, Error, ErrorKind, Result, chain};
use crate::event::Events;
use crate::host::{Cancel, Helper, HelperCommand, find_program};

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

/// An interface that is being made.
type Begun = JoinHandle<std::io::Result<OwnedFd>>;

/// Fields are dropped in this order: the gate first, so that its end is not taken for a fault.
struct Running {
    gate: Gate,
    outside: Arc<Mutex<Outside>>,
}

/// The helper that reaches the host's network, and why it could not be had.
#[derive(Default)]
struct Outside {
    helper: Option<Helper>,
    problem: Option<String>,
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
        self.begun = interface_of(self.agent).ok();
    }

    /// Lets a command's traffic through, or none.
    pub fn switch(&mut self, on: bool) -> Result<()> {
        if on && self.running.is_none() {
            self.running = Some(self.join()?);
        }
        let Some(Running { gate, outside }) = &self.running else { return Ok(()) };
        gate.switch(on);
        if gate.is_broken() && !self.cancel.is_cancelled() {
            let outside = outside.lock().unwrap_or_else(PoisonError::into_inner);
            let words = || outside.helper.as_ref().map(Helper::last_words).filter(|said| !said.is_empty());
            let said = outside.problem.clone().or_else(words).map_or(String::new(), |said| format!(": {said}"));
            let text = format!("the network of commands broke down, as `{}` ended{said}", PROGRAM.0);
            drop(outside);
            self.events.warn(text);
            self.running = None;
            // The next command gets a new one.
            if on {
                return self.switch(true);
            }
        }
        Ok(())
    }

    fn join(&mut self) -> Result<Running> {
        let (program, package) = PROGRAM;
        if find_program(program).is_none() {
            let error =
                Error::new(ErrorKind::Host, format!("cannot set up the network of commands: `{program}` is not here"));
            return Err(error.with_hint(format!(
                "it comes with the package `{package}`; a step with `network: off` needs none of it"
            )));
        }
        let interface = match self.begun.take() {
            Some(begun) => begun,
            None => interface_of(self.agent)?,
        };
        let interface = interface.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
        let interface = interface.map_err(no_interface)?;
        let outside = Arc::new(Mutex::new(Outside::default()));
        let (kept, place) = (Arc::clone(&outside), Place { agent: self.agent, work_dir: self.work_dir.clone() });
        let connect = Box::new(move |awaited: &dyn Fn() -> bool| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            // Of one that came too late there is nothing to keep.
            kept.helper = None;
            let mut helper = place.start().map_err(|error| {
                kept.problem = Some(chain(&error));
                std::io::Error::other(error)
            })?;
            let connected = place.connected(&mut helper, awaited);
            kept.helper = Some(helper);
            connected.map(End::Packets)
        });
        let gate = Gate::on_demand(End::Interface(interface), connect, self.reach.clone(), self.events.clone())?;
        Ok(Running { gate, outside })
    }
}

/// Where the helper works.
struct Place {
    agent: u32,
    work_dir: PathBuf,
}

impl Place {
    fn start(&self) -> Result<Helper> {
        let (program, package) = PROGRAM;
        // From one that has ended.
        let _ = fs::remove_file(self.work_dir.join(SOCKET));
        Helper::spawn(HelperCommand {
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
        })
    }

    /// Waits until it listens, and connects to it.
    fn connected(&self, helper: &mut Helper, awaited: &dyn Fn() -> bool) -> std::io::Result<OwnedFd> {
        let folder = File::open(&self.work_dir)?;
        // By the descriptor, as the path of a socket may only have 107 bytes.
        let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
        let address = SocketAddrUnix::new(path)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let begin = Instant::now();
        let connected = loop {
            match connect(&socket, &address) {
                Ok(()) => break Ok(socket),
                Err(error) if begin.elapsed() > PATIENCE || helper.has_ended() || !awaited() => break Err(error.into()),
                Err(_) => std::thread::sleep(PAUSE),
            }
        };
        // It has served.
        let _ = fs::remove_file(self.work_dir.join(SOCKET));
        connected
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
fn interface_of(agent: u32) -> Result<Begun> {
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
