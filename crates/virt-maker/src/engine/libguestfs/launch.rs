//! One appliance: its qemu's command line, its start, its end.
//!
//! # Disks
//! The guest's disk is given with `-blockdev`, so that its backing file is named here and not by its header (which is
//! true only where the overlay will lie). libguestfs insists on a drive of its own; it gets an empty one with
//! `if=none`, which no device shows to the appliance. So the guest's disk is the first that libguestfs sees.
//!
//! # Sockets
//! QMP, output and terminal are sockets in the private work folder. qemu and this process name them through
//! `/proc/PID/fd/N` of that folder, because a socket's path is limited to 107 bytes.
//!
//! # The network
//! The appliance's card and qemu's network in user mode are joined by our gate, which both reach through sockets in the work
//! folder. The card's is on the command line; the rest is added over QMP, as it has to come in its order.
//!
//! # The end
//! libguestfs's recovery process kills qemu within two seconds when this process dies. Its temporary folder lies in
//! the work folder. That of its own socket lies where libguestfs wants it, and is removed as soon as qemu has
//! connected, because nobody would after a SIGKILL. A watching thread kills qemu when the build is cancelled.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;

use super::ffi::{CallError, Handle, Library, events};
use super::{Hung, LibguestfsOptions};
use crate::engine::gate::{End, Gate, Reach};
use crate::engine::qmp::Qmp;
use crate::engine::{OpenRequest, block, breakdown, user_network};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::host::waiting::Waits;
use crate::host::{Cancel, EMULATED_CPU};

/// Lines of the appliance's console that an error may quote.
const CONSOLE_LINES: usize = 12;
const POLL: Duration = Duration::from_millis(20);
/// How long qemu may take to connect to a socket of ours. It does so at once.
const CONNECT: Duration = Duration::from_secs(60);

/// A running appliance.
pub(super) struct Appliance {
    // Fields drop in this order: qemu is dead before the handle waits for it.
    _watch: Watch,
    /// The API.
    pub handle: Handle,
    /// Cancels whatever is under way.
    pub cancel: Cancel,
    /// Between it and the network.
    pub gate: Gate,
    folder: SocketFolder,
}

impl Appliance {
    /// Connects to the socket of the terminal.
    pub(super) fn terminal(&self) -> Result<UnixStream> {
        UnixStream::connect(self.folder.path("tty")).context(ErrorKind::Internal, || "cannot reach the terminal")
    }

    /// Turns the error of a call into ours: a build that was cancelled has killed its qemu.
    pub(super) fn error(&self, kind: ErrorKind, what: impl Into<String>, error: CallError) -> Error {
        if self.cancel.is_cancelled() {
            return Error::new(ErrorKind::Cancelled, "stopped on request");
        }
        match error.errno {
            libc::ENOSPC | libc::EDQUOT => {
                Error::new(ErrorKind::Guest, format!("{}: the guest's disk is full", what.into()))
                    .with_hint("give the guest a larger disk, or let an earlier step remove files")
            }
            _ => Error::new(kind, what).with_source(error),
        }
    }
}

/// What was connected while the appliance started.
pub(super) struct Started {
    pub appliance: Appliance,
    pub qmp: Qmp,
    pub output: UnixStream,
}

/// Starts an appliance with the request's overlay as its disk. Takes seconds; ends early when cancelled.
///
/// Where qemu [breaks down](breakdown::broke_down), there is a second attempt, with one CPU. Where the machine is not there
/// in time and may have run with KVM, the next attempt emulates the CPU.
pub(super) fn start(library: &Arc<Library>, options: &LibguestfsOptions, request: &OpenRequest<'_>) -> Result<Started> {
    if !options.force_tcg {
        let hasty = LibguestfsOptions { patience: options.kvm_patience.min(options.patience), ..options.clone() };
        let error = match start_once(library, &hasty, request) {
            Err(error) if breakdown::broke_down(&error.to_string()) => error,
            started => return started,
        };
        request.events.warn(format!("{error}; a second attempt is made, without KVM"));
        let started = start(library, &LibguestfsOptions { force_tcg: true, ..options.clone() }, request)?;
        if let Some(Hung(note)) = &options.kvm_hung {
            note(&format!("a virtual CPU runs, but the kernel of libguestfs's appliance does not: {error}"));
        }
        return Ok(started);
    }
    match start_once(library, options, request) {
        Err(error) if options.cpus > 1 && breakdown::broke_down(&error.to_string()) => {
            request.events.warn(format!("{error}; a second attempt is made, with one CPU"));
            start_once(library, &LibguestfsOptions { cpus: 1, ..options.clone() }, request)
        }
        started => started,
    }
}

