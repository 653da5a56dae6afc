//! The heads of requests that a proxy gets (RFC 9112 3.2.2, 3.2.3), and what they become on the way on.

use ureq::http::Uri;

/// Longest head in bytes; programs that fetch packages send some hundred.
pub(super) const HEAD_MAX: usize = 64 << 10;

/// A request.
pub(super) struct Request {
    pub(super) target: Target,
    method: String,
    /// What it asks for, as it stands in the request.
    asked: String,
    /// Lines of its head after the first one, but for those that are for a proxy.
    lines: Vec<String>,
}

/// What a request is for.
#[derive(Debug, PartialEq)]
pub(super) enum Target {
    /// A file: host and port, and what the server is asked for.
    Plain { host: String, port: u16, path: String },
    /// A connection.
    Tunnel { host: String, port: u16 },
}

impl Target {
    /// Its host, an address without brackets, and its port.
    pub(super) fn service(&self) -> (&str, u16) {
        let (Target::Plain { host, port, .. } | Target::Tunnel { host, port }) = self;
        (host.trim_start_matches('[').trim_end_matches(']'), *port)
    }

    /// The URL by which settings of proxies know it.
    pub(super) fn url(&self) -> String {
        match self {
            Target::Plain { host, port, .. } => format!("http://{host}:{port}/"),
            Target::Tunnel { host, port } => format!("https://{host}:{port}/"),
        }
    }
}

impl Request {
    /// Of a head; none where it is of no kind that is known here.
    pub(super) fn parse(head: &[u8]) -> Option<Request> {
        let text = std::str::from_utf8(head).ok()?;
        let mut lines = text.split("\r\n").flat_map(|line| line.split('\n'));
        let mut words = lines.next()?.split(' ');
        let (method, asked, version) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() || !version.starts_with("HTTP/1.") {
            return None;
        }
        let target = match method {
            "GET" | "HEAD" => {
                let uri = asked.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("http"))?;
                let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
                Target::Plain { host: uri.host()?.to_owned(), port: uri.port_u16().unwrap_or(80), path }
            }
            "CONNECT" => {
                let (host, port) = asked.rsplit_once(':')?;
                Target::Tunnel { host: host.to_owned(), port: port.parse().ok()? }
            }
            _ => return None,
        };
        // What comes after this head is another request: these have no body.
        let is = |line: &str, name: &str| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        let lines: Vec<String> =
            lines.filter(|line| !line.is_empty() && !is(line, "proxy-")).map(str::to_owned).collect();
        if lines.iter().any(|line| is(line, "content-length:") || is(line, "transfer-encoding:")) {
            return None;
        }
        Some(Request { target, method: method.to_owned(), asked: asked.to_owned(), lines })
    }

    /// The head for the next one on the way: with what opens a proxy of the user's, or for the server itself.
    pub(super) fn onward(&self, proxy: Option<&str>) -> Vec<u8> {
        let asked = match (&self.target, proxy) {
            (Target::Plain { path, .. }, None) => path,
            _ => &self.asked,
        };
        let mut head = format!("{} {asked} HTTP/1.1\r\n", self.method);
        for line in &self.lines {
            head.push_str(line);
            head.push_str("\r\n");
        }
        if let Some(proxy) = proxy.filter(|authorization| !authorization.is_empty()) {
            head.push_str(proxy);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}
