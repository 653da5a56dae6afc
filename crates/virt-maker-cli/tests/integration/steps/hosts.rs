//! What steps refuse, and scripts on the host.

use std::fs;
use std::io::Write;

use testkit::{TinyOptions, tiny_guest};

use super::case;
use crate::common::Bench;
use testkit::http_server::{Fault, Server};

on_chroot_and_vm!(scripts_on_the_host_need_permission, what_a_guest_lacks_is_named, hostile_archives_are_refused);

fn scripts_on_the_host_need_permission(engine: &str) {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let steps = [
        "local_run: |\n        pwd > ran\n        echo said\n        echo wrong >&2".to_owned(),
        "run: 'true'".to_owned(),
    ];
    let template = bench.template("t.yml", &steps, "");
    let ran = bench.build(engine, &template, &[]).exits(1);
    assert!(ran.stderr.contains("--allow host-exec") && ran.stderr.contains("t.yml:5:7"), "{}", ran.stderr);
    assert!(!bench.path("ran").exists() && bench.layers().is_empty());

    let ran = bench.build(engine, &template, &["--allow", "host-exec"]).exits(0);
    assert_eq!(fs::read_to_string(bench.path("ran")).unwrap().trim(), bench.folder.path().to_str().unwrap());
    let said = ran.said();
    assert!(said.contains("said\n") && said.contains("wrong\n"), "{said}");
    // Done once: its layer is there.
    fs::remove_file(bench.path("ran")).unwrap();
    bench.build(engine, &template, &["--allow", "host-exec"]).exits(0);
    assert!(!bench.path("ran").exists());

    // One that fails ends the build, and is no layer at the next one.
    let template = bench.template("f.yml", &["local_run: exit 3".to_owned()], "");
    for _ in 0..2 {
        let ran = bench.build(engine, &template, &["--allow", "host-exec"]).exits(4);
        assert!(ran.stderr.contains("exit status: 3"), "{}", ran.stderr);
    }
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

/// Wrong arguments of every kind: one message each, with its place, before anything is built.
#[test]
fn wrong_arguments_are_refused_with_their_place() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    for (step, expected) in [
        ("mkdir: relative/path", "absolute path in the guest"),
        ("mkdir: /a/../../etc", "without `..`"),
        ("mkdir: {path: /a, chmod: '9'}", "not a mode"),
        ("mkdir: {path: /a, mode: '0755'}", "unknown argument `mode`"),
        ("file: {path: /a}", "one of `content`"),
        ("file: {path: /a, content: x, variables: {a: 1}}", "`variables` are for `template`"),
        ("file: {path: /a, template: no/such/file}", "cannot read the template"),
        ("delete: /", "absolute path"),
        ("delete: '/var/cache/*'", "takes names as they are"),
        ("delete: []", "empty"),
        ("move: {from: /a, to: /a/b}", "below it"),
        ("move: {from: /a}", "`to` is missing"),
        ("link: {path: /a, target: ''}", "1 to 4095 bytes"),
        ("edit: {path: /a, match: '(', replace: ''}", "not a regular expression"),
        ("user: {name: 'a;b'}", "not the name of a user"),
        ("user: {name: -x}", "not the name of a user"),
        ("user: {name: a, password_hash: secret}", "a hash as `crypt` makes it"),
        ("user: {name: a, shell: '/bin/sh:x'}", "/etc/passwd"),
        ("user: {name: a, ssh_keys: [\"ssh-rsa AAAA\\nssh-rsa AAAA\"]}", "one line with a public SSH key"),
        ("service: {}", "names of services"),
        ("service: {enable: '--now'}", "is not a name"),
        ("service: {start: a}", "unknown argument `start`"),
        ("install: ['a b']", "not the name of a package"),
        ("remove: '$(x)'", "not the name of a package"),
        ("update: all", "expected nothing"),
        ("repo: {name: a, url: 'https://x'}", "one of `key`"),
        ("repo: {name: ../a, url: 'https://x', unsigned: true}", "expected a name"),
        ("repo: {name: a, url: \"https://x\\nEvil: yes\", unsigned: true}", "expected a URL"),
        ("repo: {name: a, url: 'https://x', suite: ./, components: [main], unsigned: true}", "has no components"),
        ("selinux: [on]", "expected a word"),
        ("selinux: strict", "unknown value `strict`"),
        ("grub_append: 'a b'", "one argument of a kernel"),
        ("grub_append: ['x=$(y)']", "one argument of a kernel"),
        ("rootpass: hunter2", "expected `password:TEXT`"),
        ("rootpass: \"password:a\\nb\"", "one line"),
        ("ssh_keygen: ../x", "is not a name"),
        ("firstboot: ''", "the script is empty"),
        ("local_run: ''", "the script is empty"),
        ("download_to: {url: 'ftp://x/y', dest: /a, checksum: 'sha256:0'}", "expected a URL"),
        ("download_to: {url: 'https://x/y', dest: /a}", "`checksum` is missing"),
        ("unpack: {source: a.tar, dest: x}", "absolute path"),
        ("unpack: {source: a.tar, dest: /x, strip: -1}", "strip"),
        ("sysprep: {all: true}", "expected nothing"),
    ] {
        let template = bench.template("t.yml", &[step.to_owned()], "");
        let ran = bench.build("chroot", &template, &[]).exits(1);
        assert!(
            ran.stderr.contains(expected) || ran.stderr.contains("t.yml:5") && expected == "strip",
            "`{step}`: {}",
            ran.stderr
        );
        assert!(ran.stderr.contains("t.yml:5:"), "`{step}`: {}", ran.stderr);
        assert!(!ran.stderr.contains("hunter2") && !ran.stderr.contains("secret"), "{}", ran.stderr);
    }
    assert!(bench.layers().is_empty());
}

