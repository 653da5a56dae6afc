//! The gate before a network in user mode, the same on all engines.
//!
//! ```text
//! the commands' interface - gate (this process) - network in user mode (a process of the host) - the host's network
//! ```
//! A network in user mode reaches what its host reaches: it takes its own addresses for the host's loopback device, and
//! those of the host and of its cloud as they are. The settings that it has against that are not enough. So each frame
//! passes a gate in this process, where nothing in the guest can reach it, not even the kernel of its machine:
//!
//! - it is closed but while a command that has the network runs;
//! - what commands may reach is in [`rules`]; what they may not is said to them at once (ICMP), and to the user;
//! - only IPv4 and its address resolution get through.
//!
//! Nothing listens on the host, and nothing gets in that the guest did not ask for. A [`neighbour`] of the
//! guest is in this process, too: it serves files ([`Pages`]), and calls the guest's own ports where that is wanted ([`Gate::call`]).

mod calls;
mod frames;
mod http;
mod neighbour;
mod pages;
mod rules;
mod wire;

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;

pub use calls::Call;
pub use frames::End;
use frames::{Frame, Source, Target};
use neighbour::Neighbour;
pub use pages::Pages;
pub use rules::Reach;
use rules::{Rules, Verdict, refusal};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Events;
use crate::host::random;

/// How many refused addresses are told after a command.
const TOLD: usize = 8;

/// The gate, with the threads that pass frames on. They end when it is dropped or either end is closed, and an interface of
/// the kernel ends with them: commands that still run see at once that they have no network.
pub struct Gate {
    state: Arc<State>,
    reach: Reach,
    events: Events,
    /// The commands' side, as long as frames are passed on to it: nothing else may hold an interface that is to end with that.
    interface: Weak<Mutex<Target>>,
    /// Ends the reading of an interface, which cannot be shut down.
    stop: Arc<UnixStream>,
    opened: Arc<Mutex<Opened>>,
    neighbour: Option<Neighbour>,
}

/// What the guest's [`neighbour`] does.
#[derive(Default)]
pub struct Neighbourhood {
    /// Files that the guest finds at its address, also while the gate is closed.
    pub pages: Option<Pages>,
    /// Whether it calls the guest, for [`Gate::call`].
    pub calls: bool,
}

/// Brings the network where it is made when the first frame is to get there. It gives up when nobody waits for it any more, as
/// what it gets says; then it is called again for another frame.
pub type Connect = Box<dyn FnMut(&dyn Fn() -> bool) -> std::io::Result<End> + Send>;

#[derive(Default)]
struct State {
    /// None while it is closed.
    rules: RwLock<Option<Rules>>,
    refused: Mutex<BTreeSet<(Ipv4Addr, &'static str)>>,
    broken: AtomicBool,
    /// The gate is dropped.
    ended: AtomicBool,
}

/// What has to end with the gate.
#[derive(Default)]
struct Opened {
    /// Those that are shut down.
    sockets: Vec<End>,
    threads: Vec<JoinHandle<()>>,
}

impl Gate {
    /// A closed gate between the commands' interface and a network.
    pub fn new(interface: End, network: End, reach: Reach, events: Events) -> Result<Gate> {
        Gate::between(interface, Way::There(network), reach, events, Neighbourhood::default())
    }

    /// The same, with a neighbour of the guest on its network.
    pub fn with_neighbour(
        interface: End,
        network: End,
        reach: Reach,
        events: Events,
        neighbourhood: Neighbourhood,
    ) -> Result<Gate> {
        Gate::between(interface, Way::There(network), reach, events, neighbourhood)
    }

    /// A closed gate before a network that is made when the first frame gets through: most commands never send one.
    pub fn on_demand(interface: End, connect: Connect, reach: Reach, events: Events) -> Result<Gate> {
        Gate::between(interface, Way::OnDemand(connect), reach, events, Neighbourhood::default())
    }

