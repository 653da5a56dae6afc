//! Engine `libguestfs` with real appliances on small real guests (busybox on ext4).
//!
//! An appliance takes seconds to boot, so each test checks many things on one, and a lock lets one run at a time, also
//! across processes.

mod bench;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virt_maker::disk::ImageFormat;
use virt_maker::engine::libguestfs::{LibguestfsEngine, LibguestfsOptions, detect};
use virt_maker::engine::{CacheDisk, Engine, Image, OpenRequest, Session};
use virt_maker::error::ErrorKind;
use virt_maker::event::Events;
use virt_maker::guest::{Attributes, Exit, FileKind, Guest, Run};
use virt_maker::host::Cancel;

use bench::{Bench, PLAIN_FSTAB, SocketFolders, cat, failure, names, options, processes, shell, tool};

const NONE: Attributes = Attributes { mode: None, uid: None, gid: None };

#[test]
fn the_library_is_found_with_its_version() {
    let version = detect().unwrap().version;
    assert!(version.starts_with("1."), "{version}");
}

#[test]
fn a_session_runs_writes_checkpoints_and_leaves_clean_layers() {
    let bench = Bench::new(PLAIN_FSTAB, false);
    let folders = SocketFolders::of(0);
    let mut session = bench.open("base", "one").unwrap();
    assert_eq!(session.guest().os().pretty_name, "Tiny 7");
    folders.are_gone();

    commands(&bench, session.as_mut());
    bench.sh(session.as_mut(), "echo one >/etc/one");
    session.checkpoint(&bench.overlay("two", "one")).unwrap();
    bench.seal(&["one"]);
    bench.sh(session.as_mut(), "echo two >/etc/two");
    session.checkpoint(&bench.overlay("three", "two")).unwrap();
    files(session.guest());
    network(&bench, session.as_mut());
    session.checkpoint(&bench.overlay("four", "three")).unwrap();
    bench.sh(session.as_mut(), "rm -r /etc/tree; echo four >/etc/four");
    session.finish().unwrap();
    bench.seal(&["two", "three", "four"]);
    assert_eq!(processes(&bench.text("store")), Vec::<String>::new());
    assert!(!bench.events.lock().unwrap().iter().any(|event| event.contains("echo four")), "commands are not traced");
    assert!(bench.events.lock().unwrap().iter().any(|event| event.contains("libguestfs")), "calls are");

    // The layers, as others read them.
    let one = bench.check_clean("one");
    assert_eq!(cat(&one, "/etc/one"), "one\n");
    assert!(!names(&one, "/usr/sbin").contains("policy-rc.d"));
    let two = bench.check_clean("two");
    assert_eq!((cat(&two, "/etc/two"), cat(&one, "/etc/two")), ("two\n".into(), "".into()));
    let three = bench.check_clean("three");
    assert_eq!(cat(&three, "/etc/resolv.conf"), "nameserver 192.0.2.99\n");
    assert!(names(&three, "/etc").contains("tree"));
    let four = bench.check_clean("four");
    assert_eq!(cat(&four, "/etc/four"), "four\n");
    assert!(!names(&four, "/etc").contains("tree"));
    for folder in ["/", "/etc", "/tmp", "/run", "/usr/sbin", "/root"] {
        assert!(!names(&four, folder).contains("virt-maker"), "a trace in {folder}");
    }

    // A second session on what the first one made; it is dropped without an end.
    let mut session = bench.open("four", "five").unwrap();
    assert_eq!(bench.sh(session.as_mut(), "cat /etc/one /etc/two /etc/four").1, "one\ntwo\nfour\n");
    drop(session);
    assert_eq!(processes(&bench.text("store")), Vec::<String>::new());
}

