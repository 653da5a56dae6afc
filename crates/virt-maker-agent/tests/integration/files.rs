//! File operations in the guest, and that none of them leads out of it.

use crate::support::*;

use std::fs;
use std::os::unix::fs::symlink;

use virt_maker_agent::client::ClientError;
use virt_maker_agent::label::Labelled;
use virt_maker_agent::protocol::{Attributes, FailureKind, FileKind, Request};

fn guest() -> (Lab, Agent) {
    let lab = Lab::new();
    let disk = lab.guest();
    let (agent, _) = lab.mounted(&disk);
    (lab, agent)
}

fn attributes(mode: u32, uid: u32, gid: u32) -> Attributes {
    Attributes { mode: Some(mode), uid: Some(uid), gid: Some(gid) }
}

#[test]
fn write_and_read() {
    let (_lab, mut agent) = guest();
    let client = &mut agent.client;
    let content: Vec<u8> = (0..3_000_000u32).map(|number| ((number * 31) >> 3) as u8).collect();
    client.write("/etc/big", &mut &content[..], Attributes::default()).unwrap();
    assert_eq!(client.read("/etc/big", 1 << 22).unwrap(), content);
    client.write("/empty", &mut &b""[..], Attributes::default()).unwrap();
    assert_eq!(client.read("/empty", 0).unwrap(), b"");
    let stat = client.stat("/etc/big").unwrap().unwrap();
    assert_eq!((stat.kind, stat.mode, stat.uid, stat.gid, stat.size), (FileKind::File, 0o644, 0, 0, 3_000_000));
    // What is there keeps its attributes unless others are given.
    client.write("/f", &mut &b"1"[..], attributes(0o4750, 7, 8)).unwrap();
    client.write("/f", &mut &b"2"[..], Attributes::default()).unwrap();
    let stat = client.stat("/f").unwrap().unwrap();
    assert_eq!((stat.mode, stat.uid, stat.gid), (0o4750, 7, 8));
    client.write("/f", &mut &b"2"[..], Attributes { mode: Some(0o600), ..Attributes::default() }).unwrap();
    let stat = client.stat("/f").unwrap().unwrap();
    assert_eq!((stat.mode, stat.uid), (0o600, 7));
    assert!(client.read_dir("/").unwrap().iter().all(|name| !name.contains("virt-maker")));
    let problem = failed(client.read("/etc/big", 100));
    assert!(problem.message.contains("3000000 bytes"), "{problem:?}");
    assert_eq!(failed(client.read("/missing", 100)).kind, FailureKind::NotFound);
    assert_eq!(
        failed(client.write("/no/such/folder/x", &mut &b"x"[..], Attributes::default())).kind,
        FailureKind::NotFound
    );
    failed(client.write("/etc", &mut &b"x"[..], Attributes::default()));
    failed(client.write("/", &mut &b"x"[..], Attributes::default()));
    failed(client.write("/x", &mut &b"x"[..], attributes(0o10000, 0, 0)));
    failed(client.write("/x", &mut &b"x"[..], attributes(0o600, u32::MAX, 0)));
    assert_eq!(client.stat("/x").unwrap(), None);
}

struct Failing(usize);

impl std::io::Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0 += 1;
        if self.0 > 3 { Err(std::io::Error::other("the source broke")) } else { Ok(buffer.len()) }
    }
}

#[test]
fn a_write_that_the_host_gives_up_writes_nothing() {
    let (_lab, mut agent) = guest();
    agent.client.write("/f", &mut &b"old"[..], Attributes::default()).unwrap();
    let names = agent.client.read_dir("/").unwrap();
    let error = agent.client.write("/f", &mut Failing(0), Attributes::default()).unwrap_err();
    assert!(matches!(error, ClientError::Local(_)), "{error:?}");
    assert_eq!(agent.client.read("/f", 10).unwrap(), b"old");
    assert_eq!(agent.client.read_dir("/").unwrap(), names);
}

