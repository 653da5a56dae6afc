//! `http://` through a proxy: the proxy is asked for the whole URL, as every proxy of the web can be asked.
//!
//! `CONNECT`, which is for `https`, many of them refuse for port 80, and a cache sees nothing of what goes through it. The
//! HTTP client knows only `CONNECT`; so this connects it to the proxy as if that were the server, and writes the first
//! line of each request anew.

use ureq::ProxyProtocol;
use ureq::config::Config;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport};

/// What ends the head of a request, which is all that a request without a body has.
const END: &[u8] = b"\r\n\r\n";

/// Connects as ever, but for `http` through a proxy.
#[derive(Debug)]
pub(super) struct Forwarding {
    all: DefaultConnector,
    /// How the proxy itself is reached.
    direct: Config,
}

impl Forwarding {
    pub(super) fn new(direct: Config) -> Forwarding {
        Forwarding { all: DefaultConnector::default(), direct }
    }
}

impl Connector<()> for Forwarding {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails, none: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        let proxy = details.config.proxy().filter(|proxy| {
            details.uri.scheme_str() == Some("http")
                && matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
        });
        let (Some(proxy), Some(authority)) = (proxy, details.uri.authority()) else {
            return self.all.connect(details, none);
        };
        let inner = (details.run_connector)(&ConnectionDetails {
            uri: proxy.uri(),
            addrs: details.resolver.resolve(proxy.uri(), details.config, details.timeout)?,
            config: &self.direct,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        })?;
        let server = authority.as_str().rsplit('@').next().unwrap_or_default();
        let credentials = match (proxy.username(), proxy.password()) {
            (None, None) => String::new(),
            (user, password) => {
                let pair = format!("{}:{}", user.unwrap_or_default(), password.unwrap_or_default());
                format!("Proxy-Authorization: Basic {}\r\n", base64(pair.as_bytes()))
            }
        };
        Ok(Some(Box::new(Forward { inner, server: format!("http://{server}"), credentials, at_head: true })))
    }
}

/// A connection to a proxy on which requests of one server are sent.
struct Forward {
    inner: Box<dyn Transport>,
    /// What comes before the path in the first line.
    server: String,
    /// A line of the head, or nothing.
    credentials: String,
    /// What is sent next begins a request.
    at_head: bool,
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the credentials.
        f.debug_struct("Forward").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Transport for Forward {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let mut bytes = self.inner.buffers().output()[..amount].to_vec();
        let ends = bytes.ends_with(END);
        if std::mem::replace(&mut self.at_head, ends) {
            bytes = whole_url(&bytes, &self.server, &self.credentials);
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let room = self.inner.buffers().output();
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            self.inner.transmit_output(count, timeout)?;
            rest = &rest[count..];
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

/// The head of a request with the server's URL before the path of its first line, and with what the proxy wants to know.
fn whole_url(head: &[u8], server: &str, credentials: &str) -> Vec<u8> {
    let path = head.iter().position(|byte| *byte == b' ').map_or(head.len(), |blank| blank + 1);
    let line = head.windows(2).position(|pair| pair == b"\r\n").map_or(head.len(), |end| end + 2).max(path);
    [&head[..path], server.as_bytes(), &head[path..line], credentials.as_bytes(), &head[line..]].concat()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = char::from(LETTERS[(bits >> (18 - 6 * place) & 63) as usize]);
            text.push(if place <= group.len() { letter } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_everybody() {
        for (plain, text) in [("", ""), ("u:p", "dTpw"), ("u:pw", "dTpwdw=="), ("u:pwd", "dTpwd2Q=")] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }

    #[test]
    fn the_first_line_has_the_whole_url() {
        let head = b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n";
        let sent = whole_url(head, "http://x:8", "P: q\r\n");
        assert_eq!(String::from_utf8(sent).unwrap(), "GET http://x:8/a?b HTTP/1.1\r\nP: q\r\nHost: x\r\n\r\n");
    }
}
