//! Names of hosts and their addresses.
//!
//! The system's resolver may take a minute over a name whose servers do not answer, and hears of nothing meanwhile. So it is
//! asked in a thread, which is left alone when nobody waits for it any more.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::waiting::Waits;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a request to stop is looked for.
const TICK: Duration = Duration::from_millis(50);

/// The addresses of a host, by name or by address (in brackets or not).
pub fn addresses(host: &str, port: u16, waits: &Waits) -> io::Result<Vec<SocketAddr>> {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (sender, answer) = channel();
    let name = host.clone();
    std::thread::Builder::new().name("names".into()).spawn(move || {
        let _ = sender.send((name.as_str(), port).to_socket_addrs().map(|found| found.collect::<Vec<_>>()));
    })?;
    let mut wait = waits.wait_for(|| format!("the address of `{}`", host.escape_debug()));
    loop {
        match answer.recv_timeout(TICK) {
            Ok(found) => return found,
            Err(RecvTimeoutError::Timeout) => {
                let over = wait.look().and_then(|()| wait.bound(PATIENCE, crate::error::ErrorKind::Host));
                over.map_err(|error| io::Error::new(io::ErrorKind::TimedOut, error.to_string()))?;
            }
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("nobody looked it up")),
        }
    }
}
