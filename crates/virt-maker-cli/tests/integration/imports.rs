//! Where a base comes from: another template, a list of checksums that somebody signed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::Bench;
use testkit::{TinyOptions, tiny_guest};

fn gpg(bench: &Bench, arguments: &[&str]) {
    let home = bench.path("gnupg");
    let mut command = Command::new("gpg");
    command.args(["--batch", "--quiet"]);
    testkit::run(command.args(arguments).env("GNUPGHOME", &home).current_dir(bench.folder.path()));
}

/// The base of the chain names a secret.
const TOKEN: [&str; 2] = ["--allow", "env=TOKEN"];

#[test]
fn a_chain_of_templates_is_one_tree() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    fs::create_dir(bench.path("bases")).unwrap();
    let base = format!(
        "params: {{text: nothing, list: []}}\nsecrets: {{token: {{env: TOKEN}}}}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    - run: echo {{{{ text }}}} > /base\n    - run: echo {{{{ list | length }}}} > /length\n  export:\n    raw: {{path: base.img}}\n",
        bench.base.display()
    );
    fs::write(bench.path("bases/base.yml"), base).unwrap();
    let middle = "params: {word: hello}\nspec:\n  import:\n    layer: {template: bases/base.yml, with: {text: '{{ word }}', list: [1, 2]}}\n  steps:\n    - run: cat /base > /middle\n";
    fs::write(bench.path("middle.yml"), middle).unwrap();
    let top = "spec:\n  import:\n    layer: {template: middle.yml}\n  steps:\n    - run: cat /base /length /middle\n  export:\n    raw: {path: top.img}\n";
    fs::write(bench.path("top.yml"), top).unwrap();

    let whole = bench.build("chroot", &bench.path("top.yml"), &TOKEN).exits(0);
    assert_eq!(whole.sealed().len(), 5);
    assert_eq!(whole.of("session_started").len(), 1, "one path, one session");
    let said = whole.said();
    assert!(said.contains("hello\n2\nhello"), "{said}");
    assert!(!bench.path("bases/base.img").exists(), "exports of a base are its own affair");
    // What is below is made once, whoever asks for it.
    let middle = bench.build("chroot", &bench.path("middle.yml"), &TOKEN).exits(0);
    assert!(middle.sealed().is_empty());
    let base = bench
        .build(
            "chroot",
            &bench.path("bases/base.yml"),
            &[&TOKEN[..], &["-p", "text=hello", "-p", "list=[1, 2]"]].concat(),
        )
        .exits(0);
    assert!(base.sealed().is_empty() && bench.path("bases/base.img").exists());
    // A change in the middle leaves what is below it.
    fs::write(
        bench.path("middle.yml"),
        fs::read_to_string(bench.path("middle.yml")).unwrap().replace("cat /base >", "cp /base"),
    )
    .unwrap();
    assert_eq!(bench.build("chroot", &bench.path("top.yml"), &TOKEN).exits(0).sealed().len(), 2);
}

#[test]
fn wrong_bases_are_refused() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let import = format!("import:\n    download: {{url: 'file://{}'}}\n", bench.base.display());
    fs::write(
        bench.path("two.yml"),
        format!("matrix: {{x: [1, 2]}}\nspec:\n  {import}  steps: [{{run: 'echo {{{{ x }}}}'}}]\n"),
    )
    .unwrap();
    fs::write(bench.path("bad.yml"), format!("spec:\n  {import}  steps:\n    - rnu: x\n")).unwrap();
    fs::write(bench.path("secret.yml"), format!("secrets: {{a: {{env: ONE}}}}\nspec:\n  {import}")).unwrap();
    fs::write(bench.path("itself.yml"), "spec: {import: {layer: {template: other.yml}}}\n").unwrap();
    fs::write(bench.path("other.yml"), "spec: {import: {layer: {template: itself.yml}}}\n").unwrap();
    for (text, expected) in [
        ("spec: {import: {layer: {template: two.yml}}}", "asks for several images"),
        ("spec: {import: {layer: {template: two.yml, with: {y: 1}}}}", "no parameter `y`"),
        ("spec: {import: {layer: {template: bad.yml}}}", "unknown step `rnu`"),
        ("spec: {import: {layer: {template: none.yml}}}", "is no file"),
        ("spec: {import: {layer: {template: itself.yml}}}", "is its own base"),
        ("spec: {import: {layer: {template: two.yml, with: [x]}}}", "expected a mapping of parameters"),
        ("secrets: {a: {env: TWO}}\nspec: {import: {layer: {template: secret.yml}}}", "the secret `a` is another one"),
    ] {
        fs::write(bench.path("t.yml"), text).unwrap();
        let ran = bench.build("chroot", &bench.path("t.yml"), &["--allow", "env=ONE", "--allow", "env=TWO"]).exits(1);
        assert!(ran.stderr.contains(expected), "{text}: {}", ran.stderr);
    }
    fs::write(bench.path("t.yml"), "spec: {import: {layer: {template: two.yml, with: {x: 2}}}}").unwrap();
    bench.build("chroot", &bench.path("t.yml"), &[]).exits(0);
}