/// A guest that lacks what a step needs: one error that names it.
fn what_a_guest_lacks_is_named(engine: &str) {
    let files = vec![("/etc/os-release".to_owned(), b"ID=plan9\n".to_vec(), 0o644)];
    let bench = Bench::new(tiny_guest(&TinyOptions { files, ..TinyOptions::default() }));
    let empty = format!("sha256:{}", super::sha256(b"x"));
    fs::write(bench.path("payload"), "other").unwrap();
    let download =
        format!("download_to: {{url: 'file://{}', dest: /a, checksum: '{empty}'}}", bench.path("payload").display());
    for (step, expected, code) in [
        ("update:", "no package manager is known", 4),
        ("grub_append: quiet", "the guest has no GRUB", 4),
        ("selinux: disabled", "the guest has no SELinux", 4),
        ("firstboot: echo", "neither systemd nor", 4),
        ("service: {enable: a}", "none of systemctl", 4),
        ("ssh_keygen: root", "no program `ssh-keygen`", 4),
        ("user: {name: a, sudo: true}", "no program `sudo`", 4),
        ("user: {name: a, shell: /bin/zsh}", "has no /bin/zsh", 4),
        ("user: {name: a, groups: nosuch}", "has no `nosuch`", 4),
        ("edit: {path: /etc/hosts, match: nowhere, replace: x}", "is nowhere in /etc/hosts", 4),
        ("edit: {path: /etc/none, match: x, replace: x}", "the guest has no /etc/none", 4),
        ("move: {from: /none, to: /b}", "is not there in the guest", 4),
        ("move: {from: /etc/hosts, to: /etc}", "is a folder of the guest already", 4),
        ("link: {path: /etc, target: x}", "is a folder of the guest", 4),
        ("mkdir: {path: /a, chown: nosuch}", "has no `nosuch`", 4),
        (&download, "wrong checksum", 1),
    ] {
        let template = bench.template("t.yml", &[step.to_owned()], "");
        let ran = bench.build(engine, &template, &[]);
        assert!(ran.stderr.contains(expected), "`{step}`: {}", ran.stderr);
        ran.exits(code);
    }
}