fn commands(bench: &Bench, s: &mut dyn Session) {
    // Output, statuses, environment, confinement.
    assert_eq!(bench.sh(s, "echo out; echo err >&2; printf end"), (Exit::Status(0), "out\nerr\nend".into()));
    assert_eq!(bench.sh(s, "exit 3").0, Exit::Status(3));
    assert_eq!(bench.sh(s, "exit 137").0, Exit::Status(137));
    assert_eq!(bench.sh(s, "kill -9 $$").0, Exit::Signal(9));
    assert_eq!(bench.sh(s, "yes | head -n 1"), (Exit::Status(0), "y\n".into()));
    let (_, env) = bench.sh(s, "umask; pwd; id -u; cat /dev/stdin | wc -c; env | grep -v ^SHLVL | sort");
    let expected = "0022\n/\n0\n0\nDEBIAN_FRONTEND=noninteractive\nHOME=/root\nLANG=C.UTF-8\n\
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\n\
        SYSTEMD_DEVICE_VERIFY_SYSFS=0\nSYSTEMD_OFFLINE=1\nTERM=dumb\n";
    assert_eq!(env, expected);
    let (_, seen) =
        bench.sh(s, "ls -A /run; ls /dev; grep -o '[a-z0-9]*:' /proc/net/dev; hostname; grep CapBnd /proc/self/status");
    assert_eq!(
        seen,
        "lock\nudev\nblock\ndisk\nfd\nfull\nnull\nptmx\npts\nrandom\nsda\nsda1\nsda2\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
         lo:\ntiny-host\nCapBnd:\t00000000a80407fb\n"
    );
    assert_eq!(bench.sh(s, "/usr/sbin/policy-rc.d; echo $?").1, "101\n");
    let (exit, said) = bench.run(s, &Run { argv: vec!["/no/such/program".into()], ..Run::default() });
    assert!(exit == Exit::Status(127) && said.contains("/no/such/program"), "{exit:?} {said}");

    // A script with its own interpreter line, awkward words and variables; more than a call can carry.
    let mut run = Run {
        script: Some("#!/bin/sh -e\nprintf '%s|' \"$@\" \"$WORD\"\n".into()),
        argv: vec!["it's".into(), "a b\n$(id)".into(), String::new()],
        ..Run::default()
    };
    run.env.insert("WORD".into(), "x'y\"z".into());
    assert_eq!(bench.run(s, &run), (Exit::Status(0), "it's|a b\n$(id)||x'y\"z|".into()));
    // By a shell that is named, which counts the lines of the text alone.
    let script = Some("echo \"$1\"\n/no/such/program\n".into());
    let run = Run { script, shell: vec!["/bin/sh".into(), "-e".into()], argv: vec!["a b".into()], ..Run::default() };
    let (exit, said) = bench.run(s, &run);
    let numbered = said.contains("script: 2: ") || said.contains("script: line 2: ");
    assert!(exit == Exit::Status(127) && said.starts_with("a b\n") && numbered, "{exit:?} {said}");
    let filler = "# filler filler filler filler filler\n".repeat(160_000);
    let run = Run { script: Some(format!("#!/bin/sh\n{filler}echo long script done\n")), ..Run::default() };
    assert_eq!(bench.run(s, &run), (Exit::Status(0), "long script done\n".into()));
    let (_, much) = bench.sh(s, "head -c 9000000 /dev/zero | tr '\\0' x; echo end");
    assert_eq!((much.len(), much.ends_with("xend\n")), (9_000_004, true));

    // Output comes while the command runs: this one waits for a file that the watcher has no part in making, so its
    // first line must be there well before it ends.
    let log = Arc::clone(&bench.log);
    let watcher = std::thread::spawn(move || {
        while !log.lock().unwrap().starts_with(b"first") {
            std::thread::sleep(Duration::from_millis(5));
        }
        Instant::now()
    });
    let exit = s.guest().run(&shell("echo first; sleep 6")).unwrap();
    let ended = Instant::now();
    assert_eq!(exit, Exit::Status(0));
    assert!(ended - watcher.join().unwrap() > Duration::from_secs(1), "the first line came only at the end");
    bench.log();

    // What a step leaves running is gone before `run` returns.
    let left = "(while :; do date >/data/beat; done) & setsid sleep 1000 & sleep 1; echo up";
    assert_eq!(bench.sh(s, left), (Exit::Status(0), "up\n".into()));
    let beat = s.guest().read("/data/beat", 100).unwrap();
    // Into a file first, so that what is listed does not depend on how fast the parts of a pipe start. Whether `cat` itself
    // is listed depends on whether the guest's shell expands the pattern before it starts it.
    let (_, processes) = bench.sh(s, "sleep 2; cat /proc/[0-9]*/comm > /run/comms; sort -u /run/comms | grep -vx cat");
    assert_eq!(processes, "gawk\nsh\n");
    assert_eq!(s.guest().read("/data/beat", 100).unwrap(), beat);

    // One that takes too long is stopped with all that it started; one that does not is not touched.
    let timed = |script: &str, seconds| Run { timeout: Some(seconds), ..shell(script) };
    let script = "trap '' TERM INT; (while :; do date >/data/beat; done) & echo up; while :; do sleep 1000; done";
    let error = failure(s.guest().run(&timed(script, 2)));
    assert!(error.kind() == ErrorKind::Step && error.to_string().contains("after 2 s"), "{error}");
    assert_eq!(bench.log(), "up\n");
    let beat = s.guest().read("/data/beat", 100).unwrap();
    assert_eq!(bench.run(s, &timed("sleep 2; exit 5", 1000)).0, Exit::Status(5));
    assert_eq!(s.guest().read("/data/beat", 100).unwrap(), beat);
}

