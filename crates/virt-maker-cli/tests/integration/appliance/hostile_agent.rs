//! What a test puts into an appliance in place of the agent: a first process of a machine that is the guest's own by now.
//! Or into a guest that boots, where it takes the agent's port before the agent gets there.
//!
//! In an appliance it plays the agent's part until it is to mount the guest, and then does what the first word on the guest's disk says;
//! in a guest that has booted, it does what its argument says. The test builds it by itself, from this file alone: it shares no code with virt-maker.

use std::ffi::{c_char, c_int, c_long, c_ulong, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

const FINIT_MODULE: c_long = 313;
const MESSAGE: u8 = 1;
const DATA: u8 = 2;

fn main() {
    match std::env::args().nth(1) {
        Some(word) if word != "--appliance" => booted(&word),
        _ => appliance(),
    }
}

/// What a guest says that has booted.
fn booted(word: &str) {
    let mut port = open_port();
    let welcome = concat!(r#"{"reply":"welcome","version":"#, env!("PROTOCOL_VERSION"), "}");
    let mounted = r#"{"reply":"mounted","file_systems":[],"os":{"id":"x","id_like":[],"version_id":"","pretty_name":""},"warnings":[]}"#;
    receive(&mut port);
    match word {
        "half" => send(&mut port, &[MESSAGE, 40, 0]),
        "mute" => reply(&mut port, welcome),
        _ => {
            reply(&mut port, welcome);
            receive(&mut port);
            reply(&mut port, mounted);
            // Whether the system has booted, where the time went, and what the boot has made.
            loop {
                match receive(&mut port) {
                    asked if asked.contains("the step") => break,
                    asked if asked.contains(r#""op":"stat""#) => reply(&mut port, r#"{"reply":"stat","stat":null}"#),
                    _ => reply(&mut port, r#"{"reply":"exited","status":0}"#),
                }
            }
            match word {
                "huge" => send(&mut port, &[&[DATA][..], &u32::MAX.to_le_bytes(), &[0; 1 << 20]].concat()),
                "flood" => loop {
                    reply(&mut port, &format!(r#"{{"reply":"note","text":"{}"}}"#, "n".repeat(1000)));
                },
                "again" => {
                    drop(port);
                    std::thread::sleep(Duration::from_secs(3));
                    port = open_port();
                    reply(&mut port, welcome);
                }
                other => panic!("{other:?} is no way to misbehave"),
            }
        }
    }
    // It stays, and takes what comes.
    loop {
        receive(&mut port);
    }
}

fn appliance() {
    for (kind, place) in [(c"proc", c"/proc"), (c"sysfs", c"/sys"), (c"devtmpfs", c"/dev")] {
        // SAFETY: all are strings that end with a zero, and there is no data.
        unsafe { mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    }
    for name in fs::read_to_string("/modules/list").unwrap().lines() {
        let module = File::open(format!("/modules/{name}")).unwrap();
        // SAFETY: the descriptor is open, and the options are an empty string.
        unsafe { syscall(FINIT_MODULE, module.as_raw_fd(), c"".as_ptr(), 0) };
    }
    let mut port = open_port();
    loop {
        let request = receive(&mut port);
        let is = |name: &str| request.contains(&format!("\"op\":\"{name}\""));
        if is("hello") {
            reply(&mut port, concat!(r#"{"reply":"welcome","version":"#, env!("PROTOCOL_VERSION"), "}"));
        } else if is("find_disk") {
            while first_word().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            reply(&mut port, r#"{"reply":"disk","path":"/dev/sda"}"#);
        } else if is("mount") {
            misbehave(&mut port);
        } else {
            reply(&mut port, r#"{"reply":"done"}"#);
        }
    }
}

fn misbehave(port: &mut File) {
    let word = first_word().unwrap();
    let mounted = r#"{"reply":"mounted","file_systems":[{"mount_point":"/","kind":"ext4","partition":0}],
        "os":{"id":"x","id_like":[],"version_id":"","pretty_name":""},"warnings":[]}"#;
    match word.trim_end_matches('\0') {
        "garbage" => send(port, &[0xff; 4096]),
        "huge" => send(port, &[&[MESSAGE][..], &((1_u32 << 20) + 1).to_le_bytes()].concat()),
        "kind" => send(port, &[9, 1, 0, 0, 0, 0]),
        "json" => reply(port, "{"),
        "deep" => reply(port, &format!("{{\"reply\":\"done\",\"more\":{}", "[".repeat(1 << 19))),
        "other" => reply(port, r#"{"reply":"names","names":["../../etc/passwd"]}"#),
        "data" => send(port, &[DATA, 2, 0, 0, 0, b'h', b'i']),
        "escape" => reply(port, r#"{"reply":"failed","kind":"no_root","message":"\u001b[31mred\r\nnews"}"#),
        "cut" => {
            send(port, &[MESSAGE, 100, 0, 0, 0, b'{']);
            // The kernel does not go on without its first process.
            std::process::exit(0);
        }
        "twice" => {
            reply(port, mounted);
            receive(port);
            reply(port, r#"{"reply":"exited","status":0}"#);
            reply(port, r#"{"reply":"exited","status":0}"#);
        }
        // Mounted, and then not a word more.
        "mute" => {
            reply(port, mounted);
            loop {
                receive(port);
            }
        }
        other => panic!("{other:?} is no way to misbehave"),
    }
}

/// What the guest's disk begins with, once it can be read.
fn first_word() -> Option<String> {
    let mut word = [0; 16];
    File::open("/dev/sda").ok()?.read_exact(&mut word).ok()?;
    Some(String::from_utf8_lossy(&word).into_owned())
}

fn open_port() -> File {
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            let device = Path::new("/dev").join(entry.file_name());
            if name.trim() == "virt-maker.agent"
                && let Ok(port) = OpenOptions::new().read(true).write(true).open(device)
            {
                return port;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The next message; nothing is read while the host's end is not there.
fn receive(port: &mut File) -> String {
    let mut exactly = |length: usize| {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let mut rest = vec![0; length - bytes.len()];
            match port.read(&mut rest).unwrap() {
                0 => std::thread::sleep(Duration::from_millis(1)),
                count => bytes.extend_from_slice(&rest[..count]),
            }
        }
        bytes
    };
    let head = exactly(5);
    let length = u32::from_le_bytes(head[1..].try_into().unwrap());
    String::from_utf8(exactly(length as usize)).unwrap()
}

fn reply(port: &mut File, text: &str) {
    send(port, &[&[MESSAGE][..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat());
}

fn send(port: &mut File, bytes: &[u8]) {
    port.write_all(bytes).unwrap();
}
