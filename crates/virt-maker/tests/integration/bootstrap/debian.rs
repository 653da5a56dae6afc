//! Debian and Ubuntu, for real: packages from a mirror, a disk that boots, and what happens when that cannot be.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::Instant;

use testkit::{HostState, Machine, Targets, Volumes, appliance_lock, fsck_clean, read_file_from_image, run};
use virt_maker::error::ErrorKind;
use virt_maker::event::Events;

use super::bench::{Bench, PATIENCE};

/// With the proxies of the test's own environment, as the command line passes them on.
fn with_proxies() -> Bench {
    let proxies = std::env::vars().filter(|(name, _)| name.to_lowercase().ends_with("_proxy"));
    Bench { env: proxies.collect(), ..Bench::new() }
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in:\n{text}"));
    line.trim().to_owned()
}

#[test]
fn bookworm_boots_to_a_login_with_an_address() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let mut bench = with_proxies();
    // For UEFI, too: what every template without a word gets is booted by all other tests.
    // A host with a mirror of its own, by another spelling: packages come from there, and the guest does not know it.
    let near = "http://deb.debian.org:80/debian";
    let (sources, conf) = (bench.folder.path().join("sources.list"), bench.folder.path().join("apt.conf"));
    fs::write(&sources, format!("deb {near} bookworm main\n")).unwrap();
    let settings = "Dir::Etc::sourcelist \"SOURCES\"; Dir::Etc::sourceparts \"/dev/null\";";
    fs::write(&conf, settings.replace("SOURCES", sources.to_str().unwrap())).unwrap();
    bench.env.insert("APT_CONFIG".into(), conf.to_str().unwrap().into());
    let begin = Instant::now();
    let made = bench.make("{suite: bookworm, size: 2G, packages: [less], firmware: both}", Events::none());
    made.unwrap_or_else(|error| panic!("{error}: {:?}\n{}", error.hint(), bench.log()));
    println!("bootstrap: {:.1} s", begin.elapsed().as_secs_f64());
    assert_eq!(bench.strays(), Vec::<String>::new());
    before.assert_nothing_left();

    // The disk, by the word of others.
    let image = bench.image();
    assert_eq!(fs::metadata(&image).unwrap().len(), 2 << 30);
    run(Command::new("sfdisk").arg("--verify").arg(&image));
    fsck_clean(&image, "raw");
    let volumes = Volumes::of(&image, "raw");
    let root = volumes.volumes.last().unwrap();
    assert_eq!((volumes.volumes.len(), root.number, root.fs.as_str()), (3, 3, "ext4"));
    let header = String::from_utf8(run(Command::new("dumpe2fs").arg("-h").arg(&root.path)).stdout).unwrap();
    let features = field(&header, "Filesystem features:");
    assert!(!features.contains("metadata_csum_seed") && !features.contains("orphan_file"), "{features}");
    let uuid = field(&header, "Filesystem UUID:");
    let text = |path: &str| String::from_utf8(read_file_from_image(&image, path)).unwrap();
    let esp = &volumes.volumes[1];
    let esp_uuid =
        String::from_utf8(run(Command::new("blkid").args(["-o", "value", "-s", "UUID"]).arg(&esp.path)).stdout);
    let lines = [
        format!("UUID={uuid} / ext4 errors=remount-ro 0 1\n"),
        format!("UUID={} /boot/efi vfat umask=0077 0 1\n", esp_uuid.unwrap().trim()),
    ];
    assert_eq!((text("/etc/fstab"), esp.fs.as_str()), (lines.concat(), "vfat"));
    run(Command::new("fsck.vfat").arg("-n").arg(&esp.path));
    assert!(text("/boot/grub/grub.cfg").contains(&format!("root=UUID={uuid} ")));
    assert_eq!(text("/etc/hostname"), "debian\n");
    assert_eq!(text("/etc/machine-id"), "");
    assert!(text("/usr/share/doc/less/copyright").contains("less"));
    // No password opens it: what stands there is no digest.
    let shadow = text("/etc/shadow");
    let root_login = shadow.lines().find_map(|line| line.strip_prefix("root:")).unwrap_or_else(|| panic!("{shadow}"));
    assert!(root_login.starts_with(['*', '!']), "{shadow}");
    assert!(bench.log().contains(near), "{}", bench.log());
    let sources = text("/etc/apt/sources.list");
    assert!(sources.contains("deb http://deb.debian.org/debian bookworm main\n"), "{sources}");
    assert!(!sources.contains(near), "{sources}");
    assert!(text("/etc/default/grub.d/50-serial.cfg").contains("ttyS0"));

    // Nothing of the making is in it: neither mmdebstrap's stand-ins nor the host's own files.
    let list = |folder: &str| {
        let listed = run(Command::new("debugfs").args(["-R", &format!("ls -p {folder}")]).arg(&root.path));
        let listed = String::from_utf8(listed.stdout).unwrap();
        let names = listed.lines().filter_map(|line| line.split('/').nth(5)).map(str::to_owned);
        names.filter(|name| !name.is_empty() && name != "." && name != "..").collect::<Vec<_>>()
    };
    for empty in ["/proc", "/sys", "/dev", "/run", "/tmp", "/var/lib/apt/lists", "/boot/efi"] {
        assert_eq!(list(empty), Vec::<String>::new(), "{empty}");
    }
    assert!(!list("/usr/sbin").iter().any(|name| name == "policy-rc.d" || name == "start-stop-daemon.REAL"));
    assert!(!list("/etc/apt/apt.conf.d").iter().any(|name| name.contains("mmdebstrap")));
    let stat = |path: &str| {
        let stat = run(Command::new("debugfs").args(["-R", &format!("stat {path}")]).arg(&root.path));
        String::from_utf8(stat.stdout).unwrap()
    };
    assert!(stat("/etc/resolv.conf").contains("../run/systemd/resolve/stub-resolv.conf"));
    assert!(stat("/etc/shadow").contains("Mode:  0640") && stat("/etc/shadow").contains("Group:    42"));
    assert!(stat("/usr/bin/passwd").contains("Mode:  04755"));

    // And it boots.
    let machine = Machine::boot(&image, "raw");
    let console = machine.wait_for("login: ", PATIENCE);
    assert!(console.contains("debian login: "), "{console}");
    assert!(console.contains("Debian GNU/Linux 12"), "{console}");
    machine.wait_for_lease(PATIENCE);
    drop(machine);
    before.assert_nothing_left();
}