/// Parameters of the kernel, as the engine `vm` has them, that save time. The wall is the machine: what these would protect from
/// each other in it is one guest's. And waiting for a grace period is most of what a remount costs.
const PARAMETERS: &str = "mitigations=off init_on_alloc=0 nokaslr rcupdate.rcu_expedited=1";

fn start_once(library: &Arc<Library>, options: &LibguestfsOptions, request: &OpenRequest<'_>) -> Result<Started> {
    let console = Arc::new(Mutex::new(VecDeque::new()));
    let mut handle = Handle::new(library, event_sink(request.events.clone(), Arc::clone(&console)))?;
    let folder = SocketFolder::open(request.work_dir)?;
    let card = folder.listen("card")?;
    configure(&mut handle, options, request, &folder)
        .map_err(|error| Error::new(ErrorKind::Host, "libguestfs does not accept a setting").with_source(error))?;

    let done = AtomicBool::new(false);
    let late = AtomicBool::new(false);
    let deadline = Instant::now() + options.patience;
    let waits = request.events.waits(&request.cancel);
    let (launched, attached) = std::thread::scope(|scope| {
        let helper = scope.spawn(|| attach(&folder, &waits, deadline, &late, &done));
        let launched = handle.launch();
        done.store(true, Ordering::SeqCst);
        (launched, helper.join().expect("the helper does not panic"))
    });
    request.cancel.check()?;
    if let Err(error) = launched {
        let lines: Vec<String> = console.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let mut context = match late.into_inner() {
            true => breakdown::late("libguestfs's appliance", options.patience),
            false => "libguestfs could not start its appliance".to_owned(),
        };
        if !lines.is_empty() {
            context = format!("{context}; qemu and the appliance said:\n{}", lines.join("\n"));
        }
        return Err(Error::new(ErrorKind::Unsupported, context)
            .with_source(error)
            .with_hint("`libguestfs-test-tool` shows whether libguestfs works on this host"));
    }
    let Attached { qemu, mut qmp, output } = attached?;
    let watch = Watch::start(qemu, request.cancel.clone())?;
    let gate = join_network(&mut qmp, &card, &folder, request)?;
    let appliance = Appliance { _watch: watch, handle, cancel: request.cancel.clone(), gate, folder };
    Ok(Started { appliance, qmp, output })
}

