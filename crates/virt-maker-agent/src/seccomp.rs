//! The system calls that neither a command nor a program of the host on a guest's data gets: a program of the kernel's classic BPF, made by hand.
//!
//! Capabilities and namespaces hold back most of what root could do. Here is what they leave: things that the kernel does
//! not keep apart by namespaces (keys, its own log, sockets of other families), things that any user may ask for and that have often been
//! a way into the kernel (BPF, `io_uring`, user namespaces), and, once more, what would reach the host if a capability slipped in.
//!
//! What must hold:
//! - A call that is denied gives an error and never kills: package scripts try things and go on without them. The error
//!   is the one that a kernel gives that lacks the thing (`ENOSYS`, so that programs fall back), or that says «not for you».
//! - Real package scripts do not notice. So this is a list of what is denied, not of what is allowed; `ptrace` (a
//!   debugger, `proot`: the process namespace bounds it), `personality` and `modify_ldt` (they change the caller alone) are free.
//! - Programs of 32 bits run on x86-64 (packages of `i386` in a guest of `amd64`, whole guests of `i386`), under the same
//!   list. What a filter cannot see there are the arguments of `socketcall`. The ABI `x32`, and on other
//!   processors all but the native one, is refused with `ENOSYS`.

use libc::{
    EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT, SYS_acct, SYS_add_key, SYS_adjtimex, SYS_bpf, SYS_clock_adjtime,
    SYS_clock_settime, SYS_clone, SYS_clone3, SYS_delete_module, SYS_finit_module, SYS_fsconfig, SYS_fsmount,
    SYS_fsopen, SYS_fspick, SYS_init_module, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup, SYS_ioctl,
    SYS_kexec_file_load, SYS_kexec_load, SYS_keyctl, SYS_lookup_dcookie, SYS_mount, SYS_mount_setattr, SYS_move_mount,
    SYS_open_by_handle_at, SYS_open_tree, SYS_perf_event_open, SYS_pivot_root, SYS_quotactl, SYS_quotactl_fd,
    SYS_reboot, SYS_request_key, SYS_setns, SYS_settimeofday, SYS_socket, SYS_swapoff, SYS_swapon, SYS_syslog,
    SYS_umount2, SYS_unshare, SYS_userfaultfd, c_int, c_long,
};

/// A call that is denied: its number here and among the calls of `i386` (0 where there is none of that name), and
/// the error that it gives.
type Denied = (c_long, u32, c_int);

#[rustfmt::skip]
const DENIED: &[Denied] = &[
    // Keys belong to users and sessions, which no namespace keeps apart: root in here is root of the host to them.
    (SYS_add_key, 286, ENOSYS), (SYS_request_key, 287, ENOSYS), (SYS_keyctl, 288, ENOSYS),
    // Large parts of the kernel that anybody may ask for, and ways into it again and again.
    (SYS_bpf, 357, EPERM), (SYS_perf_event_open, 336, EPERM), (SYS_userfaultfd, 374, ENOSYS),
    // The same, and what is asked for there passes by every filter.
    (SYS_io_uring_setup, 425, ENOSYS), (SYS_io_uring_enter, 426, ENOSYS), (SYS_io_uring_register, 427, ENOSYS),
    // Mounts: what is read-only in here is so by a mount.
    (SYS_mount, 21, EPERM), (SYS_umount2, 52, EPERM), (SYS_pivot_root, 217, EPERM),
    (SYS_fsopen, 430, ENOSYS), (SYS_fsconfig, 431, ENOSYS), (SYS_fsmount, 432, ENOSYS), (SYS_fspick, 433, ENOSYS),
    (SYS_open_tree, 428, ENOSYS), (SYS_move_mount, 429, ENOSYS), (SYS_mount_setattr, 442, ENOSYS),
    (SYS_OPEN_TREE_ATTR, 467, ENOSYS),
    // Other namespaces. The flags of `clone3` lie in memory, where no filter looks; without it `clone` is taken.
    (SYS_setns, 346, EPERM), (SYS_clone3, 435, ENOSYS),
    // Files by their numbers on the disk, past all folders.
    (SYS_open_by_handle_at, 342, EPERM),
    // The kernel itself, and the machine.
    (SYS_init_module, 128, EPERM), (SYS_finit_module, 350, EPERM), (SYS_delete_module, 129, EPERM),
    (SYS_kexec_load, 283, EPERM), (SYS_kexec_file_load, 0, EPERM), (SYS_reboot, 88, EPERM),
    // The kernel's log tells of the host, and reading it needs no capability on many.
    (SYS_syslog, 103, EPERM), (SYS_lookup_dcookie, 253, ENOSYS),
    // What belongs to the host as a whole: its swap, quotas, accounting, clock.
    (SYS_swapon, 87, EPERM), (SYS_swapoff, 115, EPERM), (SYS_acct, 51, EPERM),
    (SYS_quotactl, 131, EPERM), (SYS_quotactl_fd, 443, EPERM),
    (SYS_settimeofday, 79, EPERM), (SYS_clock_settime, 264, EPERM),
    (SYS_clock_adjtime, 343, EPERM), (SYS_adjtimex, 124, EPERM),
];