fn files(guest: &mut dyn Guest) {
    fn stat(guest: &mut dyn Guest, path: &str) -> virt_maker::guest::Stat {
        guest.stat(path).unwrap().unwrap()
    }
    guest.write("/etc/three", &mut &b"three\n"[..], NONE).unwrap();
    assert_eq!(guest.read("/etc/three", 6).unwrap(), b"three\n");
    for (path, limit) in [("/etc/three", 5), ("/etc", 5), ("/none", 5)] {
        assert_eq!(failure(guest.read(path, limit)).kind(), ErrorKind::Step, "{path}");
    }
    guest.mkdir("/etc/tree/a/b", NONE, true).unwrap();
    assert_eq!(stat(guest, "/etc/tree/a/b").mode, 0o755);
    assert!(guest.mkdir("/etc/none/b", NONE, false).is_err());
    guest.mkdir("/etc/tree/a", Attributes { mode: Some(0o1770), uid: Some(7), gid: None }, false).unwrap();
    let folder = stat(guest, "/etc/tree/a");
    assert_eq!((folder.kind, folder.mode, folder.uid, folder.gid), (FileKind::Directory, 0o1770, 7, 0));

    guest.write("/etc/tree/file", &mut &b"a\0b\xff"[..], NONE).unwrap();
    let file = stat(guest, "/etc/tree/file");
    assert_eq!((file.kind, file.mode, file.uid, file.gid, file.size), (FileKind::File, 0o644, 0, 0, 4));
    let special = Attributes { mode: Some(0o4711), uid: Some(12), gid: Some(34) };
    guest.write("/etc/tree/file", &mut &b"new"[..], special).unwrap();
    let file = stat(guest, "/etc/tree/file");
    assert_eq!((file.mode, file.uid, file.gid), (0o4711, 12, 34));
    guest.write("/etc/tree/file", &mut &b"newer"[..], NONE).unwrap();
    let file = stat(guest, "/etc/tree/file");
    assert_eq!((file.mode, file.uid, file.gid, file.size), (0o4711, 12, 34, 5), "what was there stays");
    guest.set_attributes("/etc/tree/file", Attributes { uid: Some(1), ..NONE }).unwrap();
    assert_eq!((stat(guest, "/etc/tree/file").mode, stat(guest, "/etc/tree/file").uid), (0o4711, 1));
    for content in ["longer than before", "short", "equal"] {
        guest.rewrite("/etc/tree/file", &mut content.as_bytes()).unwrap();
        assert_eq!(guest.read("/etc/tree/file", 99).unwrap(), content.as_bytes());
        assert_eq!((stat(guest, "/etc/tree/file").mode, stat(guest, "/etc/tree/file").uid), (0o4711, 1));
    }

    // More than one message of the protocol, there and back; sources and disks that fail on the way.
    let big: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    guest.write("/data/big", &mut &big[..], NONE).unwrap();
    assert!(guest.read("/data/big", 6_000_000).unwrap() == big);
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 = self.0.saturating_sub(buffer.len());
            if self.0 == 0 { Err(std::io::Error::other("the source broke")) } else { Ok(buffer.len()) }
        }
    }
    assert!(guest.write("/data/broken", &mut Broken(3_000_000), NONE).is_err());
    let full = failure(guest.write("/data/full", &mut std::io::repeat(1).take(20_000_000), NONE));
    assert_eq!(full.kind(), ErrorKind::Guest, "{full:?}");
    assert!(full.to_string().contains("full"), "{full}");
    let space = guest.space("/data").unwrap();
    assert!(space.free < 20_000_000 && space.free < space.total && space.total > 1_000_000, "{space:?}");
    // There is room for the new content once, and not twice.
    guest.write("/data/kept", &mut &b"kept"[..], NONE).unwrap();
    let full = failure(guest.rewrite("/data/kept", &mut std::io::repeat(1).take(space.free * 2 / 3)));
    assert_eq!(full.kind(), ErrorKind::Guest, "{full:?}");
    assert_eq!(&guest.read("/data/kept", space.free).unwrap()[..4], b"kept");
    guest.remove("/data/kept").unwrap();
    assert_eq!(guest.read_dir("/data").unwrap(), ["beat", "big", "lost+found"], "no half file is left");

    // Links: replaced and not followed at the end, inside the root on the way.
    guest.symlink("../../../../etc/one", "/etc/tree/link").unwrap();
    guest.symlink("/etc/one", "/etc/tree/link").unwrap();
    assert_eq!(stat(guest, "/etc/tree/link").target.as_deref(), Some("/etc/one"));
    assert_eq!(guest.read("/etc/tree/link", 100).unwrap(), b"one\n");
    guest.set_attributes("/etc/tree/link", Attributes { uid: Some(9), ..NONE }).unwrap();
    assert_eq!((stat(guest, "/etc/tree/link").uid, stat(guest, "/etc/one").uid), (9, 0));
    guest.write("/etc/tree/link", &mut &b"plain"[..], NONE).unwrap();
    assert_eq!(stat(guest, "/etc/tree/link").kind, FileKind::File);
    assert_eq!(guest.read("/etc/one", 9).unwrap(), b"one\n");
    guest.mkdir("/etc/tree/gone/sub", NONE, true).unwrap();
    guest.write("/root/out/etc/tree/gone/through-link", &mut &b"x"[..], NONE).unwrap();
    assert!(guest.stat("/etc/tree/gone/through-link").unwrap().is_some());
    guest.remove("/root/out/etc/tree/gone").unwrap();
    assert!(guest.stat("/etc/tree/gone").unwrap().is_none());
    guest.symlink("/etc/tree", "/etc/tree-link").unwrap();
    guest.remove("/etc/tree-link").unwrap();
    assert!(guest.stat("/etc/tree/file").unwrap().is_some(), "a link is removed, not its target");
    guest.remove("/etc/tree/none/none").unwrap();
    guest.rename("/etc/tree/file", "/etc/tree/renamed").unwrap();
    assert_eq!(guest.read_dir("/etc/tree").unwrap(), ["a", "link", "renamed"]);
    for path in ["/", "relative", "", "/etc/.."] {
        assert_eq!(failure(guest.remove(path)).kind(), ErrorKind::Step, "{path:?}");
    }
}

