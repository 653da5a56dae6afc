//! Starting a program in a group of processes.
//!
//! The group has to be entered while the process is made: before, it is nobody's; afterwards, moving it makes the kernel wait
//! for all processors, tens of milliseconds for each command. Only the system call `clone3` can, which the standard library does not use.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::Pid;

/// A program to start. What it inherits besides is open without `CLOEXEC`.
pub struct Program<'a> {
    /// Its name, which is looked for in `PATH`, and its arguments.
    pub words: Vec<CString>,
    /// Standard input, output and error.
    pub standard: [&'a OwnedFd; 3],
    /// Whether the kernel, when memory runs out, should kill it before anything else.
    pub first_to_go: bool,
    /// Its environment.
    pub environment: Vec<CString>,
    /// Where it begins.
    pub surroundings: Surroundings,
    /// The folder of a group (cgroup v2) that it is in from its first instruction on.
    pub group: Option<BorrowedFd<'a>>,
}

/// Where a program begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// It leads a session of its own, and a group of processes with its number, and works in `/`.
    pub session: bool,
    /// It is in a network namespace of its own, where only a loopback device is, which is down.
    pub no_network: bool,
}

/// `struct clone_args` of `linux/sched.h`, as far as kernel 5.7 knows it.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Starts it; an error also where the program is not there.
pub fn spawn(program: &Program<'_>) -> io::Result<Pid> {
    let mut words: Vec<*const libc::c_char> = program.words.iter().map(|word| word.as_ptr()).collect();
    words.push(std::ptr::null());
    let mut environment: Vec<*const libc::c_char> = program.environment.iter().map(|entry| entry.as_ptr()).collect();
    environment.push(std::ptr::null());
    let (told, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match fork(program.group)? {
        None => {
            let error = become_program(program, &words, &environment);
            let number = error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
            let _ = rustix::io::write(&tell, &number);
            // SAFETY: ends this process, without what the agent would do at its end.
            unsafe { libc::_exit(127) }
        }
        Some(pid) => {
            drop(tell);
            let mut number = [0; 4];
            match rustix::io::retry_on_intr(|| rustix::io::read(&told, &mut number))? {
                // The pipe was closed by the start of the program.
                0 => Ok(pid),
                _ => {
                    let _ = rustix::io::retry_on_intr(|| {
                        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
                    });
                    Err(io::Error::from_raw_os_error(i32::from_ne_bytes(number)))
                }
            }
        }
    }
}

/// Gives the number of the new process, and none within it.
fn fork(group: Option<BorrowedFd<'_>>) -> io::Result<Option<Pid>> {
    let mut arguments = CloneArguments { exit_signal: libc::SIGCHLD as u64, ..CloneArguments::default() };
    if let Some(group) = group {
        arguments.flags = CLONE_INTO_CGROUP;
        arguments.cgroup = group.as_raw_fd() as u64;
    }
    let size = size_of::<CloneArguments>();
    // SAFETY: the structure lives until the call is over. The agent has one thread, so the child, which has a copy of all its
    // memory, has no lock that another thread holds.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) };
    match answer {
        -1 => match io::Error::last_os_error() {
            // A container that forbids it. It forbids groups likewise.
            error if group.is_none() && matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                // SAFETY: as above.
                match unsafe { libc::fork() } {
                    -1 => Err(io::Error::last_os_error()),
                    pid => Ok(Pid::from_raw(pid)),
                }
            }
            error => Err(error),
        },
        pid => Ok(Pid::from_raw(pid as i32)),
    }
}

/// Only system calls are made here.
fn become_program(
    program: &Program<'_>,
    words: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> io::Error {
    for (number, descriptor) in (0..).zip(program.standard) {
        // SAFETY: descriptors 0 to 2 are the agent's own standard ones, and none of those that are copied.
        if unsafe { libc::dup2(descriptor.as_raw_fd(), number) } < 0 {
            return io::Error::last_os_error();
        }
    }
    if program.first_to_go {
        // Where it is refused, the kernel chooses by size alone.
        // SAFETY: the name and the text live as long as the program.
        unsafe {
            let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            libc::write(file, c"1000".as_ptr().cast(), 4);
        }
    }
    if program.surroundings.session {
        // SAFETY: neither call touches memory but the text, which lives as long as the program.
        unsafe {
            if libc::setsid() < 0 || libc::chdir(c"/".as_ptr()) < 0 {
                return io::Error::last_os_error();
            }
        }
    }
    if program.surroundings.no_network {
        // SAFETY: the process has one thread.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            return io::Error::last_os_error();
        }
    }
    // SAFETY: both lists end with a null, and their words live in the parent's copy. A program expects this signal to be as usual, and
    // Rust has it ignored.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execvpe(words[0], words.as_ptr(), environment.as_ptr());
    }
    io::Error::last_os_error()
}
