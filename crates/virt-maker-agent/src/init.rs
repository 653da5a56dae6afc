//! The agent as the first process of an appliance: what a system's init, module loader and device manager would do.
//!
//! # Order
//! [`start`] runs while the appliance boots: file systems of the kernel, a root that sandboxes can leave, the modules
//! that the host chose, the port to the host. Then the appliance is saved, many times restored, and each clone is told
//! to [`wake`] before anything else.
//!
//! # What must hold
//! - Nothing reads the boot id before the save, so that each clone makes one of its own at its first reading.
//! - A clone has fresh entropy, a reseeded generator and the right time before any program of a guest runs in it.
//! - When the agent ends, the machine ends: the kernel panics without an init, and a panic restarts at once, which is
//!   the end of a machine that may not restart.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::time::{ClockId, Timespec, clock_settime};
use virt_maker_agent::protocol::Wake;
use virt_maker_agent::{appliance, interface};

use crate::failure::{Result, refused, system};
use crate::link::Link;

/// How long the port may take to appear, and a disk that was plugged in.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(1);

/// Makes the appliance ready and gives the stream to the host.
pub fn start() -> Result<Link> {
    let none = MountFlags::empty();
    let closed = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, place, flags) in [("proc", "/proc", closed), ("sysfs", "/sys", closed), ("devtmpfs", "/dev", none)] {
        fs::create_dir_all(place).map_err(|error| system(format_args!("make {place}"), error))?;
        mount(kind, place, kind, flags, None).map_err(|error| system(format_args!("mount {place}"), error))?;
    }
    leave_the_first_root().map_err(|error| system("make a root that can be left", error))?;
    protect(true)?;
    for (name, value) in SETTINGS {
        // A kernel that does not know one behaves as it does; none is needed for what is right.
        let _ = fs::write(Path::new("/proc/sys").join(name), value);
    }
    load_modules(appliance::MODULE_LIST)?;
    interface::set_up_loopback().map_err(|error| system("set up the loopback device", error))?;
    // Without an interface commands have no network, and say so themselves.
    interface::set_up().map_err(|error| system("set up the network", error))?;
    let port = open_port(PATIENCE, PAUSE)?;
    let copy = port.try_clone().map_err(|error| system("use the port to the host", error))?;
    Ok(Link::new(port, copy))
}

/// Has the kernel spare the agent when memory runs out, or not: what it starts inherits what it is at that moment.
pub fn protect(wanted: bool) -> Result<()> {
    fs::write("/proc/self/oom_score_adj", if wanted { "-1000" } else { "0" })
        .map_err(|error| system("protect the agent's memory", error))
}

/// How many programs the kernel has killed for want of memory.
pub fn killed_for_memory() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Settings of the kernel, below `/proc/sys`.
const SETTINGS: &[(&str, &str)] = &[
    // A step that eats all memory is killed itself, not something else after a long search.
    ("vm/oom_kill_allocating_task", "0"),
    ("vm/panic_on_oom", "0"),
    // What the guest does is its own matter; its messages would only fill the console.
    ("kernel/printk_devkmsg", "off"),
];