#[test]
fn a_signed_list_says_what_a_download_is() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let home = bench.path("gnupg");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for name in ["publisher", "stranger"] {
        gpg(&bench, &["--passphrase", "", "--quick-generate-key", &format!("{name}@example.org"), "ed25519", "sign"]);
        gpg(&bench, &["--armor", "--output", &format!("{name}.asc"), "--export", &format!("{name}@example.org")]);
        gpg(&bench, &["--output", &format!("{name}.gpg"), "--export", &format!("{name}@example.org")]);
    }
    testkit::copy_image(&bench.base, &bench.path("image.raw"));
    let sums = testkit::run(Command::new("sha256sum").args(["image.raw"]).current_dir(bench.folder.path())).stdout;
    fs::write(bench.path("SUMS"), &sums).unwrap();
    gpg(&bench, &["--local-user", "publisher@example.org", "--output", "SUMS.signed", "--clearsign", "SUMS"]);
    gpg(&bench, &["--local-user", "publisher@example.org", "--output", "SUMS.sig", "--detach-sign", "SUMS"]);
    // As others write them: SHA-512, a tab, folders before the name.
    let sums = testkit::run(Command::new("sha512sum").args(["image.raw"]).current_dir(bench.folder.path())).stdout;
    let sums = String::from_utf8_lossy(&sums).replace("  image.raw", "\timages/12/image.raw");
    fs::write(bench.path("SUMS512"), format!("\u{feff}{sums}")).unwrap();
    gpg(&bench, &["--local-user", "publisher@example.org", "--output", "SUMS512.sig", "--detach-sign", "SUMS512"]);
    let text = fs::read_to_string(bench.path("SUMS.signed")).unwrap();
    // A line in front of what is signed is no part of it.
    let forged = format!("{}  image.raw\n{text}", "0".repeat(64));
    fs::write(bench.path("SUMS.forged"), forged).unwrap();
    fs::write(bench.path("SUMS.changed"), text.replace("image.raw", "other.raw")).unwrap();
    let build = |checksums: &str| {
        let text = format!("spec: {{import: {{download: {{url: image.raw, checksums: {checksums}}}}}}}");
        fs::write(bench.path("t.yml"), text).unwrap();
        bench.build(
            "chroot",
            &bench.path("t.yml"),
            &["--store", bench.path(&format!("store-{}", checksums.len())).to_str().unwrap()],
        )
    };
    let file = |name: &str| format!("file://{}", bench.path(name).display());
    build("{url: SUMS.signed, gpg: publisher.asc}").exits(0);
    build(&format!("{{url: '{}', gpg: publisher.gpg}}", file("SUMS.signed"))).exits(0);
    build("{url: SUMS, signature: SUMS.sig, gpg: publisher.gpg}").exits(0);
    build("{url: SUMS.forged, gpg: publisher.gpg}").exits(0);
    build("{url: SUMS512, signature: SUMS512.sig, gpg: publisher.gpg}").exits(0);
    for (checksums, expected) in [
        // As long as the first text above, so in the store that remembers what the list said: but not by this key.
        ("{url: SUMS.signed, gpg: stranger.asc }", "is not signed by a key of"),
        ("{url: SUMS.signed, gpg: stranger.gpg}", "is not signed by a key of"),
        ("{url: SUMS, signature: SUMS.sig, gpg: stranger.asc}", "is not signed by a key of"),
        ("{url: SUMS.changed, gpg: publisher.gpg }", "is not signed by a key of"),
        ("{url: SUMS, gpg: publisher.gpg}", "is not signed by a key of"),
        ("{url: SUMS.signed, gpg: none.gpg}", "cannot read the keys"),
        ("{url: none, gpg: publisher.gpg}", "cannot read"),
        ("{url: SUMS.signed}", "`gpg` is missing"),
        ("{url: '', gpg: publisher.gpg}", "expected a URL with http, https or file, or a path"),
    ] {
        let ran = build(checksums).exits(1);
        assert!(ran.stderr.contains(expected), "{checksums}: {}", ran.stderr);
    }
    // The image is another one than the list says.
    fs::write(bench.path("image.raw"), "something else").unwrap();
    let ran = build("{url: SUMS.signed,  gpg:  publisher.asc}").exits(1);
    assert!(ran.stderr.contains("wrong checksum"), "{}", ran.stderr);
    let _ = Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", &home).status();
}

