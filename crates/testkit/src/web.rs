//! A server of files, and one that leads all who ask to another place: what mirrors do.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// What a server does with who asks.
#[derive(Debug, Clone)]
pub enum Web {
    /// Gives files of a folder.
    Files(PathBuf),
    /// Leads to the same path behind this URL.
    Leads(String),
    /// Is a proxy that gives files of a folder, whatever host they are asked of.
    Proxy(PathBuf),
}

/// When all that is served was changed last.
const CHANGED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

/// Heads of the requests that came to a server.
pub type Asked = Arc<Mutex<Vec<String>>>;

/// Serves on a listener, in threads that end with the process.
pub fn serve(listener: TcpListener, web: Web) -> Asked {
    let asked = Asked::default();
    let list = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (web, list) = (web.clone(), list.clone());
            // A client that goes away is no failure of the server.
            std::thread::spawn(move || while one(&stream, &web, &list).unwrap_or(false) {});
        }
    });
    asked
}

/// Answers one request; whether another one may come.
fn one(mut stream: &TcpStream, web: &Web, asked: &Asked) -> std::io::Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(false);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    asked.lock().expect("nobody panicked").push(head.clone());
    let target = head.split(' ').nth(1).unwrap_or("/");
    let path = match target.strip_prefix("http://") {
        Some(rest) if matches!(web, Web::Proxy(_)) => rest.split_once('/').map_or("", |(_, path)| path),
        _ => target,
    };
    let path = &decoded(path.trim_start_matches('/'));
    match web {
        Web::Leads(url) => {
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {url}/{path}\r\nContent-Length: 0\r\n\r\n")?;
        }
        // What was asked for before is still the same.
        Web::Proxy(folder) if head.contains(CHANGED) && folder.join(path).is_file() => {
            write!(stream, "HTTP/1.1 304 Not Modified\r\n\r\n")?;
        }
        Web::Files(folder) | Web::Proxy(folder) => match std::fs::read(folder.join(path)) {
            Ok(bytes) => {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nLast-Modified: {CHANGED}\r\nContent-Length: {}\r\n\r\n",
                    bytes.len()
                )?;
                if !head.starts_with("HEAD") {
                    stream.write_all(&bytes)?;
                }
            }
            Err(_) => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        },
    }
    Ok(true)
}

/// A path without the escapes of URLs.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|_| *byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
