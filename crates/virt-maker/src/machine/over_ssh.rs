//! SSH, where neither the guest's init nor its qemu-guest-agent can start our agent: the guest's SSH server starts it, and the conversation
//! with it goes over that connection.
//!
//! ```text
//! conversation - ssh (behind walls) - two pipes - the gate (this process) - the guest's card - sshd - our agent
//! ```
//! A new key is let in for the time of the boot, and for nothing but our agent. `ssh` reads what a hostile guest says, so it has no network
//! and sees no file of the host but that key; the connection is brought by the [gate](crate::engine::gate), so nothing listens on the host.
//! Who answers there is the machine that we have started, so its key is not asked for.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{getgid, getuid};
use virt_maker_agent::booted;

use crate::engine::gate::{Call, Gate};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::walls::Walls;
use crate::host::{self, CHANNEL_FD, Cancel, Helper, HelperCommand, Tool};

const PROGRAM: &str = "ssh";
const KEY_PROGRAM: &str = "ssh-keygen";
const PACKAGE: &str = "openssh-client";
/// Where a guest has an SSH server.
pub(super) const SERVERS: [&str; 6] = [
    "/usr/sbin/sshd",
    "/usr/bin/sshd",
    "/usr/local/sbin/sshd",
    "/usr/sbin/dropbear",
    "/usr/bin/dropbear",
    "/usr/local/sbin/dropbear",
];
/// The port at which it is called.
const PORT: u16 = 22;
/// Where the key and the pipes are for `ssh`.
const FOLDER: &str = "/call";
const KEY: &str = "key";
const TO_SSH: &str = "to-ssh";
const FROM_SSH: &str = "from-ssh";
/// What `ssh` may need, in bytes of address space, and how much it may complain, in blocks of 512 bytes.
const SPACE: u64 = 1 << 30;
const COMPLAINTS: u32 = 1024;
/// How long its end may take, when the connection has ended.
const END: Duration = Duration::from_secs(1);

/// Whether this host can talk to one. The error says what is missing.
pub(super) fn check() -> Result<()> {
    match host::find_program(PROGRAM) {
        Some(_) => Ok(()),
        None => {
            let what = format!("a guest whose agent only its SSH server can start needs `{PROGRAM}`");
            Err(Error::new(ErrorKind::Host, what).with_hint(format!("it comes with the package `{PACKAGE}`")))
        }
    }
}

/// Makes a key in a private folder. Gives the line of `authorized_keys` that lets it in, for our agent alone.
pub(super) fn make_key(folder: &Path, cancel: &Cancel) -> Result<String> {
    check()?;
    let key = folder.join(KEY);
    let tool = Tool::new(KEY_PROGRAM, PACKAGE).args(["-q", "-t", "ed25519", "-N", "", "-C", "virt-maker", "-f"]);
    tool.arg(&key).run(cancel)?;
    let public = folder.join(KEY).with_extension("pub");
    let public =
        fs::read_to_string(&public).context(ErrorKind::Host, || format!("cannot read {}", public.display()))?;
    Ok(authorized(public.trim_end()))
}

/// These options are known to OpenSSH and to dropbear.
fn authorized(public: &str) -> String {
    format!("no-port-forwarding,no-agent-forwarding,no-X11-forwarding,no-pty,command=\"{}\" {public}", command())
}

fn command() -> String {
    format!("{} {}", booted::AGENT, booted::OVER_STDIO)
}

/// A connection to a guest's SSH server, which is made when that answers. Dropping it ends it.
pub(super) struct OverSsh {
    call: Call,
    ssh: Helper,
    /// What became of the one before, where that came to something.
    before: Option<String>,
}

