//! A small HTTP server on the loopback whose faults are made to order: it drops connections, refuses, stays silent,
//! changes what it serves, and lies about ranges.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What happens to one request instead of the right answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection breaks after so many bytes of the body.
    DropAfter(usize),
    /// An answer with this status line and no image.
    Status(&'static str),
    /// No byte of an answer, and no end.
    Silence,
    /// This many bytes of the body, after which the connection stays open and silent.
    SilenceAfter(usize),
    /// The part that was asked for, though the whole is another one now.
    IgnoreIfRange,
    /// A redirect.
    Redirect(String),
}

/// One request as it came.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// Its first line: method, path, version.
    pub line: String,
    /// `Range`, as it came.
    pub range: Option<String>,
    /// `If-Range`, as it came.
    pub if_range: Option<String>,
    /// What the client tells a proxy of itself.
    pub proxy_authorization: Option<String>,
}

#[derive(Default)]
struct State {
    body: Vec<u8>,
    etag: Option<String>,
    ranges: bool,
    faults: VecDeque<Fault>,
    requests: Vec<Request>,
}

/// The server; its threads end with the test's process.
#[derive(Clone)]
pub struct Server {
    state: Arc<Mutex<State>>,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Server {
    /// Serves `body` under every path, with ranges and an ETag.
    pub fn new(body: &[u8]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State { body: body.to_vec(), etag: Some("\"one\"".into()), ranges: true, ..State::default() };
        let server = Server { state: Arc::new(Mutex::new(state)), address: listener.local_addr().unwrap().to_string() };
        let handle = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let server = handle.clone();
                // A client that goes away in the middle is no failure of the server.
                std::thread::spawn(move || drop(server.answer(stream.unwrap())));
            }
        });
        server
    }

    /// An address under it.
    pub fn url(&self) -> String {
        format!("http://{}/image", self.address)
    }

    /// One that knows no ranges.
    pub fn without_ranges(self) -> Server {
        self.state.lock().unwrap().ranges = false;
        self
    }

    /// One whose answers have no ETag.
    pub fn without_etag(self) -> Server {
        self.state.lock().unwrap().etag = None;
        self
    }

    /// The next requests fail like this, one after another.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    /// From now on it serves something else.
    pub fn change(&self, body: &[u8], etag: &str) {
        let mut state = self.state.lock().unwrap();
        state.body = body.to_vec();
        state.etag = Some(etag.into());
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = Request::default();
        for line in BufReader::new(stream.try_clone()?).lines() {
            let line = line?;
            if line.is_empty() {
                break;
            }
            match line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())) {
                Some((name, value)) if name == "range" => request.range = Some(value),
                Some((name, value)) if name == "if-range" => request.if_range = Some(value),
                Some((name, value)) if name == "proxy-authorization" => request.proxy_authorization = Some(value),
                Some(_) => {}
                None => request.line = line,
            }
        }
        if request.line.starts_with("CONNECT ") {
            // As a proxy it answers itself for every server there is.
            self.state.lock().unwrap().requests.push(request);
            write!(stream, "HTTP/1.1 200 Connected\r\n\r\n")?;
            return self.answer(stream);
        }
        let (body, etag, ranges, fault) = {
            let mut state = self.state.lock().unwrap();
            state.requests.push(request.clone());
            (state.body.clone(), state.etag.clone(), state.ranges, state.faults.pop_front())
        };
        let tag = etag.as_ref().map(|etag| format!("ETag: {etag}\r\n")).unwrap_or_default();
        let same = request.if_range == etag || matches!(fault, Some(Fault::IgnoreIfRange));
        let start = request.range.as_ref().filter(|_| ranges && same);
        let start =
            start.map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap());
        let send = match (fault, start) {
            (Some(Fault::Status(status)), _) => {
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
                return stream.shutdown(Shutdown::Both);
            }
            (Some(Fault::Redirect(to)), _) => {
                write!(
                    stream,
                    "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )?;
                return stream.shutdown(Shutdown::Both);
            }
            (Some(Fault::Silence), _) => {
                std::thread::sleep(std::time::Duration::from_secs(3600));
                return Ok(());
            }
            (_, Some(start)) if start >= body.len() => {
                let total = body.len();
                write!(stream, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{total}\r\n")?;
                write!(stream, "Content-Length: 0\r\nConnection: close\r\n\r\n")?;
                return stream.shutdown(Shutdown::Both);
            }
            (fault, start) => (fault, start),
        };
        let (fault, start) = send;
        let part = &body[start.unwrap_or(0)..];
        match start {
            None => write!(stream, "HTTP/1.1 200 OK\r\n")?,
            Some(start) => {
                let (last, total) = (body.len() - 1, body.len());
                write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{last}/{total}\r\n")?;
            }
        }
        write!(stream, "{tag}Content-Length: {}\r\nConnection: close\r\n\r\n", part.len())?;
        match fault {
            Some(Fault::DropAfter(count)) => stream.write_all(&part[..count.min(part.len())])?,
            Some(Fault::SilenceAfter(count)) => {
                stream.write_all(&part[..count.min(part.len())])?;
                stream.flush()?;
                std::thread::sleep(std::time::Duration::from_secs(3600));
            }
            _ => stream.write_all(part)?,
        }
        stream.flush()?;
        stream.shutdown(Shutdown::Write)
    }
}
