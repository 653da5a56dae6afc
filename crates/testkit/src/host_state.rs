//! What a program may leave behind on the host, and whether it did: mounts, loop devices, processes.
//!
//! Tests run beside each other, so "new since then" is not "left by this test". A process is ours when it descends
//! from this test's process, which adopts orphans from the first capture on. A loop device that a stranger has
//! open or mounted is the stranger's. What cannot be told apart has to outlast a long wait to count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A hang of the system is told from slowness by this; nothing is measured.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks: at first, and at most, as each reads all of procfs.
const PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

/// Tests of one process take turns (test runners that use threads): they share their descendants.
static TURN: Mutex<()> = Mutex::new(());

/// What was there before a test.
pub struct HostState {
    things: BTreeSet<String>,
    _turn: MutexGuard<'static, ()>,
}

impl HostState {
    /// Notes what is there now. Until it is dropped, other callers in this process wait.
    pub fn capture() -> HostState {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own)).expect("this process may adopt orphans");
        HostState { things: things(), _turn: turn }
    }

    /// Panics if a mount, a loop device or a process that was not there at the capture stays.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        self.assert_nothing_left_after(PATIENCE);
    }

    /// The same for what is known to stay: it need not outlast a long wait.
    #[track_caller]
    pub fn assert_nothing_left_after(&self, patience: Duration) {
        let begin = Instant::now();
        let mut left = &things() - &self.things;
        let mut pause = PAUSE[0];
        while !left.is_empty() && begin.elapsed() < patience {
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(PAUSE[1]);
            bury();
            left = &left & &things();
        }
        assert!(left.is_empty(), "left behind on the host: {left:#?}");
    }
}

/// Collects the dead that this process was given as an orphanage, as the first process of a host does: a namespace of processes
/// ends only when all that were in it are collected. What a test itself has started is in the namespace of the test.
fn bury() {
    let own = std::process::id();
    let dead = processes().into_iter().filter(|(_, process)| process.zombie && process.parent == own);
    for (pid, _) in dead {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        if numbers.split_whitespace().count() > 1 {
            let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG);
        }
    }
}

fn things() -> BTreeSet<String> {
    let processes = processes();
    let own = std::process::id();
    let ours = |pid: &u32| descends(*pid, own, &processes);
    let mut things = BTreeSet::new();
    for (pid, process) in &processes {
        if *pid != own && !process.zombie && ours(pid) {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            things.insert(format!("process {pid} {}: {}", process.name, command.escape_ascii()));
        }
    }
    for line in fs::read_to_string("/proc/self/mountinfo").expect("procfs is mounted").lines() {
        // Number of the mount, which is not used again while it is there, device, and where.
        let fields: Vec<_> = line.split(' ').collect();
        things.insert(format!("mount {} {} {}", fields[0], fields[2], fields[4]));
    }
    // A mount tells the name that a guest has for its disk, so whose a loop device is, is known by who has it open.
    let strangers: Vec<_> = processes.keys().filter(|pid| **pid != own && !ours(pid)).collect();
    let theirs: BTreeSet<PathBuf> = strangers
        .iter()
        .flat_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten())
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|path| path.to_string_lossy().starts_with("/dev/loop"))
        .collect();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        let mounted = format!(" /dev/{name} ");
        let foreign = theirs.contains(&Path::new("/dev").join(&name))
            || strangers
                .iter()
                .any(|pid| fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default().contains(&mounted));
        if !foreign {
            things.insert(format!("loop device {name} on {}", file.trim()));
        }
    }
    things
}

struct Process {
    parent: u32,
    name: String,
    zombie: bool,
}

fn processes() -> BTreeMap<u32, Process> {
    let mut processes = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("procfs is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // `pid (name) state parent ...`; a name may hold anything, so the last parenthesis counts. See proc(5).
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
        let mut fields = tail.split(' ');
        let zombie = matches!(fields.next(), Some("Z" | "X"));
        let parent = fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
        processes.insert(pid, Process { parent, name, zombie });
    }
    processes
}

fn descends(mut pid: u32, from: u32, processes: &BTreeMap<u32, Process>) -> bool {
    while let Some(process) = processes.get(&pid) {
        if process.parent == from {
            return true;
        }
        pid = process.parent;
    }
    false
}
