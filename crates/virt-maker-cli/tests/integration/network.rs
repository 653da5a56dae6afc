//! What commands reach: the same on every engine.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Bench, Ran, run};
use testkit::{Elsewhere, HostState, TinyOptions, appliance_lock, tiny_guest};

fn warned(ran: &Ran) -> Vec<String> {
    ran.of("warning").iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

/// An address of this host that is not only its own affair.
fn own_address() -> Option<Ipv4Addr> {
    // The address that the host would send from; no packet is sent.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    match socket.local_addr().unwrap().ip() {
        IpAddr::V4(address) if !address.is_loopback() && !address.is_link_local() => Some(address),
        _ => None,
    }
}

/// A service of the host that gives each caller a word.
fn service(address: &str, word: &'static str) -> u16 {
    serve(TcpListener::bind((address, 0)).unwrap(), word)
}

fn serve(listener: TcpListener, word: &'static str) -> u16 {
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A caller that is gone already got what it came for.
            let _ = stream.unwrap().write_all(word.as_bytes());
        }
    });
    port
}

fn build(bench: &Bench, engine: &str, script: &str, proxy: u16, more: &[&str]) -> Ran {
    let template = bench.template("t.yml", &[run(script)], "");
    let mut command = bench.command(&["build", template.to_str().unwrap(), "--engine", engine, "--progress", "json"]);
    command.args(more).env("http_proxy", format!("http://127.0.0.1:{proxy}/"));
    Ran::from(command.output().unwrap()).exits(0)
}

/// The gateway that stands for the host's loopback, every other address that does, the host's own address and that of a
/// cloud's metadata: nothing answers, except for the proxy that the user named, and the user is told. With the user's
/// word all that the host listens on answers.
fn only_a_proxy_of_the_host_is_reached(engine: &str) {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let own = own_address();
    let (service, proxy) = (service("0.0.0.0", "the service\n"), service("127.0.0.1", "the proxy\n"));
    let own_text = own.map(|own| own.to_string()).unwrap_or_default();
    let targets = format!("169.254.2.2 169.254.2.3 169.254.2.99 127.0.0.1 169.254.169.254 {own_text}");
    let script = format!(
        "echo $http_proxy; for a in {targets}; do echo $a `nc -w 3 $a {service} </dev/null 2>/dev/null`; done; \
         nc -w 5 169.254.2.2 {proxy} </dev/null; sed -n 's/^ *\\([a-z0-9]*\\):.*/\\1/p' /proc/net/dev | sort; grep -c nameserver /etc/resolv.conf"
    );
    let ran = build(&bench, engine, &script, proxy, &[]);
    let text = ran.said();
    assert!(text.contains(&format!("http://169.254.2.2:{proxy}/\n")), "{text}");
    assert!(text.contains("the proxy\n") && !text.contains("the service"), "{text}");
    assert!(text.ends_with("eth0\nlo\n1\n"), "{text}");
    let warned = warned(&ran);
    let told = |address: &str| warned.iter().any(|warning| warning.contains(&format!("reach {address}, which is")));
    assert!(told("169.254.2.2") && told("169.254.169.254"), "{warned:?}");
    assert!(own.is_none_or(|_| told(&own_text)), "{warned:?}");

    let ran = build(&bench, engine, &script, proxy, &["--force", "--allow", "host-network"]);
    let text = ran.said();
    for address in [Some("169.254.2.2".to_owned()), own.map(|own| own.to_string())].into_iter().flatten() {
        assert!(text.contains(&format!("{address} the service\n")), "{text}");
    }
    assert!(!text.contains("127.0.0.1 the service"), "the loopback in there is not the host's: {text}");
}

#[test]
fn only_a_proxy_of_the_host_is_reached_on_chroot() {
    only_a_proxy_of_the_host_is_reached("chroot");
}

#[test]
fn only_a_proxy_of_the_host_is_reached_from_the_appliance() {
    let _lock = appliance_lock();
    only_a_proxy_of_the_host_is_reached("vm");
}

#[test]
fn only_a_proxy_of_the_host_is_reached_on_libguestfs() {
    only_a_proxy_of_the_host_is_reached("libguestfs");
}