fn configure(
    handle: &mut Handle,
    options: &LibguestfsOptions,
    request: &OpenRequest<'_>,
    folder: &SocketFolder,
) -> Result<()> {
    let set = |result: Result<(), CallError>| result.map_err(|error| Error::new(ErrorKind::Host, error.to_string()));
    set(handle.set_backend("direct"))?;
    if options.force_tcg {
        set(handle.set_backend_settings(&["force_tcg"]))?;
        // The last one on qemu's command line counts.
        #[cfg(target_arch = "x86_64")]
        set(handle.config("-cpu", EMULATED_CPU))?;
    }
    if let Some(cache) = &options.cache_dir {
        set(handle.set_cachedir(utf8(cache)?))?;
    }
    if let Some(qemu) = &options.qemu {
        set(handle.set_hv(utf8(qemu)?))?;
    }
    set(handle.set_tmpdir(utf8(request.work_dir)?))?;
    set(handle.set_append(PARAMETERS))?;
    set(handle.set_memsize(options.memory_mib as i32))?;
    set(handle.set_smp(options.cpus as i32))?;
    // The interface is ours: it is set up only when a command wants it, and libguestfs's DHCP costs a second.
    set(handle.set_network(0))?;
    set(handle.set_autosync(0))?;
    set(handle.set_verbose(i32::from(options.verbose)))?;
    set(handle.set_trace(1))?;

    set(handle.add_raw_drive("/dev/null", "none"))?;
    // libguestfs hands these over in an order of its own, so none may depend on another of the same kind.
    set(handle.config("-blockdev", &block::first_options(None, request.parent, request.overlay)?.to_string()))?;
    set(handle.config("-device", &format!("scsi-hd,drive={}", block::TOP)))?;
    for (index, cache) in request.caches.iter().enumerate() {
        let serial = cache_serial(index);
        let node = json!({
            "driver": "raw", "node-name": serial,
            "file": {"driver": "file", "filename": utf8(&cache.path)?},
        });
        set(handle.config("-blockdev", &node.to_string()))?;
        set(handle.config("-device", &format!("scsi-hd,drive={serial},serial={serial}")))?;
    }
    set(handle.config("-qmp", &format!("unix:{},server=on,wait=off", folder.name("qmp"))))?;
    for (id, device) in [("out", "virtserialport,name=org.virt-maker.output"), ("tty", "virtconsole")] {
        let socket = format!("socket,id=virt-maker-{id},path={},server=on,wait=off", folder.name(id));
        set(handle.config("-chardev", &socket))?;
        set(handle.config("-device", &format!("{device},chardev=virt-maker-{id}")))?;
    }
    let card = format!("stream,id=virt-maker-card,server=off,addr.type=unix,addr.path={}", folder.name("card"));
    set(handle.config("-netdev", &card))?;
    set(handle.config("-device", "virtio-net-pci,netdev=virt-maker-card,romfile="))
}

/// Makes qemu's network in user mode, and the gate between it and the card.
fn join_network(qmp: &mut Qmp, card: &UnixListener, folder: &SocketFolder, request: &OpenRequest<'_>) -> Result<Gate> {
    let network = folder.listen("network")?;
    let path = folder.name("network");
    for netdev in [
        json!({"type": "stream", "id": "virt-maker-gate", "server": false, "addr": {"type": "unix", "path": path}}),
        user_network::netdev("virt-maker-user"),
        json!({"type": "hubport", "id": "virt-maker-port0", "hubid": 0, "netdev": "virt-maker-gate"}),
        json!({"type": "hubport", "id": "virt-maker-port1", "hubid": 0, "netdev": "virt-maker-user"}),
    ] {
        qmp.execute("netdev_add", netdev)?;
    }
    let (card, network) = (accept(card, &request.cancel)?, accept(&network, &request.cancel)?);
    let reach = Reach::new(request.network_env, request.host_network, request.events.waits(&request.cancel));
    Gate::new(End::Stream(card), End::Stream(network), reach, request.events.clone())
}

/// The connection that qemu makes, or has made already.
fn accept(listener: &UnixListener, cancel: &Cancel) -> Result<UnixStream> {
    let failed = || "qemu does not connect to its network";
    let begin = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).context(ErrorKind::Host, failed)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock || begin.elapsed() > CONNECT => {
                return Err(error).context(ErrorKind::Host, failed);
            }
            Err(_) => {
                cancel.check()?;
                std::thread::sleep(POLL);
            }
        }
    }
}

/// What the serial numbers of disks of caches begin with.
pub(super) const CACHE_SERIAL: &str = "virt-maker-cache-";

/// The serial number by which the disk of a cache is found.
pub(super) fn cache_serial(index: usize) -> String {
    format!("{CACHE_SERIAL}{index}")
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::new(ErrorKind::Host, format!("libguestfs cannot use {}: its name is not UTF-8", path.display()))
    })
}

