//! A package of a stranger: a program that tries all by which its installation may reach the host, and repositories that
//! have it, of Debian's packages and of RPM's.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::Victim;
use crate::command::{run, run_with_input};
use crate::tiny::busybox;

const SOURCE: &str = include_str!("attack/attack.c");

/// What is on the host for a package to reach: a folder, a port on which nobody may knock, a process that has to live, a
/// device that has to stay as it is.
pub struct Targets {
    /// The folder.
    pub victim: Victim,
    listener: TcpListener,
    sleeper: Child,
    null: (u32, u64),
}

impl Targets {
    /// Makes the targets.
    pub fn new() -> Targets {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.set_nonblocking(true).expect("a socket of ours");
        let sleeper = Command::new("sleep").arg("infinity").spawn().expect("sleep starts");
        Targets { victim: Victim::new(), listener, sleeper, null: null() }
    }

    /// The port on the host's loopback device.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("a socket of ours").port()
    }

    /// What a package is to try.
    pub fn attack(&self) -> Attack<'_> {
        Attack { victim: self.victim.path(), port: self.port(), pid: self.sleeper.id() }
    }

    /// Panics if any was reached, `by` whom.
    #[track_caller]
    pub fn assert_missed(&mut self, by: &str) {
        self.victim.assert_untouched(by);
        assert!(self.sleeper.try_wait().expect("it is our child").is_none(), "{by}: a process of the host was killed");
        assert!(self.listener.accept().is_err(), "{by}: came to the host's loopback device");
        assert_eq!(null(), self.null, "{by}: /dev/null of the host has changed");
        assert!(!Path::new("/etc/sourced").exists(), "{by}: a file of the guest was sourced");
    }
}

impl Default for Targets {
    fn default() -> Targets {
        Targets::new()
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        let _ = self.sleeper.kill();
        let _ = self.sleeper.wait();
    }
}

fn null() -> (u32, u64) {
    let found = fs::metadata("/dev/null").expect("the host has it");
    (found.mode(), found.ino())
}

/// What the program tries to reach.
pub struct Attack<'a> {
    /// A folder of the host with a file `secret`.
    pub victim: &'a Path,
    /// A port on which somebody listens on the host's loopback device.
    pub port: u16,
    /// A process of the host.
    pub pid: u32,
}

impl Attack<'_> {
    /// Where its package writes what worked, a line each, and `done` at the end.
    pub const REPORT: &'static str = "/etc/attack";

    /// Compiles the program to `target`, for every guest.
    fn program(target: &Path) {
        let compiler = ["-static", "-O1", "-w", "-x", "c", "-", "-o"];
        run_with_input(Command::new("cc").args(compiler).arg(target), SOURCE.as_bytes());
    }

    /// What runs it, in a shell of the guest where it is `/usr/bin/attack`.
    fn script(&self) -> String {
        // The disk that the victim is on.
        let device = fs::metadata(self.victim).expect("the victim is there").dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let (victim, port, pid) = (self.victim.display(), self.port, self.pid);
        format!("/usr/bin/attack {victim} {port} {pid} {major}:{minor} >{} 2>&1", Attack::REPORT)
    }

    /// A repository of RPM packages in the new folder `target`: the package `attack`, which nobody signed.
    pub fn rpm_repository(&self, target: &Path, scratch: &Path) {
        fs::create_dir(target).expect("a new folder");
        let program = scratch.join("attack");
        Attack::program(&program);
        let spec = format!(
            "Name: attack\nVersion: 1\nRelease: 1\nSummary: made for tests\nLicense: none\nAutoReqProv: no\nRequires: busybox-system\n\
             %description\nMade for tests.\n%install\nmkdir -p %{{buildroot}}/usr/bin\ncp {} %{{buildroot}}/usr/bin/attack\n\
             %post -p /bin/sh\n{}\n%files\n%attr(755,root,root) /usr/bin/attack\n",
            program.display(),
            self.script()
        );
        let file = scratch.join("attack.spec");
        fs::write(&file, spec).expect("room for a file");
        let mut rpmbuild = Command::new("rpmbuild");
        rpmbuild.env("HOME", scratch).args(["--quiet", "-bb"]);
        for (name, value) in [
            ("_topdir", scratch.join("rpmbuild").display().to_string()),
            ("_rpmdir", target.display().to_string()),
            ("debug_package", "%{nil}".into()),
            ("__os_install_post", "%{nil}".into()),
            ("_build_id_links", "none".into()),
        ] {
            rpmbuild.args(["--define", &format!("{name} {value}")]);
        }
        run(rpmbuild.arg(&file));
        run(Command::new("createrepo_c").arg("--quiet").arg(target));
    }

    /// A repository of Debian's packages in the new folder `target`, without a signature: `attack`, `large` (its script writes 600 MB), and all that a
    /// bootstrap asks for, which busybox and the host's dpkg stand for. `deb [trusted=yes] copy:TARGET own main` takes it.
    pub fn deb_repository(&self, target: &Path, scratch: &Path) {
        fs::create_dir(target).expect("a new folder");
        let mut index = String::new();
        let mut add = |package: &Deb<'_>| index.push_str(&package.build(target, scratch));
        let mut system = Deb::new("tiny-system", "Essential: yes\nPriority: required\n");
        system.provides = "systemd-sysv, systemd-timesyncd, udev, dbus, kmod, iproute2, systemd-resolved, initramfs-tools, \
                           linux-image-cloud-amd64";
        system.file("usr/bin/busybox", 0o755, &fs::read(busybox()).expect("busybox is readable"));
        let applets = String::from_utf8(run(Command::new(busybox()).arg("--list")).stdout).expect("names of applets");
        for applet in applets.lines().filter(|name| !["busybox", "dpkg", "dpkg-deb", "env", "tar"].contains(name)) {
            system.link(&format!("usr/bin/{applet}"), "busybox");
        }
        for (name, to) in [("bin", "usr/bin"), ("sbin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            system.link(name, to);
        }
        system.link("usr/sbin", "bin");
        for name in ["ldconfig", "systemctl"] {
            system.file(&format!("usr/lib/tiny/{name}"), 0o755, b"#!/bin/sh\n");
            let _ = fs::remove_file(system.tree.path().join("usr/bin").join(name));
            system.link(&format!("usr/bin/{name}"), &format!("../lib/tiny/{name}"));
        }
        // busybox's own `env` takes its own dpkg in place of the real one, so that is in the package `dpkg`, too.
        // What would be run if it were sourced.
        system.file("etc/os-release", 0o644, b"ID=$(touch /etc/sourced)\nPRETTY_NAME='Tiny'\ntouch /etc/sourced\n");
        system.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
        system.file("etc/group", 0o644, b"root:x:0:\n");
        system.file("boot/vmlinuz", 0o644, b"no kernel");
        for folder in ["dev", "proc", "sys", "run", "tmp", "root", "var/lib/dpkg", "etc/systemd"] {
            fs::create_dir_all(system.tree.path().join(folder)).expect("a new folder");
        }
        add(&system);
        let mut dpkg = Deb::new("dpkg", "Essential: yes\nPriority: required\n");
        for name in ["dpkg", "dpkg-deb", "dpkg-split", "dpkg-query", "dpkg-trigger", "env", "tar"] {
            let path = format!("/usr/bin/{name}");
            let path = if Path::new(&path).exists() { path } else { format!("/bin/{name}") };
            dpkg.program(&format!("usr/bin/{name}"), &path);
        }
        add(&dpkg);
        add(&Deb::new("apt", "Priority: required\n"));
        let mut attack = Deb::new("attack", "");
        let program = scratch.join("attack");
        Attack::program(&program);
        attack.file("usr/bin/attack", 0o755, &fs::read(&program).expect("it was compiled"));
        attack.script = format!("#!/bin/sh\n{}\n", self.script());
        add(&attack);
        let mut large = Deb::new("large", "");
        large.script = "#!/bin/sh\nyes | head -c 600000000 >/var/large\n".to_owned();
        add(&large);
        let suite = target.join("dists/own");
        fs::create_dir_all(suite.join("main/binary-amd64")).expect("a new folder");
        let packages = suite.join("main/binary-amd64/Packages");
        fs::write(&packages, &index).expect("room for a file");
        let release = format!(
            "Suite: own\nCodename: own\nComponents: main\nArchitectures: amd64\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {} {} \
             main/binary-amd64/Packages\n",
            sha256(&packages),
            index.len()
        );
        fs::write(suite.join("Release"), release).expect("room for a file");
    }
}