/// Archives that want out of their folder, by python's `tarfile` and `zipfile`, which write whatever they are told.
fn hostile_archives_are_refused(engine: &str) {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let tar = |body: &str| {
        format!(
            "import io, tarfile\nt = tarfile.open('a', 'w')\ndef add(name, kind=tarfile.REGTYPE, link='', data=b'x'):\n i = tarfile.TarInfo(name); i.type = kind; i.linkname = link; i.size = len(data) if kind == tarfile.REGTYPE else 0\n t.addfile(i, io.BytesIO(data))\n{body}\nt.close()"
        )
    };
    let zip =
        |name: &str| format!("import zipfile\nz = zipfile.ZipFile('a', 'w')\nz.writestr('{name}', 'x')\nz.close()");
    for (script, expected) in [
        (tar("add('../x')"), "leads out of the folder"),
        (tar("add('a/../../x')"), "leads out of the folder"),
        (tar("add('/etc/x')"), "leads out of the folder"),
        (tar("add('l', tarfile.SYMTYPE, '/etc')"), "outside of the folder"),
        (tar("add('s/l', tarfile.SYMTYPE, '../../etc')"), "outside of the folder"),
        (tar("add('d', tarfile.DIRTYPE); add('l', tarfile.SYMTYPE, 'd'); add('l/x')"), "goes through a link"),
        (tar("add('h', tarfile.LNKTYPE, '../../etc/passwd')"), "leads out of the folder"),
        (tar("add('dev', tarfile.CHRTYPE)"), "is a device"),
        (tar("add('pipe', tarfile.FIFOTYPE)"), "is a device"),
        (zip("../x"), "leads out of the folder"),
        (zip("a\\\\..\\\\x"), "leads out of the folder"),
        ("open('a', 'w').write('no archive')".to_owned(), "no archive that is known"),
        ("open('a', 'w')".to_owned(), "no archive that is known"),
    ] {
        let mut python = std::process::Command::new("python3")
            .arg("-")
            .current_dir(bench.folder.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(python.wait().unwrap().success());
        let template = bench.template("t.yml", &["unpack: {source: a, dest: /srv/x}".to_owned()], "");
        let ran = bench.build(engine, &template, &[]);
        assert!(ran.stderr.contains(expected), "{script}: {}", ran.stderr);
        assert_ne!(ran.status, Some(0));
        assert_eq!(bench.layers().len(), 1, "only the base");
    }
}

/// `virt-customize` of a newer release is not to be had here, so a program of that name notes what it is told. The host's
/// own is older, and the error says so.
#[test]
fn windows_guests_are_served_on_the_disk_itself() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    fs::write(bench.path("drivers.iso"), "iso").unwrap();
    let steps = [
        "run: echo before > /before".to_owned(),
        "inject_virtio_win: drivers.iso".to_owned(),
        "inject_qemu_ga: osinfo".to_owned(),
        "run: cat /before".to_owned(),
    ];
    let template = bench.template("t.yml", &steps, "");
    let build = |version: &str| {
        let folder = bench.path(&format!("bin-{version}"));
        fs::create_dir_all(&folder).unwrap();
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'virt-customize {version}'; exit; fi\n\
             test -w \"$4\" || exit 9\nfor word; do echo \"$word\"; done >> {}/told\n",
            folder.display()
        );
        let program = folder.join("virt-customize");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command =
            bench.command(&["build", template.to_str().unwrap(), "--engine", "chroot", "--progress", "json"]);
        let path = format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", folder.display());
        (crate::common::Ran::from(command.env("PATH", path).output().unwrap()), folder)
    };
    let (ran, _) = build("1.48.2");
    let ran = ran.exits(4);
    let expected = "`inject_virtio_win` needs virt-customize 1.50 or newer, and this host has 1.48.2";
    assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    assert_eq!(ran.sealed().len(), 2, "what was before it is there");
    let (ran, folder) = build("1.52.0");
    let ran = ran.exits(0);
    assert_eq!(ran.sealed().len(), 3);
    assert_eq!(ran.of("session_started").len(), 1, "for the step behind them");
    let told = fs::read_to_string(folder.join("told")).unwrap();
    let told: Vec<_> = told.lines().collect();
    assert_eq!(told[..3], ["--format", "qcow2", "-a"]);
    assert_eq!(told[4..6], ["--inject-virtio-win", bench.path("drivers.iso").to_str().unwrap()]);
    assert_eq!(told[10..], ["--inject-qemu-ga", "osinfo"]);
    assert_ne!(told[3], told[9], "each has its own layer");
    // Another content of the ISO is another step.
    fs::write(bench.path("drivers.iso"), "other").unwrap();
    assert_eq!(build("1.52.0").0.exits(0).sealed().len(), 3);
    let template = bench.template("w.yml", &["inject_virtio_win: none.iso".to_owned()], "");
    let ran = bench.build("chroot", &template, &[]).exits(1);
    assert!(ran.stderr.contains("is not a file of the host") && ran.stderr.contains("or `osinfo`"), "{}", ran.stderr);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