/// A tree of the tiny guest, as a tar exports it, with an `init`.
fn tiny_tree(bench: &Bench) {
    let template = bench.template(
        "tree.yml",
        &[
            "run: rm -f /sbin/init; ln -s /bin/busybox /sbin/init; printf '%s\\n' '::sysinit:/etc/start' '::wait:/bin/sleep 1000' > /etc/inittab".to_owned(),
            "file: {path: /etc/start, content: \"#!/bin/sh\\nexec > /dev/ttyS0 2>&1\\necho @boots $(cat /etc/hostname) $(df -m / | tail -n 1)\\n\", chmod: '0755'}".to_owned(),
            "file: {path: /usr/sbin/policy-rc.d, content: \"#!/bin/sh\\nexit 101\\n\", chmod: '0755'}".to_owned(),
            "run: dd if=/dev/zero of=/holes bs=1 count=1 seek=400000; echo end >> /holes; ln /etc/passwd /etc/second".to_owned(),
        ],
        "tar: {path: tree.tar}",
    );
    bench.build("chroot", &template, &[]).exits(0);
}

fn host_kernel() -> String {
    let version = testkit::host_kernel();
    format!("{{image: /boot/vmlinuz-{version}, initrd: /boot/initrd.img-{version}}}")
}

/// A tar of this virt-maker, with a kernel of the host: it boots, and what was in the tar is on its disk.
#[test]
fn a_root_file_system_boots() {
    let _lock = testkit::appliance_lock();
    let before = testkit::HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    tiny_tree(&bench);
    let text = format!(
        "spec:\n  import:\n    rootfs: {{source: tree.tar, kernel: {}, size: 256M}}\n  steps:\n    - hostname: rooted\n    - run: cat /holes | tail -c 4; wc -c < /holes; ls -l /boot; stat -c %h /etc/second\n  export:\n    raw: {{path: a.img}}\n",
        host_kernel()
    );
    fs::write(bench.path("t.yml"), text).unwrap();
    let ran = bench.build("chroot", &bench.path("t.yml"), &["--allow", "read=/boot"]).exits(0);
    let said = ran.said();
    assert!(
        said.contains("end\n400005\n") && said.contains("vmlinuz -> vmlinuz-host") && said.ends_with("2\n"),
        "{said}"
    );
    testkit::fsck_clean(&bench.path("a.img"), "raw");
    // What a container image says to its packages is not said to a machine's.
    assert!(testkit::find_file_in_image(&bench.path("a.img"), "/usr/sbin/policy-rc.d").is_none());
    let machine = testkit::Machine::boot(&bench.path("a.img"), "raw");
    machine.wait_for("@boots rooted", std::time::Duration::from_secs(300));
    drop(machine);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

/// A container image with systemd and without udev would wait for its console for ever: that is said when it is made.
#[test]
fn a_tree_that_lacks_what_booting_needs_is_told() {
    let bench = Bench::new(std::path::PathBuf::from("/nonexistent"));
    for (file, expected) in [("etc/os-release", "systemd-sysv, udev"), ("usr/lib/systemd/systemd", "no udev")] {
        let tree = bench.path("tree");
        for name in [file, if expected == "no udev" { "sbin/init" } else { "etc/passwd" }] {
            fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
            fs::write(tree.join(name), "").unwrap();
        }
        testkit::run(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(bench.path("tree.tar")).arg("."));
        let text = "spec:\n  import:\n    rootfs: {source: tree.tar, size: 64M}\n";
        fs::write(bench.path("t.yml"), text).unwrap();
        // It has no kernel either, which is an error.
        let ran = bench.build("chroot", &bench.path("t.yml"), &[]).exits(1);
        let warned = ran.of("warning").iter().any(|event| event["message"].as_str().unwrap().contains(expected));
        assert!(warned, "{expected}: {}", ran.stdout);
    }
}

/// One file is one base, by whichever word it comes: a layer on it is there for both.
#[test]
fn a_file_is_the_same_base_by_disk_and_by_download() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let template = bench.template("download.yml", &["run: echo one > /one".to_owned()], "");
    bench.build("chroot", &template, &[]).exits(0);
    let text = fs::read_to_string(&template).unwrap();
    let by_disk = text.replace("download: {url: 'file://", "disk: {path: '");
    fs::write(bench.path("disk.yml"), &by_disk).unwrap();
    assert!(by_disk.contains("disk: {path: '/"), "{by_disk}");
    let ran = bench.build("chroot", &bench.path("disk.yml"), &[]).exits(0);
    assert!(ran.of("layer_started").is_empty(), "{}", ran.stdout);
    assert_eq!(bench.layers().len(), 2);
}

