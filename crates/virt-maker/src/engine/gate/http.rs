//! What a guest asks of the [pages](super::pages): one request of HTTP/1 (RFC 9112) in a connection, and its answer.

use std::sync::Arc;

/// The longest head of a request, in bytes.
pub(super) const HEAD_MAX: usize = 8 << 10;
/// How much of what a guest asked for is told.
const TOLD: usize = 200;

/// Files by their paths, without a slash before them.
pub type Files = Vec<(String, Vec<u8>)>;

/// An answer.
pub(super) struct Answer {
    pub(super) head: Vec<u8>,
    pub(super) body: Arc<[u8]>,
    /// For people, with what the guest asked for as it was said.
    pub(super) said: String,
}

/// Files that are shared by connections.
pub(super) struct Shared(Vec<(String, Arc<[u8]>)>);

impl Shared {
    pub(super) fn new(files: Files) -> Shared {
        Shared(files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect())
    }

    /// The answer to what has come so far; nothing where the request is not whole yet.
    pub(super) fn answer(&self, come: &[u8]) -> Option<Answer> {
        let end = come.windows(4).position(|part| part == b"\r\n\r\n");
        // A line may end with the second of these signs alone.
        let end = end.or_else(|| come.windows(2).position(|part| part == b"\n\n"));
        match end {
            Some(_) if come.len() <= HEAD_MAX => {}
            _ if come.len() > HEAD_MAX => {
                return Some(error("431 Request Header Fields Too Large", "too long a request", ""));
            }
            _ => return None,
        }
        let line = come.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).trim_end().to_owned();
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Some(error("400 Bad Request", &line, ""));
        };
        if !version.starts_with("HTTP/1.") {
            return Some(error("505 HTTP Version Not Supported", &line, ""));
        }
        let is_head = method == "HEAD";
        if method != "GET" && !is_head {
            return Some(error("405 Method Not Allowed", &line, "Allow: GET, HEAD\r\n"));
        }
        let Some((name, bytes)) = path(target).and_then(|path| self.0.iter().find(|(name, _)| *name == path)) else {
            return Some(error("404 Not Found", &line, ""));
        };
        let length = bytes.len();
        let head = head("200 OK", length, "Content-Type: application/octet-stream\r\n");
        let said = format!("the guest got {name} ({length} bytes)");
        let body = if is_head { Arc::default() } else { Arc::clone(bytes) };
        Some(Answer { head, body, said })
    }
}

/// What a target names, as the files are named.
fn path(target: &str) -> Option<String> {
    // As a proxy is asked.
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.split_once('/').map_or("", |(_, path)| path),
        None => target.strip_prefix('/')?,
    };
    let target = target.split(['?', '#']).next().unwrap_or_default();
    let target = percent_encoding::percent_decode_str(target).decode_utf8().ok()?;
    let parts: Vec<&str> = target.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Some(parts.join("/"))
}

fn head(status: &str, length: usize, more: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n").into_bytes()
}

fn error(status: &str, asked: &str, more: &str) -> Answer {
    let asked: String = asked.chars().take(TOLD).collect();
    let said = format!("the guest asked for `{asked}`: {status}");
    Answer { head: head(status, 0, more), body: Arc::default(), said }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &[u8]) -> Option<(String, String, String)> {
        let files = vec![("preseed.cfg".to_owned(), b"d-i".to_vec()), ("d-i/suite/a.cfg".to_owned(), b"deep".to_vec())];
        let answer = Shared::new(files).answer(request)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Some((text(&answer.head), text(&answer.body), answer.said))
    }

    #[test]
    fn what_is_there_is_given_and_nothing_else() {
        let (head, body, said) = ask(b"GET /preseed.cfg HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert_eq!((body.as_str(), said.as_str()), ("d-i", "the guest got preseed.cfg (3 bytes)"));
        let (head, body, _) = ask(b"HEAD /preseed.cfg HTTP/1.0\n\n").unwrap();
        assert!(head.contains("Content-Length: 3\r\n") && body.is_empty(), "{head}");
        for target in
            ["/d-i/suite/./a.cfg", "//d-i/suite/a.cfg?x=/y", "http://169.254.2.4/d-i/suite/a.cfg", "/d%2di/suite/a.cfg"]
        {
            let (_, body, _) = ask(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(body, "deep", "{target}");
        }
        for (request, status) in [
            ("GET / HTTP/1.1", "404"),
            ("GET /d-i HTTP/1.1", "404"),
            ("GET /../preseed.cfg HTTP/1.1", "404"),
            ("GET /%2e%2e/preseed.cfg HTTP/1.1", "404"),
            ("GET /%ff%fe HTTP/1.1", "404"),
            ("GET preseed.cfg HTTP/1.1", "404"),
            ("GET /etc/passwd HTTP/1.1", "404"),
            ("POST /preseed.cfg HTTP/1.1", "405"),
            ("get /preseed.cfg HTTP/1.1", "405"),
            ("GET /preseed.cfg", "400"),
            ("GET /a b HTTP/1.1", "400"),
            ("", "400"),
            ("GET /preseed.cfg HTTP/2.0", "505"),
        ] {
            let (head, body, _) = ask(format!("{request}\r\n\r\n").as_bytes()).unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && body.is_empty(), "{request}: {head}");
        }
    }

    #[test]
    fn what_a_hostile_guest_says_has_an_end() {
        assert!(ask(b"GET /preseed.cfg HTTP/1.1\r\nHost: x\r\n").is_none());
        assert!(ask(&vec![b'x'; HEAD_MAX]).is_none());
        for long in [vec![b'x'; HEAD_MAX + 1], [vec![b'x'; HEAD_MAX], b"\r\n\r\n".to_vec()].concat()] {
            let (head, _, said) = ask(&long).unwrap();
            assert!(head.starts_with("HTTP/1.1 431 ") && said.len() < 2 * TOLD, "{head}");
        }
        let (_, _, said) = ask(format!("GET /{} HTTP/1.1\r\n\r\n", "ä".repeat(3000)).as_bytes()).unwrap();
        assert!(said.chars().count() < 2 * TOLD);
        // Whatever bytes.
        for byte in 0..=255_u8 {
            let (head, body, _) = ask(&[&[byte, b' ', byte, b'%', byte][..], b"\n\n"].concat()).unwrap();
            assert!(head.starts_with("HTTP/1.1 4") && body.is_empty());
        }
    }
}
