//! A repository of tiny RPM packages, signed, that `dnf` makes a bootable guest of: the program busybox under the names of all
//! that a distribution's guest is made of, and a kernel of the host.
//!
//! Made by the real `rpmbuild`, `rpmsign` and `createrepo_c`, once per machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::cache::fixture;
use crate::command::run;
use crate::machine::host_kernel;
use crate::tiny::busybox;

/// Raise it when the packages change.
const RECIPE: u32 = 3;
/// What the guest says on its console when it is up, before more of itself.
const START: &str =
    "#!/bin/sh\nexec > /dev/ttyS0 2>&1\necho @boots $(cat /etc/hostname) $(tool) $(cat /proc/cmdline) @end\n";
/// What stands for dracut: it takes a made initrd in place of making one.
const DRACUT: &str = "#!/bin/sh\nset -eu\n[ \"$1 $2\" = '--force --no-hostonly' ]\ncp /usr/lib/tiny/initrd \"$3\"\n\
    echo \"$4\" >> /etc/dracut-calls\n";
/// Names that busybox stands for: what a guest is made of, and what it is called.
const STANDS_FOR: &str = "/bin/sh fedora-release rocky-release almalinux-release centos-stream-release systemd-udev \
    dracut-config-generic NetworkManager chrony bash coreutils util-linux shadow-utils /usr/bin/passwd e2fsprogs kmod iproute dnf \
    glibc-minimal-langpack policycoreutils";
const OWN_REPOSITORY: &str = "[baseos]\nname=Rocky\nbaseurl=http://rocky.invalid/\nenabled=1\n";

/// One package to be made.
struct Package<'a> {
    name: &'a str,
    provides: &'a str,
    /// Files: path, mode and content.
    files: Vec<(String, u32, Vec<u8>)>,
    links: Vec<(String, String)>,
    /// Lines of `%files` beyond those of the files and links.
    listed: &'a str,
    scriptlets: &'a str,
    signed: bool,
}

impl<'a> Package<'a> {
    fn new(name: &'a str) -> Package<'a> {
        let (files, links) = (Vec::new(), Vec::new());
        Package { name, provides: "", files, links, listed: "", scriptlets: "", signed: true }
    }

    fn file(mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.to_owned(), mode, content.into()));
        self
    }

    /// A program of the host with the libraries that it needs.
    fn program(mut self, path: &str) -> Self {
        self = self.file(path, 0o755, fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}")));
        let libraries = String::from_utf8(run(Command::new("ldd").arg(path)).stdout).expect("names of libraries");
        for word in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            // Merged: /lib and /lib64 are links in the guest.
            let inside = if word.starts_with("/usr/") { word.to_owned() } else { format!("/usr{word}") };
            if !self.files.iter().any(|(path, ..)| *path == inside) {
                self = self.file(&inside, 0o755, fs::read(word).expect("a library"));
            }
        }
        self
    }
}

/// Makes the repository in the new folder `target`: packages and `repodata` in `repository`, the public key that signs them in
/// `key.asc`, and another one that signs nothing in `other.asc`. Besides what every guest is made of there are `tool` (a
/// program), `owned` (a folder of a user that comes with it), `unsigned`, `big` (600 MB), and `rpm`, whose database is in
/// another place than the distribution's.
pub fn rpm_repository(target: &Path) {
    let kernel = host_kernel();
    let program = fs::read(busybox()).expect("busybox is readable");
    let recipe = format!("rpm {RECIPE} {kernel} {:x?} {START}{DRACUT}{STANDS_FOR}", Sha256::digest(&program));
    let packed = fixture("rpm", "tar", recipe.as_bytes(), |packed, scratch| {
        let made = scratch.join("made");
        make(&made, scratch, &kernel);
        run(Command::new("tar").arg("--create").arg("--file").arg(packed).arg("--directory").arg(&made).arg("."));
    });
    fs::create_dir(target).expect("a new folder");
    run(Command::new("tar").arg("--extract").arg("--file").arg(packed).arg("--directory").arg(target));
}