/// It has one number on all processors, and no name in `libc` yet.
const SYS_OPEN_TREE_ATTR: c_long = 467;

/// Those that only the processors of this family have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const DENIED_OF_FAMILY: &[Denied] = &[
    // The machine's ports.
    (libc::SYS_iopl, 110, EPERM), (libc::SYS_ioperm, 101, EPERM),
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_OF_FAMILY: &[Denied] = &[];

/// Calls of `i386` that 64 bits do not have: the old `umount`, `stime`, and those with wider times.
#[cfg(target_arch = "x86_64")]
const DENIED_OF_I386: &[(u32, c_int)] = &[(22, EPERM), (25, EPERM), (404, EPERM), (405, EPERM)];

/// Calls that are denied with some arguments, by their numbers in one ABI.
struct Partly {
    /// `clone` and `unshare`: no user namespaces, in which everybody has all capabilities and may ask more of the kernel.
    clone: u32,
    unshare: u32,
    /// `ioctl`: no characters put into a terminal's input, as if typed; and nothing that changes or tells what a loop device is
    /// over, as the nodes of the guest's disk are such.
    ioctl: u32,
    /// `socket`: families that a namespace of networks does not keep apart (`AF_VSOCK` leads to the machine that the host
    /// itself runs in) or that nobody needs here (`AF_ALG` and a dozen old ones). Of netlink the events of devices, which
    /// tell of the host's. The rest of it stays: `setfiles` ends where it cannot reach the audit log, to which a command may add lines as ever.
    socket: u32,
}

