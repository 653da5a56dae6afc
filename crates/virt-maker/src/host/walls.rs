//! Walls around a program of the host that works on what somebody made whom nobody trusts: bubblewrap, told what may be seen.
//!
//! What must hold, for each kind ([`Walls::for_data`], [`Walls::for_tree`], [`Walls::for_scripts`]):
//! - It sees the host's programs (`/usr`, read-only) and the few files of `/etc` that these need, and of all else only what
//!   [`Walls::read`] and [`Walls::write`] name. No home, no key, no socket, no other process.
//! - It has no network; where packages are fetched and nothing of them runs ([`Walls::for_fetching`]), there is one server
//!   of ours in it ([`super::enclosed`]). It has no capability that reaches over the tree that it works on.
//! - It gets no system call that reaches beyond them: the same filter as a step's command.
//! - A file of a guest is run by a shell or a program only [`Walls::for_scripts`], and chrooted into the guest's tree.
//! - Whatever it leaves in a folder that it may write to is not believed afterwards: nothing of the host opens a name in
//!   there, but for [`super::subordinate::remove_tree`], which follows no link.
//!
//! The rule: a program of the host gets a file system, a table or a tree that a guest made only in here. What a virtual
//! machine does (libguestfs) is behind a wall already.

use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use virt_maker_agent::seccomp;

use super::Tool;
use super::enclosed::{Enclosed, Entered, WAIT};
use super::subordinate::{SYSTEM_PATH, as_root_mounting, as_root_mounting_without_network};
use super::user::is_root;
use crate::error::{Context, ErrorKind, Result};

const PROGRAM: &str = "bwrap";
const PACKAGE: &str = "bubblewrap";

/// Where the tree of a guest is in here.
pub const TREE: &str = "/tree";
/// A folder for everything that is gone at the end.
pub const SCRATCH: &str = "/scratch";