    fn between(
        interface: End,
        way: Way,
        reach: Reach,
        events: Events,
        Neighbourhood { pages, calls }: Neighbourhood,
    ) -> Result<Gate> {
        let failed = || "cannot set up the network of commands";
        let (stop, stopped) = UnixStream::pair().context(ErrorKind::Host, failed)?;
        let from_interface = interface.source(&stopped).context(ErrorKind::Host, failed)?;
        let mut opened = Opened::default();
        if !matches!(interface, End::Interface(_)) {
            opened.sockets.push(interface.try_clone().context(ErrorKind::Host, failed)?);
        }
        let opened = Arc::new(Mutex::new(opened));
        // Both threads write to the interface: one what comes in, the other what is refused.
        let to_interface = Arc::new(Mutex::new(interface.target()));
        let (state, stop) = (Arc::new(State::default()), Arc::new(stop));
        let mut gate = Gate {
            state: Arc::clone(&state),
            reach,
            events,
            interface: Arc::downgrade(&to_interface),
            stop: Arc::clone(&stop),
            opened: Arc::clone(&opened),
            neighbour: None,
        };
        if pages.is_some() || calls {
            let seed = u64::from_ne_bytes(random::bytes().context(ErrorKind::Host, failed)?);
            let (neighbour, work) = Neighbour::new(pages, seed, Arc::clone(&to_interface));
            gate.opened().start("neighbour", work).context(ErrorKind::Host, failed)?;
            gate.neighbour = Some(neighbour);
        }
        let neighbour = gate.neighbour.clone();
        let mut outward = Outward { state, opened, stop, stopped, to_interface, way, neighbour };
        if let Way::There(_) = outward.way {
            outward.open().context(ErrorKind::Host, failed)?;
        }
        let thread = gate.opened().start("network out", move || outward.pass_out(from_interface));
        thread.context(ErrorKind::Host, failed)?;
        Ok(gate)
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a TCP port of the guest, until it answers: what comes out of one pipe is said, and its answers go into the other. Both are
    /// open, and do not wait.
    pub fn call(&self, port: u16, from: File, to: File) -> Result<Call> {
        let Some(neighbour) = &self.neighbour else {
            return Err(Error::new(ErrorKind::Internal, "a gate that is not to call the guest"));
        };
        let woken = neighbour.clone();
        let call = Call::new(port, from, to, Arc::new(move || woken.wake()));
        let (call, line) = call.context(ErrorKind::Host, || "cannot call the guest")?;
        neighbour.call(line);
        Ok(call)
    }

    /// Opens it, or closes it. What was refused meanwhile is said by a warning.
    pub fn switch(&self, on: bool) {
        let rules = on.then(|| self.reach.rules());
        *self.state.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        let refused = std::mem::take(&mut *self.state.refused.lock().unwrap_or_else(PoisonError::into_inner));
        for (address, why) in refused {
            self.events.warn(format!(
                "a command tried to reach {address}, which is {why}: refused; `--allow host-network` allows it, and where the \
                 step succeeds all the same, `--force-from STEP` has it run again with that"
            ));
        }
    }

    /// Leaves an interface of the kernel to its network namespace, which takes it away when it ends, instead of having this
    /// process wait for that. Where that is refused, it goes with the gate.
    pub fn leave_interface(&self) {
        if let Some(target) = self.interface.upgrade() {
            target.lock().unwrap_or_else(PoisonError::into_inner).leave();
        }
    }

    /// Whether an end was closed, so that nothing gets through any more.
    pub fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::SeqCst)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let mut opened = self.opened();
        self.state.ended.store(true, Ordering::SeqCst);
        let _ = self.stop.shutdown(Shutdown::Both);
        opened.sockets.iter().for_each(End::shut_down);
        let threads = std::mem::take(&mut opened.threads);
        // One of them may be about to open the network, and sees then that it has ended.
        drop(opened);
        // Its way to the guest is shut, so it waits for nobody but for this.
        if let Some(neighbour) = &self.neighbour {
            neighbour.end();
        }
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Opened {
    fn start(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name.into()).spawn(work)?);
        Ok(())
    }
}

