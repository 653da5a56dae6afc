//! A network in which an address stands for somebody else: neither the loopback device nor an interface has it, and yet a
//! test answers there. So what a redirect from there may lead to can be tried without a second machine.

use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace of its own, for root. It goes when this is dropped.
pub struct Elsewhere(Child);

impl Elsewhere {
    /// The address of somebody else.
    pub const ADDRESS: &'static str = "10.9.0.2";

    /// Makes it.
    pub fn new() -> Elsewhere {
        // The kernel takes packets for such an address in, by a route, though nobody has it.
        let script = "ip link set lo up && ip route add local 10.9.0.0/24 dev lo && echo up && exec sleep infinity";
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sh", "-c", script]).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = unshare.spawn().expect("unshare starts");
        let mut said = [0; 3];
        let out = child.stdout.as_mut().expect("it is a pipe");
        out.read_exact(&mut said).expect("the network is set up (does the host have `ip`?)");
        Elsewhere(child)
    }

    /// Listens at an address in there; port 0 for any that is free.
    pub fn listen(&self, address: &str, port: u16) -> TcpListener {
        let address: SocketAddr = format!("{address}:{port}").parse().expect("an address of IPv4");
        self.inside(move || TcpListener::bind(address).expect("the port is free"))
    }

    /// Does something in that network. What it opens there stays there.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.0.id())).expect("the process is there");
        // A namespace is a thread's; this one ends with what it was made for.
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("tests run as root");
            work()
        });
        thread.join().expect("it did not panic")
    }

    /// The same program with the same arguments, variables and folder, run in there.
    pub fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg("--").arg(command.get_program());
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

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
