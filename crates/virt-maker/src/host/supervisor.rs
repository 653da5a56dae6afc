//! The process between this one and a program of the host: when the program has ended, nothing that it started goes on.
//!
//! A process group is not enough: what a program puts into the background with a session of its own (`ssh -fN`, a daemon)
//! leaves its group, lives on, and may hold its output open for ever. So each program gets a parent that is a subreaper:
//! all that is left without a parent below it becomes its child. It waits for the program, kills what is left until it has
//! no child any more, and ends as the program ended. Being a process of its own it touches no other children of ours.
//!
//! It is a fork of ours that never executes anything. So it does only what is safe after a fork in a process with threads:
//! system calls on its own stack, and no allocation. It holds no descriptor of ours and no folder.
//!
//! It ends everything too when it gets SIGTERM, which it also gets when the thread that started it ends. What it may not
//! kill (a program that took other rights) or what does not die (a disk that does not answer) is given up after [`PATIENCE`].

use std::ffi::c_int;
use std::io;

/// How often it tries to get rid of what is left, and how long it waits between; two seconds in all.
const PATIENCE: u32 = 200;
const PAUSE: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// What `/proc/thread-self/children` is read into, in bytes; the rest comes with the next round.
const CHILDREN: usize = 4096;

/// Called between fork and exec: the caller goes on, and executes, as the child of the process that it was until now.
///
/// # Safety
/// Only between fork and exec, with nothing but system calls after it.
pub(super) unsafe fn step_below(parent: rustix::process::Pid) -> io::Result<()> {
    // SAFETY: each of these is a system call, on memory of this frame.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in [libc::SIGCHLD, libc::SIGTERM] {
            libc::sigaddset(&raw mut signals, signal);
        }
        let mut before: libc::sigset_t = std::mem::zeroed();
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const signals, &raw mut before) != 0
            || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0
            || libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) != 0
        {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before that took effect.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let own = libc::getpid();
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
                    || libc::setpgid(0, 0) != 0
                    || libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) != 0
                {
                    return Err(io::Error::last_os_error());
                }
                if libc::getppid() == own { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
            }
            program => supervise(program, &signals),
        }
    }
}

/// Waits for the program and ends as it ended.
unsafe fn supervise(program: libc::pid_t, signals: &libc::sigset_t) -> ! {
    // SAFETY: system calls on memory of this frame.
    unsafe {
        // The pipe by which the start of the program is reported among them; the program has its own copies.
        if libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) != 0 {
            (0..1024).for_each(|number| {
                libc::close(number);
            });
        }
        libc::chdir(c"/".as_ptr());
        let mut rounds = 0;
        let mut ending = false;
        let status = loop {
            // Both are held back since before the program was there, so none is missed.
            let got = match ending {
                false => libc::sigwaitinfo(signals, std::ptr::null_mut()),
                true => libc::sigtimedwait(signals, std::ptr::null_mut(), &PAUSE),
            };
            if got == libc::SIGTERM && !ending {
                ending = true;
                libc::kill(-program, libc::SIGKILL);
            }
            if ending {
                kill_children();
                rounds += 1;
            }
            if let Some(status) = reap(program) {
                break status;
            }
            if rounds > PATIENCE {
                libc::_exit(128 + libc::SIGTERM);
            }
        };
        for _ in 0..PATIENCE {
            match libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) {
                -1 => break,
                0 => {
                    kill_children();
                    libc::sigtimedwait(signals, std::ptr::null_mut(), &PAUSE);
                }
                _ => {}
            }
        }
        end_as(status)
    }
}

/// Takes in all that has ended; the status of the program, if it was among that.
unsafe fn reap(program: libc::pid_t) -> Option<c_int> {
    // SAFETY: system calls on memory of this frame.
    unsafe {
        loop {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            if libc::waitid(libc::P_ALL, 0, &raw mut info, options) != 0 || info.si_pid() == 0 {
                return None;
            }
            let ended = info.si_pid();
            if ended == program {
                // As long as it is not taken in, the group's number means this group.
                libc::kill(-program, libc::SIGKILL);
            }
            let mut status = 0;
            libc::waitpid(ended, &raw mut status, 0);
            if ended == program {
                return Some(status);
            }
        }
    }
}

/// Kills the children that are there; theirs become ours when they are gone.
unsafe fn kill_children() {
    let mut text = [0u8; CHILDREN];
    // SAFETY: system calls on memory of this frame; the length is that of the buffer.
    let length = unsafe {
        let file = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return;
        }
        let length = libc::read(file, text.as_mut_ptr().cast(), CHILDREN);
        libc::close(file);
        length
    };
    let mut pid: libc::pid_t = 0;
    // A number that the buffer cuts off has no space after it, and waits for the next round.
    for byte in &text[..usize::try_from(length).unwrap_or(0)] {
        if byte.is_ascii_digit() {
            pid = pid.wrapping_mul(10).wrapping_add(libc::pid_t::from(byte - b'0'));
            continue;
        }
        // SAFETY: as above. A child that is not waited for keeps its number; where these are not our numbers (a `/proc`
        // of another pid namespace), they are no children of ours, and nobody is killed.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            if pid > 0 && libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, options) == 0 {
                libc::kill(pid, libc::SIGKILL);
            }
        }
        pid = 0;
    }
}

/// Ends as a program with this status did.
unsafe fn end_as(status: c_int) -> ! {
    // SAFETY: system calls on memory of this frame.
    unsafe {
        if libc::WIFEXITED(status) {
            libc::_exit(libc::WEXITSTATUS(status));
        }
        let signal = libc::WTERMSIG(status);
        // No dump of memory that is ours.
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
        libc::signal(signal, libc::SIG_DFL);
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::kill(libc::getpid(), signal);
        libc::_exit(128 + signal)
    }
}