impl OverSsh {
    /// Has the agent started, which then speaks at this end of a conversation. `folder` has the key; `number` tells apart the
    /// calls of a machine. The one before ends first.
    pub(super) fn start(
        gate: &Gate,
        folder: &Path,
        number: u32,
        conversation: UnixStream,
        before: Option<OverSsh>,
    ) -> Result<OverSsh> {
        let before = before.and_then(|before| before.complaint());
        let failed = || "cannot talk to the guest's SSH server";
        // What is left in the pipes of an earlier call is not for this one.
        let place = folder.join(number.to_string());
        DirBuilder::new().mode(0o700).create(&place).context(ErrorKind::Store, failed)?;
        let pipe = |name| {
            let path = place.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            // For both, so that it opens at once.
            rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).map(File::from)
        };
        let to = pipe(TO_SSH).context(ErrorKind::Store, failed)?;
        let from = pipe(FROM_SSH).context(ErrorKind::Store, failed)?;
        // It does not start where nobody knows who it is.
        let users = place.join("passwd");
        let user = format!("user:x:{}:{}::/:/bin/sh\n", getuid().as_raw(), getgid().as_raw());
        fs::write(&users, user).context(ErrorKind::Store, failed)?;
        let walls = Walls::for_data().null().write_at(&place, Path::new(FOLDER));
        let walls = walls.read_at(&users, Path::new("/etc/passwd"));
        let (program, arguments) = walls.read_at(&folder.join(KEY), &Path::new(FOLDER).join(KEY)).helper(PROGRAM);
        let begin = format!("ulimit -f {COMPLAINTS}; exec \"$0\" \"$@\" <&{CHANNEL_FD} >&{CHANNEL_FD} {CHANNEL_FD}>&-");
        let mut words: Vec<OsString> = vec!["-c".into(), begin.into(), program.into()];
        words.extend(arguments);
        words.extend(options().map(OsString::from));
        let ssh = Helper::spawn(HelperCommand {
            name: PROGRAM,
            program: "sh".into(),
            package: PACKAGE,
            arguments: words,
            channels: vec![conversation.into()],
            address_space: Some(SPACE),
            mount_namespace_of: None,
            children_beside_those_of: None,
            directory: Some(folder.to_owned()),
            log: folder.join("ssh.log"),
        })?;
        let call = gate.call(PORT, from, to)?;
        Ok(OverSsh { call, ssh, before })
    }

    /// Whether it has ended; the end of a conversation is seen a moment before that of `ssh`.
    pub(super) fn has_ended(&mut self) -> bool {
        let begin = Instant::now();
        while !self.ssh.has_ended() {
            if begin.elapsed() > END {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// How far it has come, for people.
    pub(super) fn told(&self) -> String {
        self.complaint().unwrap_or_else(|| format!("its SSH server did not answer on port {PORT}"))
    }

    /// The same, where the server has answered.
    fn complaint(&self) -> Option<String> {
        match self.ssh.last_words() {
            _ if !self.call.is_answered() => self.before.clone(),
            words if words.is_empty() => {
                Some(self.before.clone().unwrap_or_else(|| "its SSH server answered, and did not start it".into()))
            }
            words => Some(format!("its SSH server did not start it: {words}")),
        }
    }
}

fn options() -> [String; 28] {
    let way = format!("cat {FOLDER}/{TO_SSH} & exec cat >{FOLDER}/{FROM_SSH}");
    [
        "-F",
        "none",
        "-T",
        "-e",
        "none",
        "-i",
        &format!("{FOLDER}/{KEY}"),
        "-o",
        &format!("ProxyCommand=sh -c '{way}'"),
        "-o",
        "BatchMode=yes",
        "-o",
        "PreferredAuthentications=publickey",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "IdentityAgent=none",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "GlobalKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
        "--",
        "root@guest",
        &command(),
    ]
    .map(str::to_owned)
}

/// The folder of a key, where a guest needs one.
pub type KeyFolder<'a> = &'a dyn Fn() -> Result<PathBuf>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lets_in_our_agent_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let line = make_key(folder.path(), &Cancel::default()).unwrap();
        let (options, key) = line.split_once(" ssh-ed25519 ").unwrap();
        assert!(key.starts_with("AAAA") && !key.contains('\n'), "{line}");
        assert!(options.ends_with(",command=\"/etc/.virt-maker/agent --booted-over-stdio\""), "{line}");
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(folder.path().join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