/// Puts a mount over the kernel's first root, which `pivot_root` cannot leave, and goes there. It shows the same files.
fn leave_the_first_root() -> rustix::io::Result<()> {
    const NEW: &str = "/newroot";
    rustix::fs::mkdir(NEW, Mode::from_raw_mode(0o755))?;
    rustix::mount::mount_bind_recursive("/", NEW)?;
    std::env::set_current_dir(NEW).map_err(|_| Errno::NOENT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Loads what the host put on a list in the appliance, in its order. A module that this machine has no use for may refuse.
pub fn load_modules(list: &str) -> Result<()> {
    let list = fs::read_to_string(list).map_err(|error| system("read the list of modules", error))?;
    for name in list.lines() {
        let path = Path::new(appliance::MODULES).join(name);
        let file = File::open(&path).map_err(|error| system(format_args!("open the module {name}"), error))?;
        match rustix::system::finit_module(&file, c"", 0) {
            // Built in, or loaded as something that another one needs.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error @ (Errno::NODEV | Errno::OPNOTSUPP)) => eprintln!("the module {name} is not used: {error}"),
            Err(error) => return Err(system(format_args!("load the module {name}"), error)),
        }
    }
    Ok(())
}

/// Opens the port by its name, and waits until the host's end is there.
pub fn open_port(patience: Duration, pause: Duration) -> Result<OwnedFd> {
    let begin = Instant::now();
    let wrong = |error| system("open the port to the host", error);
    let path = loop {
        let found = fs::read_dir("/sys/class/virtio-ports").ok().into_iter().flatten().flatten().find(|entry| {
            fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == appliance::PORT)
        });
        match found {
            Some(entry) => break Path::new("/dev").join(entry.file_name()),
            None if begin.elapsed() > patience => return Err(refused("the port to the host did not appear")),
            None => std::thread::sleep(pause),
        }
    };
    let port = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(wrong)?;
    loop {
        let mut ends = [PollFd::from_borrowed_fd(port.as_fd(), PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut ends, Some(&now)).map_err(wrong)?;
        if !ends[0].revents().contains(PollFlags::HUP) {
            return Ok(port);
        }
        if begin.elapsed() > patience {
            return Err(refused("the host did not open its end of the port"));
        }
        std::thread::sleep(pause);
    }
}

/// `struct rand_pool_info` of `linux/random.h`, with its bytes.
#[repr(C)]
struct RandPoolInfo {
    entropy_count: libc::c_int,
    size: libc::c_int,
    bytes: [u8; Wake::ENTROPY],
}

const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Makes a clone one of its own.
pub fn wake(wake: &Wake) -> Result<()> {
    let entropy: [u8; Wake::ENTROPY] =
        wake.entropy.as_slice().try_into().map_err(|_| {
            refused(format!("the host gave {} random bytes, not {}", wake.entropy.len(), Wake::ENTROPY))
        })?;
    let device = rustix::fs::open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| system("open the random generator", error))?;
    let pool = RandPoolInfo {
        entropy_count: (Wake::ENTROPY * 8) as libc::c_int,
        size: Wake::ENTROPY as libc::c_int,
        bytes: entropy,
    };
    // SAFETY: the request reads the structure, whose `size` is that of its bytes, and it lives until the call is over.
    if unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) } != 0 {
        return Err(system("add entropy", std::io::Error::last_os_error()));
    }
    // SAFETY: the request takes no argument.
    if unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) } != 0 {
        return Err(system("reseed the random generator", std::io::Error::last_os_error()));
    }
    let now = Timespec { tv_sec: wake.seconds, tv_nsec: wake.nanoseconds.into() };
    clock_settime(ClockId::Realtime, now).map_err(|error| system("set the clock", error))
}

/// Waits for the disk that has this serial number and gives the path of its device.
pub fn find_disk(serial: &str) -> Result<String> {
    let begin = Instant::now();
    loop {
        for entry in fs::read_dir("/sys/block").map_err(|error| system("list disks", error))?.flatten() {
            // Page 0x80 of the vital product data: a header of four bytes, then the serial number.
            let page = fs::read(entry.path().join("device/vpd_pg80")).unwrap_or_default();
            if page.get(4..).is_some_and(|found| found.trim_ascii() == serial.as_bytes()) {
                let path = format!("/dev/{}", entry.file_name().to_string_lossy());
                // The node is there before the disk can be opened.
                if File::options().read(true).write(true).open(&path).is_ok() {
                    return Ok(path);
                }
            }
        }
        if begin.elapsed() > PATIENCE {
            return Err(refused(format!("no disk with the serial number {serial} appeared")));
        }
        std::thread::sleep(PAUSE);
    }
}