fn network(bench: &Bench, session: &mut dyn Session) {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"hello from the host\n").unwrap();
    });
    // The gateway of qemu's user network is the host's loopback.
    let script = format!("nc 169.254.2.2 {port} </dev/null; echo proxy $http_proxy; cat /etc/resolv.conf");
    let run = |network| Run {
        network,
        resolv_conf: Some("nameserver 127.0.0.53\nsearch test.example\n".into()),
        ..shell(&script)
    };
    let (_, without) = bench.run(session, &run(false));
    assert!(without.contains("unreachable") && without.ends_with("proxy\nnameserver 192.0.2.99\n"), "{without}");
    let (_, with) = bench.run(session, &run(true));
    assert_eq!(with, "hello from the host\nproxy http://169.254.2.2:9/\nnameserver 169.254.2.3\nsearch test.example\n");
    answers.join().unwrap();
    assert!(bench.run(session, &run(false)).1.contains("unreachable"), "without again");
    // A link to a place under /run, and nothing at all. What the command makes of the file is not kept.
    for setup in ["ln -sf ../run/systemd/resolve/stub.conf /etc/resolv.conf", "rm -f /etc/resolv.conf"] {
        bench.sh(session, setup);
        let show = "cat /etc/resolv.conf; echo x >/etc/new && mv /etc/new /etc/resolv.conf || echo failed";
        let show = Run { argv: shell(show).argv, ..run(true) };
        let said = bench.run(session, &show).1;
        assert!(said.starts_with("nameserver 169.254.2.3\nsearch test.example\n"), "{setup}: {said}");
        assert_eq!(said.lines().count(), 3, "{setup}: {said}");
        assert!(said.contains("/etc/resolv.conf is not kept"), "{setup}: {said}");
        let link = session.guest().stat("/etc/resolv.conf").unwrap().and_then(|stat| stat.target);
        assert_eq!(link.as_deref(), setup.starts_with("ln").then_some("../run/systemd/resolve/stub.conf"));
    }
    assert!(session.guest().stat("/etc/resolv.conf").unwrap().is_none(), "no trace of the placeholder");
    session.guest().write("/etc/resolv.conf", &mut &b"nameserver 192.0.2.99\n"[..], NONE).unwrap();
    // The guest's own policy is put back.
    let own = Attributes { mode: Some(0o700), ..NONE };
    session.guest().write("/usr/sbin/policy-rc.d", &mut &b"#!/bin/sh\nexit 7\n"[..], own).unwrap();
    assert_eq!(bench.sh(session, "/usr/sbin/policy-rc.d; echo $?").1, "101\n");
    assert_eq!(session.guest().read("/usr/sbin/policy-rc.d", 99).unwrap(), b"#!/bin/sh\nexit 7\n");
    assert_eq!(session.guest().stat("/usr/sbin/policy-rc.d").unwrap().unwrap().mode, 0o700);
    session.guest().remove("/usr/sbin/policy-rc.d").unwrap();
}