/// What is packed of a kernel's files is what was hashed: what lies behind a link of the modules is neither.
#[test]
fn modules_of_a_kernel_are_those_of_its_key() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    tiny_tree(&bench);
    let files = [
        "kernel/image",
        "kernel/initrd",
        "modules/6.1-own/modules.dep",
        "modules/6.1-own/kernel/one.ko",
        "headers/one.h",
    ];
    for name in files {
        fs::create_dir_all(bench.path(name).parent().unwrap()).unwrap();
        fs::write(bench.path(name), name).unwrap();
    }
    std::os::unix::fs::symlink(bench.path("headers"), bench.path("modules/6.1-own/build")).unwrap();
    let text = "spec:\n  import:\n    rootfs: {source: tree.tar, size: 256M, kernel: {image: kernel/image, initrd: kernel/initrd, modules: modules/6.1-own}}\n  \
                steps:\n    - run: cd /lib/modules/6.1-own; find . | sort; cat kernel/one.ko; stat -c ' %u %a' kernel/one.ko; cat /boot/vmlinuz-6.1-own\n";
    fs::write(bench.path("t.yml"), text).unwrap();
    let build = || bench.build("chroot", &bench.path("t.yml"), &[]).exits(0);
    let ran = build();
    let said = ran.said();
    assert_eq!(said, ".\n./kernel\n./kernel/one.ko\n./modules.dep\nmodules/6.1-own/kernel/one.ko 0 644\nkernel/image");
    // What is not in it makes no difference, and what is does.
    fs::write(bench.path("headers/one.h"), "another").unwrap();
    assert_eq!(build().sealed(), Vec::<String>::new());
    fs::write(bench.path("modules/6.1-own/kernel/one.ko"), "another").unwrap();
    assert_eq!(build().sealed().len(), 2);
}

/// Makes images as other programs write them: layers that add, replace, take away and hide, in three forms.
const IMAGES: &str = r#"
import hashlib, io, json, os, sys, tarfile, gzip
os.chdir(sys.argv[1])
def layer(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=tarfile.PAX_FORMAT) as t:
        for name, kind, value in members:
            m = tarfile.TarInfo(name)
            m.uid, m.gid, m.mode = 1000, 100, 0o750
            if kind == 'dir': m.type = tarfile.DIRTYPE; t.addfile(m)
            elif kind == 'link': m.type = tarfile.SYMTYPE; m.linkname = value; t.addfile(m)
            elif kind == 'hard': m.type = tarfile.LNKTYPE; m.linkname = value; t.addfile(m)
            elif kind == 'char': m.type = tarfile.CHRTYPE; m.devmajor, m.devminor = 1, 3; t.addfile(m)
            else: data = value.encode(); m.size = len(data); t.addfile(m, io.BytesIO(data))
    return out.getvalue()
