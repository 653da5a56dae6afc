//! A host, somebody else, and a cable between them: two network namespaces on one machine. So what a step or a redirect may
//! lead to can be tried without a second machine.

use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Two network namespaces, for root: one in which the program runs, and one of somebody else. They go when this is dropped.
pub struct Elsewhere {
    host: Space,
    there: Space,
}

impl Elsewhere {
    /// The address of somebody else, who is reached through a cable.
    pub const ADDRESS: &'static str = "10.9.0.2";
    /// An address of the host that no interface of it has: the kernel takes packets for it in, by a route.
    pub const ROUTED: &'static str = "10.99.0.5";

    /// Makes both.
    pub fn new() -> Elsewhere {
        let host = Space::new("ip route add local 10.99.0.0/16 dev lo", "");
        let there = Space::new(
            "ip link add there type veth peer name here netns $1 && ip address add 10.9.0.2/24 dev there &&
             ip link set there up &&
             nsenter --net=/proc/$1/ns/net sh -c 'ip address add 10.9.0.1/24 dev here && ip link set here up'",
            &host.0.id().to_string(),
        );
        Elsewhere { host, there }
    }

    /// Listens at an address of the host; port 0 for any that is free.
    pub fn listen(&self, address: &str, port: u16) -> TcpListener {
        self.host.listen(address, port)
    }

    /// Listens at the address of somebody else, at a free port.
    pub fn listen_there(&self) -> TcpListener {
        self.there.listen(Elsewhere::ADDRESS, 0)
    }

    /// Does something on the host. What it opens there stays there.
    pub fn here<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.host.inside(work)
    }

    /// Does something where somebody else is. What it opens there stays there.
    pub fn there<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.there.inside(work)
    }

    /// The same program with the same arguments, variables and folder, run on the host.
    pub fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/proc/{}/ns/net", self.host.0.id())).arg("--").arg(command.get_program());
        inside.args(command.get_args()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            inside.current_dir(folder);
        }
        inside
    }
}

impl Default for Elsewhere {
    fn default() -> Elsewhere {
        Elsewhere::new()
    }
}

/// A network namespace, held by a process in it.
#[derive(Debug)]
struct Space(Child);

impl Space {
    fn new(set_up: &str, argument: &str) -> Space {
        let script = format!("ip link set lo up && {set_up} && echo up && exec sleep infinity");
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sh", "-c", &script, "sh", argument]).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = unshare.spawn().expect("unshare starts");
        let mut said = [0; 3];
        let out = child.stdout.as_mut().expect("it is a pipe");
        out.read_exact(&mut said).expect("the network is set up (does the host have `ip`?)");
        Space(child)
    }

    fn listen(&self, address: &str, port: u16) -> TcpListener {
        let address: SocketAddr = format!("{address}:{port}").parse().expect("an address of IPv4");
        self.inside(move || TcpListener::bind(address).expect("the port is free"))
    }

    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.0.id())).expect("the process is there");
        // A namespace is a thread's; this one ends with what it was made for.
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("tests run as root");
            work()
        });
        thread.join().expect("it did not panic")
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