#[test]
fn guests_that_cannot_be_opened_and_builds_that_are_stopped_end_cleanly() {
    let gone = |bench: &Bench| assert_eq!(processes(&bench.text("store")), Vec::<String>::new());
    let folders = SocketFolders::of(0);

    let bench = Bench::new("UUID=no-such-disk /usr ext4 defaults 0 2\n", false);
    let error = failure(bench.open("base", "one"));
    assert_eq!(error.kind(), ErrorKind::Guest, "{error:?}");
    assert!(error.to_string().contains("UUID=no-such-disk at /usr"), "{error}");
    assert!(error.hint().unwrap().contains("nofail"));
    gone(&bench);
    drop(bench);

    let bench = Bench::new(PLAIN_FSTAB, true);
    let error = failure(bench.open("base", "one"));
    assert_eq!(error.kind(), ErrorKind::Guest, "{error:?}");
    assert!(error.to_string().contains("/dev/sda1") || error.to_string().contains("/dev/sdb1"), "{error}");
    gone(&bench);
    // Stopped while the appliance boots.
    let cancel = bench.cancel.clone();
    let work = bench.text("work");
    let stopper = std::thread::spawn(move || {
        while !processes(&work).iter().any(|line| line.contains("qemu") && line.contains("-blockdev")) {
            std::thread::sleep(Duration::from_millis(20));
        }
        cancel.cancel();
    });
    let error = failure(bench.open("base", "two"));
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
    stopper.join().unwrap();
    gone(&bench);
    drop(bench);

    let fstab = "UUID=no-such-disk /data ext4 defaults,nofail 0 2\n/dev/sdb1 /x ext4 noauto 0 0\n";
    let bench = Bench::new(fstab, false);
    let mut session = bench.open("base", "one").unwrap();
    assert!(bench.events.lock().unwrap().iter().any(|event| event.contains("Warning") && event.contains("/data")));
    // A full disk, then a checkpoint, which still works.
    let (exit, said) = bench.sh(session.as_mut(), "cat /dev/zero >/fill");
    assert!(exit != Exit::Status(0) && said.contains("No space left"), "{exit:?} {said}");
    session.checkpoint(&bench.overlay("two", "one")).unwrap();
    // Stopped while a command runs.
    let cancel = bench.cancel.clone();
    let log = Arc::clone(&bench.log);
    let stopper = std::thread::spawn(move || {
        while !log.lock().unwrap().ends_with(b"going\n") {
            std::thread::sleep(Duration::from_millis(5));
        }
        cancel.cancel();
    });
    let error = failure(session.guest().run(&shell("echo going; sleep 100000")));
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
    stopper.join().unwrap();
    assert_eq!(failure(session.finish()).kind(), ErrorKind::Cancelled);
    gone(&bench);
    bench.seal(&["one"]);
    bench.check_clean("one");
    folders.are_gone();
    let left = fs::read_dir(bench.path("work")).unwrap().map(|entry| entry.unwrap());
    let left: Vec<_> = left.filter(|entry| !entry.file_type().unwrap().is_socket()).collect();
    assert!(left.is_empty(), "only sockets are left: {left:?}");
}