/// An address may be the host's without an interface that has it, as load balancers of clouds do it: by a route of type
/// `local` alone. It is the host's all the same.
#[test]
fn an_address_that_is_the_hosts_by_a_route_alone_is_not_reached() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let network = Elsewhere::new();
    let (routed, elsewhere) = (Elsewhere::ROUTED, Elsewhere::ADDRESS);
    let own = serve(network.listen(routed, 0), "the service\n");
    let other = serve(network.listen_there(), "somebody else\n");
    let script = format!("nc -w 3 {routed} {own} </dev/null 2>/dev/null; nc -w 5 {elsewhere} {other} </dev/null");
    let template = bench.template("t.yml", &[run(&script)], "");
    let build = |more: &[&str]| {
        let arguments = ["build", template.to_str().unwrap(), "--engine", "chroot", "--progress", "json"];
        let command = bench.command(&[&arguments, more].concat());
        Ran::from(network.command(&command).output().unwrap()).exits(0)
    };
    let ran = build(&[]);
    assert_eq!(ran.said(), "somebody else\n");
    assert!(
        warned(&ran).iter().any(|warning| warning.contains(&format!("reach {routed}, which is"))),
        "{}",
        ran.stdout
    );
    assert_eq!(build(&["--force", "--allow", "host-network"]).said(), "the service\nsomebody else\n");
}

/// A command that listens is heard by nobody: not at the host's loopback, not at its address, not by a name.
#[test]
fn nothing_that_a_command_listens_on_is_reached_from_the_host() {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    // An abstract socket belongs to a network namespace; a file's mode does not guard it.
    let name = format!("virt-maker-test-{}", std::process::id());
    let abstract_name = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = std::os::unix::net::UnixListener::bind_addr(&abstract_name).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let meeting = listener.local_addr().unwrap().port();
    // A port that was free a moment ago, on all addresses.
    let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let host = std::thread::spawn(move || {
        let (mut command, _) = listener.accept().unwrap();
        let own = own_address().into_iter().chain([Ipv4Addr::LOCALHOST]);
        let answers = own.filter(|address| {
            let target = SocketAddr::new((*address).into(), port);
            TcpStream::connect_timeout(&target, Duration::from_secs(5)).is_ok()
        });
        let answers = answers.count();
        command.write_all(b"looked\n").unwrap();
        answers
    });
    let script = format!(
        "readlink /proc/self/ns/net; grep -c {name} /proc/net/unix; (echo heard | nc -l -p {port}) & \
         nc 169.254.2.2 {meeting} </dev/null; echo inside `nc -w 3 127.0.0.1 {port} </dev/null`"
    );
    let text = build(&bench, "chroot", &script, meeting, &[]).said();
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert!(text.starts_with("net:[") && !text.starts_with(own.to_str().unwrap()), "{text}");
    assert!(text.ends_with("\n0\nlooked\ninside heard\n"), "{text}");
    assert_eq!(host.join().unwrap(), 0);
    before.assert_nothing_left();
}

/// Process ids of the helpers of a store's networks.
fn helpers(bench: &Bench) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let place = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let log = fs::read_link(entry.path().join("fd/2")).unwrap_or_default();
        let is_ours = |path: &PathBuf| path.starts_with(bench.folder.path());
        if line.starts_with(b"slirp4netns\0") && (is_ours(&place) || is_ours(&log)) {
            found.push(pid);
        }
    }
    found
}