/// Names in `/` that lead to programs and libraries: links into `/usr`, or folders on a host without merged ones.
const PROGRAMS: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec"];
/// What every program may need of `/etc`.
const ETC: [&str; 4] = ["ld.so.cache", "ld.so.conf", "ld.so.conf.d", "mke2fs.conf"];
/// What those need that install packages: names of users and machines, and keys of distributions and authorities; neither
/// sources nor their passwords.
const ETC_PACKAGES: [&str; 20] = [
    "alternatives",
    "apt/keyrings",
    "apt/trusted.gpg",
    "apt/trusted.gpg.d",
    "ca-certificates",
    "crypto-policies",
    "gai.conf",
    "group",
    "host.conf",
    "hosts",
    "localtime",
    "login.defs",
    "nsswitch.conf",
    "passwd",
    "pki/ca-trust",
    "pki/rpm-gpg",
    "pki/tls/certs",
    "resolv.conf",
    "ssl/certs",
    "ssl/openssl.cnf",
];
/// Capabilities over a tree of files.
const FILES: [&str; 7] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "LINUX_IMMUTABLE", "MKNOD", "SETFCAP"];
/// Those that scripts of packages need besides: the same ones as a step's commands have.
const SCRIPTS: [&str; 7] = ["AUDIT_WRITE", "KILL", "NET_BIND_SERVICE", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"];
/// Parts of `/proc` by which root changes the host through files alone.
const READ_ONLY_PROC: [&str; 5] = ["sys", "sysrq-trigger", "fs", "scsi", "acpi"];

/// What `sh` runs before bubblewrap, in a mount namespace of its own: device nodes that are not the host's, where this
/// user may make some, in the folder $1. And bubblewrap's own file, which scripts see as `/proc/1/exe`, is on a read-only mount,
/// for its end comes before that of the scripts' last process; where this user cannot write it there is nothing to protect.
const DEVICES: &str = "bwrap=$(command -v bwrap)
{ mount --bind \"$bwrap\" \"$bwrap\" && mount -o remount,bind,ro \"$bwrap\"; } 2>/dev/null || test ! -w \"$bwrap\" || {
  echo \"cannot protect $bwrap by a read-only mount\" >&2
  exit 1
}
mount -t tmpfs -o mode=755,nosuid,noexec tmpfs \"$1\"
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
  name=${device%%:*} number=${device#*:}
  mknod -m 666 \"$1/$name\" c \"${number%:*}\" \"${number#*:}\" 2>/dev/null || {
    : >\"$1/$name\"
    mount --bind \"/dev/$name\" \"$1/$name\"
  }
done
shift
exec \"$@\"
";

/// What `sh` runs before bubblewrap otherwise: an empty file as descriptor [`EMPTY`].
const PLAIN: &str = "exec \"$@\" 9</dev/null";
const EMPTY: &str = "9";

/// The descriptor of the filter of system calls, which is in force when the walls stand. Others have lower numbers.
const FILTER: RawFd = 99;

/// Walls that are being described.
#[derive(Debug)]
pub struct Walls {
    options: Vec<OsString>,
    /// The folder for device nodes, and with that: root of a user namespace in place of root.
    devices: Option<PathBuf>,
    /// Whether it works as root, in a user namespace where the user is not.
    root: bool,
    /// A process whose mounts it sees in place of this one's.
    mounts_of: Option<u32>,
    /// What it says once it is in a network namespace of its own.
    channel: Option<OwnedFd>,
}

impl Walls {
    /// For a program that reads or changes a file with what a guest made: a file system, a partition table. No right, no
    /// network, no `/proc`, no device.
    pub fn for_data() -> Walls {
        let mut walls = Walls::new(false);
        // With a user namespace where the host lets this user have one, which it does for root nearly everywhere.
        walls.option(["--unshare-all", "--cap-drop", "ALL"]);
        walls.nothing_is_mounted();
        walls
    }

    /// For programs that make a tree or a file system of one, as root, and run nothing that is in there.
    pub fn for_tree() -> Walls {
        let mut walls = Walls::new(true);
        walls.option(["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-net", "--cap-drop", "ALL"]);
        walls.nothing_is_mounted();
        // For attributes of the namespaces `trusted` and `security`. None of the tree's programs runs to use it.
        for name in FILES.iter().chain(&["SYS_ADMIN"]) {
            walls.option(["--cap-add", &format!("CAP_{name}")]);
        }
        walls
    }

    /// For programs that fetch packages and run nothing of theirs: as [`Walls::for_scripts`], with one server in its network.
    pub fn for_fetching(devices: &Path, network: Enclosed) -> Result<(Walls, Entered)> {
        let mut walls = Walls::as_root(devices)?;
        let (channel, entered) = network.split();
        walls.channel = Some(channel);
        Ok((walls, entered))
    }

    /// For programs that install packages as root, and the scripts of these: without a network, with a `/proc` of its own
    /// processes, and device nodes in `devices`, an empty folder.
    pub fn for_scripts(devices: &Path) -> Result<Walls> {
        let mut walls = Walls::as_root(devices)?;
        walls.option(["--unshare-net"]);
        Ok(walls)
    }

    fn as_root(devices: &Path) -> Result<Walls> {
        let devices = absolute(devices)?;
        let mut walls = Walls::new(true);
        for name in ETC_PACKAGES {
            let path = Path::new("/etc").join(name);
            walls.parents(&path);
            walls.bind("--ro-bind-try", &path, &path);
        }
        // apt looks for settings there; those of the host are not for a guest.
        walls.option(["--perms", "0755", "--dir", "/etc/apt/apt.conf.d"]);
        walls.option(["--perms", "1777", "--tmpfs", "/tmp", "--perms", "1777", "--dir", "/var/tmp", "--tmpfs", "/run"]);
        walls.proc("/proc");
        walls.bind("--dev-bind", &devices, Path::new("/dev"));
        walls.option(["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]);
        walls.option(["--hostname", "localhost", "--cap-drop", "ALL"]);
        for name in FILES.iter().chain(&SCRIPTS) {
            walls.option(["--cap-add", &format!("CAP_{name}")]);
        }
        walls.devices = Some(devices);
        Ok(walls)
    }

    fn new(root: bool) -> Walls {
        let mut walls = Walls { options: Vec::new(), devices: None, root, mounts_of: None, channel: None };
        walls.option(["--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"]);
        for name in PROGRAMS {
            let path = Path::new("/").join(name);
            match std::fs::read_link(&path) {
                Ok(target) => {
                    walls.option(["--symlink"]);
                    walls.options.extend([target.into_os_string(), path.into_os_string()]);
                }
                Err(_) => walls.bind("--ro-bind-try", &path, &path),
            }
        }
        for name in ETC {
            let path = Path::new("/etc").join(name);
            walls.parents(&path);
            walls.bind("--ro-bind-try", &path, &path);
        }
        // These name folders that are not in here.
        for name in ["HOME", "USER", "TMPDIR", "LD_LIBRARY_PATH"] {
            walls.option(["--unsetenv", name]);
        }
        walls.option(["--chdir", "/"]);
        walls
    }

    /// Lets it read a file or a folder, under the same path.
    pub fn read(self, path: &Path) -> Result<Walls> {
        let path = absolute(path)?;
        Ok(self.read_at(&path, &path))
    }

    /// Lets it change a file or a folder, under the same path.
    pub fn write(self, path: &Path) -> Result<Walls> {
        let path = absolute(path)?;
        Ok(self.write_at(&path, &path))
    }

    /// Lets it read a file or a folder as `place`. Both paths are absolute.
    pub fn read_at(mut self, path: &Path, place: &Path) -> Walls {
        self.parents(place);
        self.bind("--ro-bind", path, place);
        self
    }

    /// Lets it change a file or a folder as `place`. Both paths are absolute.
    pub fn write_at(mut self, path: &Path, place: &Path) -> Walls {
        self.parents(place);
        self.bind("--bind", path, place);
        self
    }

    /// The tree of a guest, at [`TREE`], with what its scripts expect to be mounted in it, and `/sys` where that is asked
    /// for. The folder `tree` is empty but for those of the mounts, so that no name in it leads elsewhere.
    pub fn tree(self, tree: &Path, sysfs: bool) -> Walls {
        let mut walls = self.write_at(tree, Path::new(TREE));
        walls.proc(&format!("{TREE}/proc"));
        if let Some(devices) = walls.devices.clone() {
            walls.bind("--dev-bind", &devices, &Path::new(TREE).join("dev"));
        }
        let place = format!("{TREE}/sys");
        match sysfs {
            true => walls.option(["--ro-bind", "/sys", &place]),
            false => walls.option(["--tmpfs", &place]),
        }
        walls
    }

    /// What takes everything and holds nothing, for programs that do not start without it.
    pub fn null(mut self) -> Walls {
        let null = Path::new("/dev/null");
        self.parents(null);
        self.bind("--dev-bind", null, null);
        self
    }

    /// An empty folder in memory, with a mode as octal digits.
    pub fn empty(mut self, mode: &str, place: &str) -> Walls {
        self.option(["--perms", mode, "--tmpfs", place]);
        self
    }

    /// Sets a variable that the user's own environment has for another place: `HOME`, `TMPDIR`.
    pub fn env(mut self, name: &str, value: &str) -> Walls {
        self.option(["--setenv", name, value]);
        self
    }

    /// What it sees are files as the process `pid` sees them, which has mounts of its own. For root.
    pub fn mounts_of(mut self, pid: u32) -> Walls {
        self.mounts_of = Some(pid);
        self
    }

    /// A program by its name, behind the walls. Its package is the one that [`Tool::new`] wants.
    pub fn tool(self, program: &str, package: &'static str) -> Tool {
        for (name, package) in [(PROGRAM, PACKAGE), (program, package)] {
            // In there, its absence would be told as somebody else's.
            if super::find_in(name, SYSTEM_PATH).is_none() {
                return Tool::new(name, package).env("PATH", SYSTEM_PATH);
            }
        }
        let tool = match (&self.devices, self.mounts_of) {
            (Some(folder), _) if self.channel.is_some() => as_root_mounting_without_network()
                .args(["sh", "-eu", "-c", &format!("{WAIT}{DEVICES}"), "sh"])
                .arg(folder),
            (Some(folder), _) => as_root_mounting().args(["sh", "-eu", "-c", DEVICES, "sh"]).arg(folder),
            (None, Some(pid)) => Tool::new("nsenter", "util-linux")
                .arg(format!("--mount=/proc/{pid}/ns/mnt"))
                .args(["sh", "-c", PLAIN, "sh"]),
            (None, None) if self.root && !is_root() => as_root_mounting().args(["sh", "-c", PLAIN, "sh"]),
            (None, None) => Tool::new("sh", "dash").args(["-c", PLAIN, "sh"]),
        };
        let tool = tool.env("PATH", SYSTEM_PATH).give(FILTER, seccomp::program()).arg(PROGRAM).args(self.options);
        let tool = tool.args(["--seccomp", &FILTER.to_string(), "--", program]);
        match self.channel {
            Some(channel) => tool.channel(channel),
            None => tool,
        }
    }

    /// The same for a helper, which has its own filter of system calls and no terminal: what to start, and what comes before the
    /// helper's arguments. It inherits the descriptors that it is given. Not for walls with devices.
    pub fn helper(self, program: &str) -> (PathBuf, Vec<OsString>) {
        let mut words: Vec<OsString> = ["-c", PLAIN, "sh", PROGRAM].map(Into::into).into();
        words.extend(self.options);
        words.extend(["--", program].map(Into::into));
        ("sh".into(), words)
    }

    fn option<const N: usize>(&mut self, words: [&str; N]) {
        self.options.extend(words.map(OsString::from));
    }

    fn bind(&mut self, how: &str, path: &Path, place: &Path) {
        self.options.extend([how.into(), path.as_os_str().to_owned(), place.as_os_str().to_owned()]);
    }

    /// Folders above a place: those that bubblewrap makes by itself are for their owner alone.
    fn parents(&mut self, place: &Path) {
        let above: Vec<_> = place.ancestors().skip(1).filter(|path| path.parent().is_some()).collect();
        for folder in above.into_iter().rev() {
            self.option(["--perms", "0755", "--dir"]);
            self.options.push(folder.as_os_str().to_owned());
        }
    }

    /// For programs that ask whether a file system is mounted, and stop where nobody can tell.
    fn nothing_is_mounted(&mut self) {
        self.option(["--ro-bind-data", EMPTY, "/etc/mtab"]);
    }

    fn proc(&mut self, place: &str) {
        self.option(["--proc", place]);
        for name in READ_ONLY_PROC {
            self.option(["--ro-bind-try", &format!("/proc/{name}"), &format!("{place}/{name}")]);
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(ErrorKind::Host, || "cannot find the current folder")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::host::Cancel;

    fn shell(walls: Walls, script: &str) -> String {
        let tool = walls.tool("sh", "dash").args(["-c", script]);
        String::from_utf8(tool.run(&Cancel::default()).unwrap()).unwrap()
    }

    #[test]
    fn a_helper_sees_what_it_was_given_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (own, log) = (folder.path().join("own"), folder.path().join("log"));
        fs::create_dir(&own).unwrap();
        fs::write(folder.path().join("secret"), "a secret").unwrap();
        let (program, mut arguments) = Walls::for_data().write_at(&own, Path::new("/state")).helper("sh");
        let script = "cat /etc/shadow /proc/1/status \"$0\"/secret 2>&1 | grep -c 'No such file'; echo x >/state/x; \
            cat <&3; read -r word <&0 || echo no input";
        arguments.extend(["-c", script].map(OsString::from));
        arguments.push(folder.path().into());
        let given = folder.path().join("given");
        fs::write(&given, "given\n").unwrap();
        let helper = crate::host::Helper::spawn(crate::host::HelperCommand {
            name: "a shell",
            program,
            package: "dash",
            arguments,
            channels: vec![fs::File::open(given).unwrap().into()],
            address_space: Some(1 << 30),
            mount_namespace_of: None,
            children_beside_those_of: None,
            directory: None,
            log: log.clone(),
        });
        helper.unwrap().wait().unwrap();
        let said = fs::read_to_string(log).unwrap();
        assert!(said.starts_with("3\n") && said.ends_with("given\nno input\n"), "{said}");
        assert_eq!(fs::read_to_string(own.join("x")).unwrap(), "x\n");
    }

    /// Everything that a file system could have a checker do, if it had an error of its own.
    #[test]
    fn a_program_on_data_sees_its_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (folder.path().join("own"), folder.path().join("other"));
        fs::write(&own, "before").unwrap();
        fs::write(&other, "a secret").unwrap();
        let script = format!(
            "cat {own}; printf after >{own}; cat {other} /etc/shadow /etc/hostname /proc/1/status 2>/dev/null; \
             ls -d /root /home /var /run /proc /sys /dev 2>/dev/null; touch /usr/planted 2>/dev/null && echo /usr; \
             mknod /tmp/disk b 8 0 2>/dev/null && echo a disk; mount -t tmpfs none /mnt 2>/dev/null && echo a mount; \
             chown 1:1 {own} 2>/dev/null && echo an owner; printf '|%s' \"$HOME$TMPDIR$USER\"",
            own = own.display(),
            other = other.display()
        );
        assert_eq!(shell(Walls::for_data().write(&own).unwrap(), &script), "before|");
        assert_eq!(fs::read(&own).unwrap(), b"after");
        let refused = Walls::for_data().read(&own).unwrap().tool("sh", "dash");
        refused.args(["-c", "echo more >>\"$1\"", "sh"]).arg(&own).run(&Cancel::default()).unwrap_err();
        assert_eq!(fs::read(&own).unwrap(), b"after");
    }

    /// The devices of a script are not the host's: what it does to one of them, it does to its own.
    #[test]
    fn a_script_has_devices_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (devices, tree) = (folder.path().join("dev"), folder.path().join("tree"));
        for path in [&devices, &tree] {
            fs::create_dir(path).unwrap();
        }
        for name in ["dev", "proc", "sys"] {
            fs::create_dir(tree.join(name)).unwrap();
        }
        let before = fs::metadata("/dev/null").unwrap();
        let walls = Walls::for_scripts(&devices).unwrap().tree(&tree, false);
        let said = shell(
            walls,
            "echo x >/tree/dev/null && chmod 600 /dev/null && rm /tree/dev/zero && ls /dev/zero 2>/dev/null; ls /tree/sys; \
             cat /tree/proc/1/comm; chmod 755 /tree/proc/1/exe 2>&1 | grep -c 'Read-only file system'; ls -d /root /home 2>/dev/null; echo 1 2>/dev/null >/tree/proc/sys/kernel/sysrq && echo w; \
             echo owner >/tree/file",
        );
        assert_eq!(said, "bwrap\n1\n");
        let after = fs::metadata("/dev/null").unwrap();
        assert_eq!((before.mode(), before.ino(), before.dev()), (after.mode(), after.ino(), after.dev()));
        assert_eq!(fs::read(tree.join("file")).unwrap(), b"owner\n");
        assert_eq!(fs::read_dir(&devices).unwrap().count(), 0);
    }

    /// A user namespace would give it all rights again, over more of the kernel than it needs.
    #[test]
    fn what_is_behind_walls_has_a_filter_of_system_calls() {
        let folder = tempfile::tempdir().unwrap();
        let look = "unshare --user true 2>/dev/null && echo a namespace; grep -s Seccomp: /proc/self/status; true";
        assert_eq!(shell(Walls::for_data(), look), "");
        assert_eq!(shell(Walls::for_tree(), look), "");
        let look = format!("{look}; ls /proc/self/fd | grep -v '^[0-3]$'; true");
        assert_eq!(shell(Walls::for_scripts(folder.path()).unwrap(), &look), "Seccomp:\t2\n");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let error =
            Walls::for_data().tool("virt-maker-no-such-tool", "some-package").run(&Cancel::default()).unwrap_err();
        assert!(error.to_string().contains("virt-maker-no-such-tool"), "{error}");
        assert!(error.hint().unwrap().contains("`some-package`"));
    }
}