fn event_sink(events: Events, console: Arc<Mutex<VecDeque<String>>>) -> super::ffi::EventSink {
    Box::new(move |event, text, numbers| {
        let text = String::from_utf8_lossy(text);
        let text = text.trim_end();
        match event {
            events::PROGRESS => {
                // Procedure, serial, position, total.
                if let [_, _, position, total] = *numbers
                    && total > 0
                {
                    let done = position.min(total) * 1000 / total;
                    events.send(Event::Progress {
                        what: "libguestfs".into(),
                        done,
                        total: Some(1000),
                        unit: "permille",
                        worker: None,
                    });
                }
            }
            _ if text.is_empty() => {}
            events::TRACE => events.send(Event::Trace { source: "libguestfs", message: trace(text) }),
            events::WARNING => events.warn(format!("libguestfs: {text}")),
            events::APPLIANCE => {
                let mut console = console.lock().unwrap_or_else(PoisonError::into_inner);
                for line in text.lines() {
                    if console.len() == CONSOLE_LINES {
                        console.pop_front();
                    }
                    console.push_back(line.chars().filter(|c| !c.is_control()).collect());
                }
                drop(console);
                events.send(Event::Trace { source: "libguestfs", message: text.into() });
            }
            _ => events.send(Event::Trace { source: "libguestfs", message: text.into() }),
        }
    })
}

/// A line of trace without what may be secret: contents of files, commands, and answers.
fn trace(line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    let (call, first) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match call {
        "debug" | "write" | "pread" | "ln_s" | "readlink" if words.next().is_some() => format!("{call} {first} ..."),
        _ => line.into(),
    }
}

/// The work folder, under a name that is short enough for sockets.
struct SocketFolder(OwnedFd);

impl SocketFolder {
    fn open(path: &Path) -> Result<SocketFolder> {
        let folder = File::open(path).context(ErrorKind::Host, || format!("cannot open {}", path.display()))?;
        Ok(SocketFolder(folder.into()))
    }

    fn name(&self, name: &str) -> String {
        format!("/proc/{}/fd/{}/{name}", std::process::id(), self.0.as_raw_fd())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.name(name).into()
    }

    /// A socket that does not block.
    fn listen(&self, name: &str) -> Result<UnixListener> {
        let failed = || format!("cannot make the socket `{name}` of the appliance");
        // A first attempt with another number of CPUs has left one.
        let _ = std::fs::remove_file(self.path(name));
        let listener = UnixListener::bind(self.path(name)).context(ErrorKind::Host, failed)?;
        listener.set_nonblocking(true).context(ErrorKind::Host, failed)?;
        Ok(listener)
    }
}

struct Attached {
    qemu: OwnedFd,
    qmp: Qmp,
    output: UnixStream,
}

/// Finds qemu while the appliance boots, connects to its sockets, and removes libguestfs's own. Kills it where the launch is
/// not done by the deadline, and says so in `late`.
fn attach(
    folder: &SocketFolder,
    waits: &Waits,
    deadline: Instant,
    late: &AtomicBool,
    done: &AtomicBool,
) -> Result<Attached> {
    let marker = folder.name("qmp");
    let (qemu, arguments) = loop {
        // Looked at before the search, so that a launch that has just ended is still found.
        let last = done.load(Ordering::SeqCst);
        if let Some(found) = find_child(&marker) {
            break found;
        }
        if last {
            return Err(Error::new(ErrorKind::Internal, "libguestfs's qemu was not found among the child processes"));
        }
        std::thread::sleep(POLL);
    };
    let mut output = None;
    let mut qmp = None;
    loop {
        let last = done.load(Ordering::SeqCst);
        if waits.cancel().is_cancelled() {
            kill(&qemu);
            waits.cancel().check()?;
        }
        if !last && Instant::now() > deadline {
            late.store(true, Ordering::SeqCst);
            kill(&qemu);
        }
        if qmp.is_none()
            && let Ok(stream) = UnixStream::connect(folder.path("qmp"))
        {
            // Accepted or not, qemu's sockets are all made before it serves one.
            let greeted = Qmp::greet(stream, waits.clone());
            // Whoever launches waits for qemu.
            qmp = Some(greeted.inspect_err(|_| kill(&qemu))?);
            output = Some(
                UnixStream::connect(folder.path("out"))
                    .context(ErrorKind::Internal, || "cannot connect to the output port of the appliance")?,
            );
            remove_socket_folder(&arguments);
        }
        if last {
            break;
        }
        std::thread::sleep(POLL);
    }
    match (qmp, output) {
        (Some(qmp), Some(output)) => Ok(Attached { qemu, qmp, output }),
        _ => Err(Error::new(ErrorKind::Internal, "libguestfs's qemu did not open its control socket")),
    }
}

