//! Real guests for the tests: small trees with busybox, on real disk images, served by the real agent.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use virt_maker_agent::client::{Client, ClientError};
use virt_maker_agent::protocol::{Exit, Failure, Mounted, Run, Sandbox};

pub const MIB: u64 = 1 << 20;

/// Runs a tool, which must succeed, and gives its output.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}", output.status);
    text
}

/// A tree that a shell runs in: busybox under the names of its applets, and the usual folders.
pub fn tree(at: &Path) {
    for folder in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/sbin", "var", "boot"] {
        fs::create_dir_all(at.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", at.join("bin/busybox")).unwrap();
    fs::set_permissions(at.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(at.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    for name in tool("/bin/busybox", &["--list"]).lines().filter(|name| *name != "busybox") {
        symlink("busybox", at.join("bin").join(name)).unwrap();
    }
    fs::write(
        at.join("etc/os-release"),
        "ID=testos\nVERSION_ID=\"1\"\nPRETTY_NAME=\"Test \\\"OS\\\"\"\nID_LIKE=\"a b\"\n",
    )
    .unwrap();
    fs::write(at.join("etc/hostname"), "guest-name\n").unwrap();
    fs::write(at.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n").unwrap();
}

/// Adds one of this system's programs to a tree, with the libraries that it needs.
pub fn with_program(tree: &Path, program: &str) {
    let libraries = tool("ldd", &[program]);
    let files = libraries.split_whitespace().filter(|word| word.starts_with('/')).chain([program]);
    for file in files {
        let target = tree.join(&file[1..]);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}

/// A folder for one test, with what the test needs.
pub struct Lab {
    pub folder: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Lab {
        Lab { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    /// A new tree in a folder, changed by `change`.
    pub fn tree(&self, change: impl FnOnce(&Path)) -> String {
        let at = self.path(&format!("tree-{}", fs::read_dir(self.folder.path()).unwrap().count()));
        tree(&at);
        change(&at);
        at.to_str().unwrap().to_string()
    }

    /// An ext4 (or 2, or 3) with a tree, on a whole disk.
    pub fn ext(&self, name: &str, kind: &str, options: &[&str], tree: &str) -> String {
        let path = self.text(name);
        let mut arguments = vec!["-q", "-F", "-t", kind, "-d", tree];
        arguments.extend(options);
        arguments.extend([path.as_str(), "64M"]);
        tool("mke2fs", &arguments);
        path
    }

    /// The common guest: ext4 on a whole disk.
    pub fn guest(&self) -> String {
        let tree = self.tree(|_| {});
        self.ext("disk", "ext4", &[], &tree)
    }

    /// A disk with a partition table after `sfdisk`, and a file's content in each partition.
    pub fn partitioned(&self, name: &str, size: u64, script: &str, content: &[(u64, &str)]) -> String {
        let path = self.text(name);
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        let script_path = self.text("sfdisk-script");
        fs::write(&script_path, script).unwrap();
        let output =
            Command::new("sfdisk").args(["-q", &path]).stdin(fs::File::open(&script_path).unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for (sector, file) in content {
            tool(
                "dd",
                &[
                    &format!("if={file}"),
                    &format!("of={path}"),
                    "bs=1M",
                    "conv=notrunc,sparse",
                    "oflag=seek_bytes",
                    &format!("seek={}", sector * 512),
                ],
            );
        }
        path
    }

    pub fn agent(&self) -> Agent {
        Agent::start(&self.path("agent"))
    }

    /// A conversation in which `disk` is mounted.
    pub fn mounted(&self, disk: &str) -> (Agent, Mounted) {
        let mut agent = self.agent();
        let mounted = agent.client.mount(disk).unwrap();
        (agent, mounted)
    }
}

/// A running agent and the client of it.
pub struct Agent {
    pub client: Client,
    pub child: Child,
}

impl Agent {
    pub fn start(folder: &Path) -> Agent {
        let mut agent = Agent::start_silent(folder);
        agent.client.hello(Sandbox::Bubblewrap { program: "/usr/bin/bwrap".to_string() }).unwrap();
        agent
    }

    pub fn start_silent(folder: &Path) -> Agent {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        // Inheritable only in this child: through a shell's redirection, which duplicates it. Descriptor 5 stands for what
        // a caller left open, which is no business of the agent.
        let child = Command::new("/bin/sh")
            .args([
                "-c",
                "exec \"$0\" --fd 3 --root-dir \"$1\" 3<&0 0</dev/null 5</",
                env!("CARGO_BIN_EXE_virt-maker-agent"),
            ])
            .arg(folder)
            .stdin(theirs.try_clone().unwrap())
            .spawn()
            .unwrap();
        assert!(theirs.as_raw_fd() > 2);
        Agent { client: Client::new(ours), child }
    }

    /// Runs a shell command; gives how it ended and its output.
    pub fn shell(&mut self, command: &str) -> (Exit, String) {
        self.run(&Run { argv: vec!["sh".into(), "-c".into(), command.into()], ..Run::default() })
    }

    pub fn run(&mut self, run: &Run) -> (Exit, String) {
        let mut output = Vec::new();
        let exit = self.client.run(run, &mut |bytes| output.extend_from_slice(bytes)).unwrap();
        (exit, String::from_utf8_lossy(&output).into_owned())
    }

    /// Runs a shell command that must succeed, and gives its output.
    pub fn ok(&mut self, command: &str) -> String {
        let (exit, output) = self.shell(command);
        assert_eq!(exit, Exit::Status(0), "{command}: {output}");
        output
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The failure that a call must have given.
pub fn failed<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Failure {
    match result {
        Err(ClientError::Failed(failure)) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

/// Loop devices of this system that lie on a file.
pub fn loops_on(path: &str) -> String {
    tool("losetup", &["-j", path])
}

/// The content of a file in an ext2, 3 or 4 image, read by another implementation.
pub fn debugfs(image: &str, request: &str) -> String {
    let output = Command::new("debugfs").args(["-R", request, image]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
