//! Calls to a guest that is another network stack at the other end of a gate.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp;
use virt_maker_agent::appliance::ADDRESS;

use super::pages_tests::Guest;
use super::wire::NEIGHBOUR;
use super::{Call, Gate};

/// The ends that a gate has of two pipes, and ours: where something is said, and where it is heard.
fn pipes() -> (File, File, File, File) {
    let pipe = |flags| pipe_with(PipeFlags::CLOEXEC | flags).map(|(read, write)| (File::from(read), File::from(write)));
    let (from, say) = pipe(PipeFlags::empty()).unwrap();
    let (hear, to) = pipe(PipeFlags::empty()).unwrap();
    for end in [&from, &to] {
        rustix::io::ioctl_fionbio(end, true).unwrap();
    }
    (from, to, say, hear)
}

fn call(gate: &Gate) -> (Call, File, File) {
    let (from, to, say, hear) = pipes();
    (gate.call(22, from, to).unwrap(), say, hear)
}

/// What the guest does until it is told to stop: from `after` on it listens at port 22 and says what it hears. Where `ends` it closes
/// after that many bytes.
fn echo(mut guest: Guest, after: Duration, ends: Option<usize>, stop: &'static AtomicBool) -> JoinHandle<Guest> {
    std::thread::spawn(move || {
        let begin = Instant::now();
        let now = || smoltcp::time::Instant::from_millis(begin.elapsed().as_millis() as i64);
        let mut interface = guest.interface(7, now());
        let mut sockets = SocketSet::new(Vec::new());
        let buffer = || tcp::SocketBuffer::new(vec![0; 16 << 10]);
        let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
        let mut said = 0;
        while !stop.load(Ordering::SeqCst) {
            interface.poll(now(), &mut guest, &mut sockets);
            let socket = sockets.get_mut::<tcp::Socket>(handle);
            if !socket.is_open() && begin.elapsed() > after && said == 0 {
                socket.listen(22).unwrap();
            }
            if socket.can_recv() && socket.can_send() {
                let room = socket.send_capacity() - socket.send_queue();
                let heard =
                    socket.recv(|bytes| (bytes.len().min(room), bytes[..bytes.len().min(room)].to_vec())).unwrap();
                said += socket.send_slice(&heard).unwrap();
            }
            if ends.is_some_and(|ends| said >= ends) {
                socket.close();
            }
            guest.fill();
        }
        guest
    })
}

#[test]
fn a_guest_is_called_until_it_answers_and_all_gets_through_both_ways() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let guest = Guest::new(&[]);
    let (call, mut say, mut hear) = call(&guest.gate);
    let guest = echo(guest, Duration::from_millis(700), None, &STOP);
    let text: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 13) as u8).collect();
    let wanted = text.clone();
    let speaker = std::thread::spawn(move || {
        say.write_all(&text).unwrap();
        say
    });
    let mut heard = vec![0; wanted.len()];
    hear.read_exact(&mut heard).unwrap();
    assert!(heard == wanted && call.is_answered());
    drop(speaker.join().unwrap());
    // Who calls ends it.
    drop(call);
    assert_eq!(hear.read(&mut [0; 9]).unwrap(), 0);
    STOP.store(true, Ordering::SeqCst);
    guest.join().unwrap();
}

#[test]
fn the_end_of_an_answer_is_seen_and_a_call_to_nobody_ends() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let guest = Guest::new(&[]);
    let (call_to_nobody, _say, mut hear) = call(&guest.gate);
    assert!(!call_to_nobody.is_answered());
    drop(call_to_nobody);
    assert_eq!(hear.read(&mut [0; 9]).unwrap(), 0);
    let (_call, mut say, mut hear) = call(&guest.gate);
    let guest = echo(guest, Duration::ZERO, Some(5), &STOP);
    say.write_all(b"hello").unwrap();
    let mut heard = Vec::new();
    hear.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"hello");
    // Nobody takes what is said after that, and nobody waits for that.
    match say.write_all(&[0; 1000]) {
        Ok(()) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::BrokenPipe),
    }
    STOP.store(true, Ordering::SeqCst);
    drop(guest.join().unwrap());
}

/// Answers that a guest does not take fill the way to it; nobody waits for that who has a deadline.
#[test]
fn a_guest_that_takes_no_frame_holds_nobody_up() {
    let mut guest = Guest::new(&[]);
    let mut asks = [0xff; 54];
    asks[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    asks[28..32].copy_from_slice(&ADDRESS.octets());
    asks[38..42].copy_from_slice(&NEIGHBOUR.octets());
    for _ in 0..20_000 {
        guest.send(&asks);
    }
    let calls = [call(&guest.gate), call(&guest.gate)];
    assert!(calls.iter().all(|(call, ..)| !call.is_answered()));
    drop(calls);
    drop(guest);
}
