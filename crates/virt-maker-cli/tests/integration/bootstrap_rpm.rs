//! `bootstrap` of RPM packages with the whole program: as an ordinary user, and with a lock file.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::user::{self, USER, give, home};
use crate::common::{Bench, Ran};
use testkit::{
    Elsewhere, HostState, Machine, Volumes, Web, appliance_lock, find_file_in_image, fsck_clean, read_file_from_image,
    rpm_repository, run, serve,
};

const PATH: &str = "/usr/bin:/bin";
/// Gives the user subordinate ids, of which this host gives it none, in a mount namespace, and becomes it. The host's dnf is set
/// up so that it would install nothing.
const AS_USER: &str = "set -eu; mount --bind \"$1\" /etc/subuid; mount --bind \"$1\" /etc/subgid; \
    mount --bind \"$2\" /etc/dnf/dnf.conf; shift 2; exec \"$@\"";

/// Runs the program in `home` as an ordinary user with these subordinate ids, and with this `PATH`.
fn as_user(home: &Path, subordinate: &str, path: &str, arguments: &[&str]) -> Ran {
    Ran::from(user(home, subordinate, path, arguments).output().unwrap())
}

/// What runs it.
fn user(home: &Path, subordinate: &str, path: &str, arguments: &[&str]) -> Command {
    let (ids, config) = (home.with_file_name("ids"), home.with_file_name("dnf.conf"));
    fs::write(&ids, subordinate).unwrap();
    fs::write(&config, "[main]\nexcludepkgs=*\nproxy=http://127.0.0.1:9/\n[broken]\nbaseurl=file:///nonexistent\n")
        .unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", AS_USER, "sh"]).args([&ids, &config]);
    let user = user::as_user(&[]);
    command.arg(user.get_program()).args(user.get_args());
    command
        .args(["env", &format!("PATH={path}")])
        .arg(home.join("virt-maker"))
        .args(arguments)
        .current_dir(home)
        .env_clear();
    command.env("PATH", PATH).env("HOME", home).env("VIRT_MAKER_STORE", home.join("store"));
    command
}

/// The network in which packages are fetched belongs to a user namespace then.
#[test]
fn what_a_mirror_leads_to_is_judged_for_an_ordinary_user() {
    let network = Elsewhere::new();
    let leads = network.listen_there();
    let mirror = format!("http://{}/debian", leads.local_addr().unwrap());
    let asked = serve(leads, Web::Leads("http://localhost:9".into()));
    let before = HostState::capture();
    let bench = Bench::new("/nonexistent".into());
    let home = home(&bench);
    let import = format!("{{suite: bookworm, size: 600M, mirror: '{mirror}'}}");
    fs::write(home.join("t.yml"), format!("spec:\n  import:\n    bootstrap: {import}\n")).unwrap();
    give(&home);
    let ids = format!("{USER}:200000:65536\n");
    let build = user(&home, &ids, PATH, &["build", "t.yml", "--engine", "vm", "--progress", "json"]);
    let ran = Ran::from(network.command(&build).output().unwrap()).exits(1);
    assert!(!asked.lock().unwrap().is_empty() && ran.stderr.contains("the host's loopback"), "{}", ran.stderr);
    before.assert_nothing_left();
}

/// In a user namespace a mounted `/proc` is somebody else's, which the first packages of a Debian must not mind.
#[test]
fn a_debian_is_made_by_an_ordinary_user() {
    let before = HostState::capture();
    let bench = Bench::new("/nonexistent".into());
    let home = home(&bench);
    fs::write(home.join("t.yml"), "spec: {import: {bootstrap: {suite: bookworm, size: 1500M}}}\n").unwrap();
    give(&home);
    let ids = format!("{USER}:200000:65536\n");
    let build = ["build", "t.yml", "--progress", "plain", "-v"];
    as_user(&home, &ids, PATH, &build).exits(0);
    // Another size is made of that one; a smaller one cannot be.
    fs::write(home.join("t.yml"), "spec: {import: {bootstrap: {suite: bookworm, size: 1700M}}}\n").unwrap();
    give(&home);
    let ran = as_user(&home, &ids, PATH, &build).exits(0);
    assert!(ran.stderr.contains("from its base of another size"), "{}", ran.stderr);
    before.assert_nothing_left();
    let images = fs::read_dir(home.join("store/images")).unwrap().map(|entry| entry.unwrap().path());
    let grown = images.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    assert_eq!(fs::metadata(&grown).unwrap().len(), 1700 << 20);
    fsck_clean(&grown, "raw");
}