/// A qemu whose machine hangs is killed; one that breaks down is started again. A fake in its place is for what cannot be
/// provoked: in the end it is the real one.
#[test]
fn a_libguestfs_whose_qemu_hangs_or_breaks_down() {
    let bench = Bench::new(PLAIN_FSTAB, false);
    let (hang, fail) = (bench.path("hang"), bench.path("fail"));
    let program = bench.path("qemu");
    let script = format!(
        "#!/bin/bash\ncase \" $* \" in *guestfsd.sock*)\n  [ ! -e {0} ] || kill -STOP $$\n  if [ -e {1} ]; then\n    rm {1}\n    \
         echo \"qemu-system-x86_64: a.c:1: f: Assertion \\`x' failed.\" >&2\n    exit 134\n  fi\nesac\n\
         exec qemu-system-x86_64 \"$@\"\n",
        hang.display(),
        fail.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options = LibguestfsOptions { qemu: Some(program), ..options() };

    fs::write(&hang, "").unwrap();
    let patience = Duration::from_secs(2);
    let error = failure(bench.open_with("base", "one", LibguestfsOptions { cpus: 1, patience, ..options.clone() }));
    assert!(error.to_string().contains("did not come up within 2 s"), "{error}");
    assert_eq!(processes(bench.top.path().to_str().unwrap()), Vec::<String>::new());
    fs::remove_file(&hang).unwrap();

    fs::write(&fail, "").unwrap();
    let mut session = bench.open_with("base", "two", options).unwrap();
    assert!(!fail.exists(), "the fake broke down");
    assert_eq!(bench.sh(session.as_mut(), "echo up"), (Exit::Status(0), "up\n".into()));
    let warned = |event: &String| event.contains("a second attempt is made");
    assert_eq!(bench.events.lock().unwrap().iter().filter(|event| warned(event)).count(), 1);
    session.finish().unwrap();
}

/// The kernel names disks in the order in which it sees them, libguestfs by where they are; that one is as text, so that 10
/// comes before 2. Which order the kernel takes is chance; a wrapper around qemu makes the two differ always.
#[test]
fn a_libguestfs_whose_names_of_disks_are_not_the_kernel_s() {
    let bench = Bench::new(PLAIN_FSTAB, false);
    // A cache that looks like a system of its own, and has the label that the guest's fstab names.
    let cache = bench.path("cache.raw");
    fs::create_dir_all(bench.path("second/etc")).unwrap();
    fs::create_dir_all(bench.path("second/bin")).unwrap();
    fs::write(bench.path("second/etc/passwd"), "").unwrap();
    fs::write(bench.path("second/mark"), "the cache's\n").unwrap();
    tool("mke2fs", &["-q", "-t", "ext4", "-L", "data", "-d", &bench.text("second"), &bench.text("cache.raw"), "16M"]);

    let program = bench.path("qemu");
    let script = "#!/bin/bash\narguments=()\nfor argument; do\n  case $argument in\n    scsi-hd,drive=o0) argument+=,scsi-id=10 ;;\n    \
                  scsi-hd,drive=virt-maker-cache-0,*) argument+=,scsi-id=2 ;;\n  esac\n  arguments+=(\"$argument\")\ndone\n\
                  exec qemu-system-x86_64 \"${arguments[@]}\"\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options = LibguestfsOptions { qemu: Some(program), ..options() };
    let caches = [CacheDisk { name: "one".into(), path: cache }];
    let mut session = bench.open_beside(&caches, "base", "one", options).unwrap();
    let look = "cat /etc/hostname; ls /data; ls /mark /data/mark 2>/dev/null; true";
    assert_eq!(bench.sh(session.as_mut(), look), (Exit::Status(0), "tiny-host\nlost+found\n".into()));
    session.finish().unwrap();
}

const CHILD: &str = "VIRT_MAKER_TEST_LIBGUESTFS_CHILD";

/// Not a test of its own: what the next test runs as another process and another user.
#[test]
fn child_opens_a_shell_and_then_hangs() {
    let Some(top) = std::env::vars_os().find(|(name, _)| name == CHILD).map(|(_, top)| PathBuf::from(top)) else {
        return;
    };
    let options = LibguestfsOptions { cache_dir: Some(top.join("cache")), verbose: true, ..options() };
    let mut session = LibguestfsEngine::new(options)
        .open(OpenRequest {
            parent: &Image::alone(&top.join("store/base.qcow2"), ImageFormat::Qcow2).unwrap(),
            overlay: &top.join("store/temporary/one.qcow2"),
            overlays: 1,
            work_dir: &top.join("work"),
            output: Arc::new(|_| {}),
            events: Events::none(),
            cancel: Cancel::default(),
            caches: &[],
            to_mend: false,
            network_env: &BTreeMap::new(),
            network: false,
            host_network: false,
        })
        .unwrap();
    session.shell(false).unwrap();
    println!("typed: {}", String::from_utf8_lossy(&session.guest().read("/etc/typed", 100).unwrap()));
    session.guest().run(&shell("sleep 100000")).unwrap();
}

#[test]
fn an_ordinary_user_gets_a_shell_and_a_kill_leaves_nothing() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{Winsize, tcsetwinsize};

    let bench = Bench::new(PLAIN_FSTAB, false);
    let folders = SocketFolders::of(65534);
    bench.overlay("one", "base");
    // The socket's path would be too long for the work folder's own name.
    fs::create_dir(bench.path("cache")).unwrap();
    let program = bench.text("child");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    tool("chown", &["-R", "65534:65534", bench.top.path().to_str().unwrap()]);

    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    tcsetwinsize(&terminal, Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let open = || File::options().read(true).write(true).open(&name).unwrap();
    let mut child = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", &program])
        .args(["--exact", "engine_libguestfs::child_opens_a_shell_and_then_hangs", "--nocapture"])
        .env(CHILD, bench.top.path())
        .stdin(open())
        .stdout(open())
        .stderr(open())
        .spawn()
        .unwrap();
    let mut terminal = File::from(terminal);
    let screen: Arc<Mutex<String>> = Arc::default();
    let (mut keyboard, shown) = (terminal.try_clone().unwrap(), Arc::clone(&screen));
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = terminal.read(&mut buffer) {
            shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
    let mut wait = |text: &str| {
        let begin = Instant::now();
        while !screen.lock().unwrap().contains(text) {
            let ended = child.try_wait().unwrap();
            let screen = screen.lock().unwrap();
            assert!(ended.is_none() && begin.elapsed() < Duration::from_secs(120), "no {text:?} on {screen:?}");
            drop(screen);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait("# ");
    std::io::Write::write_all(&mut keyboard, b"stty size >/etc/typed; echo seen-$((40 + 2)); exit\n").unwrap();
    wait("seen-42");
    wait("typed: 33 99");
    folders.are_gone();
    child.kill().unwrap();
    child.wait().unwrap();
    // libguestfs's recovery process looks every two seconds; no end of this loop is a failure of the whole run.
    while !processes(&bench.text("store")).is_empty() {
        std::thread::sleep(Duration::from_millis(50));
    }
    folders.are_gone();
    drop(keyboard);
    reader.join().unwrap();
}