base = open('tree.tar', 'rb').read()
one = layer([('srv', 'dir', ''), ('srv/keep', '', 'keep'), ('srv/gone', '', 'x'), ('srv/sub', 'dir', ''), ('srv/sub/a', '', 'a'),
    ('srv/hidden', 'dir', ''), ('srv/hidden/old', '', 'old'), ('srv/file', '', 'first'), ('srv/other', 'hard', 'srv/file'),
    ('srv/folder', 'dir', ''), ('srv/folder/x', '', 'x'), ('dev/null', 'char', '')])
two = layer([('srv/.wh.gone', '', ''), ('srv/.wh.sub', '', ''), ('srv/hidden/.wh..wh..opq', '', ''), ('srv/hidden/new', '', 'new'),
    ('srv/file', '', 'second'), ('srv/folder', '', 'now a file')])
layers = [base, one, two]
def blob(data):
    d = hashlib.sha256(data).hexdigest()
    os.makedirs('oci/blobs/sha256', exist_ok=True)
    open('oci/blobs/sha256/' + d, 'wb').write(data)
    return {'digest': 'sha256:' + d, 'size': len(data)}
manifest = blob(json.dumps({'schemaVersion': 2, 'layers': [blob(gzip.compress(l)) if i else blob(l) for i, l in enumerate(layers)]}).encode())
inner = blob(json.dumps({'manifests': [dict(manifest, platform={'os': 'linux', 'architecture': 'amd64'}),
    {'digest': 'sha256:' + '0' * 64, 'platform': {'os': 'linux', 'architecture': 'arm64'}}]}).encode())
open('oci/oci-layout', 'w').write('{"imageLayoutVersion": "1.0.0"}')
open('oci/index.json', 'w').write(json.dumps({'manifests': [inner]}))
with tarfile.open('oci.tar.gz', 'w:gz') as t: t.add('oci', arcname='.')
with tarfile.open('saved.tar', 'w') as t:
    for i, l in enumerate(layers):
        m = tarfile.TarInfo(f'{i}/layer.tar'); m.size = len(l); t.addfile(m, io.BytesIO(l))
    data = json.dumps([{'Layers': [f'{i}/layer.tar' for i in range(3)]}]).encode()
    m = tarfile.TarInfo('manifest.json'); m.size = len(data); t.addfile(m, io.BytesIO(data))
hostile = {'up': [('../evil', '', 'x')], 'through': [('etc2', 'link', '/etc'), ('etc2/passwd', '', 'x')], 'device': [('srv/disk', 'char', '')],
    'outside': [('srv/x', 'hard', '../../etc/shadow')], 'behind': [('f', '', 'x'), ('f/g', '', 'x')], 'nothing': [('srv/x', 'hard', 'srv/y')]}
for name, members in hostile.items(): open(f'{name}.tar', 'wb').write(layer(members))
open('garbage.tar', 'wb').write(b'x' * 5000)
open('cut.tar', 'wb').write(one[:1500])
open('lies.tar', 'wb').write(open('saved.tar', 'rb').read()[:5000])
"#;

