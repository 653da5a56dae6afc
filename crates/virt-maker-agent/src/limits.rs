//! What a command may take of the machine: a number of processes and a share of its memory.
//!
//! What must hold: a command that multiplies or that eats memory ends as an error of its step, and the host goes on.
//!
//! - Where the host has cgroup v2 with a place for it (`groups`), every command runs in a group of the session's own, in which it is
//!   started: moving a process there would cost a wait of the kernel for each command. Between two commands no
//!   process is in it. When the memory is used up, all of the command is killed. The group is removed at the end;
//!   what a killed agent left is removed by the next one. Whether one is in use tells a lock on its folder.
//! - Elsewhere the number of processes is bounded by that of their numbers, in the agent's own process namespace (kernels
//!   from 6.14 on have such a bound for each). The memory is not: but the kernel then kills a command before
//!   anything else, and what a command can put into `/run` and `/dev/shm` is bounded in any case.
//! - An appliance is a machine of the command's own.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use virt_maker_agent::groups;

use crate::random;

/// Start of the names of our groups.
const PREFIX: &str = "virt-maker-";
/// How many processes and threads a command may have, at least; more on a machine with many processors.
const PROCESSES: u64 = 4096;
const PROCESSES_OF_PROCESSOR: u64 = 256;
/// Names tried, where another one's clean-up comes between making and locking.
const ATTEMPTS: usize = 8;

/// The bounds of a session's commands.
#[derive(Debug)]
pub struct Limits {
    group: Option<Group>,
}

#[derive(Debug)]
struct Group {
    path: PathBuf,
    /// Holds the lock.
    folder: File,
}

/// What a group has had to refuse so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusals {
    processes: u64,
    killed: u64,
}

impl Limits {
    /// Those of a host.
    pub fn of_host() -> Limits {
        let group = groups::place().and_then(|place| {
            remove_abandoned(&place);
            // A host that refuses is one without.
            (0..ATTEMPTS).find_map(|_| Group::make(&place).ok())
        });
        if group.is_none() {
            bound_process_numbers();
        }
        Limits { group }
    }

    /// Those of an appliance, which is one itself.
    pub fn of_appliance() -> Limits {
        Limits { group: None }
    }

    /// The group to start a command in.
    pub fn group(&self) -> Option<BorrowedFd<'_>> {
        self.group.as_ref().map(|group| group.folder.as_fd())
    }

    /// What was refused so far, to be compared later.
    pub fn refusals(&self) -> Option<Refusals> {
        let group = self.group.as_ref()?;
        let count = |file: &str, name: &str| {
            let text = fs::read_to_string(group.path.join(file)).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        Some(Refusals { processes: count("pids.events", "max "), killed: count("memory.events", "oom_kill ") })
    }

    /// What the person should know of a command, in sentences.
    pub fn notes(&self, before: Option<Refusals>) -> Vec<String> {
        let mut notes = Vec::new();
        if let (Some(before), Some(after)) = (before, self.refusals()) {
            if after.killed > before.killed {
                let mebibytes = memory() >> 20;
                notes.push(format!(
                    "the command used more than the {mebibytes} MiB of memory that it may, and was killed"
                ));
            }
            if after.processes > before.processes {
                notes.push(format!("the command wanted more than the {} processes that it may have", processes()));
            }
        }
        notes
    }
}

impl Group {
    fn make(place: &Path) -> std::io::Result<Group> {
        let path = place.join(format!("{PREFIX}{}", random::token()?));
        fs::create_dir(&path)?;
        let group = Group { folder: File::open(&path)?, path };
        flock(&group.folder, FlockOperation::NonBlockingLockExclusive)?;
        let set = |file: &str, value: &str| fs::write(group.path.join(file), value);
        set("pids.max", &processes().to_string())?;
        set("memory.max", &memory().to_string())?;
        set("memory.oom.group", "1")?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Commands have ended; this is for one that was not waited for, and kernels before 5.14 do not have it.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes groups whose agents are gone.
fn remove_abandoned(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if !ours {
            continue;
        }
        let Ok(folder) = File::open(entry.path()) else { continue };
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn processes() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    PROCESSES.max(processors * PROCESSES_OF_PROCESSOR)
}

/// Three quarters of the machine's.
fn memory() -> u64 {
    total_memory() / 4 * 3
}

/// How much memory there is, in bytes.
pub fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// Bounds the numbers of processes in the agent's own process namespace, of which `/proc` must be mounted. On an older kernel
/// the setting is that of the host, and is left alone.
fn bound_process_numbers() {
    if groups::process_numbers_have_bounds() && rustix::process::getpid().is_init() {
        // Numbers are given again when their processes are gone.
        let _ = fs::write("/proc/sys/kernel/pid_max", processes().to_string());
    }
}