/// A file over HTTP, by the digest that the template names: fetched once, gone on with where a connection breaks, and never put into
/// the guest when it is another one.
#[test]
fn downloads_over_http_are_checked() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let body: Vec<u8> = (0..300_000_u32).map(|number| (number >> 3) as u8).collect();
    let server = Server::new(&body);
    let sum = super::sha256(&body);
    let step = |name: &str, sum: &str| {
        format!(
            "download_to: {{url: '{}{name}', checksum: 'sha256:{sum}', dest: /opt/tool, chmod: '0755'}}",
            server.url()
        )
    };
    // It breaks twice on the way.
    server.fail([Fault::DropAfter(100_000), Fault::DropAfter(0)]);
    let cases = [case(step("?a", &sum), "+ /opt directory 0755 0:0\n+ /opt/tool file 0755 0:0 ...")];
    let word = ["--allow", "host-network"];
    super::check(&bench, "chroot", &cases, &word);
    let ranges: Vec<_> = server.requests().into_iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges.first().map(String::as_str), Some("bytes=100000-"), "{ranges:?}");
    // In another store, under another name: what is there is not fetched again, and a digest is what counts.
    let template = bench.template("two.yml", &[step("?b", &sum), "mkdir: /x".to_owned(), step("?c", &sum)], "");
    bench.build("chroot", &template, &word).exits(0);
    let image = bench
        .layers()
        .into_iter()
        .map(|(_, image)| image)
        .find(|image| crate::common::format_of(image) == "qcow2")
        .unwrap();
    assert_eq!(testkit::tree::tree_of_image(&image, "qcow2")["/opt/tool"].content, sum);
    let (layers, _) = (bench.layers().len(), server.requests());

    for (faults, sum, expected) in [
        (vec![], &super::sha256(b"another"), vec!["wrong checksum"]),
        (vec![Fault::Status("404 Not Found")], &super::sha256(b"x"), vec!["404"]),
        (vec![Fault::Status("503 Service Unavailable"); 20], &super::sha256(b"y"), vec!["503"]),
    ] {
        server.fail(faults);
        let ran = bench.build("chroot", &bench.template("t.yml", &[step("?d", sum)], ""), &word);
        assert!([1, 4, 5].contains(&ran.status.unwrap()), "{}", ran.stderr);
        for text in expected.into_iter().chain(["step 1 of 1 (`download_to`) failed", "t.yml:5:7", &server.address]) {
            assert!(ran.stderr.contains(text), "{text}: {}", ran.stderr);
        }
        assert_eq!((bench.layers().len(), bench.left_in_store()), (layers, Vec::new()));
    }
}
