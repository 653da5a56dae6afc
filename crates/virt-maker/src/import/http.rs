//! How downloads talk HTTP: limits, proxies, and what they may reach.
//!
//! The address that a name leads to is judged by the table of [`address`] before it is used, and so is that of every
//! redirect. What a proxy of the user reaches is the proxy's affair.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Agent, Proxy};

use super::ImportContext;
use super::forward::Forwarding;
use crate::error::{Error, ErrorKind, Result};
pub(super) use crate::host::url::shown;
use crate::host::waiting::Waits;
use crate::host::{address, names};

/// How many addresses of a server are tried: what ureq has room for.
const ROOM: usize = 16;
/// How long reaching a server may take.
pub(super) const CONNECT: Duration = Duration::from_secs(30);
/// How long a server may say nothing.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// An agent for requests of `url`.
pub(super) fn agent(url: &str, context: &ImportContext<'_>) -> Result<Agent> {
    let https = url.starts_with("https:");
    let proxy = proxy(url, context.env)?;
    let free = match &proxy {
        _ if context.host_network => Free::All,
        Some(proxy) => Free::Proxy(proxy.host().to_owned(), proxy.port()),
        None => Free::Others,
    };
    // An `http://` that leads to `https://` needs them, too.
    let roots = context.certificates.roots()?;
    let config = |proxy| {
        Agent::config_builder()
            .proxy(proxy)
            .tls_config(TlsConfig::builder().root_certs(roots.clone()).build())
            .http_status_as_error(false)
            // A redirect must not take away what the author asked for.
            .https_only(https)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .user_agent(concat!("virt-maker/", env!("CARGO_PKG_VERSION")))
            .build()
    };
    Ok(judging(config(proxy), config(None), free, context.events.waits(context.cancel)))
}

/// `direct` is how a proxy itself is reached.
fn judging(config: Config, direct: Config, free: Free, waits: Waits) -> Agent {
    Agent::with_parts(config, Forwarding::new(direct), Judging { waits, free })
}

/// Which addresses a download may connect to.
#[derive(Debug)]
enum Free {
    /// Those of others.
    Others,
    /// The same, and this proxy by its host and port.
    Proxy(String, u16),
    /// All.
    All,
}

/// Finds the addresses of a name, and gives those that a download may connect to.
#[derive(Debug)]
struct Judging {
    waits: Waits,
    free: Free,
}

impl Resolver for Judging {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (host, usual) = (uri.host().unwrap_or_default(), if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let addresses = names::addresses(host, uri.port_u16().unwrap_or(usual), &self.waits);
        let mut found = self.empty();
        // There is room for so many.
        let addresses = addresses.map_err(|source| {
            let host = host.to_owned();
            ureq::Error::Io(io::Error::new(source.kind(), NoAddress { host, source }))
        })?;
        addresses.into_iter().take(ROOM).for_each(|at| found.push(at));
        match &self.free {
            Free::All => return Ok(found),
            Free::Proxy(host, port) if found.iter().all(|found| found.port() == *port) && uri.host() == Some(host) => {
                return Ok(found);
            }
            Free::Proxy(..) | Free::Others => {}
        }
        let (others, refused) = Refused::sort(uri.host().unwrap_or_default(), found.iter().copied());
        let mut free = self.empty();
        others.into_iter().for_each(|other| free.push(other));
        match refused {
            Some(refused) if free.is_empty() => Err(ureq::Error::Other(Box::new(refused))),
            _ => Ok(free),
        }
    }
}

/// A name that no address was found for.
#[derive(Debug)]
struct NoAddress {
    host: String,
    source: io::Error,
}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no address is known of `{}`: {}", self.host.escape_debug(), self.source)
    }
}

impl std::error::Error for NoAddress {}

/// An address that a download may not connect to.
#[derive(Debug)]
pub(super) struct Refused {
    host: String,
    at: IpAddr,
    why: &'static str,
}

impl Refused {
    /// Of the addresses that a host's name leads to, those that a download may connect to, and one that it may not.
    pub(super) fn sort(host: &str, found: impl IntoIterator<Item = SocketAddr>) -> (Vec<SocketAddr>, Option<Refused>) {
        let (mut free, mut refused) = (Vec::new(), None);
        for found in found {
            match address::guarded(found.ip(), address::is_home) {
                None => free.push(found),
                Some(why) => refused = Some(Refused { host: host.into(), at: found.ip(), why }),
            }
        }
        (free, refused)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused { host, at, why } = self;
        match host.trim_matches(['[', ']']).parse() == Ok(*at) {
            true => write!(f, "{at} is {why}"),
            false => write!(f, "`{}` leads to {at}, which is {why}", host.escape_debug()),
        }
    }
}

