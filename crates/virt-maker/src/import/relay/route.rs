//! Where a request goes: to the user's proxy for it, or to addresses of its host that were judged.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Result as IoResult, Write as _};
use std::net::{SocketAddr, TcpStream};

use ureq::ProxyProtocol;

use super::request::Target;
use crate::error::{Error, ErrorKind};
use crate::host::names;
use crate::host::waiting::Waits;
use crate::import::ImportContext;
use crate::import::http::{CONNECT, HINT, Refused, SILENCE, proxy};

/// What decides it.
pub(super) struct Routes {
    env: BTreeMap<String, String>,
    host_network: bool,
    /// Host and port of a mirror that the host's user named.
    near: Option<(String, u16)>,
}

/// The next one on the way.
#[derive(Debug, PartialEq)]
pub(super) enum Route {
    /// The server itself, at the first of these addresses that answers.
    Server(Vec<SocketAddr>),
    /// A proxy of the user's that speaks HTTP, and the line of a head that opens it, or nothing.
    Proxy(Vec<SocketAddr>, String),
    /// One that speaks SOCKS 5 (RFC 1928), with a name and a password or without.
    Socks(Vec<SocketAddr>, Option<(String, String)>),
}

/// Why a request goes nowhere.
#[derive(Debug)]
pub(super) struct Unreachable {
    pub(super) said: String,
    hint: Option<&'static str>,
}

impl Unreachable {
    pub(super) fn new(said: impl Into<String>) -> Unreachable {
        Unreachable { said: said.into(), hint: None }
    }

    /// Whether it may not be reached, rather than that it could not be.
    pub(super) fn is_refusal(&self) -> bool {
        self.hint.is_some()
    }

    pub(super) fn into_error(self) -> Error {
        let error = Error::new(ErrorKind::Base, format!("cannot fetch packages: {}", self.said));
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

impl Routes {
    pub(super) fn new(context: &ImportContext<'_>, near: Option<&str>) -> Routes {
        let near = near.and_then(|url| {
            let uri = url.parse::<ureq::http::Uri>().ok()?;
            let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
            let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
            Some((host, uri.port_u16().unwrap_or(usual)))
        });
        Routes { env: context.env.clone(), host_network: context.host_network, near }
    }

    /// The way for a request, judged now: what its name leads to may change.
    pub(super) fn find(&self, target: &Target) -> Result<Route, Unreachable> {
        let proxy = proxy(&target.url(), &self.env).map_err(|error| Unreachable::new(error.to_string()))?;
        if let Some(proxy) = proxy {
            let found = addresses(proxy.host(), proxy.port())?;
            let opened_with =
                proxy.username().map(|name| (name.to_owned(), proxy.password().unwrap_or_default().to_owned()));
            return match proxy.protocol() {
                ProxyProtocol::Http => {
                    let line = opened_with.map(|(name, password)| {
                        format!("Proxy-Authorization: Basic {}", base64(format!("{name}:{password}").as_bytes()))
                    });
                    Ok(Route::Proxy(found, line.unwrap_or_default()))
                }
                ProxyProtocol::Socks5 | ProxyProtocol::Socks5h => Ok(Route::Socks(found, opened_with)),
                _ => Err(Unreachable {
                    said: "packages are fetched through proxies of the kinds `http://` and `socks5h://` only".into(),
                    hint: Some("set `http_proxy` and `https_proxy` to the address of one of these"),
                }),
            };
        }
        let (host, port) = target.service();
        let found = addresses(host, port)?;
        if self.host_network || self.near.as_ref().is_some_and(|(near, at)| (near.as_str(), *at) == (host, port)) {
            return Ok(Route::Server(found));
        }
        let (free, refused) = Refused::sort(host, found);
        match refused {
            Some(refused) if free.is_empty() => Err(Unreachable { said: refused.to_string(), hint: Some(HINT) }),
            _ => Ok(Route::Server(free)),
        }
    }
}

impl Route {
    /// What a request has for a proxy that speaks HTTP; none where there is no such proxy.
    pub(super) fn authorization(&self) -> Option<&str> {
        match self {
            Route::Proxy(_, line) => Some(line),
            Route::Server(_) | Route::Socks(..) => None,
        }
    }

    pub(super) fn is_http_proxy(&self) -> bool {
        matches!(self, Route::Proxy(..))
    }

    /// Connects.
    pub(super) fn connect(&self, target: &Target) -> Result<TcpStream, Unreachable> {
        let (Route::Server(addresses) | Route::Proxy(addresses, _) | Route::Socks(addresses, _)) = self;
        let mut said = "no address was found".to_owned();
        for address in addresses {
            let connected = TcpStream::connect_timeout(address, CONNECT).and_then(|mut stream| {
                stream.set_nodelay(true)?;
                if let Route::Socks(_, opened_with) = self {
                    stream.set_read_timeout(Some(SILENCE))?;
                    socks(&mut stream, target, opened_with.as_ref())?;
                    stream.set_read_timeout(None)?;
                }
                Ok(stream)
            });
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => said = format!("cannot connect to {address}: {error}"),
            }
        }
        Err(Unreachable::new(said))
    }
}

fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, Unreachable> {
    let found = names::addresses(host, port, &Waits::default());
    found.map_err(|error| Unreachable::new(format!("cannot find `{}`: {error}", host.escape_debug())))
}

/// Asks a proxy for a connection, by name (RFC 1928, RFC 1929).
fn socks(stream: &mut TcpStream, target: &Target, opened_with: Option<&(String, String)>) -> IoResult<()> {
    let refused = |what: &str| std::io::Error::other(format!("the SOCKS proxy {what}"));
    let length = |text: &str| u8::try_from(text.len()).map_err(|_| refused("takes no name of this length"));
    stream.write_all(&[5, 1, if opened_with.is_some() { 2 } else { 0 }])?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer)?;
    match (answer, opened_with) {
        ([5, 0], _) => {}
        ([5, 2], Some((name, password))) => {
            let (name, password) = ((length(name)?, name.as_bytes()), (length(password)?, password.as_bytes()));
            stream.write_all(&[&[1, name.0], name.1, &[password.0], password.1].concat())?;
            stream.read_exact(&mut answer)?;
            if answer[1] != 0 {
                return Err(refused("does not take this name and password"));
            }
        }
        _ => return Err(refused("asks for a way to log in that is not known here")),
    }
    let (host, port) = target.service();
    stream.write_all(&[&[5, 1, 0, 3, length(host)?], host.as_bytes(), &port.to_be_bytes()].concat())?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    if head[1] != 0 {
        return Err(refused(&format!("cannot connect (code {})", head[1])));
    }
    let rest = match head[3] {
        1 => 4,
        4 => 16,
        _ => {
            let mut length = [0];
            stream.read_exact(&mut length)?;
            usize::from(length[0])
        }
    };
    stream.read_exact(&mut vec![0; rest + 2])
}

/// Base64 (RFC 4648 4).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * place)) as usize & 63];
            let _ = text.write_char(if place <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_those_of_the_standard() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