#[test]
fn wrong_arguments_say_where_and_what() {
    let bench = with_proxies();
    bench.refuses("size: 4G\n", 1, &["`suite` is missing"]);
    bench.refuses("suite: bookwurm\n", 1, &["bookwurm", "did you mean `bookworm`"]);
    bench.refuses("suite: '--format=tar'\n", 1, &["not the name of a suite"]);
    bench.refuses("suite: bookworm\nmirorr: x\n", 2, &["mirorr", "did you mean `mirror`"]);
    bench.refuses("suite: bookworm\nmirror: ftp://x\n", 2, &["URL"]);
    bench.refuses("suite: bookworm\nmirror: \"http://x\\ndeb http://evil sid main\"\n", 2, &["URL"]);
    bench.refuses("suite: bookworm\nsize: 4\n", 2, &["512M", "`4G`"]);
    bench.refuses("suite: bookworm\nsize: 99999999999999999999T\n", 2, &["16T"]);
    bench.refuses("suite: bookworm\nsize: 10M\n", 2, &["512M"]);
    bench.refuses("suite: bookworm\npackages:\n  - nginx\n  - '-o=Dir::Etc=/'\n", 4, &["not the name of a package"]);
    bench.refuses("suite: bookworm\npackages: 'a,b; rm'\n", 2, &["not the name of a package"]);
    bench.refuses("suite: bookworm\npackages: systemd-\n", 2, &["not the name of a package"]);
    for taken in ["suite: noble", "{suite: own, mirror: 'http://mirror.example/debian'}", "{suite: sid, packages: g++}"]
    {
        assert!(bench.parse(taken).is_ok(), "{taken}");
    }
}