impl std::error::Error for Refused {}

/// An error where a URL that a program of the host is to fetch from leads to an address that templates may not reach: said
/// before anything is made. What the program asks for later, [`super::relay`] judges.
pub(super) fn judge(url: &str, context: &ImportContext<'_>) -> Result<()> {
    let Some(uri) = url.parse::<Uri>().ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https"))) else {
        return Ok(());
    };
    if context.host_network || proxy(url, context.env)?.is_some() {
        return Ok(());
    }
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(80);
    // A name that is not found is told by the program, with what it was looked up for.
    let waits = context.events.waits(context.cancel);
    let found = names::addresses(host, port, &waits);
    context.cancel.check()?;
    let Ok(found) = found else { return Ok(()) };
    let (_, Some(refused)) = Refused::sort(host, found) else { return Ok(()) };
    Err(Error::new(ErrorKind::Base, format!("cannot use {}: {refused}", shown(url))).with_hint(HINT))
}

/// What to do about a server that cannot be reached, or is not believed; `None` where nothing is known that helps.
pub(super) fn advice(error: &ureq::Error) -> Option<&'static str> {
    use ureq::Error as E;
    match error {
        E::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<NoAddress>()) => Some(NAME),
        E::HostNotFound => Some(NAME),
        E::Io(error) => {
            let text = error.to_string();
            match text.split_once("invalid peer certificate") {
                Some((_, why)) => Some(of_certificate(why)),
                None if error.kind() == io::ErrorKind::ConnectionRefused => Some(REFUSED),
                None if error.kind() == io::ErrorKind::TimedOut => Some(SILENT),
                None => None,
            }
        }
        E::ConnectionFailed => Some(REFUSED),
        E::Timeout(_) | E::BodyStalled => Some(SILENT),
        E::ConnectProxyFailed(_) => {
            Some("the proxy refuses it: see `https_proxy`, its user and password, and what it lets through")
        }
        _ => None,
    }
}

/// By what the TLS library says is wrong with it.
fn of_certificate(why: &str) -> &'static str {
    if why.contains("CaUsedAsEndEntity") {
        "the server shows the certificate of an authority (`CA:TRUE`), as `openssl req -x509` makes it by itself: give the \
         server one of its own with `-addext basicConstraints=critical,CA:FALSE`, or one that the authority signed"
    } else if why.contains("NotValidForName") || why.contains("not valid for name") {
        "the certificate is for another name: take the URL with the name that it has"
    } else if why.contains("Expired") || why.contains("expired") {
        "the certificate is too old, or the clock of this host is wrong"
    } else if why.contains("NotValidYet") || why.contains("not valid yet") {
        "the clock of this host is wrong, or the certificate is from the future"
    } else {
        CERTIFICATES
    }
}

const CERTIFICATES: &str = "where your network has certificates of its own, name their file with \
     SSL_CERT_FILE, or as `certificates` in your settings, or add it to the system's";
const NAME: &str = "see how the name is written, and whether this host can look up names (`getent hosts NAME`); where only a \
     proxy reaches the web, name it with `https_proxy` and `http_proxy`";
const REFUSED: &str = "nobody takes connections there: see host and port of the URL, and whether the server runs; where only a \
     proxy reaches the web, name it with `https_proxy` and `http_proxy`";
const SILENT: &str = "the server does not answer: it may be down, or a firewall in the way; where only a proxy reaches the \
     web, name it with `https_proxy` and `http_proxy`";

/// What to do about an address that is the host's own affair.
pub(super) const HINT: &str = "`--allow host-network` lets templates reach the host's own addresses";

/// The error of a download that was to connect to an address that it may not; none for other errors.
pub(super) fn refusal(cannot: &str, error: &ureq::Error) -> Option<Error> {
    let ureq::Error::Other(inner) = error else { return None };
    let refused = inner.downcast_ref::<Refused>()?;
    let error = Error::new(ErrorKind::Base, format!("{cannot}: {refused}"));
    Some(error.with_hint(HINT))
}