impl State {
    fn is_open(&self) -> bool {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether a command waits for the network.
    fn is_awaited(&self) -> bool {
        self.is_open() && !self.ended.load(Ordering::SeqCst)
    }

    /// Passes on what comes for commands.
    fn pass_in(&self, mut from: Source, to: &Mutex<Target>) {
        let mut frame = Frame::new();
        while from.read(&mut frame) {
            if self.is_open() && !to.lock().unwrap_or_else(PoisonError::into_inner).write(&frame) {
                break;
            }
        }
        self.broken.store(true, Ordering::SeqCst);
    }
}

/// The way to the network.
enum Way {
    There(End),
    OnDemand(Connect),
    Open(Target),
}

/// What passes on what commands send.
struct Outward {
    state: Arc<State>,
    opened: Arc<Mutex<Opened>>,
    stop: Arc<UnixStream>,
    stopped: UnixStream,
    to_interface: Arc<Mutex<Target>>,
    way: Way,
    neighbour: Option<Neighbour>,
}

impl Outward {
    fn pass_out(mut self, mut from: Source) {
        let mut frame = Frame::new();
        while from.read(&mut frame) {
            if self.neighbour.as_ref().is_some_and(|neighbour| neighbour.take(frame.content())) {
                continue;
            }
            let verdict = match &*self.state.rules.read().unwrap_or_else(PoisonError::into_inner) {
                Some(rules) => rules.judge(frame.content()),
                None => Verdict::Drop,
            };
            let fine = match verdict {
                Verdict::Pass => self.send(&frame),
                Verdict::Drop => true,
                Verdict::Refuse(address, why) => {
                    let mut refused = self.state.refused.lock().unwrap_or_else(PoisonError::into_inner);
                    if refused.len() < TOLD {
                        refused.insert((address, why));
                    }
                    drop(refused);
                    refusal(frame.content()).is_none_or(|content| {
                        self.to_interface.lock().unwrap_or_else(PoisonError::into_inner).write(&Frame::of(&content))
                    })
                }
            };
            if !fine {
                break;
            }
        }
        self.state.broken.store(true, Ordering::SeqCst);
    }

    /// Sends a frame to the network; `false` when none can be sent any more.
    fn send(&mut self, frame: &Frame) -> bool {
        // The end of a command can take away what is made for another one that began since, so once is not enough.
        for attempt in 1..=2 {
            match self.open() {
                Ok(()) => break,
                // Who sent it has ended, and what comes later tries again.
                Err(_) if !self.state.is_awaited() => return true,
                // There is no network to be had.
                Err(_) if attempt == 2 => return false,
                Err(_) => {}
            }
        }
        match &self.way {
            Way::Open(target) => target.write(frame),
            Way::There(_) | Way::OnDemand(_) => true,
        }
    }

    /// Opens the way, and has what comes in passed on.
    fn open(&mut self) -> std::io::Result<()> {
        let state = &self.state;
        let network = match &mut self.way {
            Way::There(end) => end.try_clone()?,
            Way::OnDemand(connect) => connect(&|| state.is_awaited())?,
            Way::Open(_) => return Ok(()),
        };
        let source = network.source(&self.stopped)?;
        let (state, stop, interface) = (Arc::clone(state), Arc::clone(&self.stop), Arc::clone(&self.to_interface));
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if state.ended.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::NotConnected.into());
        }
        opened.sockets.push(network.try_clone()?);
        opened.start("network in", move || {
            state.pass_in(source, &interface);
            let _ = stop.shutdown(Shutdown::Both);
        })?;
        drop(opened);
        self.way = Way::Open(network.target());
        Ok(())
    }
}

