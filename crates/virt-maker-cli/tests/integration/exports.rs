//! Exports of a real guest, read back by qemu's own program and compared with the layer byte by byte; and what is done
//! around them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::common::{Bench, run};
use serde_json::Value;
use sha2::{Digest, Sha256};
use testkit::tree::{difference, tree_of_image};
use testkit::{Fs, HostState, TinyOptions, appliance_lock, tiny_guest};

on_chroot_and_vm!(check_tells_what_an_image_carries);

fn convert(from: &Path, format: &str, to: &Path) -> Vec<u8> {
    testkit::run(Command::new("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(from).arg(to));
    fs::read(to).unwrap()
}

/// The disk of the last layer that was sealed.
fn disk_of_layer(bench: &Bench, keys: &[String]) -> Vec<u8> {
    let layers = bench.layers();
    let (_, image) = layers.iter().find(|(key, _)| Some(key) == keys.last()).unwrap();
    convert(image, testkit::format_of(image), &bench.path("layer.raw"))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_format_holds_the_bytes_of_the_layer() {
    let before = HostState::capture();
    let mut bench = Bench::new(tiny_guest(&TinyOptions::default()));
    // A disk that is not whole MiB.
    let odd = bench.path("odd.raw");
    testkit::copy_image(&bench.base, &odd);
    let length = fs::metadata(&odd).unwrap().len() + 512;
    fs::File::options().write(true).open(&odd).unwrap().set_len(length).unwrap();
    bench.base = odd;
    let export = "[{vmdk: {path: a.vmdk}}, {vhd: {path: a.vhd}}, {vhdx: {path: a.vhdx}}, {vdi: {path: a.vdi}}, \
        {ova: {path: new/a b.ova, cpus: 2, memory: 2048, create_dir: true, checksum: true}}, \
        {qcow2: {path: a.qcow2, compress: zstd}}, {qcow2: {path: zlib.qcow2, compress: zlib}}, \
        {qcow2: {path: old.qcow2, compress: zlib, compat: 0.10}}, {qcow2: {path: older.qcow2, compat: '0.10'}}, {raw: {path: a.gz, compress: gzip, level: 1}}, \
        {raw: {path: a.lz4, compress: lz4}}, {vdi: {path: a.vdi.xz, compress: xz, level: 1}}]";
    let template = bench.template("t.yml", &[run("head -c 3000000 /dev/urandom > /data")], export);
    let ran = bench.build("chroot", &template, &[]).exits(0);
    let disk = disk_of_layer(&bench, &ran.sealed());
    assert_eq!(disk.len() as u64, length);

    let out = bench.path("out.raw");
    let images = [
        ("a.vmdk", "vmdk"),
        ("a.vhdx", "vhdx"),
        ("a.vdi", "vdi"),
        ("a.qcow2", "qcow2"),
        ("zlib.qcow2", "qcow2"),
        ("old.qcow2", "qcow2"),
        ("older.qcow2", "qcow2"),
    ];
    for (name, format) in images {
        let found = convert(&bench.path(name), format, &out);
        // vhdx has whole MiB, vdi too; what is beyond the disk is empty.
        assert!(found.len() >= disk.len() && found[..disk.len()] == disk[..], "{name}");
        assert!(found[disk.len()..].iter().all(|byte| *byte == 0), "{name}");
    }
    // What older programs read: the form in the header, and clusters that are compressed with the one way they know.
    for (name, compat, compressed) in [
        ("a.qcow2", "1.1", "zstd"),
        ("zlib.qcow2", "1.1", "zlib"),
        ("old.qcow2", "0.10", ""),
        ("older.qcow2", "0.10", ""),
    ] {
        let mut qemu_img = Command::new("qemu-img");
        let said = testkit::run(qemu_img.args(["info", "--output=json"]).arg(bench.path(name))).stdout;
        let info: Value = serde_json::from_slice(&said).unwrap();
        let data = &info["format-specific"]["data"];
        assert_eq!(data["compat"], compat, "{name}: {info}");
        assert_eq!(data["compression-type"].as_str().unwrap_or(""), if compat == "1.1" { compressed } else { "zlib" });
    }
    let size = |name: &str| fs::metadata(bench.path(name)).unwrap().len();
    assert!(size("old.qcow2") < size("older.qcow2"), "clusters are compressed");

    // A fixed vhd is the disk and a footer.
    let vhd = fs::read(bench.path("a.vhd")).unwrap();
    let size = length.next_multiple_of(1 << 20) as usize;
    assert_eq!(vhd.len(), size + 512);
    assert!(vhd[..disk.len()] == disk[..] && vhd[size..].starts_with(b"conectix"));
    let found = convert(&bench.path("a.vhd"), "vpc", &out);
    assert_eq!(found.len(), size, "the size in the footer");

    let vmdk = fs::read(bench.path("a.vmdk")).unwrap();
    assert!(vmdk.windows(15).take(4096).any(|text| text == b"streamOptimized"));
    let descriptor_of = |vmdk: &[u8]| {
        let text = String::from_utf8_lossy(&vmdk[512..21 * 512]).into_owned();
        text.trim_end_matches('\0').to_owned()
    };
    assert!(descriptor_of(&vmdk).contains("SPARSE \"a.vmdk\"\n"), "{}", descriptor_of(&vmdk));

    // The ova: its own files, in the order that the format wants, with digests that are right.
    let folder = bench.path("ova");
    fs::create_dir(&folder).unwrap();
    let ova = bench.path("new/a b.ova");
    testkit::run(Command::new("tar").arg("-C").arg(&folder).arg("-xf").arg(&ova));
    let list = testkit::run(Command::new("tar").arg("-tf").arg(&ova)).stdout;
    assert_eq!(String::from_utf8(list).unwrap(), "a b.ovf\na b.mf\na b-disk1.vmdk\n");
    let manifest = fs::read_to_string(folder.join("a b.mf")).unwrap();
    for name in ["a b.ovf", "a b-disk1.vmdk"] {
        let digest = sha256(&fs::read(folder.join(name)).unwrap());
        assert!(manifest.contains(&format!("SHA256({name})= {digest}\n")), "{manifest}");
    }
    let descriptor = fs::read_to_string(folder.join("a b.ovf")).unwrap();
    let script = "import sys, xml.etree.ElementTree as e\nt = e.parse(sys.argv[1])\n\
        n = '{http://schemas.dmtf.org/ovf/envelope/1}'\nd = t.getroot().find(f'{n}DiskSection/{n}Disk')\n\
        print(d.attrib[n + 'capacity'])";
    let said = testkit::run(Command::new("python3").args(["-c", script]).arg(folder.join("a b.ovf"))).stdout;
    assert_eq!(String::from_utf8(said).unwrap().trim(), length.to_string());
    assert!(descriptor.contains("<rasd:VirtualQuantity>2048<") && !descriptor.contains('@'), "{descriptor}");
    assert!(descriptor.contains("ovf:href=\"a%20b-disk1.vmdk\""), "{descriptor}");
    assert!(convert(&folder.join("a b-disk1.vmdk"), "vmdk", &out)[..disk.len()] == disk[..]);
    let in_ova = descriptor_of(&fs::read(folder.join("a b-disk1.vmdk")).unwrap());
    assert!(in_ova.contains("SPARSE \"a b-disk1.vmdk\"\n"), "{in_ova}");
    testkit::run(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(bench.path("new")));

    for (name, program) in [("a.gz", "gzip"), ("a.lz4", "lz4")] {
        let plain = testkit::run(Command::new(program).arg("-dc").arg(bench.path(name))).stdout;
        assert!(plain == disk, "{name}");
    }
    let vdi = testkit::run(Command::new("xz").arg("-dc").arg(bench.path("a.vdi.xz"))).stdout;
    fs::write(bench.path("b.vdi"), vdi).unwrap();
    assert!(convert(&bench.path("b.vdi"), "vdi", &out)[..disk.len()] == disk[..]);

    // All are still current.
    let again = bench.build("chroot", &template, &[]).exits(0);
    assert!(again.of("export_finished").iter().all(|event| event["current"] == true), "{}", again.stdout);

    // Names, identities and times of formats follow from the layer: the same bytes each time.
    let names = ["a.vmdk", "a.vhd", "new/a b.ova"];
    let bytes = names.map(|name| fs::read(bench.path(name)).unwrap());
    bench.build("chroot", &template, &["--force-export"]).exits(0);
    for (name, old) in names.iter().zip(bytes) {
        assert!(fs::read(bench.path(name)).unwrap() == old, "{name} has other bytes than before");
    }
    before.assert_nothing_left();
}

/// What is made of one image needs nothing of the rest: it is begun before the one before it has ended. What runs scripts
/// finds all before it.
#[test]
fn exports_of_an_image_are_made_side_by_side() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let export = "[{raw: {path: a.xz, compress: xz}}, {raw: {path: b.xz, compress: xz}}, {qcow2: {path: c.qcow2}}, \
        {raw: {path: d.img, pre_script: 'test -s a.xz && test -s b.xz && test -s c.qcow2 && test ! -e e.img'}}, \
        {raw: {path: e.img}}]";
    let template = bench.template("t.yml", &[run("head -c 8000000 /dev/urandom > /data")], export);
    let ran = bench.build("chroot", &template, &["--allow", "host-exec", "--jobs", "2"]).exits(0);
    let order: Vec<(String, bool)> = ran
        .events
        .iter()
        .filter_map(|event| match event["type"].as_str()? {
            "export_started" => Some((event["path"].as_str()?.to_owned(), false)),
            "export_finished" => Some((event["path"].as_str()?.to_owned(), true)),
            _ => None,
        })
        .collect();
    let place = |name: &str, finished: bool| {
        order.iter().position(|(path, end)| path.ends_with(name) && *end == finished).unwrap()
    };
    assert!(place("b.xz", false) < place("a.xz", true) && place("a.xz", false) < place("b.xz", true), "{order:?}");
    assert!(place("d.img", true) < place("e.img", false), "{order:?}");
    let workers: Vec<_> = ran.of("export_started").iter().map(|event| event["worker"].as_u64()).collect();
    assert!(workers[0] != workers[1], "each has a worker of its own: {workers:?}");
}

#[test]
fn wrong_arguments_of_exports_are_refused() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    for (export, expected) in [
        ("vmdk: {path: a, compress: xz}", "compressed already"),
        ("vhd: {path: a, level: 3}", "`level` needs `compress`"),
        ("vhd: {path: a, compress: zlib}", "unknown value `zlib`"),
        ("qcow2: {path: a, compress: zlib, level: 3}", "at a level of its own"),
        ("qcow2: {path: a, compress: zstd, compat: '0.10'}", "cannot be compressed with zstd"),
        ("qcow2: {path: a, compat: 2}", "expected `0.10` or `1.1`"),
        ("vhdx: {path: a, subformat: x}", "unknown argument `subformat`"),
        ("vdi: {}", "`path` is missing"),
        ("ova: {path: a.ova, name: 'a\"b'}", "expected a name"),
        ("ova: {path: a.ova, memory: 1}", "at least 4"),
        ("ova: {path: a.ova, cpus: 0}", "from 1 to 1024"),
        ("raw: {path: a, post_script: ' '}", "the script is empty"),
        ("raw: {path: a, pre_script: 'true'}", "--allow host-exec"),
        ("raw: {path: \"a\\nb\", checksum: true}", "SHA256SUMS cannot hold"),
    ] {
        let template = bench.template("t.yml", &[], export);
        let ran = bench.build("chroot", &template, &[]).exits(1);
        assert!(ran.stderr.contains(expected), "{export}: {}", ran.stderr);
    }
}

#[test]
fn scripts_run_around_an_export_and_a_failure_is_made_up_for() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let export = |after: &str| {
        format!(
            "raw:\n      path: a.img\n      checksum: true\n      pre_script: echo before >> said\n      post_script: |\n        #!/bin/sh -e\n        test -s \"$VIRT_MAKER_ARTIFACT\"\n        {after}\n"
        )
    };
    let allow = ["--allow", "host-exec"];
    let failing = bench.template("t.yml", &[], &export("test -e allowed"));
    let ran = bench.build("chroot", &failing, &allow).exits(1);
    assert!(ran.stderr.contains("the script after the export failed"), "{}", ran.stderr);
    // What its script refused is not there, nor in the list, and is refused again.
    let gone = || !bench.path("a.img").exists() && fs::read_to_string(bench.path("SHA256SUMS")).unwrap().is_empty();
    assert!(gone());
    bench.build("chroot", &failing, &allow).exits(1);
    assert!(gone());
    fs::write(bench.path("allowed"), "").unwrap();
    bench.build("chroot", &failing, &allow).exits(0);
    let ran = bench.build("chroot", &failing, &allow).exits(0);
    assert_eq!(ran.of("export_finished")[0]["current"], true);
    assert_eq!(fs::read_to_string(bench.path("said")).unwrap(), "before\nbefore\nbefore\n");

    // Lines of others stay in the list of digests, and one that went comes back.
    let sums = bench.path("SHA256SUMS");
    let ours = fs::read_to_string(&sums).unwrap();
    fs::write(&sums, format!("{}  other\n", "0".repeat(64))).unwrap();
    bench.build("chroot", &failing, &allow).exits(0);
    assert_eq!(fs::read_to_string(&sums).unwrap(), format!("{ours}{}  other\n", "0".repeat(64)));
}

