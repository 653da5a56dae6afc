//! The relay against servers and proxies of its own making, and a client that says what programs say.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::event::Events;
use crate::host::Cancel;

/// A relay, and a connection to it.
fn relay(env: &[(&str, String)], host_network: bool, near: Option<&str>) -> (Relay, TcpStream) {
    let env: BTreeMap<String, String> = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let (events, cancel) = (Events::none(), Cancel::default());
    let context = ImportContext {
        cache_dir: Path::new("/"),
        events: &events,
        cancel: &cancel,
        env: &env,
        certificates: &Default::default(),
        host_network,
    };
    let relay = Relay::new(&context, near);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    relay.server()(listener).unwrap();
    (relay, client)
}

/// A server that answers each request with its name and the first line, and says what it got.
fn server(name: &'static str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, got) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut from = BufReader::new(stream.try_clone().unwrap());
            while let Ok(Some(head)) = head(&mut from) {
                let head = String::from_utf8(head).unwrap();
                let text = format!("{name} {}", head.lines().next().unwrap());
                let _ = sender.send(head);
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).unwrap();
            }
        }
    });
    (address, got)
}

/// What the client hears until this comes.
fn hear(client: &mut TcpStream, until: &str) -> String {
    let mut said = Vec::new();
    while !said.ends_with(until.as_bytes()) {
        let mut byte = [0];
        assert_eq!(client.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap()
}

#[test]
fn requests_go_on_to_their_servers_in_their_order() {
    let ((one, at_one), (two, at_two)) = (server("one"), server("two"));
    let (_relay, mut client) = relay(&[], true, None);
    // At once, as apt does it.
    let several: String = ["/a", "/b?c=%20", ""]
        .map(|path| format!("GET http://{one}{path} HTTP/1.1\r\nHost: {one}\r\nProxy-Connection: keep-alive\r\n\r\n"))
        .concat();
    client.write_all(several.as_bytes()).unwrap();
    for line in ["GET /a HTTP/1.1", "GET /b?c=%20 HTTP/1.1", "GET / HTTP/1.1"] {
        assert!(hear(&mut client, line).ends_with(&format!("one {line}")));
        assert_eq!(at_one.recv().unwrap(), format!("{line}\r\nHost: {one}\r\n\r\n"));
    }
    // Another one over the same connection, as curl does it.
    for (server, name) in [(&two, "two"), (&one, "one")] {
        client.write_all(format!("HEAD http://{server}/x HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        hear(&mut client, &format!("{name} HEAD /x HTTP/1.1"));
    }
    assert_eq!(at_two.recv().unwrap(), "HEAD /x HTTP/1.1\r\n\r\n");
    for wrong in
        ["POST http://a/ HTTP/1.1\r\n\r\n", "GET /a HTTP/1.1\r\n\r\n", "GET file:///etc HTTP/1.1\r\n\r\n", "x\r\n\r\n"]
    {
        let (_relay, mut client) = relay(&[], true, None);
        client.write_all(wrong.as_bytes()).unwrap();
        assert!(hear(&mut client, "\r\n\r\n").starts_with("HTTP/1.1 400 "), "{wrong}");
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn the_host_is_refused_but_for_the_mirror_that_its_user_named() {
    let (own, got) = server("own");
    let port = own.rsplit_once(':').unwrap().1;
    for (request, why) in [
        (format!("GET http://{own}/a HTTP/1.1"), "the host's loopback"),
        (format!("GET http://localhost:{port}/a HTTP/1.1"), "the host's loopback"),
        (format!("GET http://2130706433:{port}/a HTTP/1.1"), "the host's loopback"),
        (format!("GET http://[::ffff:127.0.0.1]:{port}/a HTTP/1.1"), "the host's loopback"),
        (format!("CONNECT localhost:{port} HTTP/1.1"), "the host's loopback"),
        ("CONNECT 169.254.169.254:443 HTTP/1.1".into(), "link-local"),
    ] {
        let (relay, mut client) = relay(&[], false, Some("http://127.0.0.1:1/debian"));
        client.write_all(format!("{request}\r\n\r\n").as_bytes()).unwrap();
        let said = hear(&mut client, "\r\n\r\n");
        assert!(said.starts_with("HTTP/1.1 403 ") && said.contains(why), "{request}: {said}");
        let error = relay.refusal().unwrap();
        assert!(error.to_string().contains(why) && error.hint().unwrap().contains("host-network"), "{error}");
    }
    assert!(got.try_recv().is_err());
    let (relay, mut client) = relay(&[], false, Some(&format!("http://{own}/debian")));
    client.write_all(format!("GET http://{own}/a HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    hear(&mut client, "own GET /a HTTP/1.1");
    assert!(relay.refusal().is_none());
}

#[test]
fn connections_are_passed_on_both_ways_and_end_with_the_relay() {
    let (own, got) = server("own");
    let (relay, mut client) = relay(&[], true, None);
    client
        .write_all(format!("CONNECT {own} HTTP/1.1\r\nHost: {own}\r\n\r\nGET /inside HTTP/1.1\r\n\r\n").as_bytes())
        .unwrap();
    let said = hear(&mut client, "own GET /inside HTTP/1.1");
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert_eq!(got.recv().unwrap(), "GET /inside HTTP/1.1\r\n\r\n");
    drop(relay);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn proxies_of_the_user_get_all_but_what_is_excepted() {
    let ((own, at_own), (proxy, at_proxy)) = (server("own"), server("proxy"));
    let env = [
        ("http_proxy", format!("http://me:pass@{proxy}")),
        ("https_proxy", format!("http://{proxy}")),
        ("no_proxy", ".inside.invalid, 127.0.0.1".to_owned()),
    ];
    let (_relay, mut client) = relay(&env, false, Some(&format!("http://{own}/")));
    client.write_all(b"GET http://a.invalid/a HTTP/1.1\r\nProxy-Authorization: Basic eA==\r\n\r\n").unwrap();
    hear(&mut client, "proxy GET http://a.invalid/a HTTP/1.1");
    let got = at_proxy.recv().unwrap();
    assert_eq!(got, "GET http://a.invalid/a HTTP/1.1\r\nProxy-Authorization: Basic bWU6cGFzcw==\r\n\r\n");
    client.write_all(format!("GET http://{own}/b HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    hear(&mut client, "own GET /b HTTP/1.1");
    assert_eq!(at_own.recv().unwrap(), "GET /b HTTP/1.1\r\n\r\n");
    let (_relay, mut client) = relay(&env, false, None);
    client.write_all(b"CONNECT a.invalid:443 HTTP/1.1\r\n\r\n").unwrap();
    hear(&mut client, "proxy CONNECT a.invalid:443 HTTP/1.1");
    assert_eq!(at_proxy.recv().unwrap(), "CONNECT a.invalid:443 HTTP/1.1\r\n\r\n");

    let (relay, mut client) = relay(&[("http_proxy", format!("https://{proxy}"))], false, None);
    client.write_all(b"GET http://a.invalid/a HTTP/1.1\r\n\r\n").unwrap();
    assert!(hear(&mut client, "\r\n\r\n").contains("of the kinds `http://` and `socks5h://` only"));
    assert!(relay.refusal().unwrap().hint().unwrap().contains("http_proxy"));
}

#[test]
fn a_socks_proxy_is_asked_by_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut hear = |wanted: &[u8], answer: &[u8]| {
            let mut got = vec![0; wanted.len()];
            stream.read_exact(&mut got).unwrap();
            assert_eq!(got, wanted);
            stream.write_all(answer).unwrap();
        };
        hear(&[5, 1, 2], &[5, 2]);
        hear(b"\x01\x02me\x04pass", &[1, 0]);
        hear(b"\x05\x01\x00\x03\x09a.invalid\x00\x50", b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50");
        hear(b"GET /a HTTP/1.1\r\n\r\n", b"HTTP/1.1 204 through\r\n\r\n");
    });
    let (_relay, mut client) = relay(&[("http_proxy", format!("socks5h://me:pass@{address}"))], false, None);
    client.write_all(b"GET http://a.invalid/a HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(hear(&mut client, "\r\n\r\n"), "HTTP/1.1 204 through\r\n\r\n");
    proxy.join().unwrap();
}