fn make(made: &Path, scratch: &Path, kernel: &str) {
    let repository = made.join("repository");
    fs::create_dir_all(&repository).expect("a new folder");
    let keys = Keys::new(scratch);
    for (name, file) in [("Tiny", "key.asc"), ("Other", "other.asc")] {
        keys.generate(name);
        fs::write(made.join(file), run(keys.gpg().args(["--armor", "--export", name])).stdout).expect("room for keys");
    }
    for package in packages(kernel) {
        build(&package, &repository, scratch, &keys);
    }
    run(Command::new("createrepo_c").arg("--quiet").arg(&repository));
    make_readable(made);
}

fn packages(kernel: &str) -> Vec<Package<'static>> {
    let host = |path: String| fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut system = Package {
        provides: STANDS_FOR,
        listed: "%dir %attr(555,root,root) /proc\n%dir %attr(555,root,root) /sys\n%dir /dev\n%dir /run\n\
            %dir %attr(1777,root,root) /tmp\n%dir /boot\n%dir /var\n%dir /root\n",
        scriptlets: "%post -p /bin/sh\n\
            test \"$(id -u)\" = 0 && test -e /proc/self/status && test -d /sys/class && grep -q ' /sys sysfs ro' /proc/mounts && echo x > /dev/null && date > /etc/installed\n",
        ..Package::new("busybox-system")
    }
    .file("/usr/bin/busybox", 0o755, fs::read(busybox()).expect("busybox is readable"))
    .file("/etc/os-release", 0o644, "ID=tiny\nPRETTY_NAME='Tiny RPM 1'\n")
    .file("/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n")
    .file("/etc/group", 0o644, "root:x:0:\n")
    .file("/etc/shadow", 0o000, "root:*:19000:0:99999:7:::\n")
    .file("/etc/inittab", 0o644, "::sysinit:/etc/start\n::wait:/bin/sleep 1000\n")
    .file("/etc/start", 0o755, START)
    .file("/etc/yum.repos.d/rocky.repo", 0o644, OWN_REPOSITORY);
    let applets = String::from_utf8(run(Command::new(busybox()).arg("--list")).stdout).expect("names of applets");
    let applets = applets.lines().filter(|applet| !["busybox", "rpm"].contains(applet));
    system.links.extend(applets.map(|applet| (format!("/usr/bin/{applet}"), "busybox".to_owned())));
    for (path, target) in [("/bin", "usr/bin"), ("/sbin", "usr/bin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")] {
        system.links.push((path.into(), target.into()));
    }
    let mut rpm = Package::new("rpm").program("/usr/bin/rpm").program("/usr/bin/rpmdb");
    for entry in fs::read_dir("/usr/lib/rpm").expect("rpm is installed") {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("an entry").to_string_lossy().into_owned();
        if ["macros", "rpmrc", "rpmpopt"].iter().any(|begin| name.starts_with(begin)) && path.is_file() {
            rpm = rpm.file(&path.to_string_lossy(), 0o644, fs::read(&path).expect("readable"));
        }
    }
    rpm = rpm.file("/etc/rpm/macros", 0o644, "%_dbpath /var/lib/elsewhere\n");
    let policy = Package { provides: "selinux-policy-targeted", ..Package::new("policy") }
        .file("/etc/selinux/config", 0o644, "SELINUX=enforcing\nSELINUXTYPE=targeted\n")
        .file("/etc/selinux/targeted/contexts/files/file_contexts", 0o644, "/.*\tsystem_u:object_r:default_t:s0\n");
    vec![
        system,
        Package::new("systemd").program("/usr/bin/systemd-sysusers"),
        policy,
        Package::new("dracut").file("/usr/bin/dracut", 0o755, DRACUT).file(
            "/usr/lib/tiny/initrd",
            0o600,
            host(format!("/boot/initrd.img-{kernel}")),
        ),
        Package::new("kernel-core").file(
            &format!("/usr/lib/modules/{kernel}/vmlinuz"),
            0o755,
            host(format!("/boot/vmlinuz-{kernel}")),
        ),
        Package::new("tool").file("/usr/bin/tool", 0o755, "#!/bin/sh\necho a-tool\n"),
        Package {
            listed: "%attr(2750,owner,owner) /var/lib/owned\n",
            ..Package::new("owned").file("/usr/lib/sysusers.d/owned.conf", 0o644, "u owner 777 - /\n")
        },
        Package { signed: false, ..Package::new("unsigned").file("/usr/share/unsigned", 0o644, "unsigned\n") },
        Package::new("big").file("/usr/share/big", 0o644, vec![b'x'; 600 << 20]),
        rpm,
    ]
}

