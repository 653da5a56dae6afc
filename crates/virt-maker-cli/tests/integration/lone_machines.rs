//! `run` and `shell --booted`: a machine of a layer or an image for a person, thrown away or kept.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use testkit::{HostState, appliance_lock};

use crate::common::Bench;
use crate::look::type_into;
use crate::machines::{allowed, small};

/// What a web server at a port of this host answers; asks until there is one.
fn ask(port: u16, path: &str) -> String {
    let begin = Instant::now();
    loop {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
            let _ = write!(stream, "GET {path} HTTP/1.0\r\n\r\n");
            let _ = stream.read_to_string(&mut answer);
        }
        if answer.starts_with("HTTP/") {
            return answer;
        }
        assert!(begin.elapsed() < Duration::from_secs(300), "nobody answers at port {port}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_machine_is_run_reached_left_and_kept_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let mut bench = Bench::new(PathBuf::from("none"));
    let begin = small(&mut bench);
    let init = [
        "::sysinit:/bin/busybox ip link set lo up",
        "::sysinit:/bin/busybox ip link set eth0 up",
        "::sysinit:/bin/busybox ip address add 169.254.2.15/24 dev eth0",
        "::sysinit:/bin/busybox mkdir -p /dev/pts",
        "::sysinit:/bin/busybox mount -t devpts devpts /dev/pts",
        "::once:/bin/busybox httpd -p 80 -h /srv",
        "",
    ];
    let script = "#!/bin/busybox sh\necho; echo \"$QUERY_STRING\" >/etc/asked; cat /etc/asked; \
                  [ \"$QUERY_STRING\" != off ] || { /bin/busybox sync; /bin/busybox poweroff -d 1; }\n";
    let text = format!(
        "{begin}  steps:\n    - file: {{path: /etc/inittab, content: {init:?}}}\n    \
         - mkdir: /srv/cgi-bin\n    - file: {{path: /srv/cgi-bin/ask, content: {script:?}, chmod: '0755'}}\n",
        init = init.join("\n")
    );
    std::fs::write(bench.path("web.yml"), text).unwrap();
    let allowed = allowed();
    let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
    bench.build("chroot", &bench.path("web.yml"), &allowed).exits(0);

    // Nobody is at a terminal: its console is copied, and its ports are reached, while nothing else of the host is.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let publish = format!("{port}:80");
    let arguments = [
        "run",
        "web.yml",
        "--engine",
        "chroot",
        "--memory",
        "256M",
        "--publish",
        &publish,
        "--display",
        "vnc",
        "--keep-as",
        "kept",
    ];
    let mut command = bench.command(&arguments);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(ask(port, "/").ends_with("served\n"));
    assert_eq!(ask(port, "/cgi-bin/ask?first").lines().last(), Some("first"));
    let screen = bench.path("vnc");
    assert!(std::os::unix::net::UnixStream::connect(&screen).is_ok());
    // qemu's own port is for this host alone.
    assert!(TcpStream::connect(("127.0.0.2", port)).is_err());
    assert_eq!(ask(port, "/cgi-bin/ask?off").lines().last(), Some("off"));
    let ended = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && said.contains("kept as kept: layer "), "{said}");
    assert!(String::from_utf8_lossy(&ended.stdout).contains("Linux version"), "the console is copied");
    assert!(!screen.exists(), "the socket goes with the machine");
    assert_eq!(bench.run(&["cat", "kept", "/etc/asked", "--engine", "chroot"]).exits(0).stdout, "off\n");
    assert_eq!(bench.left_in_store(), Vec::<String>::new());

    // A person leaves by a key, and the rest is thrown away; a shell is one of the running system.
    let layers = bench.layers().len();
    std::fs::write(bench.path("user-data"), "#cloud-config\n{}\n").unwrap();
    let said = type_into(&bench, "run kept --engine chroot --memory 256M --seed user-data; echo left-$?", "\u{1d}");
    assert!(said.contains("left-0") && said.contains("Ctrl-]"), "{said}");
    let said =
        type_into(&bench, "shell kept --booted --engine chroot", "cat /proc/1/comm; echo gone > /etc/gone\nexit\n");
    assert!(said.contains("init\r\n"), "{said}");
    assert_eq!(bench.layers().len(), layers);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());

    // What nobody would look at is told.
    let ran = bench.run(&["run", "kept", "--engine", "chroot", "--seed", "user-data", "--keep-as", "x"]).exits(4);
    assert!(ran.stderr.contains("the guest has no cloud-init"), "{}", ran.stderr);

    // An image stays as it is.
    let image = bench.path("alone.img");
    std::fs::copy(testkit::tiny_guest(&testkit::TinyOptions::default()), &image).unwrap();
    let ran = bench.run(&["run", "alone.img", "--keep-as", "x"]).exits(1);
    assert!(ran.stderr.contains("cannot be kept as one"), "{}", ran.stderr);
    let ran = bench.run(&["run", "kept", "--publish", "80"]).exits(2);
    assert!(ran.stderr.contains("expected two ports, such as 8080:80"), "{}", ran.stderr);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let publish = format!("{}:80", taken.local_addr().unwrap().port());
    let ran = bench.run(&["run", "alone.img", "--publish", &publish]).exits(5);
    assert!(ran.stderr.contains("qemu starts no machine") && ran.stderr.contains("host forwarding"), "{}", ran.stderr);
    before.assert_nothing_left();
}