/// The proxy for `url` by the usual variables, which the caller passed on.
pub(super) fn proxy(url: &str, env: &BTreeMap<String, String>) -> Result<Option<Proxy>> {
    let variable = |name: &str| {
        let value = env.get(name).or_else(|| env.get(&name.to_uppercase()));
        value.filter(|value| !value.is_empty())
    };
    let host = url.parse::<Uri>().ok().and_then(|url| url.host().map(str::to_owned)).unwrap_or_default();
    if variable("no_proxy").is_some_and(|list| is_listed(&host, list)) {
        return Ok(None);
    }
    let setting = if url.starts_with("https:") { "https_proxy" } else { "http_proxy" };
    let Some(text) = variable(setting) else { return Ok(None) };
    let proxy = Proxy::new(text).map_err(|source| {
        Error::new(ErrorKind::Host, format!("`{setting}` is not the address of a proxy")).with_source(source)
    })?;
    Ok(Some(proxy))
}

/// Whether a list of names with commas, as in `no_proxy`, covers a host.
fn is_listed(host: &str, list: &str) -> bool {
    let host = host.to_lowercase();
    list.split(',')
        .map(|name| name.trim().trim_start_matches("*.").trim_start_matches('.').to_lowercase())
        .any(|name| name == "*" || (!name.is_empty() && (host == name || host.ends_with(&format!(".{name}")))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_redirect_from_elsewhere_does_not_lead_to_the_host() {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                let head = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\nLocation: ";
                write!(stream, "{head}http://localhost:{port}/secret\r\n\r\n").unwrap();
            }
        });
        // Nothing but the host itself can be asked here, so this one place is declared to be elsewhere.
        let config = || Agent::config_builder().proxy(None).build();
        let agent = judging(config(), config(), Free::Proxy("127.0.0.1".into(), port), Waits::default());
        let error = agent.get(format!("http://127.0.0.1:{port}/image")).call().unwrap_err();
        let error = refusal("cannot fetch it", &error).unwrap();
        let text = error.to_string();
        assert!(text.starts_with("cannot fetch it: `localhost` leads to ") && text.contains("loopback"), "{text}");
    }

    #[test]
    fn what_cannot_be_reached_gets_advice_of_its_own() {
        let io = |kind, text: &str| ureq::Error::Io(io::Error::new(kind, text.to_owned()));
        let name = NoAddress { host: "x.invalid".into(), source: io::Error::other("unknown") };
        for (error, words) in [
            (ureq::Error::Io(io::Error::other(name)), Some("getent hosts")),
            (ureq::Error::HostNotFound, Some("getent hosts")),
            (ureq::Error::ConnectionFailed, Some("nobody takes connections there")),
            (io(io::ErrorKind::ConnectionRefused, "refused"), Some("nobody takes connections there")),
            (ureq::Error::Timeout(ureq::Timeout::Connect), Some("does not answer")),
            (io(io::ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer"), Some("SSL_CERT_FILE")),
            (io(io::ErrorKind::InvalidData, "invalid peer certificate: certificate expired: x"), Some("clock")),
            (
                io(io::ErrorKind::InvalidData, "invalid peer certificate: certificate not valid for name x"),
                Some("another name"),
            ),
            (io(io::ErrorKind::InvalidData, "invalid peer certificate: Other(CaUsedAsEndEntity)"), Some("CA:FALSE")),
            (io(io::ErrorKind::ConnectionReset, "reset"), None),
        ] {
            let found = advice(&error);
            assert!(
                found.is_some() == words.is_some() && words.is_none_or(|words| found.unwrap().contains(words)),
                "{error}: {found:?}"
            );
        }
        // The system's resolver knows that there is no such name.
        let config = || Agent::config_builder().proxy(None).build();
        let agent = judging(config(), config(), Free::All, Waits::default());
        let error = agent.get("http://no-such-host.invalid/image").call().unwrap_err();
        assert_eq!(advice(&error), Some(NAME), "{error}");
        assert!(error.to_string().contains("no address is known of `no-such-host.invalid`"), "{error}");
    }

    #[test]
    fn proxies_follow_the_usual_variables() {
        let env: BTreeMap<String, String> = [
            ("http_proxy", "http://proxy:3128"),
            ("HTTPS_PROXY", "http://secure:3129"),
            ("no_proxy", "localhost, .inside.test,*.also.test"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        let host = |url: &str| proxy(url, &env).unwrap().map(|proxy| proxy.host().to_owned());
        assert_eq!(host("http://outside.test/x").as_deref(), Some("proxy"));
        assert_eq!(host("https://user:pw@outside.test/x").as_deref(), Some("secure"));
        for url in ["http://localhost:80/", "https://a.inside.test", "http://INSIDE.test/", "http://b.also.test/"] {
            assert_eq!(host(url), None, "{url}");
        }
        assert_eq!(host("http://notinside.test/").as_deref(), Some("proxy"));
    }
}