/// One helper serves all commands of a session. When it is killed, a step is not left waiting for ever, the user is told,
/// and the next step has a network again. When the program is killed, nothing stays.
#[test]
fn a_network_that_breaks_down_is_told_and_made_again_and_none_outlives_the_program() {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let call = format!("nc 169.254.2.2 {port} </dev/null");
    let steps = [
        // Where its answer is cut off the call waits for ever: nothing ends a connection that nothing comes through any more.
        run(&format!("{call} & while grep -q eth0 /proc/net/dev; do sleep 0.1; done; echo gone; kill $! || :")),
        run(&call),
        run(&format!("{call}; sleep 600")),
    ];
    let template = bench.template("t.yml", &steps, "");
    let mut command = bench.command(&["build", template.to_str().unwrap(), "--engine", "chroot", "--progress", "json"]);
    command.env("http_proxy", format!("http://127.0.0.1:{port}/")).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let next = || listener.accept().unwrap().0;
    let answer = |mut stream: TcpStream| stream.write_all(b"hello\n").unwrap();

    let first = next();
    let helper = helpers(&bench);
    assert_eq!(helper.len(), 1, "{helper:?}");
    answer(first);
    // The step has read the answer when its end of the connection is closed, or will be cut off; both are fine.
    Command::new("kill").args(["-KILL", &helper[0].to_string()]).status().unwrap();
    let second = next();
    let again = helpers(&bench);
    assert!(again.len() == 1 && again != helper, "{again:?}");
    answer(second);
    let third = next();
    assert_eq!(helpers(&bench), again, "one helper serves all commands");
    answer(third);
    child.kill().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert!(said.contains("\"text\":\"gone") && said.contains("the network of commands broke down"), "{said}");
    before.assert_nothing_left();
    assert_eq!(helpers(&bench), Vec::<u32>::new());
}

/// A host without the device says what to do, and never gives its own network instead.
/// What the network is made of starts with the session and outlives the end of a command that has none.
#[test]
fn a_step_with_a_network_may_follow_one_without() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let without = "{run: 'grep -c : /proc/net/dev', network: off}".to_owned();
    let with = run("grep -c : /proc/net/dev");
    let template = bench.template("t.yml", &[without.clone(), with.clone(), without, with], "");
    let ran = bench.build("chroot", &template, &[]).exits(0);
    assert_eq!(ran.said(), "1\n2\n1\n2\n");
}

#[test]
fn without_the_device_for_interfaces_only_steps_without_a_network_run() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let without = |step: &str| {
        let template = bench.template("t.yml", &[step.to_owned()], "");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"]);
        let program = bench.command(&["build", template.to_str().unwrap(), "--engine", "chroot", "--progress", "json"]);
        command.arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            command.env(name, value.unwrap());
        }
        Ran::from(command.current_dir(bench.folder.path()).output().unwrap())
    };
    let ran = without("run: echo reached");
    assert!(ran.status != Some(0) && !ran.said().contains("reached"), "{}", ran.stdout);
    for words in ["/dev/net/tun", "network: off", "--engine vm"] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert_eq!(without("{run: echo alone, network: off}").exits(0).said(), "alone\n");
}

/// What a guest is given it may write down, so it is not given the password of a proxy; nor does anything else hold it.
#[test]
fn a_step_gets_a_proxy_without_its_password_on_chroot() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let proxy = service("127.0.0.1", "the proxy\n");
    let script =
        "env > /root/environment; env; cat /proc/*/environ | tr \"\\\\0\" \"\\\\n\"; echo hunter-4711; exit $FAILS";
    for fails in ["0", "3"] {
        let step = format!("{{run: '{script}', env: {{FAILS: '{fails}'}}, network: true}}");
        let template = bench.template("t.yml", &[step], "raw: {path: a.img, manifest: true}");
        let template = template.to_str().unwrap();
        let mut command = bench.command(&[
            "build",
            template,
            "--engine",
            "chroot",
            "--progress",
            "json",
            "-vv",
            "--report",
            "r.html",
        ]);
        command.env("http_proxy", format!("http://user:hunter-4711@127.0.0.1:{proxy}"));
        let ran = Ran::from(command.output().unwrap());
        assert_eq!(ran.status, Some(if fails == "0" { 0 } else { 4 }), "{}", ran.stderr);
        let said = ran.said();
        assert!(said.contains(&format!("http_proxy=http://169.254.2.2:{proxy}")), "{said}");
        assert!(said.contains("\n***\n"), "a value that the guest knows by itself is masked: {said}");
        let warned = warned(&ran);
        assert!(warned.iter().any(|text| text.contains("are not given to guests")), "{warned:?}");
        assert!(!ran.stdout.contains("hunter-4711") && !ran.stderr.contains("hunter-4711"), "{}", ran.stdout);
    }
    // The script itself has the word, in records, but nothing has it as a part of the proxy's address.
    for place in ["store", "a.img", "r.html", "xdg-cache", "xdg-state"] {
        let found = Command::new("grep").args(["-rlaF", "user:hunter"]).arg(bench.path(place)).output().unwrap();
        assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    }
}