#[test]
fn container_images_become_disks() {
    let before = testkit::HostState::capture();
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    tiny_tree(&bench);
    fs::write(bench.path("images.py"), IMAGES).unwrap();
    testkit::run(Command::new("python3").arg(bench.path("images.py")).arg(bench.folder.path()));
    let build = |source: &str, kernel: &str| {
        let text = format!(
            "spec:\n  import:\n    rootfs: {{source: {source}, size: 256M, kernel: {kernel}}}\n  steps:\n    - run: cd /srv; find . | sort | xargs stat -c '%n %u:%g %a %h'; cat keep file other folder hidden/new\n  export:\n    raw: {{path: a.img}}\n"
        );
        fs::write(bench.path("t.yml"), text).unwrap();
        bench.build("chroot", &bench.path("t.yml"), &["--allow", "read=/boot"])
    };
    let kernel = host_kernel();
    for source in ["oci", "oci.tar.gz", "saved.tar"] {
        let ran = build(source, &kernel).exits(0);
        let said = ran.said();
        let expected = "./file 1000:100 750 1\n./folder 1000:100 750 1\n./hidden 1000:100 750 2\n./hidden/new 1000:100 750 1\n./keep 1000:100 750 1\n./other 1000:100 750 1\nkeepsecondfirstnow a filenew";
        assert!(said.contains(expected), "{source}: {said}");
    }
    for (source, expected) in [
        ("up.tar", "leads out"),
        ("through.tar", "lies behind what is no folder"),
        ("behind.tar", "lies behind what is no folder"),
        ("device.tar", "is a device outside of /dev"),
        ("outside.tar", "is another name of what lies outside"),
        ("nothing.tar", "is another name of what is not there"),
        ("garbage.tar", "damaged"),
        ("cut.tar", "damaged"),
        ("none.tar", "cannot read"),
    ] {
        let ran = build(source, &kernel).exits(1);
        assert!(ran.stderr.contains(expected), "{source}: {}", ran.stderr);
    }
    for (kernel, expected) in [
        ("null", "has no kernel: no /vmlinuz"),
        ("{image: /boot/x}", "expected either `package`"),
        ("{package: '-x'}", "is no package"),
        ("{package: a, image: b, initrd: c}", "expected either `package`"),
        ("{image: none, initrd: none}", "cannot read"),
    ] {
        let ran = build("tree.tar", kernel).exits(1);
        assert!(ran.stderr.contains(expected), "{kernel}: {}", ran.stderr);
    }
    // A blob that is not what its name says.
    let blobs = fs::read_dir(bench.path("oci/blobs/sha256")).unwrap();
    let layer = blobs.map(|entry| entry.unwrap().path()).max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&layer).unwrap();
    bytes[700] ^= 1;
    fs::write(layer, bytes).unwrap();
    fs::write(bench.path("oci/index.json"), fs::read_to_string(bench.path("oci/index.json")).unwrap() + " ").unwrap();
    let ran = build("oci", &kernel).exits(1);
    assert!(ran.stderr.contains("is not what its name says"), "{}", ran.stderr);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