fn kill(qemu: &OwnedFd) {
    // It may be gone already.
    let _ = pidfd_send_signal(qemu, Signal::KILL);
}

/// The child of this process that has `marker` among its arguments, once it is qemu (and not yet libguestfs's fork).
fn find_child(marker: &str) -> Option<(OwnedFd, Vec<String>)> {
    for task in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
        let Ok(children) = std::fs::read_to_string(task.path().join("children")) else { continue };
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
            // Opened before the arguments are read, so that they are those of this process and no successor.
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let Ok(line) = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())) else { continue };
            let arguments: Vec<String> =
                line.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
            if arguments.iter().any(|argument| argument.contains(marker)) {
                return Some((pidfd, arguments));
            }
        }
    }
    None
}

/// Removes the folder of the socket of libguestfs's daemon, to which qemu is connected by now.
fn remove_socket_folder(arguments: &[String]) {
    let socket = arguments.iter().filter_map(|argument| argument.strip_prefix("socket,")).find_map(|options| {
        let path = options.split(',').find_map(|option| option.strip_prefix("path="))?;
        path.ends_with("/guestfsd.sock").then(|| PathBuf::from(path))
    });
    if let Some(socket) = socket
        && let Some(folder) = socket.parent()
        && folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libguestfs"))
    {
        let _ = std::fs::remove_file(&socket);
        let _ = std::fs::remove_dir(folder);
    }
}

/// A thread that kills qemu when the build is cancelled, and the means to do so at once.
struct Watch {
    qemu: Arc<OwnedFd>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(qemu: OwnedFd, cancel: Cancel) -> Result<Watch> {
        let (qemu, stop) = (Arc::new(qemu), Arc::new(AtomicBool::new(false)));
        let (theirs, end) = (Arc::clone(&qemu), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("libguestfs watch".into())
            .spawn(move || {
                while !end.load(Ordering::SeqCst) {
                    if cancel.is_cancelled() {
                        return kill(&theirs);
                    }
                    std::thread::park_timeout(POLL * 2);
                }
            })
            .context(ErrorKind::Host, || "cannot start a thread")?;
        Ok(Watch { qemu, stop, thread: Some(thread) })
    }

    fn kill(&self) {
        kill(&self.qemu);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // After a clean shutdown there is nothing to kill.
        self.kill();
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_hides_contents_and_commands() {
        assert_eq!(trace("debug \"sh\" \"PASSWORD=x true\""), "debug \"sh\" ...");
        assert_eq!(trace("debug = \"secret\""), "debug = ...");
        assert_eq!(trace("write \"/etc/key\" \"secret\""), "write \"/etc/key\" ...");
        assert_eq!(trace("chmod 0600 \"/etc/key\""), "chmod 0600 \"/etc/key\"");
    }

    #[test]
    fn the_socket_folder_of_libguestfs_is_removed_and_no_other() {
        let top = tempfile::tempdir().unwrap();
        for (folder, gone) in [("libguestfsAbCdEf", true), ("other", false)] {
            let folder = top.path().join(folder);
            std::fs::create_dir(&folder).unwrap();
            let socket = folder.join("guestfsd.sock");
            std::fs::write(&socket, "").unwrap();
            let argument = format!("socket,path={},id=channel0", socket.display());
            remove_socket_folder(&["-chardev".into(), argument]);
            assert_eq!(!folder.exists(), gone);
        }
    }
}
