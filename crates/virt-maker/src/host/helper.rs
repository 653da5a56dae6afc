//! Long-lived helper processes: they die with this process, and are gone when their handle is dropped.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::close_on_exec;
use super::escape::last_lines;
use super::process::inherited;
use crate::error::{Context, Error, ErrorKind, Result};

/// The number under which a helper finds the first descriptor that it was given; others follow.
pub const CHANNEL_FD: RawFd = 3;

/// What to start.
pub struct HelperCommand {
    /// For messages.
    pub name: &'static str,
    /// The program, by path or to be found in `PATH`.
    pub program: PathBuf,
    /// The Debian package that brings it, for the message when it is missing.
    pub package: &'static str,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Descriptors that it inherits, as [`CHANNEL_FD`] and the numbers after it.
    pub channels: Vec<OwnedFd>,
    /// How much address space it may have, in bytes; `None` for no limit of its own.
    pub address_space: Option<u64>,
    /// A process whose mount namespace and root it joins.
    pub mount_namespace_of: Option<u32>,
    /// A process whose children are in a namespace of processes that its own children join; it stays outside itself.
    pub children_beside_those_of: Option<u32>,
    /// Its working directory, by a path that means the same in that namespace; where there is none, this process's.
    pub directory: Option<PathBuf>,
    /// A file that gets what it writes to standard output and error.
    pub log: PathBuf,
}

/// A running helper. Dropping it kills it and waits until it is gone.
///
/// The kernel ends a helper when the *thread* that started it ends, so a helper must not outlive that thread.
#[derive(Debug)]
pub struct Helper {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Helper {
    /// Starts it, in a process group of its own, so that Ctrl-C on the terminal reaches only its parent.
    pub fn spawn(what: HelperCommand) -> Result<Helper> {
        let failed = || format!("cannot start {}", what.name);
        let log = File::create(&what.log).context(ErrorKind::Store, failed)?;
        let errors = log.try_clone().context(ErrorKind::Store, failed)?;
        let namespace = match what.mount_namespace_of {
            Some(pid) => {
                let open = |name| File::open(format!("/proc/{pid}/{name}")).context(ErrorKind::Host, failed);
                Some((open("ns/mnt")?, open("root")?))
            }
            None => None,
        };
        let processes = match what.children_beside_those_of {
            Some(pid) => Some(File::open(format!("/proc/{pid}/ns/pid_for_children")).context(ErrorKind::Host, failed)?),
            None => None,
        };
        let directory = match &what.directory {
            Some(path) => Some(
                CString::new(path.as_os_str().as_bytes())
                    .map_err(|error| Error::new(ErrorKind::Host, failed()).with_source(error))?,
            ),
            None => None,
        };
        let parent = rustix::process::getpid();
        // Above all numbers that they get in the helper, so that none is overwritten before it is copied.
        let above = CHANNEL_FD + what.channels.len() as RawFd;
        let lift = |channel: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(channel, above);
        let channels: Vec<OwnedFd> =
            what.channels.iter().map(lift).collect::<Result<_, _>>().context(ErrorKind::Host, failed)?;
        let limit = what.address_space;
        let mut command = Command::new(&what.program);
        command.args(&what.arguments).env_clear().envs(inherited());
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                // First, as a duplicate that is made later does not close.
                close_on_exec()?;
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
                // The parent may have died before that took effect.
                if rustix::process::getppid() != Some(parent) {
                    return Err(std::io::ErrorKind::BrokenPipe.into());
                }
                // Joining takes the root of the namespace as root; in a chroot that of the process is another one.
                if let Some((namespace, root)) = &namespace
                    && (libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) != 0
                        || libc::fchdir(root.as_raw_fd()) != 0
                        || libc::chroot(c".".as_ptr()) != 0)
                {
                    return Err(std::io::Error::last_os_error());
                }
                if let Some(processes) = &processes
                    && libc::setns(processes.as_raw_fd(), libc::CLONE_NEWPID) != 0
                {
                    return Err(std::io::Error::last_os_error());
                }
                // After the change of namespaces, which has its own working directory.
                if let Some(directory) = &directory
                    && libc::chdir(directory.as_ptr()) != 0
                {
                    return Err(std::io::Error::last_os_error());
                }
                if limit.is_some() {
                    let limit = rustix::process::Rlimit { current: limit, maximum: limit };
                    rustix::process::setrlimit(rustix::process::Resource::As, limit)?;
                }
                // A duplicate does not close on exec.
                for (number, channel) in (CHANNEL_FD..).zip(&channels) {
                    if libc::dup2(channel.as_raw_fd(), number) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn().map_err(|source| {
            let missing = source.kind() == std::io::ErrorKind::NotFound;
            let error = Error::new(ErrorKind::Host, failed()).with_source(source);
            if missing {
                error.with_hint(format!("{} comes with the package `{}`", what.program.display(), what.package))
            } else {
                error
            }
        })?;
        Ok(Helper { name: what.name, child, log: what.log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end and requires success; the error quotes its last words.
    pub fn wait(mut self) -> Result<()> {
        self.wait_for_end()
    }

    /// As [`Helper::wait`]. It waits as long as the helper runs, so somebody else has to see that it does not run for ever.
    pub fn wait_for_end(&mut self) -> Result<()> {
        let status = self.child.wait().context(ErrorKind::Internal, || format!("cannot wait for {}", self.name))?;
        if status.success() { Ok(()) } else { Err(self.failure(status)) }
    }

    /// Kills it, and waits for its end, but no longer than `limit`: one that waits in the kernel cannot die. Whether it has ended.
    pub fn end_within(&mut self, limit: Duration) -> bool {
        let (begin, mut pause) = (Instant::now(), Duration::from_micros(200));
        let _ = self.child.kill();
        loop {
            match self.child.try_wait() {
                Ok(None) if begin.elapsed() < limit => std::thread::sleep(pause),
                ended => return matches!(ended, Ok(Some(_))),
            }
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What it wrote last, escaped; empty where it was silent.
    pub fn last_words(&self) -> String {
        last_words(&self.log)
    }

    fn failure(&self, status: ExitStatus) -> Error {
        Error::new(ErrorKind::Internal, format!("{} failed ({status}): {}", self.name, self.last_words()))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    last_lines(&text[text.len().saturating_sub(2000)..], 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_its_channels_and_no_other_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let open = File::open("/").unwrap();
        let _inheritable = rustix::io::dup(&open).unwrap();
        let log = folder.path().join("log");
        let helper = Helper::spawn(HelperCommand {
            name: "a shell",
            program: "sh".into(),
            package: "dash",
            arguments: ["-c", "ls /proc/$$/fd; cd /proc/$$/fd; readlink 0 3 4; :"].map(OsString::from).into(),
            channels: vec![File::open("/etc").unwrap().into(), File::open("/usr").unwrap().into()],
            address_space: None,
            mount_namespace_of: None,
            children_beside_those_of: None,
            directory: None,
            log: log.clone(),
        });
        helper.unwrap().wait().unwrap();
        assert_eq!(std::fs::read_to_string(log).unwrap(), "0\n1\n2\n3\n4\n/dev/null\n/etc\n/usr\n");
    }
}