#[test]
fn folders_links_and_attributes() {
    let (_lab, mut agent) = guest();
    let client = &mut agent.client;
    let mkdir = |path: &str, attributes, parents| Request::Mkdir { path: path.into(), attributes, parents };
    client.done(&mkdir("/a/b/c", attributes(0o2770, 5, 6), true)).unwrap();
    let stat = client.stat("/a/b/c").unwrap().unwrap();
    assert_eq!((stat.kind, stat.mode, stat.uid, stat.gid), (FileKind::Directory, 0o2770, 5, 6));
    let stat = client.stat("/a/b").unwrap().unwrap();
    assert_eq!((stat.mode, stat.uid), (0o755, 0));
    client.done(&mkdir("/a/b", attributes(0o700, 1, 1), false)).unwrap();
    assert_eq!(client.stat("/a/b").unwrap().unwrap().mode, 0o700);
    assert_eq!(failed(client.done(&mkdir("/x/y", Attributes::default(), false))).kind, FailureKind::NotFound);
    assert_eq!(failed(client.done(&mkdir("/etc/passwd", Attributes::default(), true))).kind, FailureKind::Obstructed);
    client.done(&mkdir("/", Attributes { mode: Some(0o755), ..Attributes::default() }, true)).unwrap();

    let link = |target: &str, path: &str| Request::Symlink { target: target.into(), path: path.into() };
    client.done(&link("anything at all", "/a/link")).unwrap();
    client.done(&link("b", "/a/link")).unwrap();
    let stat = client.stat("/a/link").unwrap().unwrap();
    assert_eq!((stat.kind, stat.target.as_deref()), (FileKind::Symlink, Some("b")));
    assert_eq!(failed(client.done(&link("b", "/a/b"))).kind, FailureKind::Obstructed);
    client.done(&link("/nowhere", "/a/dangling")).unwrap();
    let problem = failed(client.done(&mkdir("/a/dangling", Attributes::default(), true)));
    assert_eq!(problem.kind, FailureKind::Obstructed, "{problem:?}");
    client.done(&Request::Remove { path: "/a/dangling".into() }).unwrap();
    failed(client.done(&link("", "/a/empty")));
    assert_eq!(client.read_dir("/a").unwrap(), ["b", "link"]);

    let set = |path: &str, attributes| Request::SetAttributes { path: path.into(), attributes };
    client.write("/a/f", &mut &b"x"[..], attributes(0o4755, 0, 0)).unwrap();
    // A change of owner keeps the set-id bit; a link is changed itself, and has no mode.
    client.done(&set("/a/f", Attributes { uid: Some(9), ..Attributes::default() })).unwrap();
    assert_eq!(client.stat("/a/f").unwrap().unwrap().mode, 0o4755);
    client.done(&set("/a/link", Attributes { uid: Some(9), ..Attributes::default() })).unwrap();
    assert_eq!((client.stat("/a/link").unwrap().unwrap().uid, client.stat("/a/b").unwrap().unwrap().uid), (9, 1));
    assert!(failed(client.done(&set("/a/link", attributes(0o600, 0, 0)))).message.contains("symbolic link"));
    assert_eq!(failed(client.done(&set("/missing", attributes(0o600, 0, 0)))).kind, FailureKind::NotFound);

    client.done(&Request::Rename { from: "/a/f".into(), to: "/a/b/c/g".into() }).unwrap();
    assert_eq!(client.read("/a/b/c/g", 9).unwrap(), b"x");
    assert_eq!(client.stat("/a/f").unwrap(), None);
    assert_eq!(client.stat("/etc/passwd/x").unwrap(), None);
    assert_eq!(
        failed(client.done(&Request::Rename { from: "/a/f".into(), to: "/x".into() })).kind,
        FailureKind::NotFound
    );
}

#[test]
fn removal() {
    let (_lab, mut agent) = guest();
    agent.ok("mkdir -p /t/a/b/c /t/d; ln -s /etc /t/a/etc; ln -s nowhere /t/dead; mkfifo /t/p; mknod /t/n c 1 3; \
              for i in $(seq 500); do echo $i >/t/d/$i; mkdir /t/a/$i; done; ln -s /etc /link");
    let remove = |path: &str| Request::Remove { path: path.into() };
    agent.client.done(&remove("/t")).unwrap();
    agent.client.done(&remove("/t")).unwrap();
    agent.client.done(&remove("/no/such/folder")).unwrap();
    agent.client.done(&remove("/link")).unwrap();
    assert_eq!(agent.client.stat("/t").unwrap(), None);
    assert!(agent.client.stat("/etc/passwd").unwrap().is_some());
    failed(agent.client.done(&remove("/")));
    // Deeper than the agent goes: an error, no crash; and the conversation goes on.
    agent.ok("mkdir /deep; cd /deep; for i in $(seq 1500); do mkdir d; cd -P d; done");
    assert!(failed(agent.client.done(&remove("/deep"))).message.contains("nested"));
    agent.ok("rm -rf /deep");
}

#[test]
fn special_files_are_not_read() {
    let (_lab, mut agent) = guest();
    agent.ok("mkfifo /p; mknod /null c 1 3; mknod /disk b 254 0");
    for path in ["/p", "/null", "/disk", "/etc", "/"] {
        failed(agent.client.read(path, 100));
    }
    // Names beyond UTF-8 are shown with the bytes replaced.
    agent.ok("touch \"/tmp/$(printf 'a\\377b')\"");
    assert_eq!(agent.client.read_dir("/tmp").unwrap(), ["a\u{fffd}b"]);
}

