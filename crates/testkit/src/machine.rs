//! Booting an image in a real machine and talking to its serial console.
//!
//! Emulated without KVM, so that it works alike on every host. Nothing that the guest writes reaches the image.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::command::run_with_input;

/// A running machine; it is gone when this is dropped.
pub struct Machine {
    qemu: Child,
    keyboard: ChildStdin,
    console: Arc<Console>,
    packets: PathBuf,
    _dir: TempDir,
}

#[derive(Default)]
struct Console {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    text: Vec<u8>,
    ended: bool,
}

/// The bus that a disk hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// virtio-scsi.
    Scsi,
    /// IDE of the PC machine.
    Ide,
}

impl Machine {
    /// Starts a PC with BIOS, 512 MB, the image as its disk on virtio and a network with a DHCP server. Few such
    /// machines should run at a time: hold [`crate::appliance_lock`].
    pub fn boot(image: &Path, format: &str) -> Machine {
        Machine::boot_on(Bus::Virtio, image, format)
    }

    /// Like [`Machine::boot`], with the disk on another bus.
    pub fn boot_on(bus: Bus, image: &Path, format: &str) -> Machine {
        Machine::start(own_dir(), bus, &[image], format, None)
    }

    /// Like [`Machine::boot`], with a kernel, an initrd and a command line in the place of a boot loader, as an entry of the guest names them.
    pub fn boot_entry(kernel: &Path, initrd: &Path, options: &str, image: &Path, format: &str) -> Machine {
        Machine::start(own_dir(), Bus::Virtio, &[image], format, Some((kernel, initrd, options)))
    }

    /// Like [`Machine::boot`], with a kernel and an initrd of the host in the place of a boot loader, for raw guests that
    /// have none. The root is the partition with the number `root` of the first; the others are `/dev/vdb` and so on. The
    /// initrd is one of initramfs-tools and loads these `modules` besides.
    pub fn boot_kernel(kernel: &Path, initrd: &Path, modules: &[&str], root: u32, images: &[&Path]) -> Machine {
        let dir = own_dir();
        let more = with_modules(initrd, modules, dir.path());
        let options = format!("root=/dev/vda{root} rw console=ttyS0 quiet panic=-1");
        Machine::start(dir, Bus::Virtio, images, "raw", Some((kernel, &more, &options)))
    }