#[test]
fn the_key_is_what_the_template_means() {
    let bench = with_proxies();
    let key = |arguments: &str| bench.key(arguments).unwrap();
    let plain = key("suite: bookworm");
    // Another name or value here makes every base in every store a miss.
    let pinned = serde_json::json!({ "suite": "bookworm", "mirror": [], "packages": [], "size": 4_u64 << 30 });
    assert_eq!((&plain.arguments, plain.inputs.len()), (&pinned, 0));
    assert_eq!(plain, key("{suite: bookworm, size: 4096MiB, packages: []}"));
    assert_eq!(plain, key("{suite: bookworm, firmware: bios}"));
    assert_ne!(key("{suite: bookworm, firmware: uefi}"), key("{suite: bookworm, firmware: both}"));
    assert_ne!(plain, key("{suite: bookworm, size: 5G}"));
    assert_ne!(plain, key("{suite: bookworm, mirror: 'http://deb.debian.org/debian'}"));
    assert_ne!(key("{suite: bookworm, packages: [a, b]}"), key("{suite: bookworm, packages: [b, a]}"));
    assert_eq!(key("{suite: bookworm, packages: [a]}"), key("{suite: bookworm, packages: a}"));
}

/// A mirror that has nothing: it answers 404, and shows that it was asked.
fn empty_mirror() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/debian", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                while stream.read(&mut request).is_ok_and(|count| count > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
                }
            });
        }
    });
    url
}

#[test]
fn failures_are_explained_and_leave_nothing() {
    let before = HostState::capture();
    let fails = |arguments: &str, words: &[&str]| {
        let mut bench = with_proxies();
        // Names on this machine are asked directly.
        bench.env.insert("no_proxy".into(), "127.0.0.1".into());
        let error = bench.make(arguments, Events::none()).unwrap_err();
        let said = format!("{error} | {}", error.hint().unwrap_or_default());
        words.iter().for_each(|word| assert!(said.contains(word), "no `{word}` in: {said}"));
        assert_eq!(error.kind(), ErrorKind::Base, "{said}");
        assert_eq!(bench.strays(), Vec::<String>::new());
        assert!(bench.path.join("log").exists());
    };
    let mirror = empty_mirror();
    fails(&format!("{{suite: own, mirror: '{mirror}'}}"), &["cannot bootstrap own", &mirror, "does the mirror have"]);
    // Nobody listens on port 9 of this machine.
    fails(
        "{suite: own, mirror: 'http://127.0.0.1:9/debian'}",
        &["cannot bootstrap own", "127.0.0.1:9", "is the mirror reachable"],
    );
    fails("{suite: bookworm, packages: [there-is-no-such-package]}", &["there-is-no-such-package", "`packages`"]);
    before.assert_nothing_left();
}

#[test]
fn packages_that_do_not_fit_are_a_clear_error() {
    let before = HostState::capture();
    let (bench, targets) = (Bench::new(), Targets::new());
    let packages = bench.folder.path().join("packages");
    targets.attack().deb_repository(&packages, bench.folder.path());
    let mirror = format!("deb [trusted=yes] copy:{} own main", packages.display());
    let error =
        bench.make(&format!("{{suite: own, size: 512M, mirror: '{mirror}', packages: [large]}}"), Events::none());
    let error = error.unwrap_err();
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("`size`"), "{error} | {hint}");
    assert_eq!((error.kind(), bench.strays()), (ErrorKind::Base, Vec::new()));
    drop(targets);
    before.assert_nothing_left();
}

#[test]
fn a_cancelled_bootstrap_is_gone() {
    let before = HostState::capture();
    let bench = with_proxies();
    // In the midst of it: dpkg runs in its own session by then.
    let error = bench.cancelled_at("extracting archives", "suite: bookworm");
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    before.assert_nothing_left();
    assert_eq!(bench.strays(), Vec::<String>::new());
}
