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
//! Nothing listens on the host, and nothing gets in that the guest did not ask for.

mod frames;
mod rules;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;

pub use frames::End;
use frames::{Frame, Source, Target};
pub use rules::Reach;
use rules::{Rules, Verdict, refusal};

use crate::error::{Context, ErrorKind, Result};
use crate::event::Events;

/// How many refused addresses are told after a command.
const TOLD: usize = 8;

/// The gate, with the threads that pass frames on. They end when it is dropped or either end is closed, and an interface of
/// the kernel ends with them: commands that still run see at once that they have no network.
pub struct Gate {
    state: Arc<State>,
    reach: Reach,
    events: Events,
    /// Those that are shut down when it is dropped.
    sockets: Vec<End>,
    /// The commands' side, as long as frames are passed on to it: nothing else may hold an interface that is to end with that.
    interface: Weak<Mutex<Target>>,
    /// Ends the reading of an interface, which cannot be shut down.
    stop: Arc<UnixStream>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    /// None while it is closed.
    rules: RwLock<Option<Rules>>,
    refused: Mutex<BTreeSet<(Ipv4Addr, &'static str)>>,
    broken: AtomicBool,
}

impl Gate {
    /// A closed gate between the commands' interface and a network.
    pub fn new(interface: End, network: End, reach: Reach, events: Events) -> Result<Gate> {
        let failed = || "cannot set up the network of commands";
        let (stop, stopped) = UnixStream::pair().context(ErrorKind::Host, failed)?;
        let source = |end: &End| end.source(&stopped).context(ErrorKind::Host, failed);
        let (from_interface, from_network) = (source(&interface)?, source(&network)?);
        let sockets = [&interface, &network].into_iter().filter(|end| !matches!(end, End::Interface(_)));
        let sockets = sockets.map(End::try_clone).collect::<Result<_, _>>().context(ErrorKind::Host, failed)?;
        let (state, stop) = (Arc::new(State::default()), Arc::new(stop));
        // Both threads write to the interface: one what comes in, the other what is refused.
        let to_interface = Arc::new(Mutex::new(interface.target()));
        let mut gate = Gate {
            state: Arc::clone(&state),
            reach,
            events,
            sockets,
            interface: Arc::downgrade(&to_interface),
            stop: Arc::clone(&stop),
            threads: Vec::new(),
        };
        let to_network = network.target();
        let (own, answer) = (Arc::clone(&state), Arc::clone(&to_interface));
        gate.start("network out", move || own.pass_out(from_interface, &to_network, &answer))?;
        gate.start("network in", move || {
            state.pass_in(from_network, &to_interface);
            let _ = stop.shutdown(Shutdown::Both);
        })?;
        Ok(gate)
    }

    fn start(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(work);
        self.threads.push(thread.context(ErrorKind::Host, || "cannot set up the network of commands")?);
        Ok(())
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
        let _ = self.stop.shutdown(Shutdown::Both);
        self.sockets.iter().for_each(End::shut_down);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl State {
    /// Passes on what commands send.
    fn pass_out(&self, mut from: Source, to: &Target, answer: &Mutex<Target>) {
        let mut frame = Frame::new();
        while from.read(&mut frame) {
            let verdict = match &*self.rules.read().unwrap_or_else(PoisonError::into_inner) {
                Some(rules) => rules.judge(frame.content()),
                None => Verdict::Drop,
            };
            let fine = match verdict {
                Verdict::Pass => to.write(&frame),
                Verdict::Drop => true,
                Verdict::Refuse(address, why) => {
                    let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                    if refused.len() < TOLD {
                        refused.insert((address, why));
                    }
                    drop(refused);
                    refusal(frame.content()).is_none_or(|content| {
                        answer.lock().unwrap_or_else(PoisonError::into_inner).write(&Frame::of(&content))
                    })
                }
            };
            if !fine {
                break;
            }
        }
        self.broken.store(true, Ordering::SeqCst);
    }

    /// Passes on what comes for them.
    fn pass_in(&self, mut from: Source, to: &Mutex<Target>) {
        let mut frame = Frame::new();
        while from.read(&mut frame) {
            let open = self.rules.read().unwrap_or_else(PoisonError::into_inner).is_some();
            if open && !to.lock().unwrap_or_else(PoisonError::into_inner).write(&frame) {
                break;
            }
        }
        self.broken.store(true, Ordering::SeqCst);
    }
}

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
