//! Steps that a tiny guest is enough for.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::{HostState, TinyOptions, appliance_lock, tiny_guest};

use crate::common::{Bench, on_chroot_and_vm};
use crate::{Case, case, check};

on_chroot_and_vm!(firstboot_with_scripts_of_init_d);

fn guest() -> TinyOptions {
    let file = |path: &str, text: &str, mode| (path.to_owned(), text.as_bytes().to_vec(), mode);
    TinyOptions {
        files: vec![
            file("/etc/default/grub", "GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX=\"quiet\"\n", 0o644),
            file("/boot/grub/grub.cfg", "menuentry 'x' {\n\tlinux /vmlinuz root=/dev/sda ro quiet\n}\n", 0o600),
            file("/boot/loader/entries/a.conf", "title a\noptions root=/dev/sda\n", 0o644),
            file("/etc/selinux/config", "# mode\nSELINUX=enforcing\nSELINUXTYPE=targeted\n", 0o640),
            file("/usr/lib/systemd/systemd", "", 0o755),
            file("/etc/systemd/system/README", "", 0o644),
            file("/etc/ssh/ssh_host_rsa_key", "secret", 0o600),
            file("/etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444),
            file("/etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nHWADDR=52:54:00:12:34:56\n", 0o644),
            file("/root/.bash_history", "ls\n", 0o600),
            file("/var/log/messages", "booted\n", 0o640),
            file("/var/log/apt/history.log.1.gz", "old", 0o640),
            file("/var/lib/systemd/random-seed", "seed", 0o600),
            file("/root/.ssh/authorized_keys", "ssh-ed25519 AAAA me\n", 0o600),
            file("/usr/sbin/sshd", "", 0o755),
            file(
                "/usr/bin/ssh-keygen",
                "#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done; echo k > $1; echo p > $1.pub\n",
                0o755,
            ),
        ],
        links: vec![("/etc/linked".to_owned(), "issue".to_owned())],
        ..TinyOptions::default()
    }
}

/// Archives that a host has, made by its own programs.
fn archives(folder: &Path) {
    let tree = folder.join("tree/top");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/a.txt"), "a\n").unwrap();
    fs::write(tree.join("tool"), "#!/bin/sh\n").unwrap();
    std::os::unix::fs::symlink("sub/a.txt", tree.join("link")).unwrap();
    fs::hard_link(tree.join("sub/a.txt"), tree.join("twin")).unwrap();
    testkit::run(Command::new("chmod").args(["0750"]).arg(tree.join("tool")));
    let mut tar = Command::new("tar");
    testkit::run(
        tar.arg("-C").arg(folder.join("tree")).args(["--owner=77", "-cJf"]).arg(folder.join("a.tar.xz")).arg("top"),
    );
    let script = "import os, sys, zipfile\n\
        z = zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED)\n\
        z.write(sys.argv[2], 'z/tool')\n\
        i = zipfile.ZipInfo('z/link'); i.external_attr = 0o120777 << 16; z.writestr(i, 'tool')\n";
    testkit::run(Command::new("python3").args(["-c", script]).arg(folder.join("a.zip")).arg(tree.join("tool")));
}

fn cases(bench: &Bench) -> Vec<Case> {
    let folder = bench.path("host");
    fs::create_dir_all(&folder).unwrap();
    archives(&folder);
    fs::write(folder.join("motd.j2"), "Hello {{ who }}: {{ list | join(',') }}\n").unwrap();
    fs::write(folder.join("payload"), "payload\n").unwrap();
    fs::write(folder.join("key.asc"), "-----BEGIN PGP PUBLIC KEY BLOCK-----\nx\n").unwrap();
    fs::write(folder.join("password"), "another one 4711\n").unwrap();
    let host = folder.display().to_string();
    let payload = crate::sha256(b"payload\n");
    let public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@there";
    vec![
        case("mkdir: /srv/plain", "+ /srv directory 0755 0:0\n+ /srv/plain directory 0755 0:0"),
        case("mkdir: {path: /srv/plain, chmod: '2750', chown: 'tiny:0'}", "~ /srv/plain directory 2750 1000:0"),
        case(
            "file: {path: /etc/issue, content: \"it's $(date) `x`\\n\", chmod: '0600', chown: '1:2'}",
            r#"+ /etc/issue file 0600 1:2 "it's $(date) `x`\n""#,
        ),
        case(
            format!("file: {{path: /srv/new/motd, template: '{host}/motd.j2', variables: {{who: me, list: [1, b]}}}}"),
            "+ /srv/new directory 0755 0:0\n+ /srv/new/motd file 0644 0:0 \"Hello me: 1,b\\n\"",
        ),
        case(
            r#"edit: {path: /etc/linked, match: "^it's (.*)$", replace: "was ${1}!"}"#,
            r#"~ /etc/issue file 0600 1:2 "was $(date) `x`!\n""#,
        ),
        case("edit: {path: /etc/issue, match: nowhere, replace: x, optional: true}", ""),
        case("link: {path: /etc/linked, target: ../srv/new/motd}", r#"~ /etc/linked symlink 0777 0:0 "../srv/new/motd""#),
        case("move: {from: /srv/new, to: /srv/moved/here}", "
            - /srv/new
            - /srv/new/motd
            + /srv/moved directory 0755 0:0
            + /srv/moved/here directory 0755 0:0
            + /srv/moved/here/motd file 0644 0:0 \"Hello me: 1,b\\n\""),
        case("delete: [/srv/moved, /etc/linked, /no/such/path]", "
            - /srv/moved
            - /srv/moved/here
            - /srv/moved/here/motd
            - /etc/linked"),
        case("hostname: web.example.org", "
            ~ /etc/hostname file 0644 0:0 \"web.example.org\\n\"
            ~ /etc/hosts file 0644 0:0 \"127.0.0.1 localhost\\n127.0.1.1 web.example.org web\\n\""),
        case("grub_append: [console=ttyS0, quiet]", "
            ~ /etc/default/grub file 0644 0:0 \"GRUB_TIMEOUT=1\\nGRUB_CMDLINE_LINUX=\\\"quiet console=ttyS0\\\"\\n\"
            ~ /boot/grub/grub.cfg file 0600 0:0 \"menuentry 'x' {\\n\\tlinux /vmlinuz root=/dev/sda ro quiet console=ttyS0\\n}\\n\"
            ~ /boot/loader/entries/a.conf file 0644 0:0 \"title a\\noptions root=/dev/sda console=ttyS0 quiet\\n\""),
        case("selinux: permissive",
            "~ /etc/selinux/config file 0640 0:0 \"# mode\\nSELINUX=permissive\\nSELINUXTYPE=targeted\\n\""),
        case("selinux: relabel", "+ /.autorelabel file 0644 0:0 \"\""),
        case("rootpass: disabled", ""),
        case("rootpass: locked",
            "~ /etc/shadow file 0600 0:0 \"root:!*:19000:0:99999:7:::\\ntiny:*:19000:0:99999:7:::\\n\""),
        case("rootpass: 'password:it''s $(a) secret'", "~ /etc/shadow file 0600 0:0 ..."),
        case(format!("rootpass: 'file:{host}/password'"), "~ /etc/shadow file 0600 0:0 ..."),
        case("rootpass: random", "~ /etc/shadow file 0600 0:0 ..."),
        case(
            format!("user: {{name: tiny, password_hash: '$6$salt$hash', ssh_keys: '{public}'}}"),
            "
            ~ /etc/shadow file 0600 0:0 ...
            + /home/tiny/.ssh directory 0700 1000:1000
            + /home/tiny/.ssh/authorized_keys file 0600 1000:1000 \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@there\\n\"",
        ),
        case("ssh_keygen: tiny", "
            + /home/tiny/.ssh/id_rsa file 0600 1000:1000 \"k\\n\"
            + /home/tiny/.ssh/id_rsa.pub file 0644 1000:1000 \"p\\n\""),
        case("ssh_keygen: tiny", ""),
        case(
            format!("repo: {{name: ours, url: 'https://packages.example.org/debian', suite: bookworm, key: '{host}/key.asc'}}"),
            "
            + /etc/apt directory 0755 0:0
            + /etc/apt/keyrings directory 0755 0:0
            + /etc/apt/keyrings/ours.asc file 0644 0:0 \"-----BEGIN PGP PUBLIC KEY BLOCK-----\\nx\\n\"
            + /etc/apt/sources.list.d directory 0755 0:0
            + /etc/apt/sources.list.d/ours.sources file 0644 0:0 \"Types: deb\\nURIs: https://packages.example.org/debian\\nSuites: bookworm\\nComponents: main\\nSigned-By: /etc/apt/keyrings/ours.asc\\n\"",
        ),
        case(
            format!("unpack: {{source: '{host}/a.tar.xz', dest: /srv/tar, strip: 1, chown: tiny}}"),
            "
            + /srv/tar directory 0755 1000:1000
            + /srv/tar/sub directory 0755 1000:1000
            + /srv/tar/sub/a.txt file 0644 1000:1000 \"a\\n\"
            + /srv/tar/twin file 0644 1000:1000 \"a\\n\"
            + /srv/tar/tool file 0750 1000:1000 \"#!/bin/sh\\n\"
            + /srv/tar/link symlink 0777 1000:1000 \"sub/a.txt\"",
        ),
        case(
            format!("unpack: {{source: '{host}/a.zip', dest: /srv/zip/}}"),
            "
            + /srv/zip directory 0755 0:0
            + /srv/zip/z directory 0755 0:0
            + /srv/zip/z/tool file 0750 0:0 \"#!/bin/sh\\n\"
            + /srv/zip/z/link symlink 0777 0:0 \"tool\"",
        ),
        case(
            format!("download_to: {{url: 'file://{host}/payload', checksum: 'sha256:{payload}', dest: /opt/payload, chmod: '0755'}}"),
            "+ /opt directory 0755 0:0\n+ /opt/payload file 0755 0:0 \"payload\\n\"",
        ),
        case("firstboot: echo first >> /first", "
            + /etc/systemd/system/multi-user.target.wants directory 0755 0:0
            + /etc/systemd/system/multi-user.target.wants/virt-maker-firstboot.service symlink 0777 0:0 \"/etc/systemd/system/virt-maker-firstboot.service\"
            + /etc/systemd/system/virt-maker-firstboot.service file 0644 0:0 ...
            + /usr/lib/virt-maker directory 0755 0:0
            + /usr/lib/virt-maker/firstboot file 0755 0:0 ...
            + /usr/lib/virt-maker/firstboot.d directory 0700 0:0
            + /usr/lib/virt-maker/firstboot.d/0001 file 0700 0:0 \"#!/bin/sh\\necho first >> /first\\n\""),
        case(format!("copy: {{dest: /opt/late, content: '{host}/payload', simple: true, chown: 'tiny:0', chmod: '0640'}}"), "
            + /usr/lib/virt-maker/firstboot.data directory 0700 0:0
            + /usr/lib/virt-maker/firstboot.data/0002 file 0640 0:0 \"payload\\n\"
            + /usr/lib/virt-maker/firstboot.d/0002 file 0700 0:0 \"#!/bin/sh -e\\necho copying to '/opt/late'\\nmkdir -p '/opt'\\nrm -f '/opt/late'\\ncp -a '/usr/lib/virt-maker/firstboot.data/0002' '/opt/late'\\nchown -R -h 'tiny:0' '/opt/late'\\nrm -rf '/usr/lib/virt-maker/firstboot.data/0002'\\n\""),
        // Runs what a boot would run: each script once, in their order, with a log.
        case("run: sh /usr/lib/virt-maker/firstboot; sh /usr/lib/virt-maker/firstboot; sed -i '/begins/d' /var/log/virt-maker-firstboot.log", "
            + /first file 0644 0:0 \"first\\n\"
            + /opt/late file 0640 1000:0 \"payload\\n\"
            - /usr/lib/virt-maker/firstboot.d/0001
            - /usr/lib/virt-maker/firstboot.d/0002
            - /usr/lib/virt-maker/firstboot.data/0002
            + /usr/lib/virt-maker/firstboot.done directory 0700 0:0
            + /usr/lib/virt-maker/firstboot.done/0001 file 0700 0:0 ...
            + /usr/lib/virt-maker/firstboot.done/0002 file 0700 0:0 ...
            + /var/log/virt-maker-firstboot.log file 0600 0:0 \"virt-maker: first-boot script 0001 ended with exit status 0\\ncopying to /opt/late\\nvirt-maker: first-boot script 0002 ended with exit status 0\\n\""),
        case("sysprep:", "
            ~ /etc/machine-id file 0444 0:0 \"\"
            - /etc/ssh/ssh_host_rsa_key
            ~ /etc/sysconfig/network-scripts/ifcfg-eth0 file 0644 0:0 \"DEVICE=eth0\\n\"
            - /root/.bash_history
            ~ /var/log/messages file 0640 0:0 \"\"
            ~ /var/log/virt-maker-firstboot.log file 0600 0:0 \"\"
            - /var/log/apt/history.log.1.gz
            - /var/lib/systemd/random-seed
            + /etc/systemd/system/virt-maker-ssh-keys.service file 0644 0:0 ...
            + /etc/systemd/system/multi-user.target.wants/virt-maker-ssh-keys.service symlink 0777 0:0 \"/etc/systemd/system/virt-maker-ssh-keys.service\""),
    ]
}

#[test]
fn tiny_steps_change_what_they_say_with_chroot() {
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&guest()));
    let ran = check(&bench, "chroot", &cases(&bench), &[]);
    let said: String = ran.of("output").iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert!(said.contains("The password of root is "), "{said}");
    // Neither the events nor the records of layers have a password.
    assert!(!ran.stdout.contains("secret'") && !ran.stdout.contains("$(a) secret"));
    for (_, image) in
        std::fs::read_dir(bench.path("store-chroot/layers")).unwrap().map(|entry| ((), entry.unwrap().path()))
    {
        for file in fs::read_dir(image).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "json") {
                let text = fs::read_to_string(&file).unwrap();
                assert!(!text.contains("$(a) secret") && !text.contains("another one 4711"), "{}", file.display());
            }
        }
    }
    before.assert_nothing_left();
}