    fn start(dir: TempDir, bus: Bus, images: &[&Path], format: &str, kernel: Option<(&Path, &Path, &str)>) -> Machine {
        let packets = dir.path().join("packets.pcap");
        // setpriv: the machine must not outlive a test that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-smp", "1"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        if bus == Bus::Scsi {
            command.args(["-device", "virtio-scsi-pci"]);
        }
        for (number, image) in images.iter().enumerate() {
            // A comma in a name is written twice.
            let file = image.to_str().expect("images of tests have plain names").replace(',', ",,");
            command.arg("-drive").arg(format!("format={format},snapshot=on,if=none,id=disk{number},file={file}"));
            let device = match bus {
                Bus::Virtio => "virtio-blk-pci",
                Bus::Scsi => "scsi-hd",
                Bus::Ide => "ide-hd",
            };
            command.arg("-device").arg(format!("{device},drive=disk{number}"));
        }
        command.args(["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net"]);
        command.args(["-device", "virtio-rng-pci", "-object"]);
        command.arg(format!("filter-dump,id=dump,netdev=net,file={}", packets.display()));
        if let Some((kernel, initrd, options)) = kernel {
            command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", options]);
        }
        // Temporary overlays of snapshot=on.
        command.env("TMPDIR", dir.path());
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut qemu = spawned.expect("qemu-system-x86_64 is installed");
        let keyboard = qemu.stdin.take().expect("stdin is a pipe");
        let console = Arc::new(Console::default());
        let mut stderr = qemu.stderr.take().expect("stderr is a pipe");
        let mut stdout = qemu.stdout.take().expect("stdout is a pipe");
        let sink = console.clone();
        std::thread::spawn(move || sink.copy(&mut stdout, true));
        let sink = console.clone();
        std::thread::spawn(move || sink.copy(&mut stderr, false));
        Machine { qemu, keyboard, console, packets, _dir: dir }
    }

    /// Waits until `text` stands on the console and returns all that does; panics if the machine stops before, or
    /// after `patience`, with the console.
    #[track_caller]
    pub fn wait_for(&self, text: &str, patience: Duration) -> String {
        let begin = Instant::now();
        let mut state = self.console.state.lock().expect("no reader panicked");
        loop {
            let shown = String::from_utf8_lossy(&state.text).into_owned();
            if shown.contains(text) {
                return shown;
            }
            assert!(!state.ended, "the machine stopped before `{text}`; its console:\n{shown}");
            let left = patience.checked_sub(begin.elapsed());
            let left = left.unwrap_or_else(|| panic!("no `{text}` within {patience:?}; the console:\n{shown}"));
            state = self.console.changed.wait_timeout(state, left).expect("no reader panicked").0;
        }
    }

    /// Types on the console.
    pub fn send(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).and_then(|()| self.keyboard.flush()).expect("the machine listens");
    }

    /// Waits until the guest has an address by DHCP and uses it: the server acknowledged one, and a later frame of the
    /// guest comes from it. Panics after `patience`.
    #[track_caller]
    pub fn wait_for_lease(&self, patience: Duration) {
        let begin = Instant::now();
        while !uses_lease(&fs::read(&self.packets).unwrap_or_default()) {
            assert!(begin.elapsed() < patience, "the guest got no address by DHCP within {patience:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn own_dir() -> TempDir {
    tempfile::tempdir_in(crate::cache_dir()).expect("a temporary folder")
}

/// An initrd with a list of modules behind it: the kernel unpacks one archive after the other.
fn with_modules(initrd: &Path, modules: &[&str], dir: &Path) -> PathBuf {
    let tree = dir.join("more");
    fs::create_dir_all(tree.join("conf")).expect("an own folder");
    fs::write(tree.join("conf/modules"), modules.join("\n") + "\n").expect("an own file");
    let mut cpio = Command::new(crate::tiny::busybox());
    let archive = run_with_input(cpio.args(["cpio", "-o", "-H", "newc"]).current_dir(&tree), b"conf\nconf/modules\n");
    let mut bytes = fs::read(initrd).expect("the host's initrd can be read");
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive.stdout);
    let path = dir.join("initrd");
    fs::write(&path, bytes).expect("an own file");
    path
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Console {
    fn copy(&self, from: &mut dyn Read, is_console: bool) {
        let mut buffer = [0; 4096];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            let mut state = self.state.lock().expect("no reader panicked");
            state.text.extend_from_slice(&buffer[..count]);
            state.ended |= count == 0 && is_console;
            self.changed.notify_all();
            if count == 0 {
                return;
            }
        }
    }
}

/// Boots `image` until a login prompt is on its serial console and returns all that was written there; panics with it
/// otherwise. `patience` is for a machine that hangs, not for one that is slow.
#[track_caller]
pub fn boot_to_login(image: &Path, format: &str, patience: Duration) -> String {
    Machine::boot(image, format).wait_for("login: ", patience)
}

/// Looks for a DHCP acknowledgement, and for an IPv4 or ARP frame from the address in it. The packets are in pcap's
/// classic format: a header of 24 bytes, and before each frame 16 bytes with its length at offset 8.
fn uses_lease(packets: &[u8]) -> bool {
    const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
    let mut rest = packets.get(24..).unwrap_or_default();
    let mut address: Option<[u8; 4]> = None;
    while let Some((header, tail)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(header[8..12].try_into().expect("four bytes")) as usize;
        let Some((frame, next)) = tail.split_at_checked(length) else { return false };
        rest = next;
        if let Some(address) = &address
            && (frame.get(12..14) == Some(&[8, 0]) && frame.get(26..30) == Some(address)
                || frame.get(12..14) == Some(&[8, 6]) && frame.get(28..32) == Some(address))
        {
            return true;
        }
        // Ethernet 14, IPv4 20, UDP 8; then BOOTP with the new address at 16, and options behind the cookie.
        let Some(bootp) = frame.get(42..).filter(|bootp| bootp.get(236..240) == Some(&COOKIE)) else { continue };
        if bootp[240..].windows(3).any(|option| option == [53, 1, 5]) {
            address = bootp[16..20].try_into().ok();
        }
    }
    false
}

/// The version of a kernel of this host, the last by name: `/boot/vmlinuz-VERSION`, with `/boot/initrd.img-VERSION`.
pub fn host_kernel() -> String {
    let entries = fs::read_dir("/boot").expect("/boot is there");
    let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    let versions = names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned));
    versions.max().expect("a kernel is installed")
}