#[cfg(test)]
mod calls_tests;
#[cfg(test)]
mod pages_tests;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const ARP: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 6];

    fn frame(text: &[u8]) -> Vec<u8> {
        [&ARP[..], text].concat()
    }

    #[test]
    fn frames_pass_whole_and_only_while_it_is_open() {
        let (machine, ours) = UnixStream::pair().unwrap();
        let (network, theirs) = UnixStream::pair().unwrap();
        let gate = Gate::new(End::Stream(ours), End::Stream(theirs), Reach::default(), Events::none()).unwrap();
        let say = |mut to: &UnixStream, frame: &[u8]| {
            to.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
            to.write_all(frame).unwrap();
        };
        let hear = |mut from: &UnixStream, length: usize| {
            let mut frame = vec![0; 4 + length];
            from.read_exact(&mut frame).unwrap();
            frame.split_off(4)
        };
        let (closed, open) = (frame(b"while it was closed"), frame(b"while it is open"));
        say(&machine, &closed);
        // The other way shows that the first frame has been dealt with no more than that it was sent; so wait for it.
        std::thread::sleep(std::time::Duration::from_millis(200));
        gate.switch(true);
        say(&machine, &open);
        assert_eq!(hear(&network, open.len()), open);
        say(&network, &open);
        assert_eq!(hear(&machine, open.len()), open);
        assert!(!gate.is_broken());
        drop(gate);
        assert_eq!((&network).read(&mut [0; 9]).unwrap(), 0);
    }

    #[test]
    fn a_network_on_demand_is_made_for_the_first_frame_and_again_where_nobody_waited_for_it() {
        let (machine, ours) = UnixStream::pair().unwrap();
        let (network, theirs) = UnixStream::pair().unwrap();
        let (sender, called) = std::sync::mpsc::channel();
        let mut calls = 0;
        let connect: Connect = Box::new(move |awaited| {
            calls += 1;
            sender.send(calls).unwrap();
            match calls {
                1 => {
                    while awaited() {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    sender.send(-1).unwrap();
                }
                2 => {}
                _ => return Ok(End::Stream(theirs.try_clone()?)),
            }
            Err(std::io::ErrorKind::TimedOut.into())
        });
        let gate = Gate::on_demand(End::Stream(ours), connect, Reach::default(), Events::none()).unwrap();
        let sent = frame(b"asks");
        let said = [&(sent.len() as u32).to_be_bytes(), &sent[..]].concat();
        (&machine).write_all(&said).unwrap();
        // Closed: a frame is no reason. The command that sends the first one ends before there is a network.
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(called.try_recv().is_err());
        gate.switch(true);
        (&machine).write_all(&said).unwrap();
        assert_eq!(called.recv(), Ok(1));
        gate.switch(false);
        assert_eq!(called.recv(), Ok(-1));
        // Its thread sees that the gate is closed; then what fails once is tried again.
        std::thread::sleep(std::time::Duration::from_millis(200));
        gate.switch(true);
        (&machine).write_all(&said).unwrap();
        assert_eq!([called.recv(), called.recv()], [Ok(2), Ok(3)]);
        let mut heard = vec![0; said.len()];
        (&network).read_exact(&mut heard).unwrap();
        assert_eq!(heard, said);
        (&network).write_all(&said).unwrap();
        (&machine).read_exact(&mut heard).unwrap();
        assert!(heard == said && !gate.is_broken());
        drop(gate);
        assert_eq!((&network).read(&mut [0; 9]).unwrap(), 0);
    }

    #[test]
    fn a_gate_ends_while_its_network_is_made() {
        let (machine, ours) = UnixStream::pair().unwrap();
        let (sender, called) = std::sync::mpsc::channel();
        let connect: Connect = Box::new(move |awaited| {
            sender.send(()).unwrap();
            while awaited() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Err(std::io::ErrorKind::TimedOut.into())
        });
        let gate = Gate::on_demand(End::Stream(ours), connect, Reach::default(), Events::none()).unwrap();
        gate.switch(true);
        let sent = frame(b"asks");
        (&machine).write_all(&[&(sent.len() as u32).to_be_bytes(), &sent[..]].concat()).unwrap();
        called.recv().unwrap();
        drop(gate);
    }

    #[test]
    fn what_is_refused_is_said_to_the_command_and_to_the_user() {
        let (machine, ours) = UnixStream::pair().unwrap();
        let (network, theirs) = UnixStream::pair().unwrap();
        let (sender, said) = std::sync::mpsc::channel();
        let events = Events::new(move |event| sender.send(event).unwrap());
        let gate = Gate::new(End::Stream(ours), End::Stream(theirs), Reach::default(), events).unwrap();
        gate.switch(true);
        let packet = rules::tests::packet(6, [169, 254, 169, 254], 80);
        let asked = [&[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0], &packet[..]].concat();
        (&machine).write_all(&[&(asked.len() as u32).to_be_bytes(), &asked[..]].concat()).unwrap();
        let mut answer = vec![0; 4 + 14 + 20 + 8 + 28];
        (&machine).read_exact(&mut answer).unwrap();
        // To whom it came from; protocol ICMP; unreachable, as it is prohibited; the head of what was refused.
        assert_eq!(&answer[4..16], [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]);
        assert_eq!((answer[18 + 9], &answer[38..40], &answer[46..]), (1, &[3, 13][..], &packet[..28]));
        gate.switch(false);
        drop(gate);
        let told: Vec<String> = said.iter().map(|event| format!("{event:?}")).collect();
        assert!(told.len() == 1 && told[0].contains("169.254.169.254, which is link-local"), "{told:?}");
        network.set_nonblocking(true).unwrap();
        assert_eq!((&network).read(&mut [0; 9]).unwrap(), 0, "nothing came through");
    }
}