/// Families of sockets that there are, as in a kernel without the others.
const FAMILIES: [c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Requests to loop devices, from `linux/loop.h`.
const LOOP: u32 = 0x4c00;

const CLONE_NEWUSER: u32 = libc::CLONE_NEWUSER as u32;

/// Names of the ABIs, from `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "x86_64")]
const I386: u32 = 0x4000_0003;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
/// Set in the numbers of `x32`.
const X32: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`; of an argument the half that counts, on a processor with little ends.
const NUMBER: u32 = 0;
const ABI: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const fn error(number: c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

/// One instruction: code, the jumps for true and for false, operand. See `linux/bpf_common.h`.
type Instruction = (u16, u8, u8, u32);

const fn load(offset: u32) -> Instruction {
    ((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, offset)
}

const fn give(verdict: u32) -> Instruction {
    ((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, verdict)
}

/// The next instructions are for the value that is loaded, where it is this; else so many are left out.
const fn unless_equal_skip(value: u32, skip: u8) -> Instruction {
    ((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, skip, value)
}

const fn if_equal_skip(value: u32, skip: u8) -> Instruction {
    ((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, skip, 0, value)
}

/// The next instructions are for a value from this one on.
const fn unless_from_skip(value: u32, skip: u8) -> Instruction {
    ((libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16, 0, skip, value)
}

/// Further than a conditional jump reaches.
const fn jump(over: u32) -> Instruction {
    ((libc::BPF_JMP | libc::BPF_JA) as u16, 0, 0, over)
}

const fn unless_any_bit_skip(bits: u32, skip: u8) -> Instruction {
    ((libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16, 0, skip, bits)
}

/// What is done with the calls of one ABI.
///
/// When a program gets it, the kernel runs it once for each call that there is, so it searches by halves.
fn section(denied: impl Iterator<Item = (u32, c_int)>, partly: &Partly) -> Vec<Instruction> {
    let mut calls: Vec<(u32, Vec<Instruction>)> =
        denied.map(|(number, number_of_error)| (number, vec![give(error(number_of_error))])).collect();
    let without_users =
        [load(argument(0)), unless_any_bit_skip(CLONE_NEWUSER, 1), give(error(EPERM)), give(ALLOW)].to_vec();
    let [typed, special] = [libc::TIOCSTI as u32, libc::TIOCLINUX as u32];
    let nothing_typed = [
        load(argument(1)),
        if_equal_skip(typed, 1),
        unless_equal_skip(special, 1),
        give(error(EPERM)),
        // Requests of one family differ in their last byte.
        ((libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16, 0, 0, !0xff),
        unless_equal_skip(LOOP, 1),
        give(error(libc::ENOTTY)),
        give(ALLOW),
    ];
    let [unix, inet, inet6, netlink] = FAMILIES.map(|family| family as u32);
    let families = [
        load(argument(0)),
        if_equal_skip(unix, 6),
        if_equal_skip(inet, 5),
        if_equal_skip(inet6, 4),
        if_equal_skip(netlink, 1),
        give(error(EAFNOSUPPORT)),
        load(argument(2)),
        if_equal_skip(libc::NETLINK_KOBJECT_UEVENT as u32, 1),
        give(ALLOW),
        give(error(EPROTONOSUPPORT)),
    ];
    calls.push((partly.clone, without_users.clone()));
    calls.push((partly.unshare, without_users));
    calls.push((partly.ioctl, nothing_typed.to_vec()));
    calls.push((partly.socket, families.to_vec()));
    calls.sort_by_key(|(number, _)| *number);
    let mut section = vec![load(NUMBER)];
    section.extend(search(&calls));
    section
}

/// Does what is said of the call whose number is loaded, and allows all others. The calls are sorted by their numbers.
fn search(calls: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    match calls {
        [] => vec![give(ALLOW)],
        [(number, what)] => {
            let mut one = vec![unless_equal_skip(*number, what.len() as u8)];
            one.extend(what);
            one.push(give(ALLOW));
            one
        }
        _ => {
            let (below, rest) = calls.split_at(calls.len() / 2);
            let (below, middle) = (search(below), rest[0].0);
            let mut both = vec![unless_from_skip(middle, 1), jump(below.len() as u32)];
            both.extend(below);
            both.extend(search(rest));
            both
        }
    }
}

/// Takes the calls from this process and all that come of it, for good, and the gain of rights by executing a program.
/// It makes system calls only, so it may be called between fork and exec.
pub fn confine(program: &[u8]) -> std::io::Result<()> {
    const ALWAYS: libc::c_ulong = 1;
    const NOTHING: libc::c_ulong = 0;
    let filter = libc::sock_fprog { len: (program.len() / 8) as u16, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads the instructions, which live longer than the calls, and writes nothing.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, ALWAYS, NOTHING, NOTHING, NOTHING) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::c_ulong::from(libc::SECCOMP_MODE_FILTER), &raw const filter) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// The program as [`confine`] and bubblewrap's `--seccomp` take it: the kernel's `struct sock_filter`, one after another.
pub fn program() -> Vec<u8> {
    let denied = || DENIED.iter().chain(DENIED_OF_FAMILY);
    let numbers = Partly {
        clone: SYS_clone as u32,
        unshare: SYS_unshare as u32,
        ioctl: SYS_ioctl as u32,
        socket: SYS_socket as u32,
    };
    let native = section(denied().map(|(number, _, error)| (*number as u32, *error)), &numbers);
    let mut program = vec![load(ABI)];
    #[cfg(target_arch = "x86_64")]
    {
        let numbers = Partly { clone: 120, unshare: 310, ioctl: 54, socket: 359 };
        let alike = denied().filter(|(_, number, _)| *number != 0).map(|(_, number, error)| (*number, *error));
        let old = section(alike.chain(DENIED_OF_I386.iter().copied()), &numbers);
        program.extend([unless_equal_skip(I386, 1), jump(1), jump(old.len() as u32)]);
        program.extend(old);
    }
    program.extend([if_equal_skip(NATIVE, 1), give(error(ENOSYS))]);
    if cfg!(target_arch = "x86_64") {
        program.extend([load(NUMBER), unless_from_skip(X32, 1), give(error(ENOSYS))]);
    }
    program.extend(native);
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for (code, yes, no, operand) in program {
        bytes.extend(code.to_ne_bytes());
        bytes.extend([yes, no]);
        bytes.extend(operand.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict of the program, by an interpreter of the few instructions that it is made of.
    fn verdict(abi: u32, number: u32, arguments: [u32; 3]) -> u32 {
        let program = program();
        let instructions: Vec<&[u8]> = program.chunks(8).collect();
        let (mut at, mut loaded) = (0, 0);
        loop {
            let one = instructions[at];
            let code = u32::from(u16::from_ne_bytes([one[0], one[1]]));
            let operand = u32::from_ne_bytes([one[4], one[5], one[6], one[7]]);
            let (load, give) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_RET | libc::BPF_K);
            at += 1;
            let held = if code == load {
                loaded = match operand {
                    NUMBER => number,
                    ABI => abi,
                    offset => arguments[(offset as usize - 16) / 8],
                };
                continue;
            } else if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K {
                loaded &= operand;
                continue;
            } else if code == give {
                return operand;
            } else if code == libc::BPF_JMP | libc::BPF_JA {
                at += operand as usize;
                continue;
            } else if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K {
                loaded == operand
            } else if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K {
                loaded >= operand
            } else if code == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K {
                loaded & operand != 0
            } else {
                panic!("{code:#x} is no instruction of ours")
            };
            at += usize::from(if held { one[2] } else { one[3] });
        }
    }

    #[test]
    fn what_is_denied_gives_its_error_and_the_rest_is_allowed() {
        for (number, _, given) in DENIED {
            assert_eq!(verdict(NATIVE, *number as u32, [0; 3]), error(*given), "{number}");
        }
        for number in [libc::SYS_read, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_personality, libc::SYS_chroot] {
            assert_eq!(verdict(NATIVE, number as u32, [0; 3]), ALLOW, "{number}");
        }
        // All that is not in the list, wherever the search comes from.
        let said = |number: u32| DENIED.iter().chain(DENIED_OF_FAMILY).find(|denied| denied.0 as u32 == number);
        for number in (0..600).chain([100_000]).filter(|number| *number != SYS_socket as u32) {
            let expected = said(number).map_or(ALLOW, |(_, _, given)| error(*given));
            assert_eq!(verdict(NATIVE, number, [0; 3]), expected, "{number}");
        }
        assert_eq!(verdict(0x1234, SYS_socket as u32, [1, 0, 0]), error(ENOSYS));
    }

    #[test]
    fn some_arguments_are_denied() {
        let new_user = CLONE_NEWUSER | libc::CLONE_NEWNS as u32;
        for number in [SYS_clone as u32, SYS_unshare as u32] {
            assert_eq!(verdict(NATIVE, number, [new_user, 0, 0]), error(EPERM));
            assert_eq!(verdict(NATIVE, number, [libc::CLONE_FS as u32, 0, 0]), ALLOW);
        }
        let ioctl = |request: u32| verdict(NATIVE, SYS_ioctl as u32, [0, request, 0]);
        assert_eq!([libc::TIOCSTI as u32, libc::TIOCLINUX as u32].map(ioctl), [error(EPERM); 2]);
        assert_eq!([libc::TCGETS as u32, libc::TIOCGWINSZ as u32, 0x1260].map(ioctl), [ALLOW; 3]);
        assert_eq!([0x4c00, 0x4c05, 0x4c0a].map(ioctl), [error(libc::ENOTTY); 3]);
        let socket = |family: c_int, protocol: u32| verdict(NATIVE, SYS_socket as u32, [family as u32, 0, protocol]);
        assert_eq!(FAMILIES.map(|family| socket(family, 0)), [ALLOW; 4]);
        assert_eq!(socket(libc::AF_NETLINK, libc::NETLINK_AUDIT as u32), ALLOW);
        assert_eq!(socket(libc::AF_NETLINK, libc::NETLINK_KOBJECT_UEVENT as u32), error(EPROTONOSUPPORT));
        assert_eq!(socket(libc::AF_UNIX, libc::NETLINK_KOBJECT_UEVENT as u32), ALLOW);
        for family in [libc::AF_UNSPEC, libc::AF_VSOCK, libc::AF_ALG, libc::AF_PACKET, libc::AF_BLUETOOTH] {
            assert_eq!(socket(family, 0), error(EAFNOSUPPORT), "{family}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn programs_of_32_bits_have_the_same_list_and_x32_none() {
        for (_, number, given) in DENIED.iter().filter(|(_, number, _)| *number != 0) {
            assert_eq!(verdict(I386, *number, [0; 3]), error(*given), "{number}");
        }
        for (number, given) in DENIED_OF_I386 {
            assert_eq!(verdict(I386, *number, [0; 3]), error(*given), "{number}");
        }
        // `read`, `execve`, `socketcall`, `clone` for a thread.
        for number in [3, 11, 102, 120] {
            assert_eq!(verdict(I386, number, [0; 3]), ALLOW, "{number}");
        }
        assert_eq!(verdict(I386, 120, [CLONE_NEWUSER, 0, 0]), error(EPERM));
        assert_eq!(verdict(I386, 359, [libc::AF_VSOCK as u32, 0, 0]), error(EAFNOSUPPORT));
        assert_eq!(verdict(NATIVE, X32, [0; 3]), error(ENOSYS));
        assert_eq!(verdict(NATIVE, X32 | 520, [0; 3]), error(ENOSYS));
    }
}