#[test]
fn a_guest_of_an_ordinary_user_boots() {
    let _lock = appliance_lock();
    let before = HostState::capture();
    let bench = Bench::new("/nonexistent".into());
    let home = home(&bench);
    rpm_repository(&home.join("packages"));
    let import = format!(
        "{{suite: fedora43, mirror: 'file:{}/packages/repository', gpg: packages/key.asc, size: 600M, packages: [tool, owned]}}",
        home.display()
    );
    fs::write(home.join("t.yml"), format!("spec:\n  import:\n    bootstrap: {import}\n")).unwrap();
    give(&home);

    // Without subordinate ids it says what is missing, and leaves nothing.
    let left = || {
        let foreign = run(Command::new("find").arg(&home).args(["-not", "-uid", &USER.to_string()])).stdout;
        let work = fs::read_dir(home.join("store/tmp")).into_iter().flatten().count();
        (String::from_utf8(foreign).unwrap(), work)
    };
    let build = ["build", "t.yml", "--progress", "plain", "--allow", "unverified", "--lock"];
    let ran = as_user(&home, "", PATH, &build[..6]).exits(5);
    assert!(ran.stderr.contains("uidmap") && ran.stderr.contains("/etc/subuid"), "{}", ran.stderr);
    assert_eq!(left(), (String::new(), 0));

    let ids = format!("{USER}:200000:65536\n");
    let ran = as_user(&home, &ids, "/nonexistent", &build[..6]).exits(5);
    assert!(ran.stderr.contains("dnf is not installed") && ran.stderr.contains("the package `dnf`"), "{}", ran.stderr);
    assert_eq!(left(), (String::new(), 0));

    // Neither what dnf of this host is told counts, nor what this user tells rpm.
    fs::write(home.join(".rpmmacros"), "%_dbpath /nonsense\n").unwrap();
    as_user(&home, &ids, PATH, &build).exits(0);
    fs::remove_file(home.join(".rpmmacros")).unwrap();
    assert_eq!(left(), (String::new(), 0));
    before.assert_nothing_left();
    // What stands for the release is the digest of the repository's metadata.
    let metadata = home.join("packages/repository/repodata/repomd.xml");
    let sum = String::from_utf8(run(Command::new("sha256sum").arg(&metadata)).stdout).unwrap();
    let lock = fs::read_to_string(home.join("virt-maker.lock")).unwrap();
    let source = format!("\"bootstrap:file://{}\": \"sha256:{}\"", metadata.display(), &sum[..64]);
    assert!(lock.contains(&source), "{lock}\n{source}");

    let images: Vec<_> = fs::read_dir(home.join("store/images")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [image] = &images[..] else { panic!("{images:?}") };
    fsck_clean(image, "raw");
    let text = |path: &str| String::from_utf8(read_file_from_image(image, path)).unwrap();
    // Fedora has its database elsewhere than Rocky Linux 9.
    assert!(!read_file_from_image(image, "/usr/lib/sysimage/rpm/rpmdb.sqlite").is_empty());
    assert!(text("/etc/passwd").contains("\nowner:x:777:777:"));
    let machine = Machine::boot(image, "raw");
    let console = machine.wait_for("@end", Duration::from_secs(600));
    assert!(console.contains("@boots tiny a-tool "), "{console}");
    drop(machine);
    before.assert_nothing_left();
}

/// What comes after: steps on such a base, labels at the export, and kernels that come and go.
#[test]
fn steps_and_exports_go_on_from_it() {
    let before = HostState::capture();
    let bench = Bench::new("/nonexistent".into());
    rpm_repository(&bench.path("packages"));
    let script = r#"
set -eu
links() { echo "[$1]" $(for name in vmlinuz initramfs.img vmlinuz.old initramfs.img.old; do readlink /boot/$name || echo none; done); }
plugin=/etc/kernel/install.d/95-boot-links.install
version=$(ls /lib/modules)
mkdir /lib/modules/99.1
cp /lib/modules/$version/vmlinuz /lib/modules/99.1/
links first
$plugin add 99.1 /boot/no-such-folder /lib/modules/99.1/vmlinuz
links added
$plugin add 99.1 /boot/no-such-folder /lib/modules/99.1/vmlinuz
links again
$plugin remove 99.1 /boot/no-such-folder
links removed
$plugin remove $version /boot/no-such-folder
links none
echo [dracut] $(cat /etc/dracut-calls)
"#;
    let text = format!(
        "spec:\n  import:\n    bootstrap: {{suite: rocky9, mirror: 'file:{}/repository', gpg: packages/key.asc, size: 600M}}\n  \
         steps:\n    - run: |\n{}  export:\n    raw: {{path: a.img}}\n",
        bench.path("packages").display(),
        script.lines().map(|line| format!("        {line}\n")).collect::<String>()
    );
    fs::write(bench.path("t.yml"), text).unwrap();
    let ran = bench.build("chroot", &bench.path("t.yml"), &["--allow", "unverified"]).exits(0);
    let said = ran.said();
    let version =
        said.lines().find_map(|line| line.strip_prefix("[first] vmlinuz-")).unwrap_or_else(|| panic!("{said}"));
    let version = version.split(' ').next().unwrap();
    let links = |version: &str| format!("vmlinuz-{version} initramfs-{version}.img");
    for line in [
        format!("[first] {} none none", links(version)),
        format!("[added] {} {}", links("99.1"), links(version)),
        format!("[again] {} {}", links("99.1"), links(version)),
        format!("[removed] {} none none", links(version)),
        "[none] none none none none".to_owned(),
        format!("[dracut] {version} 99.1"),
    ] {
        assert!(said.contains(&format!("{line}\n")), "no `{line}` in:\n{said}");
    }
    // SELinux is on in this guest, so the export labels it, and the mark that the next boot should is gone.
    let image = bench.path("a.img");
    fsck_clean(&image, "raw");
    assert!(find_file_in_image(&image, "/.autorelabel").is_none());
    let volumes = Volumes::of(&image, "raw");
    let root = &volumes.volumes.last().unwrap().path;
    let labels = run(Command::new("debugfs").args(["-R", "ea_list /etc/hostname"]).arg(root));
    let labels = String::from_utf8(labels.stdout).unwrap();
    assert!(labels.contains("security.selinux") && labels.contains("default_t"), "{labels}");
    assert_eq!(bench.left_in_store(), Vec::<String>::new());
    before.assert_nothing_left();
}