#[test]
fn tiny_steps_change_what_they_say_with_libguestfs() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&guest()));
    check(&bench, "libguestfs", &cases(&bench), &[]);
    before.assert_nothing_left();
}

#[test]
fn tiny_steps_change_what_they_say_with_vm_appliance() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new(tiny_guest(&guest()));
    check(&bench, "vm", &cases(&bench), &[]);
    before.assert_nothing_left();
}

/// A guest whose init reads `/etc/init.d`.
fn firstboot_with_scripts_of_init_d(engine: &str) {
    let file = |path: &str| (path.to_owned(), Vec::new(), 0o644);
    let files = vec![file("/etc/init.d/README"), file("/etc/rc2.d/README"), file("/etc/rc5.d/README")];
    let bench = Bench::new(tiny_guest(&TinyOptions { files, ..TinyOptions::default() }));
    let cases = [
        case(
            "firstboot: echo sysv > /sysv",
            "
            + /etc/init.d/virt-maker-firstboot file 0755 0:0 ...
            + /etc/rc2.d/S99virt-maker-firstboot symlink 0777 0:0 \"/etc/init.d/virt-maker-firstboot\"
            + /etc/rc5.d/S99virt-maker-firstboot symlink 0777 0:0 \"/etc/init.d/virt-maker-firstboot\"
            + /usr/lib directory 0755 0:0
            + /usr/lib/virt-maker directory 0755 0:0
            + /usr/lib/virt-maker/firstboot file 0755 0:0 ...
            + /usr/lib/virt-maker/firstboot.d directory 0700 0:0
            + /usr/lib/virt-maker/firstboot.d/0001 file 0700 0:0 ...",
        ),
        case(
            "run: /etc/rc2.d/S99virt-maker-firstboot stop; /etc/rc2.d/S99virt-maker-firstboot start; rm -r /var/log/* /usr/lib/virt-maker/firstboot.done",
            "
            + /sysv file 0644 0:0 \"sysv\\n\"
            - /usr/lib/virt-maker/firstboot.d/0001",
        ),
    ];
    check(&bench, engine, &cases, &[]);
}