fn finished(engine: &str) {
    let before = HostState::capture();
    let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec(), 0o600);
    let status = "Package: tiny-tool\nStatus: install ok installed\nVersion: 1.2-3\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
    let files = vec![
        file("/var/lib/dpkg/status", status),
        file("/etc/ssh/ssh_host_rsa_key", "secret"),
        file("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ];
    // Blocks of 4 KiB, as guests have them: smaller ones are no whole clusters of an overlay.
    let options = TinyOptions { partitioned: true, separate_home: true, files, ..TinyOptions::with_fs(Fs::Xfs) };
    let bench = Bench::new(tiny_guest(&options));
    let steps = [
        run("head -c 8000000 /dev/urandom > /big; head -c 20000000 /dev/urandom > /home/big; sync"),
        run("rm /big /home/big"),
    ];
    let export = "[{raw: {path: plain.img}}, {raw: {path: small.img, sparsify: true, clean: true, manifest: true}}]";
    let template = bench.template("t.yml", &steps, export);
    let ran = bench.build(engine, &template, &[]).exits(0);
    let bytes = |name: &str| fs::metadata(bench.path(name)).unwrap().blocks() * 512;
    let saved = bytes("plain.img") as i64 - bytes("small.img") as i64;
    // All that was removed, but for what a cluster holds besides.
    assert!(saved > 27_500_000, "{engine}: {saved} of {}", bytes("plain.img"));
    testkit::fsck_clean(&bench.path("small.img"), "raw");

    // What is there is the same, but for what was cleaned; and the layer is what it was.
    let trees = ["plain.img", "small.img"].map(|name| tree_of_image(&bench.path(name), "raw"));
    let changed: Vec<_> = difference(&trees[0], &trees[1]).into_keys().collect();
    assert_eq!(changed, ["/etc/machine-id", "/etc/ssh/ssh_host_rsa_key"], "{engine}");
    assert!(disk_of_layer(&bench, &ran.sealed()) == fs::read(bench.path("plain.img")).unwrap());
    assert_eq!(bench.left_in_store(), Vec::<String>::new());

    let text = fs::read(bench.path("small.img.manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(manifest["packages"], serde_json::json!([{"name": "tiny-tool", "version": "1.2-3"}]));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);
    assert_eq!(manifest["artifact"]["sha256"], sha256(&fs::read(bench.path("small.img")).unwrap()));
    assert_eq!(manifest["base"][0]["sha256"], sha256(&fs::read(&bench.base).unwrap()));

    let again = bench.build(engine, &template, &[]).exits(0);
    assert!(again.of("session_started").is_empty(), "nothing to do, so no guest is opened");
    // Whether an artifact is current is known before an engine is; libguestfs takes long to start.
    if engine != "libguestfs" {
        fs::remove_file(bench.path("small.img.manifest.json")).unwrap();
        bench.build(engine, &template, &[]).exits(0);
        assert!(bench.path("small.img.manifest.json").exists());
    }
    before.assert_nothing_left();
}

#[test]
fn unused_blocks_and_identity_are_left_out_with_chroot() {
    finished("chroot");
}

#[test]
fn unused_blocks_and_identity_are_left_out_with_libguestfs() {
    let _lock = appliance_lock();
    finished("libguestfs");
}

#[test]
fn unused_blocks_and_identity_are_left_out_with_vm_appliance() {
    let _lock = appliance_lock();
    finished("vm");
}

#[test]
fn check_tells_what_an_image_carries_with_libguestfs() {
    let _lock = appliance_lock();
    check_tells_what_an_image_carries("libguestfs");
}

fn check_tells_what_an_image_carries(engine: &str) {
    let before = HostState::capture();
    let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec(), 0o600);
    let files = vec![
        file("/etc/ssh/ssh_host_rsa_key", "secret"),
        file("/root/.ssh/authorized_keys", "ssh-ed25519 AAAA me"),
        file("/root/.bash_history", "ls"),
        // An older guest, in which `/lib` is no link.
        file("/lib/systemd/systemd", ""),
        file("/usr/sbin/sshd", ""),
        file("/usr/bin/ssh-keygen", ""),
        file("/usr/sbin/iscsi-iname", ""),
        file("/usr/sbin/make-ssl-cert", ""),
        file("/var/lib/systemd/credential.secret", "x"),
        file("/etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.x"),
        file("/etc/nvme/hostnqn", "nqn.x"),
        file("/etc/pki/consumer/key.pem", "x"),
        file("/etc/ssl/private/ssl-cert-snakeoil.key", "x"),
        file("/etc/netplan/50-cloud-init.yaml", "network:"),
        file("/etc/wpa_supplicant/wpa.conf", "# psk=\n  psk=x"),
        file("/home/tiny/.docker/config.json", "{\"auths\": {\"x\": {\"auth\": \"y\"}}}"),
        file("/etc/krb5.keytab", "x"),
        file("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n"),
        file("/root/.netrc", "x"),
        file("/etc/apt/auth.conf.d/x.conf", "x"),
    ];
    let image = tiny_guest(&TinyOptions { files, ..TinyOptions::default() });
    let bench = Bench::new(image.clone());
    let bytes = fs::read(&image).unwrap();
    let image = image.to_str().unwrap();
    let ran = bench.run(&["check", image, "--engine", engine]).exits(11);
    // In two groups, the worst first; and what is fine.
    let (removed, rest) = ran.stdout.split_once("stays with `clean`; is it there on purpose?\n").unwrap();
    let (stays, fine) = rest.split_once("fine: machine-id, ").unwrap();
    let first = "`clean` removes:\n  error    SSH host keys: /etc/ssh/ssh_host_rsa_key\n";
    assert!(removed.starts_with(first), "{}", ran.stdout);
    for line in [
        "error    key of sealed credentials: /var/lib/systemd/credential.secret",
        "error    name of an iSCSI initiator: /etc/iscsi/initiatorname.iscsi",
        "error    registration with a vendor or a network: /etc/pki/consumer/key.pem",
        "warning  shell history: /root/.bash_history",
        "warning  self-signed certificate: /etc/ssl/private/ssl-cert-snakeoil.key",
    ] {
        assert!(removed.contains(&format!("  {line}\n")), "no `{line}` in {}", ran.stdout);
    }
    for line in [
        "keys that may log in: /root/.ssh/authorized_keys",
        // Nothing in this guest makes these anew.
        "name of an NVMe host: /etc/nvme/hostnqn",
        "network that cloud-init wrote: /etc/netplan/50-cloud-init.yaml",
        "password of a network: /etc/wpa_supplicant/wpa.conf",
        "login at a registry: /home/tiny/.docker/config.json",
        "key that stands for this machine or opens others: /etc/krb5.keytab",
        "packages do not start their services: /usr/sbin/policy-rc.d",
        "password or token of a person or a service: /etc/apt/auth.conf.d/x.conf, /root/.netrc",
    ] {
        assert!(stays.contains(&format!("  {line}\n")), "no `{line}` in {}", ran.stdout);
    }
    assert!(fine.contains("DHCP lease") && !fine.contains("shell history"), "{}", ran.stdout);
    assert!(fs::read(image).unwrap() == bytes, "the image is only read");
    // The document is made of the same findings, whoever found them; libguestfs takes long to start.
    let quick = if engine == "libguestfs" { "chroot" } else { engine };
    let ran = bench.run(&["check", image, "--engine", quick, "--json"]).exits(11);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["findings"][0]["severity"], "error");

    // A cleaned image has none of it but what somebody may have put there on purpose.
    let template = bench.template(
        "t.yml",
        &["delete: [/root/.ssh/authorized_keys, /etc/resolv.conf, /etc/nvme, /etc/netplan, /etc/wpa_supplicant, \
           /home/tiny/.docker, /root/.netrc, /etc/apt, /usr/sbin/policy-rc.d]"
            .to_owned()],
        "qcow2: {path: a.qcow2, clean: true}",
    );
    let first = bench.build(engine, &template, &[]).exits(0);
    // What stays is said, also where the artifact is there already.
    for ran in [first, bench.build(engine, &template, &[]).exits(0)] {
        let said: Vec<_> = ran.of("warning").iter().map(|event| event["message"].as_str().unwrap()).collect();
        let expected = "found, and not removed; is it there on purpose? \
                        key that stands for this machine or opens others: /etc/krb5.keytab";
        assert_eq!(said, [expected]);
    }
    let image = bench.path("a.qcow2");
    let ran = bench.run(&["check", image.to_str().unwrap(), "--engine", quick]).exits(10);
    let left = "stays with `clean`; is it there on purpose?\n  \
                warning  key that stands for this machine or opens others: /etc/krb5.keytab\nfine: machine-id, ";
    assert!(ran.stdout.starts_with(left), "{}", ran.stdout);
    // What it needs of what was removed is made at its first boot.
    let tree = testkit::tree::tree_of_image(&image, "qcow2");
    let commands = tree["/usr/lib/virt-maker/identity"].text.clone().unwrap();
    assert!(commands.contains("iscsi-iname") && commands.contains("make-ssl-cert") && !commands.contains("nvme"));
    for wanted in ["sysinit.target.wants/virt-maker-identity", "multi-user.target.wants/virt-maker-ssh-keys"] {
        assert!(tree.contains_key(&format!("/etc/systemd/system/{wanted}.service")), "{wanted}");
    }

    fs::write(bench.path("no"), "no image").unwrap();
    let ran = bench.run(&["check", "no", "--engine", engine]).exits(1);
    assert!(ran.stderr.contains("expected a qcow2 image or a raw disk"), "{}", ran.stderr);
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}

/// Artifacts as exports compress them are looked into; what is no disk inside is told with what to do.
#[test]
fn compressed_images_are_checked() {
    let history = ("/root/.bash_history".to_owned(), b"ls".to_vec(), 0o600);
    let bench = Bench::new(tiny_guest(&TinyOptions { files: vec![history], ..TinyOptions::default() }));
    let raw = bench.path("a.img");
    testkit::copy_image(&bench.base, &raw);
    let script = "qemu-img convert -O qcow2 a.img a.qcow2 && xz -0k a.qcow2 && gzip -1k a.img && zstd -q a.img -o a.img.zst && \
                  qemu-img convert -O vmdk a.img a.vmdk && tar -czf a.ova.gz a.vmdk && gzip -1k a.vmdk && \
                  head -c 1000 a.img.gz > cut.gz";
    testkit::run(std::process::Command::new("sh").args(["-c", script]).current_dir(bench.folder.path()));
    for name in ["a.qcow2.xz", "a.img.gz", "a.img.zst"] {
        let ran = bench.run(&["check", name, "--engine", "chroot"]).exits(10);
        assert!(ran.stdout.contains("shell history: /root/.bash_history"), "{name}: {}", ran.stdout);
    }
    for (name, expected) in [
        ("a.ova.gz", "an OVA is a tar archive: unpack it"),
        ("a.vmdk.gz", "convert it with `qemu-img convert -O qcow2`"),
        ("cut.gz", "cannot unpack cut.gz"),
    ] {
        let ran = bench.run(&["check", name, "--engine", "chroot"]).exits(1);
        assert!(ran.stderr.contains(expected), "{name}: {}", ran.stderr);
    }
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
}

/// A secret that a step left behind is found, wherever it lies; one that it only used is not.
#[test]
fn secrets_that_stayed_are_found() {
    let bench =
        Bench::new(tiny_guest(&TinyOptions { partitioned: true, separate_home: true, ..TinyOptions::default() }));
    let build = |script: &str, export: &str, value: Option<&str>| {
        let text = format!(
            "params: {{role: web, size: 3}}\nsecrets: {{token: {{env: THE_TOKEN}}, other: {{env: OTHER}}}}\nspec:\n  import:\n    download: {{url: 'file://{}'}}\n  steps:\n    - {}\n      secrets: [token]\n  export:\n    raw: {{path: a.img, {export}}}\n",
            bench.base.display(),
            run(script)
        );
        fs::write(bench.path("t.yml"), text).unwrap();
        let path = bench.path("t.yml");
        let mut command = bench.command(&[
            "build",
            path.to_str().unwrap(),
            "--engine",
            "chroot",
            "--progress",
            "json",
            "-p",
            "size=5",
            "--allow",
            "env=THE_TOKEN",
            "--allow",
            "env=OTHER",
        ]);
        match value {
            Some(value) => command.env("THE_TOKEN", value).env("OTHER", "unused-value"),
            None => command.env_remove("THE_TOKEN"),
        };
        crate::common::Ran::from(command.output().unwrap())
    };
    let warned = |ran: &crate::common::Ran| {
        ran.of("warning")
            .iter()
            .map(|event| event["message"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join("\n")
    };
    // Across the edge of what is read at once, and in another file system.
    let leak = "head -c 1048570 /dev/zero > /big; cat /run/secrets/token >> /big; cp /run/secrets/token /home/tiny/note; echo unused-value > /fine";
    let ran = build(leak, "manifest: true", Some("s3cret-t0ken")).exits(0);
    assert!(warned(&ran).contains("the secret `token` is in the result: /big, /home/tiny/note"), "{}", warned(&ran));
    assert!(!warned(&ran).contains("other"), "{}", warned(&ran));
    let manifest = fs::read_to_string(bench.path("a.img.manifest.json")).unwrap();
    assert!(!manifest.contains("s3cret-t0ken"), "{manifest}");
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["parameters"], serde_json::json!({"role": "web", "size": 5}));
    let ran = build(leak, "clean: true", Some("s3cret-t0ken")).exits(1);
    assert!(ran.stderr.contains("the secret `token` is in the result"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("s3cret-t0ken") && !ran.stdout.contains("s3cret-t0ken"));
    // Used and gone. What `clean` leaves of the guest's own is told.
    let ran = build("sha256sum /run/secrets/token > /digest", "clean: true", Some("s3cret-t0ken")).exits(0);
    assert!(!warned(&ran).contains("secret") && warned(&ran).ends_with(": /etc/resolv.conf"), "{}", warned(&ran));
    // All layers are there and nobody knows the value: what the image carries is not known either.
    let ran = build("sha256sum /run/secrets/token > /digest", "sparsify: true", None).exits(1);
    assert!(ran.stderr.contains("the variable THE_TOKEN is not set"), "{}", ran.stderr);
}
