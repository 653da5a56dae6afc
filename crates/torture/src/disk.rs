//! A disk of our own: an ext4 in a file, mounted through a loop device, which nobody else sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

/// How often a disk is filled before it is emptied.
const FILLERS: usize = 8;

/// Gives this process, and all that it starts, mounts of their own. Whoever else runs on this host meanwhile cannot take
/// a disk of ours into a namespace of his, where it would stay mounted after we unmounted it.
pub fn own_mounts() {
    // SAFETY: no other thread runs yet that could rely on the namespace that is left here.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.expect("the campaign runs as root");
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .expect("the namespace is ours");
}

/// It is unmounted and removed when dropped.
pub struct Disk {
    image: PathBuf,
    /// Where it is mounted.
    pub at: PathBuf,
}

impl Disk {
    /// Makes one of so many MiB.
    pub fn new(folder: &Path, mib: u64) -> Disk {
        let disk = Disk { image: folder.join("disk.img"), at: folder.join("disk") };
        fs::create_dir(&disk.at).expect("the folder is ours");
        fs::File::create(&disk.image).and_then(|file| file.set_len(mib << 20)).expect("there is room");
        // No block is kept for root, and no table is written later in the background.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        done(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-E", options]).arg(&disk.image));
        disk.mount();
        disk
    }

    fn mount(&self) {
        done(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.at));
    }

    /// Cuts its power: nothing that was not synced reaches it any more. The kernel's ioctl `EXT4_IOC_SHUTDOWN` without a
    /// flush of the journal; every further access fails.
    pub fn cut(&self) {
        done(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.at));
    }

    /// Power on: mounted again, which replays the journal.
    pub fn restart(&self) {
        self.unmount();
        self.mount();
    }

    /// Leaves only about so many bytes free.
    pub fn fill(&self, free: u64) {
        let stat = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(&self.at).output().expect("stat runs");
        let text = String::from_utf8_lossy(&stat.stdout).into_owned();
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let available = numbers.iter().product::<u64>();
        if let Some(bytes) = available.checked_sub(free).filter(|bytes| *bytes > 0) {
            done(Command::new("fallocate").args(["-l", &bytes.to_string()]).arg(self.filler()));
        }
    }

    /// Gives the room back.
    pub fn empty(&self) {
        let fillers = (0..FILLERS).map(|number| self.at.join(format!("filler-{number}")));
        fillers.for_each(|filler| drop(fs::remove_file(filler)));
    }

    /// A file that is not there yet.
    fn filler(&self) -> PathBuf {
        let mut fillers = (0..FILLERS).map(|number| self.at.join(format!("filler-{number}")));
        fillers.find(|filler| !filler.exists()).expect("a disk is not filled that often")
    }

    fn unmount(&self) {
        // The kernel lets go of the files of processes that just ended a moment later.
        let mut mounted = true;
        for _ in 0..200 {
            let umount = || Command::new("umount").arg(&self.at).output().is_ok_and(|output| output.status.success());
            mounted = mounted && !umount();
            // While another mount namespace still has it, a new mount would be of the same file system, power cut and all.
            let devices = Command::new("losetup").arg("-j").arg(&self.image).output().expect("losetup runs").stdout;
            if !mounted && devices.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} cannot be unmounted", self.at.display());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.unmount();
        } else {
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        }
    }
}

fn done(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