/// The kernel of a package, from Debian's mirror, and with it the loaders for UEFI.
/// The kernel with the drivers of a whole PC boots, with the initial RAM disk that was made for it; so what a click is to a guest can be
/// seen, which a kernel for clouds has no driver for.
#[test]
fn a_kernel_and_signed_loaders_come_from_packages_and_it_boots() {
    let _lock = testkit::appliance_lock();
    let agent = Path::new(env!("CARGO_BIN_EXE_virt-maker")).with_file_name("virt-maker-agent");
    let bench = Bench::new(testkit::small_guest(&agent));
    let steps = [
        format!("run: '{}'", testkit::SMALL_GUEST_STEP),
        "file: {path: /usr/sbin/policy-rc.d, content: \"#!/bin/sh\\nexit 101\\n\", chmod: '0755'}".to_owned(),
    ];
    bench.build("chroot", &bench.template("tree.yml", &steps, "tar: {path: tree.tar}"), &[]).exits(0);
    let text = "spec:
  import:
    rootfs: {source: tree.tar, size: 900M, firmware: both, kernel: {package: linux-image-amd64}}
  steps:
    - run: ls -l /boot /boot/grub; ls /lib/modules/*/kernel; mount | grep /boot/efi; ls /boot/efi/EFI/*
    - boot:
        memory: 512M
        cpus: 1
        firmware: bios
        steps:
          - run: |
              for driver in xhci_pci usbhid hid_generic evdev; do modprobe $driver || echo no $driver; done
              for second in $(seq 60); do grep -q Tablet /sys/class/input/event*/device/name && break; sleep 1; done
              for event in /sys/class/input/event*; do
                ! grep -q Tablet $event/device/name || cat /dev/input/${event##*/} >/run/events 2>/dev/null </dev/null &
              done
              sleep 1
          - click: {x: 320, y: 100}
          - click: {x: 719, y: 0, button: right}
          - run: sleep 1; echo \"@events $(base64 -w 0 /run/events)\"
";
    fs::write(bench.path("t.yml"), text).unwrap();
    // Not every host's kernel has vfat.
    let ran = bench.build("vm", &bench.path("t.yml"), &[]).exits(0);
    let said = ran.said();
    let loaders = ["type vfat", "BOOTX64.EFI", "shimx64.efi"];
    for expected in
        ["vmlinuz -> vmlinuz-6", "initrd.img -> initrd.img-6", "grub.cfg", "drivers", "fs"].iter().chain(&loaders)
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let events = said.lines().find_map(|line| line.strip_prefix("@events ")).unwrap();
    let events = testkit::run_with_input(Command::new("base64").arg("-d"), events.as_bytes()).stdout;
    // `struct input_event` of a kernel with 64 bits: a time in 16 bytes, type, code and value. Ends of reports are left out.
    let number = |event: &[u8], at: usize| u16::from_le_bytes(event[at..at + 2].try_into().unwrap());
    let events = events.chunks_exact(24).map(|event| {
        let value = i32::from_le_bytes(event[20..].try_into().unwrap());
        (number(event, 16), number(event, 18), value)
    });
    let events: Vec<_> = events.filter(|(kind, ..)| matches!(kind, 1 | 3)).collect();
    // The screen is one of text, 720 by 400 pixels, and the tablet has 0 to 32767 each way.
    let (key, absolute, left, right) = (1, 3, 0x110, 0x111);
    let first = [(absolute, 0, 320 * 32767 / 719), (absolute, 1, 100 * 32767 / 399), (key, left, 1), (key, left, 0)];
    let second = [(absolute, 0, 32767), (absolute, 1, 0), (key, right, 1), (key, right, 0)];
    assert_eq!(events, [first, second].concat());
    let listed = bench.run(&["cache", "ls"]).exits(0).stdout;
    assert!(listed.contains("[boots under BIOS, UEFI (signed)]"), "{listed}");
}

/// The real program, with an index of one's own.
#[test]
fn virt_builder_takes_an_index_of_ones_own_with_libguestfs() {
    let _lock = testkit::appliance_lock();
    let bench = Bench::new(tiny_guest(&TinyOptions { partitioned: true, ..TinyOptions::default() }));
    let folder = bench.path("index");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("tiny.xz"), testkit::run(Command::new("xz").args(["-0", "-c"]).arg(&bench.base)).stdout)
        .unwrap();
    let sum = testkit::run(Command::new("sha512sum").arg(folder.join("tiny.xz"))).stdout;
    let sum = String::from_utf8(sum).unwrap().split_whitespace().next().unwrap().to_owned();
    let size = fs::metadata(&bench.base).unwrap().len();
    let index = format!(
        "[tiny-1]\nname=Tiny\nosinfo=debian12\narch=x86_64\nfile=tiny.xz\nchecksum[sha512]={sum}\nformat=raw\nsize={size}\nrevision=1\n"
    );
    fs::write(folder.join("index"), index).unwrap();
    let build = |arguments: &str| {
        let text = format!(
            "spec:\n  import:\n    virt-builder: {arguments}\n  steps:\n    - run: cat /etc/hostname\n  export:\n    raw: {{path: a.img}}\n"
        );
        fs::write(bench.path("t.yml"), text).unwrap();
        bench.build("chroot", &bench.path("t.yml"), &[])
    };
    let source = format!("source: 'file://{}/index'", folder.display());
    let ran = build(&format!("{{image: tiny-1, {source}, unsigned: true}}")).exits(0);
    let said = ran.said();
    assert!(!said.trim().is_empty(), "{said}");
    testkit::fsck_clean(&bench.path("a.img"), "raw");
    for (arguments, expected) in [
        (format!("{{image: none-1, {source}, unsigned: true}}"), "virt-builder cannot make `none-1`"),
        (format!("{{image: tiny-1, {source}, fingerprint: 12}}"), "40 hexadecimal digits"),
        ("{image: -x}".to_owned(), "is not the name of an image"),
        ("{image: x, source: ftp://x}".to_owned(), "expected the URL of an index"),
        ("{image: x, size: 1}".to_owned(), "expected a size"),
        ("{size: 1G}".to_owned(), "`image` is missing"),
    ] {
        let ran = build(&arguments).exits(1);
        assert!(ran.stderr.contains(expected), "{arguments}: {}", ran.stderr);
    }
}
