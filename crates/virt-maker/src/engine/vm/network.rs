//! The network of a machine: qemu's own in user mode, with a gate before it.
//!
//! ```text
//! machine's card - socket - gate (this process) - socket - hub - qemu's network in user mode
//! ```
//! qemu's network takes any address in it but the name server's for the host's loopback device, and addresses of the
//! loopback device for themselves; its only setting against that (`restrict`) cuts off everything else, too. So each frame
//! that leaves the machine passes a gate in this process, where nothing in the machine can reach it, not even its kernel:
//!
//! - it is closed but while a command that has the network runs;
//! - nothing gets through to the host's loopback, except for the name server's port, and for a proxy that the user has
//!   there and wants commands to use;
//! - only IPv4 and its address resolution get through.
//!
//! Nothing listens on the host, and nothing gets in that the machine did not ask for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use virt_maker_agent::appliance::{GATEWAY, NAME_SERVER};

use crate::error::{Context, ErrorKind, Result};

/// The longest frame that qemu passes on.
const LONGEST: usize = 64 << 10;
const NAME_SERVICE: u16 = 53;
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The gate, with the threads that pass frames on. They end when it is dropped or the machine ends.
pub struct Gate {
    open: Arc<AtomicBool>,
    ends: [UnixStream; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Gate {
    /// A closed gate between a machine's card and the network. `proxies` are ports of the host's loopback that commands
    /// may use.
    pub fn new(machine: UnixStream, network: UnixStream, proxies: Vec<u16>) -> Result<Gate> {
        let failed = || "cannot set up the machine's network";
        let copy = |stream: &UnixStream| stream.try_clone().context(ErrorKind::Host, failed);
        let open = Arc::new(AtomicBool::new(false));
        let mut gate = Gate { open: Arc::clone(&open), ends: [copy(&machine)?, copy(&network)?], threads: Vec::new() };
        let (from, to, is_open) = (copy(&machine)?, copy(&network)?, Arc::clone(&open));
        gate.start("network out", move || {
            pass(from, to, |frame| is_open.load(Ordering::SeqCst) && may_leave(frame, &proxies))
        })?;
        gate.start("network in", move || pass(network, machine, |_| open.load(Ordering::SeqCst)))?;
        Ok(gate)
    }

    fn start(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(work);
        self.threads.push(thread.context(ErrorKind::Host, || "cannot set up the machine's network")?);
        Ok(())
    }

    /// Opens it, or closes it.
    pub fn switch(&self, on: bool) {
        self.open.store(on, Ordering::SeqCst);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Passes frames on, each after its length in four bytes, until either end is closed.
fn pass(mut from: UnixStream, mut to: UnixStream, may_pass: impl Fn(&[u8]) -> bool) {
    let mut frame = vec![0; 4 + LONGEST];
    loop {
        if from.read_exact(&mut frame[..4]).is_err() {
            return;
        }
        let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        // qemu sends no longer ones; after one the ends would not agree any more on where frames begin.
        if length > LONGEST || from.read_exact(&mut frame[4..4 + length]).is_err() {
            return;
        }
        if may_pass(&frame[4..4 + length]) && to.write_all(&frame[..4 + length]).is_err() {
            return;
        }
    }
}

/// Whether a frame of the machine may reach qemu's network.
fn may_leave(frame: &[u8], proxies: &[u16]) -> bool {
    match frame.get(12..14) {
        // Only the network itself answers these.
        Some(kind) if kind == ARP => true,
        Some(kind) if kind == IPV4 => may_travel(&frame[14..], proxies),
        _ => false,
    }
}

/// The same for a packet of IPv4 (RFC 791).
fn may_travel(packet: &[u8], proxies: &[u16]) -> bool {
    let Some(head) = packet.get(..20) else { return false };
    let start = usize::from(head[0] & 0x0f) * 4;
    // The length of the header is taken from the packet, as whoever reads it next does.
    if head[0] >> 4 != 4 || start < 20 {
        return false;
    }
    let target = Ipv4Addr::new(head[16], head[17], head[18], head[19]);
    let outside = !is_own(target)
        && !target.is_loopback()
        && target.octets()[0] != 0
        && !target.is_broadcast()
        && !target.is_multicast();
    if outside {
        return true;
    }
    // Of a packet in pieces only the first one has a port, and they may overlap: none gets through.
    let whole = u16::from_be_bytes([head[6], head[7]]) & 0x3fff == 0;
    let Some(ports) = packet.get(start..start + 4).filter(|_| whole) else { return false };
    let port = u16::from_be_bytes([ports[2], ports[3]]);
    match head[9] {
        TCP if target == GATEWAY => proxies.contains(&port),
        TCP | UDP if target == NAME_SERVER => port == NAME_SERVICE,
        _ => false,
    }
}

/// Whether an address is in qemu's network, all of which stands for the host.
fn is_own(address: Ipv4Addr) -> bool {
    address.octets()[..3] == GATEWAY.octets()[..3]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: u8, target: [u8; 4], port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0, 169, 254, 2, 15];
        packet.extend(target);
        packet.extend([0x80, 0]);
        packet.extend(port.to_be_bytes());
        packet.extend([0; 16]);
        packet
    }

    fn frame(kind: [u8; 2], content: &[u8]) -> Vec<u8> {
        [&[0; 12], &kind[..], content].concat()
    }

    #[test]
    fn nothing_reaches_the_host_itself_but_the_name_server_and_a_proxy() {
        let may = |protocol, target, port| may_leave(&frame(IPV4, &packet(protocol, target, port)), &[3128]);
        for (protocol, target, port) in [(TCP, [192, 0, 2, 7], 80), (UDP, [192, 0, 2, 7], 123), (1, [192, 0, 2, 7], 0)]
        {
            assert!(may(protocol, target, port));
        }
        assert!(may(UDP, [169, 254, 2, 3], 53) && may(TCP, [169, 254, 2, 3], 53));
        assert!(may(TCP, [169, 254, 2, 2], 3128));
        for (protocol, target, port) in [
            (TCP, [169, 254, 2, 2], 22),
            (UDP, [169, 254, 2, 2], 3128),
            (TCP, [169, 254, 2, 3], 22),
            (UDP, [169, 254, 2, 3], 69),
            (TCP, [169, 254, 2, 77], 22),
            (UDP, [169, 254, 2, 255], 67),
            (1, [169, 254, 2, 2], 0),
            (TCP, [127, 0, 0, 1], 22),
            (TCP, [127, 9, 9, 9], 22),
            (TCP, [0, 0, 0, 0], 22),
            (UDP, [255, 255, 255, 255], 67),
            (UDP, [224, 0, 0, 251], 5353),
        ] {
            assert!(!may(protocol, target, port), "{protocol} {target:?} {port}");
        }
    }

    #[test]
    fn what_is_malformed_or_in_pieces_does_not_get_through() {
        let good = packet(UDP, [169, 254, 2, 3], 53);
        let changed = |at: usize, byte: u8| {
            let mut packet = good.clone();
            packet[at] = byte;
            packet
        };
        assert!(may_leave(&frame(IPV4, &good), &[]));
        for packet in [
            changed(0, 0x65),
            changed(0, 0x44),
            // A header so long that what is taken for the port is not one.
            changed(0, 0x4f),
            changed(6, 0x20),
            changed(7, 1),
            good[..20].to_vec(),
            good[..19].to_vec(),
            Vec::new(),
        ] {
            assert!(!may_leave(&frame(IPV4, &packet), &[]), "{packet:x?}");
        }
        assert!(!may_leave(&frame([0x86, 0xdd], &good), &[]));
        assert!(!may_leave(&[0; 13], &[]));
        assert!(may_leave(&frame(ARP, &[0; 28]), &[]));
    }

    #[test]
    fn frames_pass_whole_and_only_while_it_is_open() {
        let (machine, ours) = UnixStream::pair().unwrap();
        let (network, theirs) = UnixStream::pair().unwrap();
        let gate = Gate::new(ours, theirs, Vec::new()).unwrap();
        let say = |mut to: &UnixStream, frame: &[u8]| {
            to.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
            to.write_all(frame).unwrap();
        };
        let hear = |mut from: &UnixStream, length: usize| {
            let mut frame = vec![0; 4 + length];
            from.read_exact(&mut frame).unwrap();
            frame.split_off(4)
        };
        let (closed, open) = (frame(ARP, b"while it was closed"), frame(ARP, b"while it is open"));
        say(&machine, &closed);
        // The other way shows that the first frame has been dealt with no more than that it was sent; so wait for it.
        std::thread::sleep(std::time::Duration::from_millis(200));
        gate.switch(true);
        say(&machine, &open);
        assert_eq!(hear(&network, open.len()), open);
        say(&network, &open);
        assert_eq!(hear(&machine, open.len()), open);
        drop(gate);
        assert_eq!((&network).read(&mut [0; 9]).unwrap(), 0);
    }
}