fn build(package: &Package<'_>, repository: &Path, scratch: &Path, keys: &Keys) {
    let top = scratch.join(package.name);
    let tree = top.join("tree");
    let inside = |path: &str| tree.join(path.trim_start_matches('/'));
    let mut list = String::new();
    for (path, mode, content) in &package.files {
        let target = inside(path);
        fs::create_dir_all(target.parent().expect("not the root")).expect("a new folder");
        fs::write(&target, content).expect("room for a file");
        fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).expect("an own file");
        list += &format!("%attr({mode:o},root,root) {path}\n");
    }
    for (path, target) in &package.links {
        fs::create_dir_all(inside(path).parent().expect("not the root")).expect("a new folder");
        symlink(target, inside(path)).expect("nothing is there");
        list += &format!("{path}\n");
    }
    for line in package.listed.lines() {
        let path = line.split_whitespace().last().expect("a path");
        fs::create_dir_all(inside(path)).expect("a new folder");
    }
    let provides = match package.provides {
        "" => String::new(),
        names => format!("Provides: {names}\n"),
    };
    let spec = format!(
        "Name: {}\nVersion: 1\nRelease: 1\nSummary: made for tests\nLicense: none\nAutoReqProv: no\n{provides}%description\nMade for \
         tests.\n%install\ncp -a {}/. %{{buildroot}}/\n{}%files\n{list}{}",
        package.name,
        tree.display(),
        package.scriptlets,
        package.listed
    );
    let file = top.join("package.spec");
    fs::write(&file, spec).expect("room for a file");
    let mut rpmbuild = Command::new("rpmbuild");
    rpmbuild.env("HOME", scratch).args(["--quiet", "-bb"]);
    for (name, value) in [
        ("_topdir", top.display().to_string()),
        ("_rpmdir", repository.display().to_string()),
        ("_binary_payload", "w1.gzdio".into()),
        ("debug_package", "%{nil}".into()),
        ("__os_install_post", "%{nil}".into()),
        ("_build_id_links", "none".into()),
    ] {
        rpmbuild.args(["--define", &format!("{name} {value}")]);
    }
    run(rpmbuild.arg(&file));
    fs::remove_dir_all(&tree).expect("an own folder");
    if package.signed {
        let made = repository.join("x86_64").join(format!("{}-1-1.x86_64.rpm", package.name));
        let mut sign = Command::new("rpmsign");
        sign.env("HOME", scratch).env("GNUPGHOME", &keys.home);
        run(sign.args(["--addsign", "--define", "__gpg /usr/bin/gpg", "--define", "_gpg_name Tiny"]).arg(made));
    }
}

/// Throw-away keys, and the agent that has them.
struct Keys {
    home: PathBuf,
}

impl Keys {
    fn new(scratch: &Path) -> Keys {
        let home = scratch.join("gpg");
        fs::create_dir(&home).expect("a new folder");
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).expect("an own folder");
        Keys { home }
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(&self.home).args([
            "--batch",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        gpg
    }

    fn generate(&self, name: &str) {
        run(self.gpg().args(["--quick-generate-key", name, "rsa2048", "sign", "never"]));
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        run(Command::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "all"]));
    }
}

/// For every user of the host.
fn make_readable(folder: &Path) {
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(folder));
}