#[test]
fn no_operation_follows_a_link_out_of_the_guest() {
    let lab = Lab::new();
    let outside = lab.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "host").unwrap();
    let up = format!("/../../../../../../../..{}", outside.display());
    let tree = lab.tree(|at| {
        fs::rename(at.join("etc"), at.join("real-etc")).unwrap();
        symlink("/../../../etc", at.join("loop-etc")).unwrap();
        symlink("real-etc", at.join("etc")).unwrap();
        symlink(&outside, at.join("absolute")).unwrap();
        symlink(&up, at.join("up")).unwrap();
        symlink("/proc/self/root", at.join("magic")).unwrap();
        symlink(outside.join("secret"), at.join("final")).unwrap();
    });
    // A root whose /etc is a link is none; so the guest is given a real one and the links beside it.
    fs::remove_file(format!("{tree}/etc")).unwrap();
    fs::rename(format!("{tree}/real-etc"), format!("{tree}/etc")).unwrap();
    let disk = lab.ext("disk", "ext4", &[], &tree);
    let (mut agent, _) = lab.mounted(&disk);
    let client = &mut agent.client;
    for folder in ["/absolute", "/up", "/magic"] {
        let inside = format!("{folder}/secret");
        failed(client.read(&inside, 100));
        assert_eq!(client.stat(&inside).unwrap(), None);
        failed(client.write(&inside, &mut &b"guest"[..], Attributes::default()));
        failed(client.read_dir(folder));
        client.done(&Request::Remove { path: inside.clone() }).unwrap();
        failed(client.done(&Request::SetAttributes { path: inside.clone(), attributes: attributes(0o777, 1, 1) }));
        failed(client.done(&Request::Mkdir {
            path: format!("{folder}/new"),
            attributes: Attributes::default(),
            parents: false,
        }));
        failed(client.done(&Request::Symlink { target: "x".into(), path: format!("{folder}/l") }));
        failed(client.done(&Request::Rename { from: "/tmp".into(), to: format!("{folder}/tmp") }));
    }
    // The one that leads to the guest's own /etc, however many `..` it has.
    assert_eq!(client.read("/loop-etc/hostname", 100).unwrap(), b"guest-name\n");
    // A final link is replaced, not followed.
    failed(client.read("/final", 100));
    client.write("/final", &mut &b"guest"[..], Attributes::default()).unwrap();
    assert_eq!(client.read("/final", 100).unwrap(), b"guest");
    for path in ["relative", "", "/a/../../etc", "/..", "/a\0b"] {
        failed(client.stat(path));
        failed(client.write(path, &mut &b"x"[..], Attributes::default()));
    }
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"host");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

/// Labels are attributes: read for all files, set on links and odd names themselves, and never through a link.
#[test]
fn labels_are_read_and_set() {
    let (_lab, mut agent) = guest();
    let client = &mut agent.client;
    let real = Request::Mkdir { path: "/etc/real".into(), attributes: Attributes::default(), parents: false };
    client.done(&real).unwrap();
    client.write("/etc/real/file", &mut &b"x"[..], attributes(0o4755, 3, 4)).unwrap();
    client.done(&Request::Symlink { target: "real".into(), path: "/etc/link".into() }).unwrap();
    let label = |path: &str, kind, label: &str| Labelled { kind, path: path.into(), label: label.into() };
    let wanted = [
        label("/", b'd', "a:b:root_t:s0"),
        label("/etc/link", b'l', "a:b:link_t:s0"),
        label("/etc/real/file", b'f', "a:b:file_t:s0"),
    ];
    client.set_labels(&wanted).unwrap();
    let found = client.labels().unwrap();
    assert!(wanted.iter().all(|wanted| found.contains(wanted)), "{found:?}");
    assert_eq!(found.iter().filter(|entry| !entry.label.is_empty()).count(), wanted.len());
    let stat = client.stat("/etc/real/file").unwrap().unwrap();
    assert_eq!((stat.mode, stat.uid, stat.gid), (0o4755, 3, 4));
    // One that fails ends the rest, and the conversation goes on.
    for path in ["/etc/link/file", "/etc/no/file", "/etc/real/none"] {
        let problem = failed(client.set_labels(&[label(path, b'f', "x:y:z"), label("/etc", b'd', "x:y:z")]));
        assert!(problem.message.contains("label"), "{problem:?}");
    }
    let found = client.labels().unwrap();
    assert!(found.contains(&label("/etc/real/file", b'f', "a:b:file_t:s0")));
    assert!(found.contains(&label("/etc", b'd', "")));
}