fn sha256(file: &Path) -> String {
    let said = String::from_utf8(run(Command::new("sha256sum").arg(file)).stdout).expect("a digest");
    said.split_whitespace().next().expect("a digest").to_owned()
}

/// A package to be made.
struct Deb<'a> {
    name: &'a str,
    fields: &'a str,
    provides: &'a str,
    tree: tempfile::TempDir,
    script: String,
}

impl<'a> Deb<'a> {
    fn new(name: &'a str, fields: &'a str) -> Deb<'a> {
        let tree = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        Deb { name, fields, provides: "", tree, script: String::new() }
    }

    fn place(&self, path: &str) -> PathBuf {
        let place = self.tree.path().join(path);
        fs::create_dir_all(place.parent().expect("a folder above")).expect("a new folder");
        place
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let place = self.place(path);
        fs::write(&place, content).expect("room for a file");
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).expect("the file is ours");
    }

    fn link(&mut self, path: &str, to: &str) {
        symlink(to, self.place(path)).expect("nothing is there");
    }

    /// A program of the host with the libraries that it needs.
    fn program(&mut self, place: &str, path: &str) {
        self.file(place, 0o755, &fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}")));
        let libraries = String::from_utf8(run(Command::new("ldd").arg(path)).stdout).expect("names of libraries");
        for word in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let inside = if word.starts_with("/usr/") { word[1..].to_owned() } else { format!("usr{word}") };
            if !self.tree.path().join(&inside).exists() {
                self.file(&inside, 0o755, &fs::read(word).expect("a library"));
            }
        }
    }

    /// Makes it in `target`, and its part of the index.
    fn build(&self, target: &Path, scratch: &Path) -> String {
        let mut control = format!(
            "Package: {}\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\n{}",
            self.name, self.fields
        );
        if !self.provides.is_empty() {
            control += &format!("Provides: {}\n", self.provides);
        }
        control += "Description: made for tests\n";
        let folder = self.tree.path().join("DEBIAN");
        fs::create_dir(&folder).expect("a new folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        fs::write(folder.join("control"), &control).expect("room for a file");
        if !self.script.is_empty() {
            let script = folder.join("postinst");
            fs::write(&script, &self.script).expect("room for a file");
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        }
        let name = format!("{}.deb", self.name);
        let file = target.join(&name);
        let mut dpkg = Command::new("dpkg-deb");
        run(dpkg
            .env("TMPDIR", scratch)
            .args(["--root-owner-group", "-Zgzip", "-z1", "--build"])
            .arg(self.tree.path())
            .arg(&file));
        let sum = sha256(&file);
        let size = fs::metadata(&file).expect("it was made").len();
        format!("{control}Filename: ./{name}\nSize: {size}\nSHA256: {sum}\n\n")
    }
}
